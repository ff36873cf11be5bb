"""What a finished run left in its folder, read back: who was judged, what was said of them, and how they look."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heeler.clock import Clock
from heeler.data.decode import decode
from heeler.data.pixels import kept_squares
from heeler.errors import DataError, HeelerError, UnreadableError, UsageError
from heeler.files import read_regular
from heeler.photos import list_files
from heeler.plans import Setting
from heeler.records import ByteArray, FloatArray, IntArray, Preprocessing, RunResult, ignore_events
from heeler.runs import asked_of, told_events

__all__ = [
    "Judged",
    "files_of_run",
    "read_history",
    "read_judged",
    "read_manifest",
    "setting_of",
    "spec_of",
    "squares_of",
]


@dataclass(frozen=True)
class Judged:
    """The photos that a model was judged on, in the order of ``predictions.csv``.

    Args:
        paths: N names, as the catalogue has them.
        labels: (N,) class numbers, as given.
        probabilities: (N, K) in [0, 1].
    """

    paths: tuple[str, ...]
    labels: IntArray
    probabilities: FloatArray


def read_judged(result: RunResult) -> Judged:
    """What ``predictions.csv`` and ``catalogue.csv`` of a run say.

    Raises:
        UsageError: one of them is gone, or is not as the run wrote it.
    """
    number = {name: k for k, name in enumerate(result.classes)}
    try:
        given = {row["path"]: row["class"] for row in _rows(result.run / "catalogue.csv")}
        rows = list(_rows(result.predictions))
        labels = np.array([number[given[row["path"]]] for row in rows], dtype=np.int64)
        probabilities = np.zeros((len(rows), len(number)), dtype=np.float32)
        for i, row in enumerate(rows):
            for rank in range(1, len(number) + 1):
                end = f"_{rank}" if rank > 1 else ""
                probabilities[i, number[row[f"label{end}"]]] = float(row[f"probability{end}"])
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"the tables in {result.run} are not as the run wrote them: {type(error).__name__} {error}",
            hint="train again, or copy the whole folder again",
        ) from error
    return Judged(tuple(row["path"] for row in rows), labels, probabilities)


def read_history(run: Path) -> list[dict[str, Any]]:
    """A mapping with the fields of ``records.Epoch`` for each judgement of the tuning; none where nothing was tuned."""
    found: dict[int, dict[str, Any]] = {}
    try:
        for event in told_events(run):
            if event.pop("event") == "epoch":
                found[event["epoch"]] = event  # a run that went back has judged an epoch twice
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{run / 'history.jsonl'} cannot be read: {error}", hint="copy the whole run again") from error
    return [found[epoch] for epoch in sorted(found)]


def read_manifest(run: Path) -> dict[str, Any]:
    """What the model of a run says of itself; not checked, for nothing is computed with it.

    Raises:
        UsageError: there is no finished run in the folder.
    """
    file = run / "model" / "heeler.json"
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{run} holds no finished run: {file.name} of its model is missing or damaged",
            hint="give the folder that heeler train made, such as runs/photos-1",
        ) from error
    return manifest


def spec_of(run: Path) -> Preprocessing:
    """The preprocessing that a run decided on."""
    found = read_manifest(run)["preprocessing"]
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Preprocessing(**fields)


def setting_of(run: Path) -> Setting:
    """The network that a run started from, and how it looks at photos."""
    spec = spec_of(run)
    return Setting(read_manifest(run)["settings"]["backbone"], spec.image_px, spec.fit)


def squares_of(run: Path, paths: Sequence[str]) -> ByteArray:
    """Photos of a run as its network sees them, from the cache or, where that was emptied, from their files.

    Args:
        run: its folder.
        paths: N names, as the catalogue has them.

    Returns:
        (N, S, S, 3) uint8.

    Raises:
        DataError: a photo is not where it was, or cannot be read any more.
    """
    spec = spec_of(run)
    hashes = {row["path"]: row["sha256"] for row in _rows(run / "catalogue.csv")}
    kept = kept_squares([hashes[path] for path in paths], spec)
    return _decoded(run, paths, spec) if kept is None else kept


def files_of_run(run: Path) -> list[tuple[str, Path, str]]:
    """(part, file, class) of each photo that a run used and whose file is still there; none where it does not tell."""
    try:
        rows = {row["path"]: row for row in _rows(run / "catalogue.csv") if row["status"] == "ok"}
        source, options = asked_of(run)
        listed = list_files(source, replace(options, fixes=None), Clock(ignore_events)).photos
    except (HeelerError, OSError, KeyError):
        return []
    known = [(rows[photo.path], photo.file) for photo in listed if photo.path in rows]
    return [(row["split"], file, row["class"]) for row, file in known if file.is_file()]


def _decoded(run: Path, paths: Sequence[str], spec: Preprocessing) -> ByteArray:
    source, options = asked_of(run)
    file_of = {photo.path: photo.file for photo in list_files(source, options, Clock(ignore_events)).photos}
    squares = []
    for path in paths:
        try:
            if path not in file_of:
                raise UnreadableError("is not there any more")
            squares.append(decode(read_regular(file_of[path]), spec).pixels)
        except UnreadableError as error:
            raise DataError(
                f"{path} of {source} {error.message}", hint="put the photos back where the run found them"
            ) from error
    return np.stack(squares)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        yield from csv.DictReader(text)
