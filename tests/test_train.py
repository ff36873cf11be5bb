"""``heeler train`` from end to end on real photos: what a run leaves, how it measures, and what it never touches."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL, Done, TrainedRun, assert_clear, make_photos, run_heeler, scene, snapshot
from heeler.data import pixels
from heeler.judge.advice import headline
from heeler.judge.images import jpeg_bytes
from heeler.judge.scores import scores_from_json

FILES = {
    "catalogue.csv",
    "classes.csv",
    "fixes.csv",
    "history.jsonl",
    "model",
    "predictions.csv",
    "report.html",
    "result.json",
    "run.json",
}
KEYS = {
    "model", "report", "predictions", "chosen", "error", "interval", "n_train", "n_valid", "n_test", "classes",
    "seconds", "rates_per_s", "fixes", "flaws", "n_test_changed",
}  # fmt: skip
PROBE_STAGES = (
    "list files", "load backbone", "decode", "split", "choose engine", "features", "probe", "find flaws", "judge",
    "write model", "write report",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def split_of(run: Path) -> dict[str, Any]:
    facts = json.loads((run / "model" / "heeler.json").read_text())
    return facts["split"]  # type: ignore[no-any-return]


def parts_of(run: Path) -> dict[str, str]:
    return {row["path"]: row["split"] for row in rows_of(run / "catalogue.csv") if row["status"] == "ok"}


def test_a_run_leaves_exactly_the_files_that_it_promises(trained_run: TrainedRun) -> None:
    assert {path.name for path in trained_run.run.iterdir()} == FILES
    result = trained_run.done.json
    assert json.loads((trained_run.run / "result.json").read_text()) == result
    for key in ("model", "report", "predictions", "fixes"):
        assert Path(result[key]).parent == trained_run.run
        assert Path(result[key]).exists()
    assert (trained_run.run / "classes.csv").read_bytes() == (trained_run.model / "classes.csv").read_bytes()


def test_the_json_answer_has_every_promised_key_with_sane_values(trained_run: TrainedRun) -> None:
    result = trained_run.done.json
    assert set(result) >= KEYS
    assert result["classes"] == ["cat", "coffee", "person", "rocket"]
    assert result["n_train"] + result["n_valid"] + result["n_test"] == 48
    assert min(result["n_train"], result["n_valid"], result["n_test"]) >= 4
    low, high = result["interval"]
    assert 0 <= low <= result["error"] <= high <= 1
    assert result["error"] < 0.2  # always guessing one class is wrong for 0.75
    assert result["chosen"] == "probe"
    assert set(result["rates_per_s"]) == {"decode", "features", "train_step"}
    assert result["rates_per_s"]["decode"] > 0
    assert result["rates_per_s"]["features"] > 0
    assert result["rates_per_s"]["train_step"] == 0
    assert set(result["seconds"]) == {*PROBE_STAGES, "total"}
    stages = sum(seconds for name, seconds in result["seconds"].items() if name != "total")
    assert 0 < stages <= result["seconds"]["total"] + 0.01


def test_the_history_has_a_line_for_each_stage_and_each_note(trained_run: TrainedRun) -> None:
    events = [json.loads(line) for line in (trained_run.run / "history.jsonl").read_text().splitlines()]
    assert [event["name"] for event in events if event["event"] == "done"] == list(PROBE_STAGES)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes == trained_run.done.json["notes"]
    assert any("2 unreadable" in note and "cat/broken.jpg" in note for note in notes)
    assert "2 unreadable" in trained_run.done.err


def test_the_catalogue_has_a_row_for_each_file_found(trained_run: TrainedRun) -> None:
    rows = rows_of(trained_run.run / "catalogue.csv")
    assert list(rows[0]) == [
        "path", "class", "split", "group", "sha256", "width", "height", "format", "status", "reason",
    ]  # fmt: skip
    found = {path.relative_to(trained_run.source).as_posix() for path in trained_run.source.rglob("*.*")}
    assert [row["path"] for row in rows] == sorted(found)
    by_path = {row["path"]: row for row in rows}
    used = [row for row in rows if row["status"] == "ok"]
    assert len(used) == 48
    for row in used:
        assert row["split"] in ("train", "valid", "test")
        assert row["class"] == row["path"].split("/")[0]
        assert (row["width"], row["height"], row["format"], row["reason"]) == ("160", "160", "JPEG", "")
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"])
    verdicts = {row["path"]: (row["status"], row["reason"]) for row in rows if row["status"] != "ok"}
    assert verdicts["cat/broken.jpg"] == ("unreadable", "is cut short")
    assert verdicts["cat/notes.jpg"][0] == "unreadable"
    assert verdicts["coffee/same.jpg"] == ("duplicate", "same bytes as coffee/3.jpg")
    assert verdicts["person/.DS_Store"] == ("left_out", "hidden file")
    assert verdicts["person/list.txt"][0] == "left_out"
    assert verdicts["rocket/pipe.jpg"][0] == "left_out"
    assert all(reason and not by_path[path]["split"] for path, (_, reason) in verdicts.items())
    counts = {part: sum(row["split"] == part for row in used) for part in ("train", "valid", "test")}
    assert {f"n_{part}": n for part, n in counts.items()}.items() <= trained_run.done.json.items()


def test_the_predictions_are_those_that_the_error_counts(trained_run: TrainedRun) -> None:
    rows = rows_of(trained_run.run / "predictions.csv")
    assert [row["path"] for row in rows] == sorted(parts_of(trained_run.run))  # few photos: each is judged
    shares = np.array([[float(row[f"probability{rank}"]) for rank in ("", "_2", "_3", "_4")] for row in rows])
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    assert (np.diff(shares, axis=1) <= 0).all()
    wrong = [row["path"] for row in rows if row["label"] != row["path"].split("/")[0]]
    assert trained_run.done.json["error"] == len(wrong) / 48
    scores = json.loads((trained_run.model / "heeler.json").read_text())["scores"]
    assert sorted(loss["path"] for loss in scores["top_losses"][: len(wrong)]) == sorted(wrong)


def test_few_photos_are_judged_out_of_fold_and_every_page_says_so(trained_run: TrainedRun) -> None:
    assert trained_run.done.json["estimate"] == "out-of-fold"
    card = (trained_run.model / "README.md").read_text()
    assert "48 photos, each judged by a model that had not learned from it" in card
    assert "Trained with heeler on all 48 photos" in card


def test_people_are_told_the_error_and_the_next_command(trained_run: TrainedRun, tmp_path: Path) -> None:
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "run", "--quiet")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith(f"error {100 * trained_run.done.json['error']:.1f} % (95 % interval ")
    assert "out-of-fold" in lines[0]
    for name in ("model", "report.html", "predictions.csv"):
        assert any(line.endswith(str(tmp_path / "run" / name)) for line in lines)
    words = shlex.split(lines[-1])
    assert words[:3] == ["heeler", "predict", str(tmp_path / "run" / "model")]
    words[3:] = [str(trained_run.source / "coffee" / "0.jpg"), "--out", str(tmp_path / "predictions.csv")]
    assert run_heeler(*words[1:]).code == 0
    assert rows_of(tmp_path / "predictions.csv")[0]["label"] == "coffee"
    assert [line[:9] for line in done.err.splitlines()] == ["warning: "]


def test_the_report_shows_the_headline_and_pictures_that_open(trained_run: TrainedRun) -> None:
    page = (trained_run.run / "report.html").read_text()
    scores = scores_from_json(json.loads((trained_run.model / "heeler.json").read_text())["scores"])
    assert headline(scores) in unescape(page)
    assert f"heeler train {trained_run.source} --image-px 64" in unescape(page)
    pictures = re.findall("data:image/webp;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) >= 12 + min(24, 48)
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        image.load()
        assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGB")


def test_squares_become_jpegs_of_the_same_picture() -> None:
    square = np.asarray(scene("cat", 0).resize((64, 64)))
    fine, coarse = jpeg_bytes(square, quality=95), jpeg_bytes(square, quality=20)
    again = np.asarray(Image.open(io.BytesIO(fine)))
    assert np.abs(again.astype(int) - square.astype(int)).mean() < 3
    assert len(coarse) < len(fine) / 2
    assert b"Exif" not in fine


def test_a_second_run_decodes_nothing_and_answers_the_same_bit_for_bit(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_decode(data: bytes, spec: object) -> None:
        # What is no photo is looked at again, since the cache remembers photos only.
        raise pixels.UnreadableError("is cut short" if data[:2] == b"\xff\xd8" else "is not an image") from None

    monkeypatch.setattr(pixels, "decode", no_decode)
    before = snapshot(trained_run.source)
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "again", "--json")
    assert done.code == 0, done.err
    assert done.json["rates_per_s"]["decode"] == done.json["rates_per_s"]["features"] == 0
    assert done.err.count("all of them already known") == 2
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (trained_run.run / "predictions.csv").read_bytes()
    for name in ("classes.csv", "model.safetensors", "config.json"):
        assert (tmp_path / "again" / "model" / name).read_bytes() == (trained_run.model / name).read_bytes()
    assert split_of(tmp_path / "again") == split_of(trained_run.run)
    assert done.json["error"] == trained_run.done.json["error"]
    assert snapshot(trained_run.source) == before


def test_the_seed_decides_the_split(trained_run: TrainedRun, tmp_path: Path) -> None:
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "seven", "--seed", 7, "--json")
    assert done.code == 0, done.err
    assert split_of(trained_run.run)["seed"] == 42
    assert split_of(tmp_path / "seven")["seed"] == 7
    assert split_of(tmp_path / "seven")["key"] != split_of(trained_run.run)["key"]
    assert parts_of(tmp_path / "seven") != parts_of(trained_run.run)


def test_a_test_folder_of_the_user_s_is_what_the_headline_is_about(tmp_path: Path) -> None:
    source = make_photos(tmp_path / "given" / "train", cat=10, coffee=10)
    for label in ("cat", "coffee"):
        (tmp_path / "given" / "test" / label).mkdir(parents=True)
        for number in (7, 8, 9):
            shutil.move(source / label / f"{number}.jpg", tmp_path / "given" / "test" / label)
    done = run_heeler("train", tmp_path / "given", *SMALL, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    expected = [f"test/{label}/{number}.jpg" for label in ("cat", "coffee") for number in (7, 8, 9)]
    assert [row["path"] for row in rows_of(tmp_path / "run" / "predictions.csv")] == expected
    assert (done.json["estimate"], done.json["n_test"]) == ("test", 6)
    assert {path for path, part in parts_of(tmp_path / "run").items() if part == "test"} == set(expected)
    assert "6 photos that had no part in training or choosing" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_enough_photos_are_judged_by_a_drawn_test_part(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["heeler.train"], "FEW_PHOTOS", 48)
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "run", "--test", 0.3, "--json")
    assert done.code == 0, done.err
    in_test = sorted(path for path, part in parts_of(tmp_path / "run").items() if part == "test")
    assert [row["path"] for row in rows_of(tmp_path / "run" / "predictions.csv")] == in_test
    assert (done.json["estimate"], done.json["n_test"]) == ("test", len(in_test))
    assert 12 <= len(in_test) <= 16


def test_no_test_part_means_that_every_photo_is_judged_out_of_fold(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["heeler.train"], "FEW_PHOTOS", 10)
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "run", "--test", 0, "--json")
    assert done.code == 0, done.err
    assert (done.json["n_test"], done.json["estimate"]) == (0, "out-of-fold")
    assert done.json["n_train"] + done.json["n_valid"] == 48
    assert len(rows_of(tmp_path / "run" / "predictions.csv")) == 48


def test_a_tuned_network_is_not_made_where_nothing_could_judge_it(trained_run: TrainedRun, tmp_path: Path) -> None:
    done = run_heeler("train", trained_run.source, *SMALL, "--out", tmp_path / "run", "--test", 0, "--epochs", 1)
    assert_clear(done, 2, "--test 0")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tuned_run(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, run_heeler(
        "train", trained_run.source, *SMALL, "--out", run, "--epochs", 1, "--frozen-epochs", 1, "--json"
    )


def test_fine_tuning_is_told_kept_and_shown(tuned_run: tuple[Path, Done]) -> None:
    run, done = tuned_run
    assert done.code == 0, done.err
    assert done.json["chosen"] in ("probe", "tuned")
    assert done.json["rates_per_s"]["train_step"] > 0
    assert "tune" in done.json["seconds"]
    assert ("predict" in done.json["seconds"]) or done.json["chosen"] == "probe"  # its start was the best
    events = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [(one["epoch"], one["epochs"], one["phase"]) for one in epochs] == [(1, 2, "head"), (2, 2, "all")]
    assert all(np.isfinite(one["train_loss"]) and 0 <= one["valid_error"] <= 1 for one in epochs)
    page = unescape((run / "report.html").read_text())
    assert "Validation error" in page
    assert f"{epochs[1]['train_loss']:.3f}"[:4] in page
    assert "epoch 2/2 all" in done.err


def test_the_bundle_opens_whichever_network_was_chosen(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each network wins once: it is then the only candidate, and tuning is not told how good its start is."""
    import heeler
    from heeler.learn.contest import Contest

    module = sys.modules["heeler.train"]
    candidate_of, enter = module.tuned_candidate, Contest.enter

    def enter_late(self: Any, model: Any, kind: Any, epoch: int) -> tuple[float, float]:
        return enter(self, model, kind, epoch) if epoch else (1e9, 1.0)

    monkeypatch.setattr(Contest, "enter", enter_late)
    for winner in ("probe", "tuned"):
        monkeypatch.setattr(module, "tuned_candidate", candidate_of if winner == "tuned" else lambda *_: None)
        run = tmp_path / winner
        done = run_heeler("train", trained_run.source, *SMALL, "--out", run, "--epochs", 1, "--json", "--quiet")
        assert done.code == 0, done.err
        assert done.json["chosen"] == winner
        judged = rows_of(run / "predictions.csv")
        paths = [trained_run.source / row["path"] for row in judged]
        rows = heeler.load(run / "model").predict(paths, top=4)
        if winner == "tuned":
            # These photos were judged by the very network that is in the bundle, so it must say the same again.
            assert done.json["estimate"] == "test"
            assert "Kept: " in (run / "report.html").read_text()
            assert len(judged) == done.json["n_test"]
            for row, again in zip(judged, rows, strict=True):
                assert again.ranked[0][0] == row["label"]
                assert again.ranked[0][1] == pytest.approx(float(row["probability"]), abs=2e-4)
        assert np.mean([row.ranked[0][0] == path.parent.name for row, path in zip(rows, paths, strict=True)]) > 0.8


