"""Run a Python process and measure it from outside: wall time, the JSON it prints, the peak of its own memory."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

STEPS = Path(__file__).with_name("steps.py")
POLL_S = 0.05
BUSY_LOOK_S, MAX_BUSY_PERCENT = 2.0, 10
PACKAGES = ("heeler", "torch", "timm", "onnxruntime", "openvino", "pillow", "fastai")


@dataclass(frozen=True)
class Measured:
    """One finished process.

    Args:
        seconds: wall time from its start to its end, so the imports count.
        answer: the JSON object that it printed; empty where it printed something else.
        peak_bytes: most memory it held at once beyond the pages of files in its cache; 0 where nobody asked.
    """

    seconds: float
    answer: dict[str, Any]
    peak_bytes: int = 0


@contextlib.contextmanager
def cold_cache() -> Iterator[Path]:
    """An empty folder for heeler's cache, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="heeler-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_step(engine: str, step: str, *args: object, cache: Path, watch_memory: bool = False) -> Measured:
    """Run one step of ``steps.py`` in a process of its own.

    Args:
        engine: ``core`` hides OpenVINO from the process; ``openvino`` leaves it there.
        step: name of the step.
        args: its arguments.
        cache: folder of heeler's cache for this process.
        watch_memory: look at its memory twenty times a second, which slows it a little (Linux only).

    Raises:
        SystemExit: the process failed; its last words are shown.
    """
    return run_python([str(STEPS), engine, step, *map(str, args)], cache=cache, watch_memory=watch_memory)


def run_python(args: Sequence[str], *, cache: Path, watch_memory: bool = False) -> Measured:
    """Run a Python script and measure it; see ``run_step``."""
    environment = os.environ | {"HEELER_CACHE": str(cache), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *args], env=environment, stdout=out, stderr=talk)
        try:
            peak = _watch(process, cache) if watch_memory else 0
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        out.seek(0)
        talk.seek(0)
        if code:
            sys.exit(f"{' '.join(args)} ended with {code}:\n{talk.read().decode(errors='replace')[-2000:]}")
        said = out.read()
        answer = json.loads(said) if said.startswith(b"{") else {}
    return Measured(seconds, answer, peak)


def _watch(process: subprocess.Popen[bytes], cache: Path) -> int:
    """Peak bytes of a process until it ends."""
    peak = 0
    while process.poll() is None:
        time.sleep(POLL_S)
        # Gone between two looks: the process ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            peak = max(peak, own_bytes(Path(f"/proc/{process.pid}/smaps").read_text(), str(cache)))
    return peak


def own_bytes(smaps: str, cache: str) -> int:
    """Resident bytes of a process without those of files below ``cache``, which the system may drop at any time.

    Args:
        smaps: text of ``/proc/PID/smaps``: for each mapping a line with its file, then lines with sizes in kB.
        cache: folder whose mapped files do not count.
    """
    total_kb, counts = 0, True
    for line in smaps.splitlines():
        word, _, rest = line.partition(" ")
        if word == "Rss:":
            total_kb += int(rest.split()[0]) if counts else 0
        elif not word.endswith(":"):
            counts = cache not in line
    return total_kb * 1024


def pin_to_cores(n_cores: int) -> int:
    """Keep this process and its children on the first ``n_cores`` cores it may use; how many it has then."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_cores])
    return len(os.sched_getaffinity(0))


def warn_if_busy() -> None:
    """Say so where other programs take more than a tenth of the machine: the figures would be theirs too."""
    busy_percent = psutil.cpu_percent(interval=BUSY_LOOK_S)
    if busy_percent > MAX_BUSY_PERCENT:
        print(f"warning: other programs keep this machine {busy_percent:.0f} % busy", file=sys.stderr)


def machine(n_cores: int) -> dict[str, str]:
    """What the figures were measured on, and when."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    facts = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores used": str(n_cores)}
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts
