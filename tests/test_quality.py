"""Blank, dark, blurred, tiny and odd photos are found; good photos, and sets that are all so, are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conftest import SCENES, scene
from heeler.data.duplicates import thumbnails
from heeler.judge.quality import Fault, find_faults, measure_looks
from heeler.records import ByteArray

PX = 224


@pytest.fixture(scope="module")
def good() -> ByteArray:
    """Ten pieces of each of four real photos."""
    pieces = [scene(name, number).resize((PX, PX), Image.Resampling.BICUBIC) for name in SCENES for number in range(10)]
    return np.stack([np.asarray(piece.convert("RGB")) for piece in pieces])


def faults_of(squares: ByteArray, sizes: list[tuple[int, int]] | None = None) -> list[Fault]:
    looks = measure_looks(np.array_split(squares, 3), thumbnails(squares))
    return find_faults(looks, np.array(sizes or [(640, 480)] * len(squares)))


def kinds_of(faults: list[Fault]) -> dict[int, str]:
    return {fault.row: fault.kind for fault in faults}


def blurred(square: ByteArray, radius_px: float) -> ByteArray:
    return np.asarray(Image.fromarray(square).filter(ImageFilter.GaussianBlur(radius_px)))


def test_good_photos_are_left_in_peace(good: ByteArray) -> None:
    assert faults_of(good) == []


def test_each_fault_is_found_once_and_by_its_name(good: ByteArray) -> None:
    squares, sizes = good.copy(), [(640, 480)] * len(good)
    squares[3] = blurred(squares[3], 6)
    squares[14] = 200
    squares[25] = squares[25] // 16
    sizes[36], sizes[7] = (48, 32), (3000, 500)
    squares[36] = blurred(squares[36], 6)  # a tiny photo is blurred by being enlarged
    assert kinds_of(faults_of(squares, sizes)) == {14: "blank", 25: "dark", 36: "tiny", 7: "odd shape", 3: "blurred"}
    words = {fault.row: fault.words for fault in faults_of(squares, sizes)}
    assert words[36] == "48 x 32 pixels" and words[7] == "3000 x 500 pixels"


def test_the_worst_of_a_kind_comes_first(good: ByteArray) -> None:
    squares = good.copy()
    for row, radius_px in ((5, 5), (20, 9), (30, 7)):
        squares[row] = blurred(squares[row], radius_px)
    assert [fault.row for fault in faults_of(squares)] == [20, 30, 5]


def test_blur_is_no_matter_of_light_or_contrast(good: ByteArray) -> None:
    as_they_are = measure_looks([good], thumbnails(good)).blur
    faint = (good // 4 + 96).astype(np.uint8)
    assert measure_looks([faint], thumbnails(faint)).blur == pytest.approx(as_they_are, abs=0.15)
    soft = np.stack([blurred(square, 4) for square in good])
    assert (measure_looks([soft], thumbnails(soft)).blur > as_they_are).all()


def test_a_set_that_is_all_dark_faint_or_blurred_has_no_faults(good: ByteArray) -> None:
    assert faults_of((good // 5).astype(np.uint8)) == []
    assert faults_of((good // 12 + 100).astype(np.uint8)) == []
    assert faults_of(np.stack([blurred(square, 6) for square in good])) == []


def test_a_set_that_is_all_tiny_or_wide_has_no_faults(good: ByteArray) -> None:
    assert faults_of(good, [(32, 32)] * len(good)) == []
    assert faults_of(good, [(4000, 800)] * len(good)) == []
    assert kinds_of(faults_of(good, [(4000, 800)] * (len(good) - 1) + [(800, 4000)])) == {len(good) - 1: "odd shape"}


def test_no_photos_have_no_faults() -> None:
    nothing = np.empty((0, 32, 32), np.uint8)
    assert find_faults(measure_looks([], nothing), np.empty((0, 2), np.int64)) == []
