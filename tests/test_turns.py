"""How many threads read at a time: found by trying, and where more are slower, the number before is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from heeler.data.turns import FIRST, WINDOW_S, Turns


def settle(n_most: int, rate_of: Callable[[int], float]) -> tuple[Turns, list[int]]:
    """Tell of photos at the rate that so many threads reach, and note what each window went on with."""
    now_s = 0.0
    turns = Turns(n_most, lambda: now_s)
    went: list[int] = [turns.n]
    for _ in range(12):
        now_s += 1.1 * WINDOW_S
        turns.done(round(rate_of(turns.n) * 1.1 * WINDOW_S))
        went.append(turns.n)
    return turns, went


@pytest.mark.parametrize(
    ("n_most", "best", "begins"),
    [
        (1, 100, [1, 1]),
        (4, 100, [4, 4]),
        (16, 100, [4, 8, 16, 16]),
        (6, 100, [4, 6, 6]),
        (16, 4, [4, 8, 4, 4]),
        (16, 8, [4, 8, 16, 8, 8]),
        (64, 30, [4, 8, 16, 32, 64, 32, 32]),
    ],
)
def test_twice_as_many_while_that_pays(n_most: int, best: int, begins: list[int]) -> None:
    turns, went = settle(n_most, lambda n: 1000.0 * min(n, best) / (1 + 0.02 * max(0, n - best)))
    assert went[: len(begins)] == begins
    assert set(went[len(begins) :]) == {turns.n}


def test_nothing_is_judged_by_less_than_a_window() -> None:
    turns = Turns(16, lambda: 0.0)
    for _ in range(100):
        turns.done(16)
    assert turns.n == FIRST


def test_so_many_are_in_at_a_time() -> None:
    turns, lock, inside, most = Turns(2), threading.Lock(), 0, 0
    both = threading.Barrier(2)

    def run() -> None:
        nonlocal inside, most
        with turns.take():
            with lock:
                inside += 1
                most = max(most, inside)
            both.wait(10)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 2


def test_a_place_is_given_back_when_the_block_fails() -> None:
    turns = Turns(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"), turns.take():
            raise ValueError("damaged")
