"""Predictions as rows: which files a command line names, the table of answers, and photos sorted by answer."""

from __future__ import annotations

import csv
import glob
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from heeler.errors import ResourceError, UsageError
from heeler.files import disk_errors, name_mark, safe_name, write_csv
from heeler.records import STATUSES, Prediction

# Where photos of no sure answer go; no class is given a folder of this name, however it is spelt.
UNSURE_FOLDER = "_unsure"
JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def expand_paths(args: Sequence[str], stdin: TextIO) -> list[str]:
    """List the files that a command line names, in its order.

    Args:
        args: photos, folders (every file below, sorted; hidden ones are skipped), patterns such as ``scans/*.png``
            (for shells that do not expand them) and ``-``, which stands for the names on ``stdin``.
        stdin: one name on each line, or names that end in NUL; taken as they are.

    Returns:
        One entry for each future row. A name that leads nowhere is kept, so that its row can say so.
    """
    paths: list[str] = []
    for arg in args:
        if arg == "-":
            paths.extend(_listed(stdin.read()))
        elif Path(arg).is_dir():
            paths.extend(_below(arg))
        elif glob.has_magic(arg) and not os.path.lexists(arg):
            matches = sorted(glob.glob(arg, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            files = [found for match in matches for found in (_below(match) if Path(match).is_dir() else [match])]
            paths.extend(dict.fromkeys(files) if matches else [arg])
        else:
            paths.append(arg)
    return paths


def write_predictions(target: Path | TextIO, rows: Iterable[Prediction], top: int) -> dict[str, int]:
    """Write one line for each prediction as it comes.

    Args:
        target: a file, which is replaced only when the last row is written, or an open text stream.
        rows: the predictions, in the order of the inputs.
        top: how many classes each row names, >= 1.

    Returns:
        Number of rows for each status.

    Raises:
        ResourceError: the disk is full or the place cannot be written; an earlier file is untouched.
    """
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    header = ["path", "status", "reason", "label", "probability"]
    for rank in range(2, top + 1):
        header += [f"label_{rank}", f"probability_{rank}"]

    def cells() -> Iterator[list[str]]:
        for row in rows:
            counts[row.status] += 1
            ranked = [text for label, share in row.ranked[:top] for text in (label, f"{share:.6f}")]
            line = [row.path, row.status, row.reason, *ranked]
            yield line + [""] * (len(header) - len(line))

    if isinstance(target, Path):
        write_csv(target, header, cells())
    else:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(cells())
        target.flush()
    return counts


def row_to_json(row: Prediction, top: int) -> dict[str, Any]:
    """One prediction as ``heeler predict --json`` prints it, with at most ``top`` classes."""
    ranked = [{"label": label, "probability": share} for label, share in row.ranked[:top]]
    return {"path": row.path, "status": row.status, "reason": row.reason, "ranked": ranked}


def sort_into(folder: Path, rows: Iterable[Prediction]) -> int:
    """Copy each photo into a folder of its predicted class; nothing that is there is overwritten.

    A class ``dogs/beagle`` becomes the folder ``dogs`` with ``beagle`` in it. A photo whose name is taken gets
    `` (2)``, `` (3)`` and so on before its ending. Photos of no sure answer go into ``_unsure``, a
    name that no class gets. Unreadable files are not copied.

    Args:
        folder: where the class folders are made.
        rows: predictions whose ``path`` can still be read.

    Returns:
        Number of photos copied.

    Raises:
        UsageError: ``folder`` is a file.
        ResourceError: the disk is full, the place cannot be written, or a photo has gone since it was classified.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", hint="give --sort-into a folder, or a name that is free")
    n_copied = 0
    for row in rows:
        if row.ranked:
            home = folder.joinpath(*(class_folder(row.label) if row.status == "ok" else (UNSURE_FOLDER,)))
            try:
                with disk_errors(home):
                    home.mkdir(parents=True, exist_ok=True)
                    _copy_new(Path(row.path), home)
            except OSError as error:
                raise ResourceError(
                    f"{row.path} could not be copied into {home}: {error.strerror}",
                    hint=f"{n_copied:,} photos were copied before it; put it right and sort into a new folder",
                ) from error
            n_copied += 1
    return n_copied


def class_folder(label: str) -> tuple[str, ...]:
    """Folder names, outermost first, that are safe on every system and different for different classes."""
    outer, *inner = (safe_name(part) for part in label.split("/"))
    # Some systems take names that differ by case alone for the same.
    if outer.casefold() == UNSURE_FOLDER:
        outer = f"{outer}-{name_mark(outer)}"
    return (outer, *inner)


def _copy_new(source: Path, home: Path) -> Path:
    n = 1
    while True:
        target = home / (source.name if n == 1 else f"{source.stem} ({n}){source.suffix}")
        try:
            output = target.open("xb")
        except FileExistsError:
            n += 1
            continue
        try:
            with output, source.open("rb") as original:
                shutil.copyfileobj(original, output)
            shutil.copystat(source, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target


def _below(folder: str) -> list[str]:
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        # A FIFO or a device would block whoever opens it; a dangling link still deserves its row.
        found += [
            path
            for name in names
            if not _is_hidden(name)
            for path in [str(Path(root) / name)]
            if Path(path).is_file() or not Path(path).exists()
        ]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK_NAMES


def _listed(text: str) -> list[str]:
    if "\0" in text:
        return [name for name in text.split("\0") if name]
    names = [name for name in text.split("\n") if name.strip("\r")]
    return [_without_return(name) for name in names]


def _without_return(name: str) -> str:
    # Lists made on Windows end in CR LF; a name that really ends in CR exists as it is.
    return name[:-1] if name.endswith("\r") and not os.path.lexists(name) else name
