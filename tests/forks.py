"""``heeler`` commands in processes of their own, forked from one that has imported what takes seconds to import.

The one that is forked computes nothing, or its forks would wait for threads that they do not have.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SLOW_IMPORTS = ["accelerate", "matplotlib.figure", "scipy.optimize", "sklearn.linear_model", "timm", "torchvision"]
POLL_S = 0.01


def _command(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """What the fork does: the command as a terminal runs it, which listens to signals."""
    gc.freeze()  # or it looks through, and so copies, all that was imported
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        setattr(sys, name, open(number, "w", encoding="utf-8", buffering=1, closefd=False))  # noqa: SIM115
    import torch

    from heeler.cli import main

    torch.set_num_threads(1)
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Command:
    """A command that runs, or has ended."""

    process: Any
    folder: Path

    def told_until(self, words: str) -> Iterator[str]:
        """The lines of standard error up to the first that has these words, as they come."""
        while not (self.folder / "stderr").exists() and self.process.is_alive():
            time.sleep(POLL_S)
        with (self.folder / "stderr").open(encoding="utf-8") as file:
            line = ""
            while True:
                ended = not self.process.is_alive()
                line += file.readline()
                if line.endswith("\n"):
                    yield line
                    if words in line:
                        return
                    line = ""
                elif ended:
                    pytest.fail(f"ended before {words!r}: {self.err}")
                else:
                    time.sleep(POLL_S)

    def send_signal(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)

    def kill(self) -> None:
        """Kill it, and wait until it is dead."""
        self.process.kill()
        self.process.join()

    def wait(self, timeout_s: float) -> int:
        """Its exit code."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still running after {timeout_s} s: {self.err}"
        return int(self.process.exitcode)

    @property
    def out(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")


def begin(folder: Path, *words: object) -> Command:
    """Begin a ``heeler`` command; what it says goes to files in the folder, which is made."""
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW_IMPORTS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = context.Process(target=_command, args=([str(word) for word in words], environment, folder), daemon=True)
    process.start()
    return Command(process, folder)
