"""What of the machine this process may use, and what a container takes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from heeler import machine
from heeler.machine import cpu_limit, memory_bytes, memory_limit_bytes, n_cores


def test_the_cores_are_those_this_process_may_use() -> None:
    command = [sys.executable, "-c", "from heeler.machine import n_cores; print(n_cores())"]
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    one = min(os.sched_getaffinity(0))
    bound = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{one}]); {command[2]}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert bound.stdout == "1\n"
    assert n_cores() == len(os.sched_getaffinity(0))


def test_limits_of_a_container_are_read_from_both_versions_of_cgroup(tmp_path: Path) -> None:
    new, old, free = tmp_path / "v2", tmp_path / "v1", tmp_path / "free"
    for folder in (new, old / "memory", old / "cpu", free):
        folder.mkdir(parents=True)
    (new / "memory.max").write_text("2147483648\n")
    (new / "cpu.max").write_text("150000 100000\n")
    (old / "memory/memory.limit_in_bytes").write_text("1073741824\n")
    (old / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    (old / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (free / "memory.max").write_text("max\n")
    (free / "cpu.max").write_text("max 100000\n")
    assert (memory_limit_bytes(new), cpu_limit(new)) == (2**31, 1.5)
    assert (memory_limit_bytes(old), cpu_limit(old)) == (2**30, 0.5)
    assert (memory_limit_bytes(free), cpu_limit(free)) == (None, None)
    (old / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (old / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert (memory_limit_bytes(old), cpu_limit(old)) == (None, None)
    assert (memory_limit_bytes(tmp_path / "none"), cpu_limit(tmp_path / "none")) == (None, None)


@pytest.mark.parametrize("limit_bytes", [None, 1 << 30, 1 << 59])
def test_a_container_grants_no_more_memory_than_there_is(
    limit_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = psutil.virtual_memory().total
    monkeypatch.setattr(machine, "memory_limit_bytes", lambda: limit_bytes)
    assert memory_bytes() == min(total, limit_bytes or total)
