"""Every cell shows its most telling photos, no cell starves, and pictures are made once."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from heeler.judge import gallery
from heeler.judge.gallery import MOST_OF_A_CELL, MOST_PHOTOS, Answers, Pictures, cells_of
from heeler.records import ByteArray


def answers(n: int, n_classes: int, error: float) -> Answers:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    said = np.where(rng.random(n) < error, rng.integers(0, n_classes, n), labels)
    probabilities = rng.random((n, n_classes)).astype(np.float32)
    probabilities[np.arange(n), said] += 1
    return Answers([f"{i}.jpg" for i in range(n)], labels, probabilities / probabilities.sum(1, keepdims=True))


def test_cells_hold_their_photos_mistakes_first_and_worst_first() -> None:
    given = answers(900, 3, 0.3)
    cells = cells_of(given)
    assert sum(cell.n for cell in cells) == 900
    assert [cell.given == cell.predicted for cell in cells] == sorted(cell.given == cell.predicted for cell in cells)
    for cell in cells:
        rows = np.array(cell.rows)
        assert len(rows) == min(cell.n, MOST_OF_A_CELL)
        assert (given.labels[rows] == cell.given).all()
        assert (given.probabilities[rows].argmax(1) == cell.predicted).all()
        assert (np.diff(given.probabilities[rows, cell.given]) >= 0).all()


def test_a_page_with_too_many_photos_takes_from_the_large_cells() -> None:
    cells = cells_of(answers(30_000, 30, 0.5))
    shown = [len(cell.rows) for cell in cells]
    assert sum(shown) <= MOST_PHOTOS and min(shown[: 29 * 30]) >= 1
    assert sum(cell.n for cell in cells) == 30_000


def test_pictures_are_small_made_once_and_end_before_the_page_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def squares_of(paths: Sequence[str]) -> ByteArray:
        asked.extend(paths)
        return np.random.default_rng(0).integers(0, 256, (len(paths), 224, 224, 3), dtype=np.uint8)

    pictures = Pictures(squares_of)
    found = pictures.small(["a", "b", "a"])
    assert list(found) == ["a", "b"] and asked == ["a", "b"]
    assert Image.open(io.BytesIO(found["a"])).size == (112, 112)
    assert list(pictures.small(["c", "b"])) == ["c", "b"] and asked == ["a", "b", "c"]
    assert list(Pictures(squares_of, {"b"}).small(["a", "b"])) == ["b"]
    monkeypatch.setattr(gallery, "MOST_BYTES", len(found["a"]) + 10)
    assert list(pictures.small(["a", "b", "c"])) == ["a"]
