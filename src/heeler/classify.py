"""What ``heeler predict`` does with its answers: rows in a table, in an object, or photos copied by class."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from heeler.records import Prediction
from heeler.ship.predict import predict_paths
from heeler.ship.rows import row_to_json, sort_into, write_predictions
from heeler.terminal import listener


def classify(
    model: Path,
    files: list[str],
    top: int,
    out: Path | None,
    folder: Path | None,
    json: bool,
    engine: Literal["auto", "onnx"] = "auto",
) -> tuple[dict[str, int], dict[str, Any]]:
    """Classify files and put the answers where they are wanted.

    Args:
        model: a bundle's folder.
        files: photos, in the order of the rows.
        top: classes named for each.
        out: table to write; standard output where None.
        folder: where each photo is copied into a folder of its class; None copies nothing.
        json: the answer is printed as an object afterwards, with the rows in it unless ``out`` takes them.
        engine: what computes, as ``predict_paths`` takes it.

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
    with listener(quiet=on_screen) as on_event:
        counts = write_predictions(
            target, tapped(predict_paths(model, files, top=top, engine=engine, on_event=on_event)), top
        )
    answer: dict[str, Any] = {"model": str(model), "n": len(files), **{f"n_{key}": n for key, n in counts.items()}}
    answer["predictions"] = [row_to_json(row, top) for row in kept] if in_answer else str(out)
    if folder is not None:
        answer.update(sorted_into=str(folder), n_copied=sort_into(folder, kept))
    return counts, answer
