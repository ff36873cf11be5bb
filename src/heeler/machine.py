"""What of this machine a process may use: cores and memory; containers grant less than there is."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def n_cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory that this process may use at most, in bytes: the machine's, or less where a container grants less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, memory_limit_bytes() or total)


def memory_limit_bytes(root: Path = CGROUP) -> int | None:
    """Memory that the container grants, in bytes; None where it sets no limit (cgroup version 2, then 1)."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = text_of(root / name).strip()
        # Version 1 writes "no limit" as a number near 2**63.
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def cpu_limit(root: Path = CGROUP) -> float | None:
    """Processors that the container grants, such as 1.5; None where it sets no limit."""
    quota, _, period = text_of(root / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (text_of(root / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def text_of(path: Path) -> str:
    """What the system tells in a file of its own; empty where it does not."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
