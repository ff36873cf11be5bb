"""``heeler predict --resume``: after a real kill at any moment, the table is the one of a run that nobody killed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TrainedRun, assert_clear, run_heeler

pytestmark = pytest.mark.usefixtures("one_thread")

CHILD = Path(__file__).with_name("predict_child.py")
# Within the first batch of 32, at its end, in the middle, in the last row, and where the table takes its name.
POINTS = [
    [],
    [("row", 5)],
    [("row", 32)],
    [("torn", 40)],
    [("copy", 50)],
    [("torn", 105)],
    [("before", 0)],
    [("row", 70), ("torn", 3), ("copy", 36)],
]


def test_killed_predictions_end_byte_identical(trained_run: TrainedRun, tmp_path: Path) -> None:
    inputs = [str(trained_run.source), "gone.jpg", str(trained_run.source)]
    done = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), str(trained_run.model), *inputs],
        input=json.dumps(POINTS), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, *trials = [json.loads(line) for line in done.stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(whole["table"])))
    assert whole["codes"] == [0], done.stderr
    assert len(rows) == 2 * 52 + 1 and {row["status"] for row in rows} >= {"ok", "unreadable"}
    assert len(whole["copies"]) == sum(row["status"] != "unreadable" for row in rows)
    assert len(trials) == len(POINTS) - 1
    for trial in trials:
        assert trial["codes"] == [-9] * len(trial["points"]) + [0], (trial["points"], done.stderr)
        assert trial["table"] == whole["table"], trial["points"]
        assert trial["copies"] == whole["copies"], trial["points"]
        assert trial["left"] == ["copies", "rows.csv"], trial["points"]


def test_other_photos_or_options_are_refused_and_nothing_is_lost(trained_run: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    photos = sorted((trained_run.source / "cat").glob("[0-9]*.jpg"))
    stopped = run_heeler("predict", trained_run.model, *photos * 4, "--out", out, "--sort-into", photos[0])
    assert stopped.code == 2  # and what was begun stays
    part = tmp_path / ".rows.csv.part"
    assert part.exists() and not out.exists()
    changed = run_heeler("predict", trained_run.model, *photos * 4, "--out", out, "--resume", "--top", 2)
    assert_clear(changed, 2, "top 3, and this is 2", str(part))
    changed = run_heeler("predict", trained_run.model, *photos * 4, "--out", out, "--resume")
    assert_clear(changed, 2, "sorted into", "and this is nothing")
    assert run_heeler("predict", trained_run.model, *photos * 4, "--out", out).code == 0
    assert not part.exists() and len(out.read_text().splitlines()) == 49


def test_an_export_that_is_made_meanwhile_changes_no_answer(trained_run: TrainedRun, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "rows.csv"
    shutil.copytree(trained_run.model, model)
    photos = sorted((trained_run.source / "cat").glob("[0-9]*.jpg"))
    assert run_heeler("predict", model, *photos, "--out", out, "--sort-into", photos[0]).code == 2  # it has begun
    assert run_heeler("export", model, "--photos", trained_run.source / "cat").code == 0
    done = run_heeler("predict", model, *photos, "--out", out, "--resume")
    assert_clear(done, 2, "sorted into", "and this is nothing")  # and not of another model


def test_resume_wants_a_table(trained_run: TrainedRun) -> None:
    assert_clear(run_heeler("predict", trained_run.model, trained_run.source, "--resume"), 2, "--resume")
