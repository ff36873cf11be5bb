"""Memory that threads share while each decodes a photo: large photos wait for one another, ordinary ones do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from heeler.allocator import give_back

# Of the room: what takes less is not counted, for the threads of many cores would mostly wait for the count.
UNCOUNTED = 1 / 64


class Room:
    """So many bytes, for whoever comes first.

    Args:
        n_bytes: in use at once; one who asks for more than that is let in alone.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._used = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, n_bytes: int) -> Iterator[None]:
        """Wait until there is room, and keep it for the block inside; nobody who comes later is let in before.

        Who asks for less than ``UNCOUNTED`` of the room comes in at once.
        """
        if n_bytes < UNCOUNTED * self.n_bytes:
            yield
            return
        with self._turn, self._changed:
            while self._used and self._used + n_bytes > self.n_bytes:
                self._changed.wait()
            self._used += n_bytes
        try:
            yield
        finally:
            if n_bytes > self.n_bytes // 2:
                give_back()
            with self._changed:
                self._used -= n_bytes
                self._changed.notify()
