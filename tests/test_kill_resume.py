"""A run that is killed at any moment, each call of a save among them, ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("kill_child.py")
N_TRIALS = 42


def test_killed_runs_end_bit_identical(tmp_path: Path) -> None:
    environment = {**os.environ, "KILL_TRIALS": str(N_TRIALS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CHILD), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, *trials = map(json.loads, done.stdout.splitlines())
    assert len(trials) == N_TRIALS
    assert [trial for trial in trials if not trial["identical"]] == []
    assert [trial for trial in trials if trial["n_kills"] == 0] == []
    killed_at = {whole["calls"][n - 1] for trial in trials for kind, n in trial["points"] if kind == "call"}
    assert killed_at == {"fdopen", "fsync", "replace", "unlink"}
    # A save follows each step, so a run that is killed at the end of one does that step again, and none before it.
    after = {trial["points"][0][1]: trial["n_steps_after"] for trial in trials if trial["points"][0][0] == "step"
             and len(trial["points"]) == 1}  # fmt: skip
    n_steps = whole["n_steps"]
    assert after == {step: n_steps + 1 - step for step in range(1, n_steps + 1)}
