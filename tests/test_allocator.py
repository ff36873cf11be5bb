"""Freed memory is kept where that is asked for, and only there: counted in pages that the system clears."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from heeler import allocator

N_ROUNDS, N_BYTES = 20, 64 << 20
N_PAGES = N_BYTES // resource.getpagesize()

CHILD = f"""
import resource
import numpy as np
from heeler import allocator

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({N_ROUNDS}):
        np.empty({N_BYTES}, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

print(pages())
with allocator.kept():
    print(pages())
    inside = held()
print(inside - held())
print(pages())
"""


@pytest.mark.skipif(allocator._glibc() is None, reason="not glibc")
def test_memory_is_kept_within_and_handed_back_after() -> None:
    small_pages = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=small_pages, capture_output=True, text=True, check=True)
    before, within, handed_back, after = map(int, done.stdout.split())
    if before < N_ROUNDS * N_PAGES // 2:
        pytest.skip("this system makes its pages large by itself")
    assert within < 2 * N_PAGES
    assert handed_back > N_PAGES // 2
    assert after > N_ROUNDS * N_PAGES // 2


def test_an_error_within_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    class Library:
        def mallopt(self, name: int, value: int) -> int:
            calls.append((name, value))
            return 1

        def malloc_trim(self, pad: int) -> int:
            calls.append((pad,))
            return 1

    monkeypatch.setattr(allocator, "_glibc", Library)
    with pytest.raises(ZeroDivisionError), allocator.kept():
        n_within = len(calls)
        raise ZeroDivisionError
    assert n_within == 2
    assert {name for name, *_ in calls[n_within:-1]} == {-1, -3, -4}
    assert calls[-1] == (0,)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with allocator.kept():
        allocator.give_back()
