"""What ``heeler predict`` does with its answers: rows in a table, in an object, or photos copied by class."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from heeler.records import Prediction
from heeler.ship.predict import load, predict_paths
from heeler.ship.rows import row_to_json, sort_into, write_predictions
from heeler.terminal import listener


def classify(
    model: Path,
    files: list[str],
    *,
    top: int,
    unsure_below: float | None,
    out: Path | None,
    folder: Path | None,
    json: bool,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Classify files and put the answers where they are wanted.

    Args:
        model: a bundle's folder.
        files: photos, in the order of the rows.
        top: classes named for each.
        unsure_below: probability below which a photo is unsure; the model's where None.
        out: table to write; standard output where None.
        folder: where each photo is copied into a folder of its class; None copies nothing.
        json: the answer is printed as an object afterwards, with the rows in it unless ``out`` takes them.

    Returns:
        Photos of each status, and the object for ``--json``.
    """
    in_answer = json and out is None
    kept: list[Prediction] = []

    def tapped(rows: Iterable[Prediction]) -> Iterator[Prediction]:
        for row in rows:
            if in_answer or folder is not None:
                kept.append(row)
            yield row

    target = io.StringIO() if in_answer else out or sys.stdout
    # A display that redraws itself and rows on the same screen would overwrite each other.
    on_screen = out is None and not json and sys.stdout.isatty()
    classifier = load(model)
    with listener(quiet=on_screen) as on_event:
        rows = predict_paths(classifier, files, top=top, unsure_below=unsure_below, on_event=on_event)
        counts = write_predictions(target, tapped(rows), top)
    answer: dict[str, Any] = {
        "model": str(model),
        "n": len(files),
        **{f"n_{key}": n for key, n in counts.items()},
        "unsure_below": classifier.threshold(unsure_below),
    }
    answer["predictions"] = [row_to_json(row, top) for row in kept] if in_answer else str(out)
    if folder is not None:
        answer.update(sorted_into=str(folder), n_copied=sort_into(folder, kept))
    return counts, answer
