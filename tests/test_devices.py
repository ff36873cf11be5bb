"""Two processes over gloo train one network as one process does; this file is also the script that they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import make_photos, run_heeler
from heeler.data.rows import Rows
from heeler.learn.contest import Tuned
from heeler.learn.tune import fine_tune
from heeler.plans import Recipe
from heeler.records import Event, Note
from tiny import LABELS, SPEC, TRAIN, VALID, exact, network, store

# The last batch of an epoch is one photo, which two processes cannot share.
SEEN = np.delete(TRAIN, np.arange(0, 33, 3))
RECIPE = Recipe(epochs=2, frozen_epochs=0, batch_size=8, lr=1e-2, ema_decay=0.5)
TOLERANCE = 1e-4
OF_COMMANDS = ("--image-px", 64, "--lr", 1e-3, "--batch-size", 9, "--json")


class Recorded:
    """Rows that remember which of them were taken."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.taken: list[list[int]] = []

    def take(self, wanted: Any) -> Any:
        self.taken.append([int(row) for row in wanted])
        return self.rows.take(wanted)


def run(rows: Any, recipe: Recipe, on_event: Any, probe: Any = None, **options: Any) -> Tuned:
    return fine_tune(probe or network(), rows, LABELS, SEEN, VALID, SPEC, recipe, on_event, **options)


def jobs(work: Path, rank: int) -> Iterator[tuple[str, Tuned, dict[str, Any]]]:
    """What each process does: the same calls; its disk and its memory are its own."""
    rows = store(work / "rows")
    own = work / f"disk-{rank}"

    events: list[Event] = []
    recorded = Recorded(rows)
    tuned = run(recorded, RECIPE, events.append, folder=own)
    yield "plain", tuned, {"taken": recorded.taken, "events": len(events)}

    asked: list[int] = []

    def stop() -> bool:  # only one of them is told
        asked.append(1)
        return rank == 1 and len(asked) == 5

    part = run(rows, RECIPE, events.append, folder=own, stop=stop)
    tuned = run(rows, RECIPE, events.append, folder=own, resume=True)
    yield "resumed", tuned, {"stopped": part.stopped, "n_epochs": part.n_epochs}

    probe, events = network(), []

    def check(module: Any, inputs: Any) -> None:
        if rank == 1 and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    probe.register_forward_pre_hook(check)
    tuned = run(rows, RECIPE, events.append, probe)
    notes = [event.text for event in events if isinstance(event, Note)]
    yield "short of memory", tuned, {"notes": notes}

    tuned = run(rows, replace(RECIPE, bn="training"), events.append)
    yield "statistics", tuned, {"best_epoch": tuned.best_epoch}

    tuned = run(rows, replace(RECIPE, epochs=0, budget_s=600.0, max_epochs=2), events.append)
    yield "timed", tuned, {"n_epochs": tuned.n_epochs}