def test_where_tuning_made_nothing_better_the_last_layer_is_the_model_and_the_report_says_so(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["heeler.train"]
    tuning = module.tune_in_parts

    def in_vain(start: Any, *args: Any, **named: Any) -> Any:
        model = copy.deepcopy(start)
        return replace(tuning(start, *args, **named), model=model, kind="raw", best_epoch=0)

    def never(*args: Any) -> Any:
        raise AssertionError("the start is no candidate of its own")

    monkeypatch.setattr(module, "tune_in_parts", in_vain)
    monkeypatch.setattr(module, "network_logits", never)
    run = tmp_path / "run"
    done = run_heeler("train", trained_run.source, *SMALL, "--out", run, "--epochs", 1, "--json", "--quiet")
    assert (done.code, done.json["chosen"]) == (0, "probe"), done.err
    page = (run / "report.html").read_text()
    assert "Tuning all layers was tried" in page and 'class="best"' not in page and "Kept:" not in page


def test_the_photos_are_never_written_to(photo_folder: Callable[..., Path], mount: Callable[..., Path]) -> None:
    source = photo_folder(cat=4, coffee=4)
    before = snapshot(source)
    read_only = mount("--bind", "-o", "ro", str(source))
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "new").touch()
    done = run_heeler("train", read_only, *SMALL, "--out", source.parent / "run", "--json")
    assert done.code == 0, done.err
    assert done.json["n_train"] + done.json["n_valid"] + done.json["n_test"] == 8
    assert snapshot(source) == before


