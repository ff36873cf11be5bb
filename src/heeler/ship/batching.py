"""Photos of many requests through a few decoders and one engine: bounded, in micro-batches, with a deadline for each.

A request hands in its photos and waits. Threads have them decoded by their children; others take the squares, whosever
they are, as many at once as the engine computes on one core, and answer. A lone photo never waits for company that is
not on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heeler.errors import UnreadableError
from heeler.limits import ServeLimits
from heeler.records import ByteArray, FloatArray
from heeler.ship.sandbox import Decoder

# How long a free core waits for photos that are being decoded, to have a whole piece to compute.
COMPANY_S = 0.004


class BusyError(Exception):
    """There is no room for one more request."""


@dataclass(frozen=True)
class Answer:
    """What became of one photo.

    Args:
        probabilities: (K,) of the classes; None where it cannot be read.
        reason: why it cannot be read, else empty.
        square: (S, S, 3) uint8, as the network saw it; None where it cannot be read.
    """

    probabilities: FloatArray | None = None
    reason: str = ""
    square: ByteArray | None = None


@dataclass(frozen=True)
class Computing:
    """How squares become probabilities.

    Args:
        forward: (B, S, S, 3) uint8 -> (B, K) probabilities; called by several threads at once.
        n_at_once: most photos of one call.
        n_threads: how many calls run at once.
    """

    forward: Callable[[ByteArray], FloatArray]
    n_at_once: int
    n_threads: int


class Works:
    """The decoders and the engine at work, on threads of their own, from ``start`` to ``close``.

    Args:
        decoders: one child each.
        computing: the forward pass.
        limits: of the queue and of time.
        on_batch: told how many photos a forward pass had.
    """

    def __init__(
        self,
        decoders: Sequence[Decoder],
        computing: Computing,
        limits: ServeLimits,
        on_batch: Callable[[int], object] = lambda n: None,
    ) -> None:
        self.n_requests = 0
        self._limits = limits
        self._decoders = decoders
        self._computing = computing
        self._on_batch = on_batch
        self._coming: queue.SimpleQueue[tuple[_Request, int] | None] = queue.SimpleQueue()
        self._ready: deque[tuple[_Request, int, ByteArray]] = deque()
        self._lock = threading.Lock()
        # Each is told of what it waits for and of nothing else: to wake for nothing costs a thread its core's time.
        self._squares, self._space = threading.Condition(self._lock), threading.Condition(self._lock)
        self._n_coming = 0
        self._is_closed = False
        self._threads = [
            *(threading.Thread(target=self._decode_all, args=(decoder,), daemon=True) for decoder in decoders),
            *(threading.Thread(target=self._compute_all, daemon=True) for _ in range(computing.n_threads)),
        ]

    @property
    def n_restarts(self) -> int:
        """How many decoders were replaced."""
        return sum(decoder.n_restarts for decoder in self._decoders)

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what was taken, then end; nothing may be handed in any more."""
        for _ in self._decoders:
            self._coming.put(None)
        with self._lock:
            self._is_closed = True
            self._squares.notify_all()
            self._space.notify_all()
        for thread in self._threads:
            thread.join()
        for decoder in self._decoders:
            decoder.close()

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place for one request, and the time that it may take.

        Raises:
            BusyError: the queue is full.
            TimeoutError: the block took longer than a request may.
        """
        if self.n_requests >= self._limits.queue:
            raise BusyError
        self.n_requests += 1
        try:
            async with asyncio.timeout(self._limits.work_s):
                yield
        finally:
            self.n_requests -= 1

    async def classify(self, photos: Sequence[bytes]) -> list[Answer]:
        """The answers to one or more photos of a request that was admitted, in order.

        Raises:
            TimeoutError: a decoder took longer than a request may.
            HeelerError: the machine ran out of something.
        """
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        request = _Request(photos, future, time.monotonic() + self._limits.work_s)
        with self._lock:
            self._n_coming += len(photos)
        try:
            for place in range(len(photos)):
                self._coming.put((request, place))
            return await future
        finally:
            request.is_over = True

    def _decode_all(self, decoder: Decoder) -> None:
        while (job := self._coming.get()) is not None:
            request, place = job
            square = None
            try:
                if not request.is_over:
                    square = decoder.decode(request.photos[place], request.deadline_s)
            except UnreadableError as error:
                request.answer(place, Answer(reason=error.message))
            except Exception as error:
                request.fail(error)
            with self._lock:
                # Squares are larger than files: decoders wait here while the engine is behind.
                while len(self._ready) >= 2 * self._room and not self._is_closed:
                    self._space.wait()
                self._n_coming -= 1
                if square is not None:
                    self._ready.append((request, place, square))
                # The first one starts the time that is waited for company.
                if self._n_coming == 0 or len(self._ready) == 1 or len(self._ready) >= self._computing.n_at_once:
                    self._squares.notify()

    def _compute_all(self) -> None:
        while batch := self._take():
            alive = [job for job in batch if not job[0].is_over]
            if not alive:
                continue
            self._on_batch(len(alive))
            try:
                rows = self._computing.forward(np.stack([square for _, _, square in alive]))
            except Exception as error:
                for request, _, _ in alive:
                    request.fail(error)
                continue
            for (request, place, square), row in zip(alive, rows, strict=True):
                # Where it looked is asked of one photo alone; of a batch's, squares would wait for the last answer.
                request.answer(place, Answer(row, square=square if len(request.photos) == 1 else None))

    @property
    def _room(self) -> int:
        return self._computing.n_at_once * self._computing.n_threads

    def _take(self) -> list[tuple[_Request, int, ByteArray]]:
        """The squares for one forward pass; none where all is done and the works are closed."""
        with self._lock:
            until_s = 0.0
            while len(self._ready) < self._computing.n_at_once:
                if self._n_coming == 0 and (self._ready or self._is_closed):
                    break
                if not self._ready:
                    until_s = 0.0
                    self._squares.wait()
                    continue
                now_s = time.monotonic()
                until_s = until_s or now_s + COMPANY_S
                if now_s >= until_s:
                    break
                self._squares.wait(until_s - now_s)
            n = min(len(self._ready), self._computing.n_at_once)
            taken = [self._ready.popleft() for _ in range(n)]
            if self._ready or self._is_closed:
                self._squares.notify()
            self._space.notify(n)
            return taken


class _Request:
    """The photos of one request, their answers so far, and who waits for them."""

    def __init__(self, photos: Sequence[bytes], future: asyncio.Future[list[Answer]], deadline_s: float) -> None:
        self.photos = photos
        self.future = future
        self.deadline_s = deadline_s
        self.is_over = False
        self._answers: list[Answer | None] = [None] * len(photos)
        self._n_left = len(photos)
        self._lock = threading.Lock()

    def answer(self, place: int, answer: Answer) -> None:
        """Put down one photo's answer; the last one ends the wait."""
        with self._lock:
            self._answers[place] = answer
            self._n_left -= 1
            is_last = self._n_left == 0
        if is_last:
            self._tell(lambda: self.future.set_result([each for each in self._answers if each is not None]))

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self._tell(lambda: self.future.set_exception(error))

    def _tell(self, settle: Callable[[], Any]) -> None:
        def now() -> None:
            if not self.future.done():
                settle()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self.future.get_loop().call_soon_threadsafe(now)