def main() -> None:
    work, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    with exact():
        for name, tuned, facts in jobs(work, rank):
            save_file(tuned.model.state_dict(), work / f"{name}-{rank}.safetensors")
            (work / f"{name}-{rank}.json").write_text(json.dumps(facts))
    os.chdir(work)
    done = run_heeler("train", work / "photos", *OF_COMMANDS, "--epochs", 0)
    (work / f"command-{rank}.json").write_text(json.dumps({"code": done.code, "out": done.out, "err": done.err}))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done their jobs."""
    folder = tmp_path_factory.mktemp("devices")
    store(folder / "rows")
    make_photos(folder / "photos")
    launch(__file__, folder)
    return folder


def launch(*words: object, cwd: Path | None = None) -> str:
    """Run a script or a module in two processes; what they print on standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    here = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *here, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def facts(work: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((work / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


def assert_close(work: Path, name: str, model: Any, tolerance: float = TOLERANCE) -> None:
    states = [load_file(work / f"{name}-{rank}.safetensors") for rank in (0, 1)]
    for key, value in model.state_dict().items():
        assert torch.equal(states[0][key], states[1][key]), key
        torch.testing.assert_close(states[0][key], value, rtol=0, atol=tolerance, msg=key)


@pytest.fixture(scope="module")
def alone(work: Path) -> tuple[Tuned, list[list[int]]]:
    """The same run in one process."""
    with exact():
        rows = Recorded(store(work / "rows"))
        return run(rows, RECIPE, lambda _: None), rows.taken


def test_two_processes_are_one(work: Path, alone: tuple[Tuned, list[list[int]]]) -> None:
    assert alone[0].best_epoch > 0
    assert_close(work, "plain", alone[0].model)


def test_each_photo_is_seen_once_in_each_epoch(work: Path, alone: tuple[Tuned, list[list[int]]]) -> None:
    def epochs(taken: list[list[int]]) -> list[list[int]]:
        """Rows that were learnt from, in order, between judgements."""
        seen: list[list[int]] = [[]]
        for rows in taken:
            if set(rows) <= set(VALID.tolist()):
                seen.append([])
            else:
                seen[-1] += rows
        return [rows for rows in seen if rows]

    first, second = (epochs(one["taken"]) for one in facts(work, "plain"))
    whole = epochs(alone[1])
    assert len(first) == len(second) == len(whole) == 2
    for one, other, both in zip(first, second, whole, strict=True):
        assert sorted(one + other) == sorted(both) == SEEN.tolist()
        assert (len(one), len(other)) == (12, 13)
    assert first[0] != first[1]


def test_one_process_writes_and_tells(work: Path) -> None:
    assert [one["events"] > 0 for one in facts(work, "plain")] == [True, False]
    assert list((work / "disk-0").glob("*.safetensors"))
    assert not (work / "disk-1").exists()


def test_what_one_is_told_all_do_and_what_one_reads_all_know(work: Path, alone: tuple[Tuned, list[list[int]]]) -> None:
    for one in facts(work, "resumed"):
        assert one["stopped"]
        assert one["n_epochs"] == pytest.approx(1 + 6 / 25)  # the first of four batches
    plain, resumed = (load_file(work / f"{name}-0.safetensors") for name in ("plain", "resumed"))
    assert all(torch.equal(value, resumed[key]) for key, value in plain.items())


def test_one_that_is_short_of_memory_slows_all(work: Path, alone: tuple[Tuned, list[list[int]]]) -> None:
    assert_close(work, "short of memory", alone[0].model)
    notes = facts(work, "short of memory")[0]["notes"]
    assert sorted(text.split(":")[0] for text in notes) == ["judging"] * 5 + ["training"]


def test_statistics_and_time_are_shared(work: Path) -> None:
    for name in ("statistics", "timed"):
        first, second = (load_file(work / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert np.allclose([one["n_epochs"] for one in facts(work, "timed")], 2)
    with exact():
        alone = run(store(work / "rows"), replace(RECIPE, bn="training"), lambda _: None).model.state_dict()
    shared = load_file(work / "statistics-0.safetensors")
    assert facts(work, "statistics")[0]["best_epoch"] > 0
    for key in (key for key in alone if key.endswith("running_var")):
        # Each process normalises by its own photos, so the means are near and not the same.
        assert 0.8 < float((shared[key] / alone[key]).median()) < 1.25, key


def history(run: Path) -> list[dict[str, Any]]:
    lines = (run / "history.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "epoch"]


def test_the_command_under_a_launcher(tmp_path: Path) -> None:
    source = make_photos(tmp_path / "photos")
    told = launch("-m", "heeler", "train", source, *OF_COMMANDS, "--epochs", 2, cwd=tmp_path)
    with exact():
        alone = run_heeler("train", source, *OF_COMMANDS, "--epochs", 2, "--out", tmp_path / "alone")
    answer = json.loads(told)  # one object: the other process says nothing
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["photos-1"]
    assert [answer[name] for name in ("n_train", "n_valid", "n_test")] == [36, 4, 8]
    both, whole = history(tmp_path / "runs" / "photos-1"), history(tmp_path / "alone")
    assert alone.code == 0 and len(both) == len(whole) == 3
    for one, other in zip(both, whole, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.03)
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=0.1, abs=0.01)


def test_a_command_that_tunes_nothing_is_one_run_too(work: Path) -> None:
    first, second = facts(work, "command")
    assert [first["code"], second["code"]] == [0, 0], first["err"] + second["err"]
    answer = json.loads(first["out"])
    assert second["out"] == ""
    assert [path.name for path in (work / "runs").iterdir()] == ["photos-1"]
    assert [answer[name] for name in ("n_train", "n_valid", "n_test", "chosen")] == [36, 4, 8, "probe"]
    assert history(work / "runs" / "photos-1") == []


if __name__ == "__main__":
    main()
