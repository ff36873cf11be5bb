"""Micro-batches: whose photos are computed together, that nobody waits for nothing, and that the end is an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from heeler.errors import UnreadableError
from heeler.limits import ServeLimits
from heeler.records import ByteArray, FloatArray
from heeler.ship.batching import Answer, Computing, Works

AT_ONCE, N_THREADS = 4, 2


class Numbers:
    """A decoder whose photos are numbers: 7 becomes a square of sevens, and a word is no photo."""

    n_restarts = 0

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def decode(self, data: bytes, deadline_s: float) -> ByteArray:
        time.sleep(self.seconds)
        if not data.isdigit():
            raise UnreadableError("is a word")
        return np.full((2, 2, 3), int(data), np.uint8)

    def close(self) -> None:
        pass


Start = Callable[..., tuple[Works, list[int]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts works with given decoders, and closes them, which must not take for ever."""
    made: list[Works] = []

    def begin(*decoders: Numbers, compute_s: float = 0.0) -> tuple[Works, list[int]]:
        def forward(squares: ByteArray) -> FloatArray:
            time.sleep(compute_s)
            return squares[:, 0, 0, :1].astype(np.float32)

        batches: list[int] = []
        computing = Computing(forward, AT_ONCE, N_THREADS)
        made.append(Works(decoders, computing, ServeLimits(), batches.append))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1], batches

    yield begin
    for works in made:
        end(works)


def end(works: Works) -> None:
    ending = threading.Thread(target=works.close, daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive(), "the works did not end"


async def ask(works: Works, *requests: list[bytes]) -> list[list[Answer]]:
    """The answers to requests that come at the same time."""

    async def one(photos: list[bytes]) -> list[Answer]:
        async with works.admitted():
            return await works.classify(photos)

    return await asyncio.wait_for(asyncio.gather(*map(one, requests)), 20)


def told(answers: list[Answer]) -> list[float | str]:
    return [one.reason if one.probabilities is None else float(one.probabilities[0]) for one in answers]


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 25])
def test_each_request_gets_its_own_answers(start: Start, n: int) -> None:
    works, batches = start(Numbers(), Numbers(), compute_s=0.001)
    requests = [[str(8 * place + part).encode() for part in range(place % 3 + 1)] for place in range(n)]
    answers = asyncio.run(ask(works, *requests))
    assert [told(each) for each in answers] == [[float(photo) for photo in photos] for photos in requests]
    assert sum(batches) == sum(map(len, requests)) and max(batches) <= AT_ONCE


def test_photos_of_several_requests_are_computed_together(start: Start) -> None:
    works, batches = start(Numbers(), Numbers(), compute_s=0.05)
    asyncio.run(ask(works, *([b"1"] for _ in range(24))))
    assert len(batches) < 12 and AT_ONCE in batches


def test_what_cannot_be_read_is_told_and_holds_nobody_up(start: Start) -> None:
    works, batches = start(Numbers(), Numbers())
    answers = asyncio.run(ask(works, [b"word"], [b"1", b"word", b"2"], [b"word", b"word"]))
    assert [told(each) for each in answers] == [["is a word"], [1.0, "is a word", 2.0], ["is a word"] * 2]
    assert sum(batches) == 2


def test_squares_wait_for_the_engine_and_decoders_for_room(start: Start) -> None:
    works, _ = start(Numbers(), Numbers(), Numbers(), compute_s=0.02)
    photos = [b"%d" % (place % 250) for place in range(60)]
    (answers,) = asyncio.run(ask(works, photos))
    assert told(answers) == [float(photo) for photo in photos]


def test_a_lone_photo_does_not_wait_for_company_that_is_late(start: Start) -> None:
    class SlowWithTwo(Numbers):
        def decode(self, data: bytes, deadline_s: float) -> ByteArray:
            time.sleep(0.5 if data == b"2" else 0)
            return super().decode(data, deadline_s)

    works, batches = start(SlowWithTwo(), SlowWithTwo())  # whichever takes it
    asyncio.run(ask(works, [b"1"], [b"2"]))
    assert batches == [1, 1]


@pytest.mark.parametrize("n", [0, 1, 7])
def test_the_works_end_after_what_they_took(start: Start, n: int) -> None:
    for _ in range(20):
        works, _ = start(Numbers(), Numbers())
        if n:
            asyncio.run(ask(works, *([b"1"] for _ in range(n))))
        end(works)


def test_closing_answers_what_is_under_way(start: Start) -> None:
    works, _ = start(Numbers(0.02), Numbers(0.02), compute_s=0.02)

    async def ask_and_close() -> list[list[Answer]]:
        asked = asyncio.create_task(ask(works, *([b"%d" % place] for place in range(12))))
        await asyncio.sleep(0.01)
        threading.Thread(target=works.close, daemon=True).start()
        return await asked

    assert [told(each) for each in asyncio.run(ask_and_close())] == [[float(place)] for place in range(12)]


def test_squares_of_a_batch_do_not_wait_for_its_answer(start: Start) -> None:
    works, _ = start(Numbers())
    one, batch = asyncio.run(ask(works, [b"1"], [b"2", b"3"]))
    assert one[0].square is not None and [answer.square for answer in batch] == [None, None]
