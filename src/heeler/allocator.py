"""What the C library does with memory that was freed: kept for the next, or handed back to the system.

Only glibc is told; others are left as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3). To set one ends glibc's own rule, so the usual values are what that comes to for a process that has
# used large arrays.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
USUAL_TRIM_BYTES, USUAL_MMAP_BYTES, USUAL_MMAP_MAX = 64 << 20, 32 << 20, 65536
KEPT_BYTES = 2**31 - 1


def give_back() -> None:
    """Hand freed memory back to the system: glibc keeps that of photos, for each thread, for good."""
    if libc := _glibc():
        libc.malloc_trim(0)


@contextmanager
def kept() -> Iterator[None]:
    """Within this context, freed memory stays with the process, and is handed back at the end.

    Where each step takes the same large arrays and frees them, glibc hands them back each time, and the system clears
    every page anew: a third of the time of a training step.
    """
    libc = _glibc()
    if not libc:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, USUAL_MMAP_MAX)
        libc.mallopt(M_MMAP_THRESHOLD, USUAL_MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, USUAL_TRIM_BYTES)
        give_back()


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None  # Windows
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "malloc_trim", "mallopt")) else None