def test_a_run_inside_the_photos_is_refused(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = snapshot(trained_run.source)
    for out in (trained_run.source / "run", trained_run.source / "cat" / "deep" / "run", trained_run.source):
        assert_clear(run_heeler("train", trained_run.source, *SMALL, "--out", out), 2, str(out), "inside the photos")
    monkeypatch.chdir(trained_run.source)
    assert_clear(run_heeler("train", ".", *SMALL), 2, "inside the photos")
    (tmp_path / "link").symlink_to(trained_run.source)
    assert_clear(run_heeler("train", trained_run.source, "--out", tmp_path / "link" / "run"), 2, "inside the photos")
    assert snapshot(trained_run.source) == before


def test_a_folder_that_holds_something_is_refused_and_left_alone(trained_run: TrainedRun) -> None:
    before = snapshot(trained_run.run)
    assert_clear(
        run_heeler("train", trained_run.source, *SMALL, "--out", trained_run.run), 2, str(trained_run.run), "already"
    )
    assert snapshot(trained_run.run) == before


def test_runs_without_a_name_are_numbered(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder("my photos", cat=3, coffee=3)
    monkeypatch.chdir(tmp_path)
    results = [run_heeler("train", source, *SMALL, "--json").json for _ in range(2)]
    assert [result["run"] for result in results] == ["runs/my-photos-1", "runs/my-photos-2"]
    assert (tmp_path / "runs" / "my-photos-2" / "model").is_dir()


def test_labels_merge_and_drop_classes(trained_run: TrainedRun, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("folder,class\ncat,living\nperson,living\nrocket,\n")
    done = run_heeler("train", trained_run.source, *SMALL, "--labels", labels, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert done.json["classes"] == ["coffee", "living"]
    assert done.json["n_train"] + done.json["n_valid"] + done.json["n_test"] == 36
    dropped = [row for row in rows_of(tmp_path / "run" / "catalogue.csv") if row["reason"] == "dropped by labels.csv"]
    assert len(dropped) == 12


def test_photos_of_a_group_stay_in_one_part(trained_run: TrainedRun, tmp_path: Path) -> None:
    done = run_heeler(
        "train", trained_run.source, *SMALL, "--group-by", r"/(\d)", "--out", tmp_path / "run", "--json", "--test", 0.3
    )
    assert done.code == 0, done.err
    parts: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "run" / "catalogue.csv"):
        if row["status"] == "ok":
            assert row["group"] == row["path"].split("/")[1][0]
            parts.setdefault(row["group"], set()).add(row["split"])
    assert len(parts) == 10
    assert all(len(where) == 1 for where in parts.values())
    assert {part for where in parts.values() for part in where} == {"train", "valid", "test"}


def test_the_function_does_what_the_command_does(trained_run: TrainedRun, tmp_path: Path) -> None:
    from heeler.plans import TrainOptions
    from heeler.train import train

    told: list[object] = []
    result = train(trained_run.source, TrainOptions(out=tmp_path / "run", image_px=64, minutes=None), told.append)
    assert result.to_json()["error"] == trained_run.done.json["error"]
    assert result.scores.n == 48
    assert {type(event).__name__ for event in told} >= {"Stage", "Progress", "Done", "Note"}
    assert result.predictions.read_bytes() == (trained_run.run / "predictions.csv").read_bytes()
