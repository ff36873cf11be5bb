"""Which of the judged photos a page shows, and their small pictures: each once, however often it is pointed to."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from heeler.judge.images import webp_bytes
from heeler.records import ByteArray, FloatArray, IntArray

__all__ = ["Answers", "Cell", "Pictures", "SquaresOf", "cells_of"]

# Of one cell of the confusion matrix, and of the whole page.
MOST_OF_A_CELL, MOST_PHOTOS = 60, 2000
# With base64 around them, this keeps the page below its 8 MB.
MOST_BYTES = 4_500_000
THUMB_PX, THUMB_QUALITY = 112, 60
# Squares taken from the cache at once.
BATCH = 64

SquaresOf = Callable[[Sequence[str]], ByteArray]


@dataclass(frozen=True)
class Answers:
    """What a model said of each judged photo.

    Args:
        paths: N names.
        labels: (N,) int64 class numbers.
        probabilities: (N, K) float32 after temperature.
        valid_probabilities: (M, K) of the photos that made the choices, after temperature; thresholds come from them.
        valid_labels: (M,) theirs.
    """

    paths: Sequence[str]
    labels: IntArray
    probabilities: FloatArray
    valid_probabilities: FloatArray | None = None
    valid_labels: IntArray | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix and the rows of the photos shown for it, of ``n`` that it has."""

    given: int
    predicted: int
    n: int
    rows: tuple[int, ...]


def cells_of(answers: Answers) -> list[Cell]:
    """The cells that have photos, mistakes first, each with the photos that say most about it.

    Mistakes come worst first, right answers least sure first. Where the page has no room for all, every cell gives
    some up before any gives up all.
    """
    predicted = answers.probabilities.argmax(axis=1)
    given_p = answers.probabilities[np.arange(len(predicted)), answers.labels]
    by_cell: dict[tuple[int, int], list[int]] = {}
    for row in np.argsort(given_p, kind="stable").tolist():
        by_cell.setdefault((int(answers.labels[row]), int(predicted[row])), []).append(row)
    cells, left = [], MOST_PHOTOS
    for is_right in (False, True):
        group = {cell: rows for cell, rows in sorted(by_cell.items()) if (cell[0] == cell[1]) == is_right}
        most = _fair([len(rows) for rows in group.values()], left)
        for (given, said), rows in group.items():
            cells.append(Cell(given, said, len(rows), tuple(rows[:most])))
        left -= sum(min(len(rows), most) for rows in group.values())
    return cells


def _fair(sizes: Sequence[int], room: int) -> int:
    """The largest number that each may have at most, so that all together fit."""
    most = MOST_OF_A_CELL
    while most and sum(min(size, most) for size in sizes) > room:
        most -= 1
    return most


class Pictures:
    """Small WebP pictures of photos by path, each made once; two pages of one run share them.

    Args:
        squares_of: gives the squares (n, S, S, 3) uint8 of some paths.
        known: the paths that have one; None is all.
    """

    def __init__(self, squares_of: SquaresOf, known: Container[str] | None = None) -> None:
        self.squares_of, self._known = squares_of, known
        self._small: dict[str, bytes] = {}

    def small(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Thumbnails in the order of the paths, the most telling first, until they would fill the page."""
        wanted = [path for path in dict.fromkeys(paths) if self._known is None or path in self._known]
        missing = [path for path in wanted if path not in self._small]
        # Pillow lets go of the interpreter while it resizes and encodes.
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                made = pool.map(lambda square: webp_bytes(square, THUMB_PX, THUMB_QUALITY), self.squares_of(batch))
                self._small.update(zip(batch, made, strict=True))
        found: dict[str, bytes] = {}
        room = MOST_BYTES
        for path in wanted:
            room -= len(self._small[path])
            if room < 0:
                break
            found[path] = self._small[path]
        return found
