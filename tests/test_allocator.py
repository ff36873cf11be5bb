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


class Library:
    """What would have been said to glibc."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    said = Library()
    monkeypatch.setattr(allocator, "_glibc", lambda: said)
    for name in allocator.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return said


SET = [(-4, 0), (-1, -1)]
BACK = [(-4, 65536), (-3, 32 << 20), (-1, 64 << 20), (0,)]


def test_an_error_within_does_not_stay(library: Library) -> None:
    with pytest.raises(ZeroDivisionError), allocator.kept():
        assert library.calls == SET
        raise ZeroDivisionError
    assert library.calls == SET + BACK


def test_the_last_that_goes_hands_back(library: Library) -> None:
    with allocator.kept():
        with allocator.kept():
            assert library.calls == SET
        assert library.calls == SET
    assert library.calls == SET + BACK


def test_who_has_set_glibc_is_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    with allocator.kept():
        pass
    assert library.calls == []


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with allocator.kept():
        allocator.give_back()
