"""Signals: the first one asks, the second one ends, and each has an exit code of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from heeler.errors import Interrupted
from heeler.stopping import raise_interrupted, stop_requests


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(signum: signal.Signals) -> None:
    """In a process of its own: signals are the process's, and this one has the threads of many libraries."""
    code = f"""
import os, signal
from heeler.errors import Interrupted
from heeler.stopping import stop_requests
before = signal.getsignal({int(signum)})
with stop_requests() as stop:
    assert not stop() and stop.signum == 0
    os.kill(os.getpid(), {int(signum)})
    assert stop() and stop.signum == {int(signum)}
    try:
        os.kill(os.getpid(), {int(signum)})
        raise SystemExit("nothing was raised")
    except Interrupted as error:
        assert error.exit_code == {128 + signum}
assert signal.getsignal({int(signum)}) is before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_thread_of_the_user_s_gets_no_signals_and_no_error() -> None:
    asked: list[bool] = []

    def work() -> None:
        with stop_requests() as stop:
            asked.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_codes(signum: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted) as caught:
        raise_interrupted(signum)
    assert caught.value.exit_code == code
    assert "--resume" in caught.value.hint
