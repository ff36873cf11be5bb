"""How many threads read photos at a time: twice as many while that pays, for past some number they wait for each other.

Decoding frees Python's lock, but each photo takes it a dozen times. Sixteen threads on sixteen cores read 800 small
photos/s, fewer than two threads on two cores do; of large ones, each core can read its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Threads to begin with, seconds after which a number is judged, and by how much a larger one has to be faster.
FIRST, WINDOW_S, GAIN = 4, 0.3, 1.15


class Turns:
    """Places for threads; their number follows what is told of the photos that are done.

    Args:
        n_most: threads that there are.
        clock: seconds, from any zero.
    """

    def __init__(self, n_most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.n = min(FIRST, n_most)
        self._n_most, self._clock = n_most, clock
        self._places = threading.Semaphore(self.n)
        self._is_settled = self.n == n_most
        self._n_before, self._rate_before = 0, 0.0
        self._n_done, self._began_s = 0, clock()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a place, and keep it for the block inside."""
        with self._places:
            yield

    def done(self, n_photos: int) -> None:
        """Tell of photos that were read; for the one thread that collects them."""
        self._n_done += n_photos
        now_s = self._clock()
        if self._is_settled or now_s - self._began_s < WINDOW_S:
            return
        rate = self._n_done / (now_s - self._began_s)
        pays = rate >= GAIN * self._rate_before
        n_before, n_next = self.n, min(2 * self.n, self._n_most) if pays else self._n_before
        self._is_settled = n_next <= self.n
        self._resize(n_next)
        self._n_before, self._rate_before, self._n_done, self._began_s = n_before, rate, 0, now_s

    def _resize(self, n: int) -> None:
        while self.n < n:
            self._places.release()
            self.n += 1
        while self.n > n:
            self._places.acquire()
            self.n -= 1
