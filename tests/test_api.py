"""heeler in Python, in the tutorial's words: a folder, a training, and everything that a run is asked afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import heeler
from conftest import TrainedRun, make_photos, run_heeler, snapshot
from heeler.records import Planned
from heeler.review import open_review, summary

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"image_px": 64, "epochs": 0, "quiet": True}


@pytest.fixture(scope="module")
def run(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> heeler.Run:
    """A run of the last layer and an epoch of tuning; read it only."""
    photos = heeler.open_folder(trained_run.source, test=0.25)
    out = tmp_path_factory.mktemp("api") / "run"
    return heeler.train(photos, epochs=1, frozen_epochs=1, batch_size=12, image_px=64, out=out, quiet=True)


def test_a_folder_knows_what_is_in_it(trained_run: TrainedRun) -> None:
    before = snapshot(trained_run.source)
    photos = heeler.open_folder(str(trained_run.source))
    assert photos.classes == ("cat", "coffee", "person", "rocket")
    assert photos.counts == {"cat": 14, "coffee": 13, "person": 12, "rocket": 12}  # none was opened yet
    assert len(photos) == 51
    assert repr(photos).endswith("51 photos in 4 classes, 3 files left out)")
    assert "<td>14</td>" in photos._repr_html_()
    assert photos.check().n_usable == 48
    assert snapshot(trained_run.source) == before


def test_a_hostile_class_cannot_become_markup(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", cat=3, coffee=3)
    (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / "<script>")
    page = heeler.open_folder(tmp_path / "photos")._repr_html_()
    assert "&lt;script&gt;" in page and "<script" not in page


def test_labels_are_a_dict_or_a_table(trained_run: TrainedRun, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("folder,class\ncat,living\nperson,living\nrocket,\n")
    mapped = heeler.open_folder(trained_run.source, labels={"person": "living", "cat": "living", "rocket": None})
    for labels in (table, str(table)):
        assert heeler.open_folder(trained_run.source, labels=labels).counts == mapped.counts
    assert mapped.classes == ("coffee", "living")
    run = heeler.train(mapped, out=tmp_path / "run", **QUICK)
    assert run.classes == ("coffee", "living")
    assert run.result.n_train + run.result.n_valid + run.result.n_test == 36
    again = heeler.open_run(tmp_path / "run")
    assert again.find_lr(10, batch_size=4, quiet=True).suggestion > 0  # what it was asked is known there
    with pytest.raises(heeler.UsageError, match="there is no folder 'cta'") as caught:
        heeler.open_folder(trained_run.source, labels={"cta": "living"})
    assert "cat" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test": 0.95}, "test=0.95 is not a number between 0 and 0.9"),
        ({"valid": 0}, "valid=0"),
        ({"seed": 1.5}, "seed=1.5 is not a whole number"),
        ({"seed": None}, "seed=None"),
        ({"test": "half"}, "test='half'"),
        ({"test": float("nan")}, "test=nan"),
        ({"alpha": "white"}, "alpha='white'"),
        ({"alpha": (0, 0, 256)}, "alpha=256"),
        ({"labels": 5}, "labels=5"),
        ({"labels": {"cat": 5}}, "'cat' -> 5"),
        ({"group_by": "("}, "not a regular expression"),
    ],
)
def test_a_folder_refuses_what_makes_no_sense(
    trained_run: TrainedRun, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(heeler.UsageError, match=re.escape(words)) as caught:
        heeler.open_folder(trained_run.source, **arguments)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"minutes": 0}, "minutes=0 is not a number between 0.1 and 10080"),
        ({"minutes": True}, "minutes=True"),
        ({"minutes": 5, "epochs": 3}, "minutes and epochs exclude each other"),
        ({"epochs": -1}, "epochs=-1"),
        ({"epochs": 2.5}, "epochs=2.5 is not a whole number"),
        ({"image_px": 8}, "image_px=8"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"lr": 100}, "lr=100"),
        ({"fit": "cut"}, "fit='cut'"),
        ({"augment": "photos"}, "augment='photos'"),
        ({"frozen_epochs": None}, "frozen_epochs=None"),
        ({"backbone": "no_such_network"}, "no_such_network"),
        ({"weights": 5}, "weights=5"),
    ],
)
def test_training_refuses_what_makes_no_sense(
    trained_run: TrainedRun, tmp_path: Path, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(heeler.UsageError, match=re.escape(words)) as caught:
        heeler.train(trained_run.source, out=tmp_path / "run", quiet=True, **arguments)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    assert not (tmp_path / "run").exists()


def test_an_unknown_keyword_is_a_type_error(trained_run: TrainedRun) -> None:
    with pytest.raises(TypeError, match="minute"):
        heeler.train(trained_run.source, minute=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="label"):
        heeler.open_folder(trained_run.source, label={})  # type: ignore[call-arg]
    with pytest.raises(heeler.UsageError, match="photos=5 is no path"):
        heeler.train(5)  # type: ignore[arg-type]
    with pytest.raises(heeler.UsageError, match="no such folder"):
        heeler.train("no-such-folder", minutes=1)


def test_python_and_the_command_do_the_same(trained_run: TrainedRun, tmp_path: Path) -> None:
    run = heeler.train(trained_run.source, out=tmp_path / "run", **QUICK)
    assert run.error == trained_run.done.json["error"]
    assert run.result.predictions.read_bytes() == (trained_run.run / "predictions.csv").read_bytes()
    page = run.report.path.read_text()
    command = f"heeler train {trained_run.source} --image-px 64 --epochs 0 --out {tmp_path / 'run'}"
    assert command in page
    done = run_heeler(*command.replace(str(tmp_path / "run"), str(tmp_path / "again")).split()[1:], "--json", "--quiet")
    assert done.json["error"] == run.error


def test_the_command_of_a_call_that_renames_classes_repeats_it(trained_run: TrainedRun, tmp_path: Path) -> None:
    photos = heeler.open_folder(trained_run.source, labels={"person": "people, all", "rocket": None})
    run = heeler.train(photos, out=tmp_path / "run", **QUICK)
    assert run.classes == ("cat", "coffee", "people, all")
    told = re.search(r"<pre><code>(.*?)</code></pre>", run.report.path.read_text())
    assert told
    words = shlex.split(unescape(told.group(1)))
    assert words[-2:] == ["--labels", str(tmp_path / "run" / "labels.csv")]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    done = run_heeler(*words[1:], "--json", "--quiet")
    assert done.code == 0, done.err
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == run.result.predictions.read_bytes()
    assert shlex.split(summary(open_review(run.folder)).next)[3:5] == words[-2:]


def test_decisions_about_photos_are_applied(trained_run: TrainedRun, tmp_path: Path) -> None:
    table = tmp_path / "fixes.csv"
    rows = ["path,problem,given,suggested,action", "cat/0.jpg,label,cat,coffee,relabel", "cat/1.jpg,blurred,cat,,drop"]
    table.write_text("\n".join(rows) + "\n")
    photos = heeler.open_folder(trained_run.source, fixes=str(table))
    assert photos.counts == {"cat": 12, "coffee": 14, "person": 12, "rocket": 12}
    run = heeler.train(photos, out=tmp_path / "run", **QUICK)
    assert f"--fixes {table}" in run.report.path.read_text()
    given = dict(zip(run.judged.paths, run.judged.labels.tolist(), strict=True))
    assert (run.classes[given["cat/0.jpg"]], "cat/1.jpg" in given) == ("coffee", False)
    assert [(fix.path, fix.action) for fix in run.fixes if fix.action] == [
        ("cat/0.jpg", "relabel"),
        ("cat/1.jpg", "drop"),
    ]
    with pytest.raises(heeler.DataError, match=re.escape("none.csv cannot be read")):
        heeler.open_folder(trained_run.source, fixes=tmp_path / "none.csv")


def test_minutes_are_kept_and_a_path_is_enough(trained_run: TrainedRun, tmp_path: Path) -> None:
    told: list[object] = []
    run = heeler.train(str(trained_run.source), minutes=0.1, image_px=64, out=tmp_path / "run", on_event=told.append)
    plans = [event.plan for event in told if isinstance(event, Planned)]
    assert plans[0].budget_s == 6
    assert run.result.seconds["total"] < 20
    assert heeler.open_run(tmp_path / "run").result.to_json() == run.result.to_json()


def test_a_seed_of_training_leaves_the_parts_alone(trained_run: TrainedRun, tmp_path: Path) -> None:
    photos = heeler.open_folder(trained_run.source, seed=3)
    runs = [heeler.train(photos, seed=seed, out=tmp_path / str(seed), **QUICK) for seed in (1, 2)]
    first, second = ((run.folder / "catalogue.csv").read_bytes() for run in runs)
    assert first == second
    other = heeler.train(trained_run.source, seed=4, out=tmp_path / "4", **QUICK)
    assert (other.folder / "catalogue.csv").read_bytes() != first


def test_a_run_tells_what_came_of_it(run: heeler.Run) -> None:
    low, high = run.interval
    assert low <= run.error <= high
    assert run.scores.n == run.result.scores.n > 0
    assert repr(run).startswith(f"Run('{run.folder}': error {100 * run.error:.1f} % (95 % interval ")
    assert str(run.result.model) in run._repr_html_()
    assert run.classes == ("cat", "coffee", "person", "rocket")
    assert [row["phase"] for row in run.history] == ["head", "all"]
    assert run.judged.probabilities.shape == (run.scores.n, 4)
    assert np.allclose(run.judged.probabilities.sum(1), 1, atol=1e-5)
    wrong = int((run.judged.probabilities.argmax(1) != run.judged.labels).sum())
    assert wrong == run.scores.n_wrong


def test_the_model_of_a_run_answers(run: heeler.Run, trained_run: TrainedRun) -> None:
    file = trained_run.source / "cat" / "0.jpg"
    photo = Image.open(file)
    ways = [str(file), file, file.read_bytes(), photo, np.asarray(photo)]
    rows = run.model.predict(ways, top=3)
    assert len(rows) == len(ways)
    for row, way in zip(rows, ways, strict=True):
        assert [name for name, _ in row.ranked] == [name for name, _ in rows[0].ranked]
        assert row.probability == pytest.approx(rows[0].probability, abs=1e-4)
        assert len(row.ranked) == 3
        [alone] = run.model.predict(way)
        assert (alone.label, alone.status) == (row.label, "ok")
    [missing] = run.model.predict("no-such-file.jpg")
    assert (missing.status, missing.label, missing.probability) == ("unreadable", "", 0.0)


def test_the_report_is_a_path_and_a_page_in_a_frame(run: heeler.Run) -> None:
    assert os.fspath(run.report) == str(run.report) == str(run.folder / "report.html")
    assert Path(run.report).is_file()
    frame = run.report._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts" ') and frame.endswith('"></iframe>')
    content = frame[frame.index('srcdoc="') + 8 : -len('"></iframe>')]
    assert '"' not in content and "<" not in content
    assert "allow-same-origin" not in frame


PLOTS: dict[str, Callable[[heeler.Run], object]] = {
    "results": lambda run: run.show_results(9),
    "top losses": lambda run: run.plot_top_losses(9),
    "confusion matrix": lambda run: run.plot_confusion_matrix(),
    "curves": lambda run: run.plot_curves(),
    "reliability": lambda run: run.plot_reliability(),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_run_opened_again_draws_the_same(run: heeler.Run, name: str) -> None:
    chart, again = PLOTS[name](run), PLOTS[name](heeler.open_run(str(run.folder)))
    assert chart.png() == again.png()  # type: ignore[attr-defined]


def test_the_worst_photos_are_those_of_the_report(run: heeler.Run) -> None:
    worst = [loss.loss for loss in run.scores.top_losses[:9]]
    shown = [
        text.get_text() for axes in run.plot_top_losses(9).axes for text in axes.texts if "loss" in text.get_text()
    ]
    assert shown == [f"loss {loss:.2f}" for loss in worst]


def test_plots_survive_an_empty_cache_and_tell_of_lost_photos(
    run: heeler.Run, trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run.show_results(4).png()
    monkeypatch.setenv("HEELER_CACHE", str(tmp_path / "empty"))
    assert run.show_results(4).png() == kept
    moved = shutil.copytree(run.folder, tmp_path / "copy")
    begun = json.loads((moved / "run.json").read_text())
    for place, words in ((tmp_path / "gone", "no such folder"), (trained_run.source / "cat", "class folder")):
        (moved / "run.json").write_text(json.dumps({**begun, "source": str(place)}))
        with pytest.raises(heeler.HeelerError, match=words):
            heeler.open_run(moved).show_results(4)


def test_a_run_that_was_moved_opens(run: heeler.Run, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    moved = heeler.open_run(shutil.copytree(run.folder, place))
    told, moved_told = run.result.to_json(), moved.result.to_json()
    assert {name for name in told if told[name] != moved_told[name]} == {
        "model",
        "report",
        "predictions",
        "fixes",
        "run",
    }
    assert [moved_told[name] for name in ("run", "model")] == [str(place), str(place / "model")]
    assert moved.scores == run.scores
    assert moved.model.classes == run.classes


@pytest.mark.parametrize("broken", ["model/heeler.json", "result.json", "predictions.csv", "catalogue.csv"])
def test_what_is_no_finished_run_is_refused(run: heeler.Run, tmp_path: Path, broken: str) -> None:
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    (copy / broken).write_text("{}" if broken.endswith(".json") else "a,b\n1,2\n")
    with pytest.raises(heeler.HeelerError) as caught:
        heeler.open_run(copy).show_results()
    assert caught.value.exit_code in (2, 4) and "\n" not in caught.value.message
    with pytest.raises(heeler.UsageError, match="holds no finished run"):
        heeler.open_run(tmp_path)


def test_find_lr_suggests_a_rate_and_changes_nothing(run: heeler.Run) -> None:
    before = snapshot(run.folder)
    found = run.find_lr(20, batch_size=8, quiet=True)
    assert 1e-7 <= found.suggestion <= 0.1
    assert float(found) == found.suggestion
    assert repr(found) == f"RateTest(suggestion={found.suggestion!r})"
    assert list(found.rates) == sorted(found.rates) and len(found.rates) == len(found.losses) <= 20
    assert found.figure.axes[0].get_title().startswith("suggested")
    assert run.find_lr(20, batch_size=8, quiet=True).losses == found.losses
    assert snapshot(run.folder) == before
    with pytest.raises(heeler.UsageError, match="n_steps=5"):
        run.find_lr(5)


def test_a_suggested_rate_can_be_passed_on(run: heeler.Run, trained_run: TrainedRun, tmp_path: Path) -> None:
    found = run.find_lr(10, batch_size=8, quiet=True)
    again = heeler.train(trained_run.source, lr=found, out=tmp_path / "run", **QUICK)
    asked = json.loads((again.folder / "run.json").read_text())["asked"]
    assert asked["recipe"]["lr"] == found.suggestion


def test_a_batch_is_what_training_sees(trained_run: TrainedRun) -> None:
    photos = heeler.open_folder(trained_run.source)
    chart, plain = photos.show_batch(9, image_px=64), photos.show_batch(9, image_px=64, augment="none")
    names = [text.get_text() for axes in chart.axes for text in axes.texts]
    assert len(names) == 9 and set(names) == set(photos.classes)
    assert chart.png() == photos.show_batch(9, image_px=64).png() != plain.png()
    assert photos.show_batch(9, image_px=64, seed=1).png() != chart.png()
    with pytest.raises(heeler.UsageError, match="n=0"):
        photos.show_batch(0)
    with pytest.raises(heeler.UsageError, match="no augmentation preset 'photos'"):
        photos.show_batch(augment="photos")


def test_a_script_without_a_terminal_hears_one_line_a_stage(trained_run: TrainedRun, tmp_path: Path) -> None:
    code = (
        "import heeler, sys; source, first, second = sys.argv[1:]\n"
        "run = heeler.train(source, epochs=0, image_px=64, out=first)\n"
        "heeler.train(source, epochs=0, image_px=64, out=second, quiet=True); print(run)"
    )
    words = [str(trained_run.source), str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Run(") and len(done.stdout.splitlines()) == 1
    lines = done.stderr.splitlines()
    begun = [line.split("  ")[0] for line in lines]
    assert begun[:3] == ["list files", "load backbone", "warning: 2 unreadable: cat/broken.jpg is cut short and 1 more"]
    assert "write report" in begun
    assert len(lines) < 15
    assert [line for line in lines if line.startswith("warning: ")] == 2 * [begun[2]]  # quiet tells it too


def test_importing_heeler_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; before = time.perf_counter(); import heeler; took = time.perf_counter() - before\n"
        "print(took, [name for name in ('torch', 'numpy', 'matplotlib', 'sklearn', 'IPython') if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        took, loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split(" ", 1)
        assert loaded == "[]\n"
        seconds.append(float(took))
    assert min(seconds) < 0.2


def test_a_history_with_a_torn_line_is_read(tmp_path: Path) -> None:
    from heeler.evidence import read_history
    from heeler.runs import used_s

    lines = [
        '{"event": "done", "name": "probe", "seconds": 2.5}',
        '{"event": "epoch", "epo',
        '{"event": "epoch", "epoch": 2}',
        '{"event": "done", "name": "tune", "seconds": 4.0}',
    ]
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + "\n")
    assert read_history(tmp_path) == [{"epoch": 2}]
    assert used_s(tmp_path) == 6.5
