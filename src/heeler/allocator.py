"""What the C library does with memory that was freed: kept for the next, or handed back to the system.

Only glibc is told; others are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of mallopt(3). To set one ends glibc's own rule, so the usual values are what that comes to for a process that has
# used large arrays.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
USUAL_TRIM_BYTES, USUAL_MMAP_BYTES, USUAL_MMAP_MAX = 64 << 20, 32 << 20, 65536
NO_TRIM = -1
SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def give_back() -> None:
    """Hand freed memory back to the system: glibc keeps that of photos, for each thread, for good."""
    if libc := _glibc():
        libc.malloc_trim(0)


@contextmanager
def kept() -> Iterator[None]:
    """Within this context, freed memory stays with the process, and is handed back at the end of the last of them.

    Where each step takes the same large arrays and frees them, glibc hands them back each time, and the system clears
    every page anew: a third of the time of a training step of 32 photos. Who has set one of ``SETTINGS`` is left alone.
    """
    libc = None if any(name in os.environ for name in SETTINGS) else _glibc()
    if not libc:
        yield
        return
    _INSIDE.enter(libc)
    try:
        yield
    finally:
        _INSIDE.leave(libc)


class _Inside:
    """How many contexts the process is in: the first sets its thresholds, the last sets them back."""

    def __init__(self) -> None:
        self._n, self._turn = 0, threading.Lock()

    def enter(self, libc: Any) -> None:
        with self._turn:
            self._n += 1
            if self._n == 1:
                libc.mallopt(M_MMAP_MAX, 0)
                libc.mallopt(M_TRIM_THRESHOLD, NO_TRIM)

    def leave(self, libc: Any) -> None:
        with self._turn:
            self._n -= 1
            if self._n == 0:
                libc.mallopt(M_MMAP_MAX, USUAL_MMAP_MAX)
                libc.mallopt(M_MMAP_THRESHOLD, USUAL_MMAP_BYTES)
                libc.mallopt(M_TRIM_THRESHOLD, USUAL_TRIM_BYTES)
                libc.malloc_trim(0)


_INSIDE = _Inside()


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None  # Windows
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "malloc_trim", "mallopt")) else None
