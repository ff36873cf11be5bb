"""Prediction: one row for each photo, in order, and the same answer by every way in."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import heeler
from conftest import TrainedRun, run_heeler, scene, snapshot
from heeler.records import Prediction
from images import astronaut, cat, claiming_jpeg, encode, stored_turned

pytestmark = pytest.mark.usefixtures("one_thread")

TURNED = tuple(range(1, 9))


@pytest.fixture(scope="module")
def model(trained_run: TrainedRun) -> heeler.Classifier:
    return heeler.load(trained_run.model)


@pytest.fixture(scope="module")
def soft(model: heeler.Classifier) -> heeler.Classifier:
    """The model at a temperature at which it is sure of nothing, so that every difference shows."""
    return heeler.Classifier(replace(model.bundle, temperature=10 * model.bundle.temperature, threshold=0.0))


def shares(row: Prediction) -> dict[str, float]:
    assert row.status == "ok", row
    return dict(row.ranked)


def assert_same(row: Prediction, other: Prediction, within: float = 1e-4) -> None:
    first, second = shares(row), shares(other)
    assert first.keys() == second.keys()
    for name, share in first.items():
        assert share == pytest.approx(second[name], abs=within), name


@pytest.fixture
def mixed(tmp_path: Path) -> list[tuple[Path, str]]:
    """Ten inputs, good and bad in turn, each with the reason why it is unreadable, or "" where it is fine."""
    folder = tmp_path / "mixed"
    (folder / "folder.jpg").mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "cat.jpg").write_bytes(encode(cat()))
    (folder / "text.jpg").write_text("this is a text file")
    (folder / "person.png").write_bytes(encode(astronaut(), "PNG"))
    (folder / "huge.jpg").write_bytes(claiming_jpeg())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(encode(cat())[:5000])
    (folder / "jpeg with a wrong name.png").write_bytes(encode(scene("rocket", 1)))
    return [
        (folder / "missing.jpg", "does not exist"),
        (folder / "cat.jpg", ""),
        (folder / "text.jpg", "is not an image"),
        (folder / "folder.jpg", "is not a file"),
        (folder / "person.png", ""),
        (folder / "pipe.jpg", "is not a regular file"),
        (folder / "huge.jpg", "20,000 x 20,000"),
        (folder / "empty.jpg", "0 bytes"),
        (folder / "cut.jpg", "cut short"),
        (folder / "jpeg with a wrong name.png", ""),
    ]


def test_each_input_has_its_row_in_order(trained_run: TrainedRun, mixed: list[tuple[Path, str]]) -> None:
    # In a process of its own, because what waits for a pipe would wait for ever.
    code = f"import heeler, sys; print(heeler.load({str(trained_run.model)!r}).predict(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *[str(path) for path, _ in mixed]], capture_output=True, text=True, timeout=120
    )
    rows = eval(done.stdout, {"Prediction": Prediction})
    assert [row.path for row in rows] == [str(path) for path, _ in mixed], done.stderr
    for row, (path, reason) in zip(rows, mixed, strict=True):
        assert row.status == ("unreadable" if reason else "ok"), path
        assert reason in row.reason
        assert (len(row.ranked), bool(row.reason)) == ((0, True) if reason else (3, False))
    assert [row.ranked[0][0] for row in rows if row.status == "ok"] == ["cat", "person", "rocket"]


def test_the_command_writes_one_line_for_each_input(
    trained_run: TrainedRun, mixed: list[tuple[Path, str]], tmp_path: Path
) -> None:
    wanted = [path for path, _ in mixed if path.name not in ("folder.jpg", "pipe.jpg")]
    table = tmp_path / "out" / "predictions.csv"
    done = run_heeler("predict", trained_run.model, *wanted, "--out", table)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == f"3 classified, 5 unreadable, written to {table}"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path", "status", "reason", "label", "probability",
        "label_2", "probability_2", "label_3", "probability_3",
    ]  # fmt: skip
    assert [row["path"] for row in rows] == [str(path) for path in wanted]
    assert [row["status"] for row in rows].count("ok") == 3
    for row in rows:
        assert (row["label"] == "") == (row["status"] == "unreadable") == (row["reason"] != "")


def test_a_folder_means_the_photos_in_it(trained_run: TrainedRun) -> None:
    done = run_heeler("predict", trained_run.model, trained_run.source / "cat", "--json", "--top", 1)
    assert (done.code, done.json["n"], done.json["n_ok"], done.json["n_unreadable"]) == (0, 14, 12, 2)
    found = [Path(row["path"]).name for row in done.json["predictions"]]
    assert found == sorted([*(f"{number}.jpg" for number in range(12)), "broken.jpg", "notes.jpg"])
    labels = [row["ranked"][0]["label"] for row in done.json["predictions"] if row["status"] == "ok"]
    assert labels.count("cat") >= 11


@pytest.mark.filterwarnings("error")
def test_every_way_in_gives_the_same_answer(
    soft: heeler.Classifier, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encode(cat(), "PNG"))
    pixels = np.asarray(cat())
    opened = Image.open(path)
    request.addfinalizer(opened.close)  # only read from, so that it still has its file
    ways: dict[str, Any] = {
        "path as text": str(path),
        "path": path,
        "bytes": path.read_bytes(),
        "image in a file": opened,
        "image": cat(),
        "array": pixels,
        "array with gaps": np.ascontiguousarray(pixels[:, ::-1])[:, ::-1],
    }
    alone = soft.predict(str(path), top=4)[0]
    assert alone.ranked[0][0] == "cat"
    for way, source in ways.items():
        (row,) = soft.predict(source, top=4)
        assert_same(row, alone)
        assert row.path == (str(path) if way.startswith("path") else "")
    for row in soft.predict(list(ways.values()), top=4):
        assert_same(row, alone)
    grey = np.asarray(cat().convert("L"))
    assert_same(soft.predict(grey, top=4)[0], soft.predict(np.stack([grey] * 3, axis=2), top=4)[0])


def test_a_large_jpeg_decoded_at_reduced_scale_gives_nearly_the_same_answer(soft: heeler.Classifier) -> None:
    large = cat().resize((2255, 1500), Image.Resampling.LANCZOS)
    reduced, whole = soft.predict([encode(large, quality=95), encode(large, "PNG")], top=4)
    assert_same(reduced, whole, within=0.02)


def test_the_size_of_the_batch_does_not_matter(soft: heeler.Classifier, trained_run: TrainedRun) -> None:
    paths = [trained_run.source / label / f"{number}.jpg" for number in range(12) for label in soft.classes]
    paths += paths[:16]
    singles = [soft.predict(path, top=4)[0] for path in paths[:6]]
    by_seven = [row for start in range(0, 64, 7) for row in soft.predict(paths[start : start + 7], top=4)]
    many = soft.predict(paths, top=4)
    assert [row.path for row in many] == [row.path for row in by_seven] == [str(path) for path in paths]
    for row, other in itertools.chain(zip(singles, many, strict=False), zip(by_seven, many, strict=True)):
        assert_same(row, other)


@pytest.mark.parametrize(("format", "within"), [("PNG", 0.002), ("JPEG", 0.03)])
def test_every_exif_orientation_gives_the_same_answer(
    soft: heeler.Classifier, tmp_path: Path, format: str, within: float
) -> None:
    # A JPEG of a turned picture holds slightly other pixels. A PNG holds the same ones, and the two passes of a resize,
    # each rounded to a whole level, come in the other order where it is turned afterwards.
    photo = cat().crop((20, 0, 436, 288))
    expected = soft.predict(photo, top=4)[0]
    sideways = soft.predict(photo.transpose(Image.Transpose.ROTATE_90), top=4)[0]
    assert abs(shares(sideways)["cat"] - shares(expected)["cat"]) > 0.03  # so a missed turn would be seen
    for orientation in TURNED:
        stored, exif = stored_turned(photo, orientation)
        options = {"quality": 97, "subsampling": 0} if format == "JPEG" else {}
        path = tmp_path / f"{orientation}.{format}"
        path.write_bytes(encode(stored, format, exif=exif, **options))
        with Image.open(path) as image:
            rows = soft.predict([path, path.read_bytes(), image], top=4)
        for row in rows:
            assert_same(row, expected, within)


def test_more_classes_than_there_are_can_be_asked_for(
    model: heeler.Classifier, trained_run: TrainedRun, tmp_path: Path
) -> None:
    row = model.predict(cat(), top=1000)[0]
    assert sorted(name for name, _ in row.ranked) == list(model.classes)
    assert sum(share for _, share in row.ranked) == pytest.approx(1)
    assert [share for _, share in row.ranked] == sorted((share for _, share in row.ranked), reverse=True)
    assert len(model.predict(cat(), top=2)[0].ranked) == 2
    photo = tmp_path / "cat.png"
    cat().save(photo)
    lines = run_heeler("predict", trained_run.model, photo, "--top", 6).out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("label_6,probability_6")
    assert lines[1].endswith(",,,,")
    assert lines[1].count(",") == lines[0].count(",")


def test_photos_are_taken_as_they_are_needed(model: heeler.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heeler.ship.predict.n_cores", lambda: 2)
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield cat()

    stream = model.stream(endless(), top=1)
    assert taken == 0
    for given, row in enumerate(itertools.islice(stream, 100), start=1):
        assert row.ranked[0][0] == "cat"
        assert taken <= given + 64  # 33 were looked at first, or five pieces of 4 are ahead
    stream.close()  # type: ignore[attr-defined]
    assert taken < 200


def test_one_image_object_may_come_many_times(model: heeler.Classifier, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(encode(cat().resize((1600, 1000))))
    with Image.open(path) as image:
        rows = model.predict([image] * 32)
    assert {row.status for row in rows} == {"ok"}
    assert len({row.ranked for row in rows}) == 1


def test_a_broken_image_object_is_an_unreadable_photo(model: heeler.Classifier) -> None:
    broken = Image.open(io.BytesIO(encode(cat())[:5000]))
    rows = model.predict([cat(), broken, cat()])
    assert [row.status for row in rows] == ["ok", "unreadable", "ok"]
    assert "cut short" in rows[1].reason


def test_nothing_in_is_nothing_out(model: heeler.Classifier) -> None:
    assert model.predict([]) == []
    assert list(model.stream(iter(()))) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32 array of shape (8, 8, 3)"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.zeros((8, 8, 4), np.uint8), "(8, 8, 4)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "(2, 8, 8, 3)"),
        (np.zeros((0, 8, 3), np.uint8), "(0, 8, 3)"),
        (np.zeros(8, np.uint8), "(8,)"),
        ([None], "NoneType"),
        ([7], "int"),
        (7, "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_photo_is_wrong_usage(model: heeler.Classifier, source: Any, words: str) -> None:
    with pytest.raises(heeler.UsageError) as caught:
        model.predict(source)
    assert words in caught.value.message
    assert "(H, W, 3)" in caught.value.hint


def test_no_classes_cannot_be_asked_for(model: heeler.Classifier) -> None:
    with pytest.raises(heeler.UsageError, match="0 classes"):
        model.predict(cat(), top=0)


def test_load_opens_a_model_and_nothing_else(trained_run: TrainedRun, tmp_path: Path) -> None:
    opened = heeler.load(str(trained_run.model))
    assert isinstance(opened, heeler.Classifier)
    assert opened.classes == ("cat", "coffee", "person", "rocket")
    with pytest.raises(heeler.BundleError, match=r"heeler\.json"):
        heeler.load(tmp_path)


def test_probabilities_are_the_calibrated_ones(trained_run: TrainedRun) -> None:
    import torch

    model = heeler.load(trained_run.model)
    pixels = np.asarray(scene("coffee", 3).resize((64, 64)))
    with torch.inference_mode():
        batch = (torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        logits = model.bundle.model(batch)[0] / model.bundle.temperature
    assert model.bundle.temperature != 1
    expected = dict(zip(model.classes, torch.softmax(logits, 0).tolist(), strict=True))
    # An array of exactly the crop's size is resized up and cropped, so a spec without either is needed here.
    plain = heeler.Classifier(_with_spec(model.bundle, fit="squash"))
    assert shares(plain.predict(pixels, top=4)[0]) == pytest.approx(expected, abs=1e-4)


def _with_spec(bundle: Any, **changes: Any) -> Any:
    return replace(bundle, spec=replace(bundle.spec, **changes))


@pytest.mark.parametrize("json_too", [False, True])
def test_only_unreadable_photos_are_exit_code_3_with_their_rows(
    trained_run: TrainedRun, tmp_path: Path, json_too: bool
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    args = ["predict", trained_run.model, tmp_path / "text.jpg", tmp_path / "none.jpg", *(["--json"] * json_too)]
    done = run_heeler(*args)
    assert done.code == 3
    assert "0 classified, 2 unreadable" in done.err
    if json_too:
        assert [row["status"] for row in done.json["predictions"]] == ["unreadable"] * 2
    else:
        assert [line.split(",")[1] for line in done.out.splitlines()] == ["status", "unreadable", "unreadable"]


def test_a_list_comes_from_standard_input(trained_run: TrainedRun) -> None:
    names = [str(trained_run.source / "cat" / f"{number}.jpg") for number in (2, 0, 1)]
    done = subprocess.run(
        [sys.executable, "-m", "heeler", "predict", trained_run.model, "-", "--json"],
        input="\n".join(names) + "\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["path"] for row in json.loads(done.stdout)["predictions"]] == names


def test_photos_are_sorted_into_folders_and_nothing_is_overwritten(trained_run: TrainedRun, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(trained_run.source / "rocket", tmp_path / "new", ignore=lambda *_: ["pipe.jpg"]))
    (photos / "text.jpg").write_text("no photo")
    before = snapshot(photos)
    sorted_into = tmp_path / "sorted"
    answers = [
        run_heeler("predict", trained_run.model, photos, "--sort-into", sorted_into, "--json").json for _ in range(2)
    ]
    assert [answer["n_copied"] for answer in answers] == [12, 12]
    for row in answers[0]["predictions"]:
        if row["status"] == "ok":
            original = Path(row["path"])
            home = sorted_into / row["ranked"][0]["label"]
            assert (home / original.name).read_bytes() == original.read_bytes()
            assert (home / f"{original.stem} (2).jpg").read_bytes() == original.read_bytes()
    assert len([path for path in sorted_into.rglob("*") if path.is_file()]) == 24
    assert snapshot(photos) == before


def test_progress_is_told_to_the_end(model: heeler.Classifier) -> None:
    told: list[Any] = []
    rows = list(model.stream([cat()] * 70, on_event=told.append))
    assert len(rows) == 70
    done = [event.done for event in told]
    assert done[0] == 32 and done[-1] == 70 and done == sorted(set(done))
