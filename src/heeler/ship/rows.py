"""Predictions as rows: the table of answers, and photos sorted by answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from heeler.errors import ResourceError, UsageError
from heeler.files import csv_line, disk_errors, name_mark, safe_name, write_csv
from heeler.records import STATUSES, Prediction

# Where photos of no sure answer go; no class is given a folder of this name, however it is spelt.
UNSURE_FOLDER = "_unsure"


def header_of(top: int) -> list[str]:
    """Titles of the columns of a table that names ``top`` classes in each row."""
    more = [title for rank in range(2, top + 1) for title in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "status", "reason", "label", "probability", *more]


def cells_of(row: Prediction, top: int) -> list[str]:
    """One prediction as cells, as many as ``header_of(top)`` has titles."""
    ranked = [text for label, share in row.ranked[:top] for text in (label, f"{share:.6f}")]
    return [row.path, row.status, row.reason, *ranked, *[""] * (2 * top - len(ranked))]


def write_predictions(path: Path, rows: Iterable[Prediction], top: int) -> None:
    """Write a table whole or not at all.

    Args:
        path: the file, which is replaced only when the last row is written.
        rows: the predictions, in the order of the inputs.
        top: how many classes each row names, >= 1.

    Raises:
        ResourceError: the disk is full or the place cannot be written; an earlier file is untouched.
    """
    write_csv(path, header_of(top), (cells_of(row, top) for row in rows))


def begin_rows(target: TextIO, top: int) -> None:
    """Write the header of a table."""
    target.write(csv_line(header_of(top)))
    target.flush()


def stream_rows(target: TextIO, rows: Iterable[Prediction], top: int) -> dict[str, int]:
    """Write one line for each prediction as it comes, flushed one by one.

    Returns:
        Number of rows for each status.
    """
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    for row in rows:
        target.write(csv_line(cells_of(row, top)))
        target.flush()
        counts[row.status] += 1
    return counts


def row_to_json(row: Prediction, top: int) -> dict[str, Any]:
    """One prediction as ``heeler predict --json`` prints it, with at most ``top`` classes."""
    ranked = [{"label": label, "probability": share} for label, share in row.ranked[:top]]
    return {"path": row.path, "status": row.status, "reason": row.reason, "ranked": ranked}


def sort_into(
    folder: Path, rows: Iterable[Prediction], *, start: int = 0, n_copied: int | None = None
) -> Iterator[Prediction]:
    """Copy each photo into a folder of its predicted class before its row is given on; nothing is overwritten.

    A class ``dogs/beagle`` becomes the folder ``dogs`` with ``beagle`` in it. A photo whose name is taken gets
    `` (2)``, `` (3)`` and so on before its ending. Photos of no sure answer go into ``_unsure``, a name that no class
    gets. Unreadable files are not copied.

    After a kill, each photo has one copy. Until its row is written, a copy has a second, hidden name, which tells
    whether the copy of the one row that was under way is whole; on disks without links that one may be copied twice.

    Args:
        folder: where the class folders are made.
        rows: predictions whose ``path`` can still be read.
        start: number of the first row in the whole table.
        n_copied: rows of the whole table whose photos were copied before a kill; None where there was none.

    Returns:
        The rows, as they came.

    Raises:
        UsageError: ``folder`` is a file.
        ResourceError: the disk is full, the place cannot be written, or a photo has gone since it was classified.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", hint="give --sort-into a folder, or a name that is free")
    if start:
        _half(folder, start - 1).unlink(missing_ok=True)
    for number, row in enumerate(rows, start=start):
        half = _half(folder, number)
        was_copied = number < (n_copied or 0) or (number == n_copied and half.exists() and half.stat().st_nlink > 1)
        if row.ranked and not was_copied:
            home = folder.joinpath(*(class_folder(row.label) if row.status == "ok" else (UNSURE_FOLDER,)))
            try:
                with disk_errors(home):
                    home.mkdir(parents=True, exist_ok=True)
                    half.unlink(missing_ok=True)
                    _copy_new(Path(row.path), home, half)
            except OSError as error:
                raise ResourceError(
                    f"{row.path} could not be copied into {home}: {error.strerror}",
                    hint=f"the photos of {number:,} rows were sorted before it; put it right and use a new folder",
                ) from error
        yield row
        half.unlink(missing_ok=True)


def class_folder(label: str) -> tuple[str, ...]:
    """Folder names, outermost first, that are safe on every system and different for different classes."""
    outer, *inner = (safe_name(part) for part in label.split("/"))
    # Some systems take names that differ by case alone for the same.
    if outer.casefold() == UNSURE_FOLDER:
        outer = f"{outer}-{name_mark(outer)}"
    return (outer, *inner)


def _half(folder: Path, number: int) -> Path:
    return folder / f".{number}.part"


def _copy_new(source: Path, home: Path, half: Path) -> None:
    """Copy a photo to a name in a folder that is free; under that name it is whole or not at all."""
    try:
        shutil.copyfile(source, half)
        shutil.copystat(source, half)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    n = 1
    while not _put(half, home / (source.name if n == 1 else f"{source.stem} ({n}){source.suffix}")):
        n += 1


def _put(half: Path, target: Path) -> bool:
    """Give a file its name; False where the name is taken."""
    try:
        os.link(half, target)
    except FileExistsError:
        return False
    except OSError:  # no links on this disk, as on memory cards
        try:
            target.open("xb").close()
        except FileExistsError:
            return False
        half.replace(target)
    return True
