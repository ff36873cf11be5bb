"""Photos that a model is not sure of: the threshold that training stores, and what becomes of what is below it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import heeler
from conftest import TrainedRun, run_heeler
from heeler.judge.certainty import ANSWER_ACCURACY, threshold_for
from heeler.records import Prediction
from heeler.ship.bundle import open_bundle, write_bundle
from heeler.ship.rows import UNSURE_FOLDER, class_folder, sort_into
from images import cat

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def doubtful(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The trained model at a high temperature, with a threshold between its own probabilities."""
    opened = open_bundle(trained_run.model)
    soft = replace(opened, temperature=8 * opened.temperature, threshold=0.0)
    photos = sorted((trained_run.source / "cat").glob("[0-9]*.jpg"))
    shares = sorted(row.probability for row in heeler.Classifier(soft).predict(photos))
    folder = tmp_path_factory.mktemp("doubtful") / "model"
    write_bundle(
        folder, opened.model, classes=opened.classes, spec=opened.spec, temperature=soft.temperature,
        threshold=(shares[3] + shares[4]) / 2, card="", facts={},
    )  # fmt: skip
    yield folder
    shutil.rmtree(folder)


def test_training_stores_the_threshold_that_its_report_shows(trained_run: TrainedRun) -> None:
    run = heeler.open_run(trained_run.run)
    expected = threshold_for(run.judged.probabilities, run.judged.labels, ANSWER_ACCURACY)
    threshold = run.model.bundle.threshold
    assert threshold == pytest.approx(expected or 0.0, abs=1e-6)
    report = (trained_run.run / "report.html").read_text(encoding="utf-8")
    row = report.split('<th scope="row">95.0\u00a0% of its answers</th>')[1].split("</tr>")[0]
    if expected is not None:
        assert (f"<td>{100 * threshold:.1f}\u00a0%</td>" if threshold else "<td>any</td>") in row
    else:
        assert "it cannot promise that" in row
    with (trained_run.run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            assert line["status"] == ("ok" if float(line["probability"]) >= threshold - 1e-6 else "unsure")


def test_a_bundle_without_a_threshold_answers_always(trained_run: TrainedRun, tmp_path: Path) -> None:
    from hostile_bundles_cases import sign

    old = Path(shutil.copytree(trained_run.model, tmp_path / "model"))
    sign(old, lambda manifest: manifest.pop("threshold"))
    assert open_bundle(old).threshold == 0.0
    assert [row.status for row in heeler.load(old).predict([cat(), np.zeros((9, 9, 3), np.uint8)])] == ["ok", "ok"]


def test_below_the_threshold_a_photo_is_unsure_and_named_all_the_same(doubtful: Path, trained_run: TrainedRun) -> None:
    model = heeler.load(doubtful)
    photos = sorted((trained_run.source / "cat").glob("[0-9]*.jpg"))
    rows = model.predict(photos)
    assert sorted(row.status for row in rows) == ["ok"] * 8 + ["unsure"] * 4
    for row in rows:
        assert row.status == ("ok" if row.probability >= model.bundle.threshold else "unsure")
        assert row.label and len(row.ranked) == 3 and not row.reason
    highest = max(row.probability for row in rows)
    assert {row.status for row in model.predict(photos, unsure_below=0)} == {"ok"}
    assert {row.status for row in model.predict(photos, unsure_below=1)} == {"unsure"}
    assert [row.status for row in model.predict(photos, unsure_below=highest - 1e-4)].count("ok") == 1


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_threshold_that_is_no_probability_is_wrong_usage(doubtful: Path, wrong: float) -> None:
    with pytest.raises(heeler.UsageError, match="is no probability"):
        heeler.load(doubtful).predict(cat(), unsure_below=wrong)


def test_the_command_counts_and_sorts_what_it_is_unsure_of(
    doubtful: Path, trained_run: TrainedRun, tmp_path: Path
) -> None:
    args = ("predict", doubtful, trained_run.source / "cat", "--sort-into", tmp_path / "sorted")
    done = run_heeler(*args, "--out", tmp_path / "rows.csv")
    threshold = heeler.load(doubtful).bundle.threshold
    assert done.code == 0
    assert done.err.splitlines()[-1].startswith(f"8 classified, 4 unsure (below {threshold:.3f}), 2 unreadable, ")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    unsure = {Path(row["path"]).name for row in rows if row["status"] == "unsure"}
    assert all(row["label"] and float(row["probability"]) < threshold for row in rows if row["status"] == "unsure")
    assert {path.name for path in (tmp_path / "sorted" / UNSURE_FOLDER).iterdir()} == unsure
    told = run_heeler(*args, "--json", "--unsure-below", "1").json
    assert (told["n_ok"], told["n_unsure"], told["n_unreadable"], told["unsure_below"]) == (0, 12, 2, 1.0)
    assert {path.name for path in (tmp_path / "sorted" / UNSURE_FOLDER).glob("* (2).jpg")} == {
        f"{Path(name).stem} (2).jpg" for name in unsure
    }
    assert json.loads(json.dumps(told["predictions"][0]))["status"] == "unsure"


def test_photos_of_no_sure_answer_do_not_make_the_command_fail(doubtful: Path, trained_run: TrainedRun) -> None:
    photo = trained_run.source / "cat" / "0.jpg"
    assert run_heeler("predict", doubtful, photo, "--unsure-below", "1").code == 0
    refused = run_heeler("predict", doubtful, photo, "--unsure-below", "1.5")
    assert refused.code == 2 and "1.5 is not between 0 and 1" in refused.err


@pytest.mark.parametrize("label", ["_unsure", "_UNSURE", "_unsure/cat"])
def test_no_class_gets_the_folder_of_the_unsure(label: str, tmp_path: Path) -> None:
    assert class_folder(label)[0].casefold() != UNSURE_FOLDER
    photo = tmp_path / "1.jpg"
    photo.write_text("x")
    rows = [
        Prediction(str(photo), "ok", ranked=((label, 0.9),)),
        Prediction(str(photo), "unsure", ranked=((label, 0.3),)),
    ]
    assert list(sort_into(tmp_path / "out", rows)) == rows
    assert sorted(path.name.casefold() == UNSURE_FOLDER for path in (tmp_path / "out").iterdir()) == [False, True]
