"""Kill training runs, resume them, and compare: ``KILL_TRIALS=200 python tests/kill_child.py FOLDER``.

A trial is a run that is killed with SIGKILL at a point, resumed, perhaps killed and resumed again, and then left alone.
A point is the end of a step, or one of the calls that a save is made of: opening a file to write (half of something is
written), making it last, putting it in its place, removing an old one. Every step and every call of the first three
saves have their trials; the others are drawn by ``KILL_SEED``. Prints one JSON object a line: first the run that nobody
killed, then the trials. ``KILL_THREADS`` is the threads of each run, 1 by default.

Everything heavy is imported once, and each run is a fork; the parent must not compute, or its forks would wait for
threads that they do not have.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - here, and not in each fork
import scipy.optimize  # noqa: F401
import torch

from heeler.learn import schedule, weights
from heeler.learn.tune import fine_tune
from heeler.plans import Recipe
from heeler.records import Event, Progress
from tiny import LABELS, SPEC, TRAIN, VALID, network, store

# Everything that a run can have: both phases, statistics, a running average, mixing, batches of unlike sizes.
RECIPE = Recipe(epochs=2, frozen_epochs=1, batch_size=16, lr=1e-2, bn="training", ema_decay=0.9, mixup=0.3, seed=5)
CALLS = ("fdopen", "fsync", "replace", "unlink")
N_FIRST_SAVES = 3

Point = tuple[str, int]


def train(folder: Path, point: Point | None, resume: bool) -> None:
    """One run; it kills its process at the point, else writes what it has made and what it went through."""
    torch.set_num_threads(int(os.environ.get("KILL_THREADS", "1")))
    schedule.CHECKPOINT_EVERY_S, schedule.SAVE_SHARE = 0.0, float("inf")  # saved at each step
    seen = {"step": 0, "call": 0}
    calls: list[str] = []

    def reached(kind: str) -> bool:
        seen[kind] += 1
        return (kind, seen[kind]) == point

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and reached("step"):
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(name: str) -> None:
        call: Callable[..., Any] = getattr(os, name)

        def kills(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if reached("call"):
                if name == "fdopen":
                    os.write(args[0], b'{"number": 99, "sha')
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        setattr(os, name, kills)

    rows = store(folder / "rows")
    for name in CALLS:
        deadly(name)
    options = {"folder": folder / "checkpoints", "resume": resume}
    tuned = fine_tune(network(), rows, LABELS, TRAIN, VALID, SPEC, RECIPE, on_event, **options)
    digest = hashlib.sha256(f"{tuned.kind} {tuned.best_epoch}".encode())
    for name, tensor in sorted(weights.plain_state(tuned.model).items()):
        digest.update(name.encode() + tensor.view(-1).view(torch.uint8).numpy().tobytes())
    result = {"sha256": digest.hexdigest(), "n_steps": seen["step"], "calls": calls}
    (folder / "result.json").write_text(json.dumps(result))


def forked(folder: Path, point: Point | None, *, resume: bool) -> bool:
    """Do a run in a process of its own; whether it was killed."""
    process = os.fork()
    if process == 0:
        try:
            train(folder, point, resume)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the run at {point} failed"
    return False


def trial(folder: Path, points: list[Point]) -> tuple[int, dict[str, Any]]:
    """A run killed at the first point, resumed and killed at the second, and so on: how many kills, and its result."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "result.json").unlink(missing_ok=True)
    kills = [forked(folder, point, resume=i > 0) for i, point in enumerate(points)]
    forked(folder, None, resume=bool(points))
    return sum(kills), json.loads((folder / "result.json").read_text())


def points_of(n_trials: int, n_steps: int, calls: list[str], seed: int) -> list[list[Point]]:
    """Points of each trial: every step, every call of the first saves, then steps and calls at random."""
    # Two files are written in a save, and each is put in its place by one call.
    third = [i for i, name in enumerate(calls, start=1) if name == "replace"][2 * N_FIRST_SAVES - 1]
    trials: list[list[Point]] = [[("step", n)] for n in range(1, n_steps + 1)]
    trials += [[("call", n)] for n in range(1, third + 3)]
    chance = random.Random(seed)
    while len(trials) < n_trials:
        kinds = chance.choice((["step"], ["call"], ["step", "call"], ["step", "step"]))
        trials.append([(kind, chance.randint(1, n_steps if kind == "step" else len(calls))) for kind in kinds])
    return trials[:n_trials]


def main() -> None:
    """See the top of this file."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    forked_rows = os.fork()  # the rows are made where nothing is forked any more
    if forked_rows == 0:
        store(folder / "rows")
        os._exit(0)
    os.waitpid(forked_rows, 0)
    gc.freeze()  # or each fork looks through, and so copies, all that was imported
    _, whole = trial(folder, [])
    print(json.dumps({"n_steps": whole["n_steps"], "calls": whole["calls"], "sha256": whole["sha256"]}), flush=True)
    seed = int(os.environ.get("KILL_SEED", "0"))
    for points in points_of(int(os.environ["KILL_TRIALS"]), whole["n_steps"], whole["calls"], seed):
        n_kills, result = trial(folder, points)
        same = result["sha256"] == whole["sha256"]
        line = {"points": points, "n_kills": n_kills, "n_steps_after": result["n_steps"], "identical": same}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
