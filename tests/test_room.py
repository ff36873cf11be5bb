"""Threads share memory for decoding: what fits goes on at once, what does not waits, and in the order of coming."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import pytest
from PIL import Image

from heeler.data import decode
from heeler.data.room import Room
from heeler.records import Preprocessing
from images import encode

WAIT_S = 10.0


def enter(room: Room, n_bytes: int, inside: list[int], leave: threading.Event) -> threading.Thread:
    def run() -> None:
        with room.take(n_bytes):
            inside.append(n_bytes)
            assert leave.wait(WAIT_S)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until(inside: list[int], wanted: list[int]) -> None:
    done = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if inside == wanted:
            return
        done.wait(0.01)
    pytest.fail(f"{inside} are in, not {wanted}")


def test_what_fits_is_let_in_at_once() -> None:
    room, inside, leave = Room(10), list[int](), threading.Event()
    threads = [enter(room, n_bytes, inside, leave) for n_bytes in (4, 4)]
    until(inside, [4, 4])
    leave.set()
    for thread in threads:
        thread.join(WAIT_S)


def test_what_does_not_fit_waits_and_nobody_passes_it() -> None:
    room, inside = Room(10), list[int]()
    leave_first, leave_others = threading.Event(), threading.Event()
    enter(room, 4, inside, leave_first)
    until(inside, [4])
    large = enter(room, 30, inside, leave_others)  # more than there ever is: let in alone
    small = enter(room, 1, inside, leave_others)
    small.join(0.2)
    assert inside == [4]
    leave_first.set()
    until(inside, [4, 30])
    leave_others.set()
    for thread in (large, small):
        thread.join(WAIT_S)
    assert inside == [4, 30, 1]


@pytest.mark.parametrize(
    ("mode", "kind", "n_bytes"), [("RGB", "PNG", 7), ("RGB", "JPEG", 7), ("RGBA", "PNG", 21), ("RGB", "WEBP", 21)]
)
def test_a_photo_takes_room_by_its_pixels(monkeypatch: pytest.MonkeyPatch, mode: str, kind: str, n_bytes: int) -> None:
    asked: list[int] = []

    class Watched(Room):
        def take(self, n_bytes: int) -> AbstractContextManager[None]:
            asked.append(n_bytes)
            return super().take(n_bytes)

    monkeypatch.setattr(decode, "_ROOM", Watched(10**9))
    decode.decode(encode(Image.new(mode, (40, 30)), kind), Preprocessing(image_px=32))
    # The header of an ordinary JPEG is read without a decoder.
    assert asked == [decode._OPENING_BYTES] * (kind != "JPEG") + [n_bytes * 40 * 30]


def test_little_is_let_in_without_being_counted() -> None:
    room, inside, leave = Room(1000), list[int](), threading.Event()
    threads = [enter(room, 1000, inside, leave)]
    until(inside, [1000])
    threads.append(enter(room, 15, inside, leave))
    until(inside, [1000, 15])
    leave.set()
    for thread in threads:
        thread.join(WAIT_S)
    with room.take(1000):
        pass


def test_room_is_given_back_when_the_block_fails() -> None:
    room = Room(10)
    with pytest.raises(ValueError, match="damaged"), room.take(10):
        raise ValueError("damaged")
    with room.take(10):
        pass
