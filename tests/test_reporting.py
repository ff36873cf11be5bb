"""What a real run puts on its report: maps, curve, plan, and pictures for every photo that has pixels."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import SMALL, TrainedRun, make_photos, run_heeler
from heeler.learn.probe import Probe
from heeler.photos import Photos
from heeler.plans import Recipe, TrainOptions
from heeler.records import Catalogue, Head, Photo, Preprocessing, Split
from heeler.reporting import ENOUGH_JUDGED, _sheet, _twins, learning_curve, pictures_of

PX = 16


class Squares:
    """Rows whose every pixel is the row's number."""

    def take(self, rows: Any) -> Any:
        return np.stack([np.full((PX, PX, 3), row, np.uint8) for row in rows])


def some_photos(n: int = 40) -> Photos:
    """Photos of two classes in turn, a copy of the third one, and a file without a photo."""
    made = [Photo(f"{i}.jpg", Path(f"{i}.jpg"), "ab"[i % 2], sha256=f"hash {i}") for i in range(n)]
    made.append(Photo("copy.jpg", Path("copy.jpg"), "a", sha256="hash 2", status="duplicate", reason="same as 2.jpg"))
    made.append(Photo("notes.txt", Path("notes.txt"), status="left_out", reason="not a photo"))
    rows = np.arange(n)
    split = Split(rows[: n // 2], rows[n // 2 : n - 10], rows[n - 10 :], "drawn", "key")
    pixels: Any = SimpleNamespace(rows=Squares())
    return Photos(Catalogue("source", "some", tuple(made)), pixels, [(0, 1), (3, n - 1)], split, rows % 2)


def test_every_photo_with_pixels_has_a_picture_and_a_copy_has_its_originals() -> None:
    pictures = pictures_of(some_photos())
    assert pictures.squares_of(["7.jpg", "copy.jpg"])[:, 0, 0, 0].tolist() == [7, 2]
    assert list(pictures.small(["notes.txt", "copy.jpg", "elsewhere.jpg", "1.jpg"])) == ["copy.jpg", "1.jpg"]


def test_a_photo_in_two_classes_is_shown_though_nothing_learnt_from_it(tmp_path: Path, one_thread: None) -> None:
    source = make_photos(tmp_path / "photos", cat=8, coffee=8)
    (source / "cat" / "both.jpg").write_bytes((source / "coffee" / "3.jpg").read_bytes())
    done = run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text()
    section = page.partition('id="suspects"')[2].partition("</section>")[0]
    assert "same file as coffee/3.jpg" in unescape(section).replace("<wbr>", "") and "no picture" not in section
    first, second = re.findall(r'<img src="(data:[^"]+)"', section)[:2]
    assert first == second


def test_look_alikes_in_one_part_are_no_twins() -> None:
    assert [(twin.paths, twin.parts, twin.labels) for twin in _twins(some_photos())] == [
        (("3.jpg", "39.jpg"), ("train", "test"), ("b", "b"))
    ]


def test_the_learning_curve_is_judged_on_photos_that_no_head_has_seen() -> None:
    photos = some_photos()
    features = np.eye(2, dtype=np.float32)[photos.labels]
    good = Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    bad = Head(np.zeros((2, 2), np.float32), np.array([1, 0], np.float32))
    probe = Probe(good, np.zeros((20, 2), np.float32), 0.1, {}, good, ((5, bad), (10, good)))
    curve = learning_curve(photos, probe, features)
    assert [(point.n_train, point.error) for point in curve] == [(5, 0.5), (10, 0), (20, 0)]
    assert len(curve[0].wrong) == 20, "too few test photos: those that choose judge too"
    assert learning_curve(photos, Probe(good, features, 0.1, {}, good), features) == ()
    many = some_photos(4 * ENOUGH_JUDGED)
    split = Split(np.arange(500), np.arange(500, 550), np.arange(550, 800), "drawn", "key")
    features = np.eye(2, dtype=np.float32)[many.labels]
    judged = learning_curve(Photos(many.catalogue, many.pixels, [], split, many.labels), probe, features)
    assert len(judged[0].wrong) == 250


@pytest.mark.parametrize(("is_tuned", "preset"), [(False, "photo"), (True, "none"), (True, "overhead")])
def test_the_sheet_shows_photos_as_they_were_learnt_from(is_tuned: bool, preset: Any) -> None:
    options = TrainOptions(recipe=Recipe(augment=preset))
    found = _sheet(some_photos(), Preprocessing(image_px=PX), options, is_tuned=is_tuned)
    assert len(found["sheet"]) == 12 and [label for _, label in found["sheet"]][:2] == ["a", "b"]
    changed = is_tuned and preset != "none"
    assert ("changed at random (--augment overhead)" in found["sheet_text"]) == changed
    assert f"{PX} x {PX} pixels" in found["sheet_text"]


def test_a_run_has_maps_a_matrix_that_opens_and_what_it_was_made_on(trained_run: TrainedRun) -> None:
    page = unescape((trained_run.run / "report.html").read_text())
    scores = json.loads((trained_run.model / "heeler.json").read_text())["scores"]
    assert page.count('alt="where the model looked for ') == len(scores["top_losses"])
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found.group(1))
    assert data["n"] == scores["n"] and data["classes"] == [row["name"] for row in scores["per_class"]]
    assert sum(n for n, _ in data["cells"].values()) == scores["n"]
    assert {row for _, rows in data["cells"].values() for row in rows} == set(range(scores["n"]))
    assert "Whether more photos would help cannot be told" in page
    assert "only the last layer was trained" in page
    assert "<dt>processor</dt>" in page and "<dt>memory</dt>" in page
    assert "the figures flatter a little" in page  # out of fold: the judged photos chose the thresholds
