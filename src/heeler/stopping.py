"""Ctrl-C and the system's request to end: while there is something to save, the first asks and the second ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from heeler.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the user, or the system, has asked for an end. Called, it says so."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self) -> bool:
        return self.signum != 0

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal down; a second one does not wait."""
        if self.signum:
            raise_interrupted(signum, frame)
        self.signum = signum


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Let signals ask for an end, in place of ending the process, while the block runs.

    Threads other than the main one get no signals; there, nothing asks.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {signum: signal.signal(signum, request.ask) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not of Python's making


def raise_interrupted(signum: int, _: FrameType | None = None) -> None:
    """End what is running with an error of its own: 130 for Ctrl-C, 143 for the system's request.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(
        "stopped before the end",
        hint="earlier results are as they were; the same command with --resume goes on",
        signum=signum,
    )
