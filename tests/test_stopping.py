"""Signals: the first one asks, the second one ends, and each has an exit code of its own."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from heeler.errors import Interrupted
from heeler.stopping import raise_interrupted, stop_requests


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with stop_requests() as stop:
        assert not stop() and stop.signum == 0
        os.kill(os.getpid(), signum)
        assert stop() and stop.signum == signum
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signum)
    assert caught.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before


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
