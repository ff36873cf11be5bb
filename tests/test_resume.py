"""``heeler train`` that is stopped or killed, and the same command with ``--resume``."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import Done, TrainedRun, assert_clear, make_photos, run_heeler, snapshot
from forks import begin
from heeler.ship.bundle import open_bundle
from heeler.ship.predict import load

FIXED = ("--image-px", "64", "--epochs", "40", "--frozen-epochs", "1", "--batch-size", "16")
SHORT = ("--image-px", "64", "--epochs", "4", "--frozen-epochs", "1", "--batch-size", "16")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cache: Path, one_thread: None) -> Path:
    """48 photos."""
    return make_photos(tmp_path_factory.mktemp("resume") / "photos")


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_a_model_and_goes_on(
    source: Path, trained_run: TrainedRun, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    earlier = shutil.copytree(trained_run.run, tmp_path / "earlier")
    before = snapshot(earlier), snapshot(source)
    run = tmp_path / "run"
    command = begin(tmp_path / "first", "train", source, *FIXED, "--out", run)
    list(command.told_until("epoch 3/"))
    assert (run / "history.jsonl").exists()
    command.send_signal(signum)
    ended = command.wait(120)
    assert command.out == ""
    told = [line for line in command.err.splitlines() if line.startswith(("heeler:", "  hint:"))]
    assert_clear(Done(ended, command.out, "\n".join(told)), code, "stopped before the end")
    assert "--resume" in told[-1] and "Traceback" not in command.err
    assert load(run / "model").predict([source / "cat" / "0.jpg"])[0].status == "ok"
    assert (run / "report.html").exists() and (run / "predictions.csv").exists()
    again = begin(tmp_path / "second", "train", source, *FIXED, "--out", run, "--resume")
    epochs = [line for line in again.told_until("epoch ") if line.startswith("epoch ")]
    again.kill()
    assert int(epochs[0].split("epoch ")[1].split("/")[0]) >= 4  # what was done is not done again
    assert (snapshot(earlier), snapshot(source)) == before


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(source: Path, tmp_path: Path) -> None:
    whole = begin(tmp_path / "first", "train", source, *SHORT, "--out", tmp_path / "whole")
    assert whole.wait(120) == 0
    run = tmp_path / "run"
    for number, moment in enumerate(("probe", "epoch 2/5", "epoch 4/5")):
        command = begin(tmp_path / f"killed-{number}", "train", source, *SHORT, "--out", run, "--resume")
        list(command.told_until(moment))
        time.sleep(0.05)  # somewhere in the next steps
        command.kill()
    last = begin(tmp_path / "last", "train", source, *SHORT, "--out", run, "--resume")
    assert last.wait(120) == 0
    assert weights(run) == weights(tmp_path / "whole")
    assert not (run / "checkpoint").exists()
    before = snapshot(run)
    assert_clear(run_heeler("train", source, *SHORT, "--out", run, "--resume"), 2, "ended already")
    assert snapshot(run) == before


def test_minutes_that_were_used_before_a_kill_count(source: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ("--image-px", "64", "--minutes", "0.6")
    command = begin(tmp_path / "killed", "train", source, *words, "--out", run)
    list(command.told_until("epoch "))
    command.kill()
    model = open_bundle(run / "model")  # the probe's stands
    assert model.classes
    done = run_heeler("train", source, *words, "--out", run, "--resume", "--json")
    assert done.code == 0, done.err
    plan = json.loads((run / "plan.json").read_text())
    assert 0 < done.json["seconds"]["tune"] < plan["tune_s"] - 0.5  # at least an epoch of it had been used
    assert "calibrate" not in done.json["seconds"]  # it keeps the plan that it began with
