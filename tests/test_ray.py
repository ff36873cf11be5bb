"""``heeler predict --engine ray`` on a real cluster of this machine: every input, and a worker that is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import heeler
from conftest import TrainedRun, assert_clear, run_heeler
from heeler.records import Event, Prediction, Progress
from heeler.ship.ray_predict import RayJob, predict_on_ray

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "heeler[ray]"')
pytest.importorskip("ray.data", reason='Ray Data is not installed: pip install "heeler[ray]"')
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cluster(cache: Path) -> Iterator[None]:
    """One cluster for all tests of this file, on loopback alone, which tells nobody of itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
            object_store_memory=100 << 20,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def photos(trained_run: TrainedRun) -> list[Path]:
    return [trained_run.source / label / f"{number}.jpg" for label in ("cat", "rocket") for number in range(12)]


def assert_same(row: dict[str, Any], other: Prediction) -> None:
    assert (row["status"], row["reason"], row["label"] or "") == (other.status, other.reason, other.label)
    assert float(row["probability"] or 0) == pytest.approx(other.probability, abs=2e-4)


def test_every_kind_of_input_gives_the_answers_of_this_machine(
    cluster: None, trained_run: TrainedRun, photos: list[Path], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for photo in photos[:5]:
            shard.add(photo, f"{photo.parent.name}/{photo.name}")
            shard.add(trained_run.source / "person" / "list.txt", f"{photo.stem}.txt")
    cells = [photo.read_bytes() for photo in photos[5:10]]
    parquet.write_table(pyarrow.table({"photo": [*cells, None]}), tmp_path / "t.parquet", row_group_size=4)
    inputs = [
        tmp_path / "s.tar", tmp_path / "t.parquet", f"file://{trained_run.source}/cat", "gone.jpg",
        trained_run.source / "rocket",
    ]  # fmt: skip
    args = ["predict", trained_run.model, *inputs, "--engine", "ray", "--image-column", "photo", "--top", 2]
    done = run_heeler(*args, "--out", tmp_path / "answers", "--json")
    assert done.code == 0, done.err
    rows = parquet.read_table(tmp_path / "answers" / "part-00000.parquet").to_pylist()
    folder = sorted(path for path in (trained_run.source / "cat").iterdir() if not path.name.startswith("."))
    rockets = sorted(path for path in (trained_run.source / "rocket").iterdir() if path.is_file())
    assert [row["path"] for row in rows] == [
        *(f"{tmp_path}/s.tar/{photo.parent.name}/{photo.name}" for photo in photos[:5]),
        *(f"{tmp_path}/t.parquet#{number}" for number in range(6)),
        *(f"file://{path}" for path in folder), "gone.jpg", *map(str, rockets),
    ]  # fmt: skip
    here = heeler.load(trained_run.model).predict([*photos[:10], b"", *folder, "gone.jpg", *rockets], top=2)
    for row, other in zip(rows, here, strict=True):
        if row["path"].endswith("#5"):
            assert (row["status"], row["reason"]) == ("unreadable", "has no value")
        else:
            assert_same(row, other)
    summary = json.loads((tmp_path / "answers" / "_heeler.json").read_text())
    assert summary["n"] == done.json["n"] == len(rows)
    assert {name.name for name in (tmp_path / "answers").iterdir()} == {"part-00000.parquet", "_heeler.json"}
    assert_clear(run_heeler(*args, "--out", tmp_path / "answers"), 2, "is not an empty folder")


def workers() -> list[psutil.Process]:
    """The processes of the cluster that compute."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_worker_costs_no_row_and_repeats_none(
    cluster: None, trained_run: TrainedRun, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heeler.ship.shards.FILES_OF_A_UNIT", 16)
    monkeypatch.setattr("heeler.ship.ray_predict.ROWS_OF_A_SHARD", 150)
    many = [str(photo) for photo in photos] * 16
    killed: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and not killed:
            for process in workers():
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    model = heeler.load(trained_run.model)
    job = RayJob(trained_run.model, many, str(tmp_path / "answers"), unsure_below=0, format="csv")
    counts = predict_on_ray(job, model, on_event)
    assert killed and counts == {"ok": len(many), "unsure": 0, "unreadable": 0}
    assert not [pid for pid in killed if psutil.pid_exists(pid)]
    rows: list[dict[str, str]] = []
    for number in range(3):
        with (tmp_path / "answers" / f"part-{number:05d}.csv").open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    assert [row["path"] for row in rows] == many
    here = {row.path: row for row in model.predict(photos, unsure_below=0)}
    for row in rows:
        assert_same(row, here[row["path"]])


def test_what_does_not_go_with_a_cluster_is_refused(trained_run: TrainedRun, tmp_path: Path) -> None:
    args = ("predict", trained_run.model, trained_run.source, "--engine", "ray")
    assert_clear(run_heeler(*args), 2, "no folder for them")
    assert_clear(run_heeler(*args, "--out", tmp_path / "x", "--resume"), 2, "--resume does not go with --engine ray")
    assert_clear(run_heeler(*args, "--out", tmp_path / "x", "--sort-into", tmp_path / "y"), 2, "--sort-into")
