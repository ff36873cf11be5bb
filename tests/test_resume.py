"""``heeler train`` that is stopped or killed, and the same command with ``--resume``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Done, assert_clear, make_photos, run_heeler, snapshot
from heeler.ship.bundle import open_bundle
from heeler.ship.predict import load

FIXED = ("--image-px", "64", "--epochs", "40", "--frozen-epochs", "1", "--batch-size", "16")
SHORT = ("--image-px", "64", "--epochs", "4", "--frozen-epochs", "1", "--batch-size", "16")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cache: Path, one_thread: None) -> Path:
    """48 photos."""
    return make_photos(tmp_path_factory.mktemp("resume") / "photos")


def begin(*words: object) -> subprocess.Popen[str]:
    """A ``heeler`` command in a process of its own, which listens to signals as one in a terminal does."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from heeler.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines_until(process: subprocess.Popen[str], words: str) -> Iterator[str]:
    assert process.stderr is not None
    while line := process.stderr.readline():
        yield line
        if words in line:
            return
    pytest.fail(f"ended before {words!r}")


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_a_model_and_goes_on(
    source: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    process = begin("train", source, *FIXED, "--out", run)
    list(lines_until(process, "epoch 3/"))
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    told = [line for line in err.splitlines() if line.startswith(("heeler:", "  hint:"))]
    assert_clear(Done(process.returncode, out, "\n".join(told)), code, "stopped before the end")
    assert "--resume" in told[-1]
    assert load(run / "model").predict([source / "cat" / "0.jpg"])[0].status == "ok"
    assert (run / "report.html").exists() and (run / "predictions.csv").exists()
    again = begin("train", source, *FIXED, "--out", run, "--resume")
    epochs = [line for line in lines_until(again, "epoch ") if line.startswith("epoch ")]
    again.kill()
    again.communicate()
    assert int(epochs[0].split("epoch ")[1].split("/")[0]) >= 4  # what was done is not done again


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(source: Path, tmp_path: Path) -> None:
    whole = begin("train", source, *SHORT, "--out", tmp_path / "whole")
    assert whole.wait(120) == 0
    run = tmp_path / "run"
    for moment in ("probe", "epoch 2/5", "epoch 4/5"):
        process = begin("train", source, *SHORT, "--out", run, "--resume")
        list(lines_until(process, moment))
        time.sleep(0.05)  # somewhere in the next steps
        process.kill()
        process.communicate()
    last = begin("train", source, *SHORT, "--out", run, "--resume")
    assert last.wait(120) == 0
    assert weights(run) == weights(tmp_path / "whole")
    assert not (run / "checkpoint").exists()
    before = snapshot(run)
    assert_clear(run_heeler("train", source, *SHORT, "--out", run, "--resume"), 2, "ended already")
    assert snapshot(run) == before


def test_minutes_that_were_used_before_a_kill_count(source: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ("--image-px", "64", "--minutes", "0.6")
    process = begin("train", source, *words, "--out", run)
    list(lines_until(process, "epoch "))
    process.kill()
    process.communicate()
    model = open_bundle(run / "model")  # the probe's stands
    assert model.classes
    done = run_heeler("train", source, *words, "--out", run, "--resume", "--json")
    assert done.code == 0, done.err
    plan = json.loads((run / "plan.json").read_text())
    assert 0 < done.json["seconds"]["tune"] < plan["tune_s"] - 0.5  # at least an epoch of it had been used
    assert "calibrate" not in done.json["seconds"]  # it keeps the plan that it began with
