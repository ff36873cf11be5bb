"""CSV and TSV files of the user's -> photos, and the map from folder names to class names."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from heeler.errors import DataError, UsageError
from heeler.records import Part, Photo

__all__ = ["check_label_map", "is_table", "part_of_name", "read_label_map", "read_table"]

PATH_COLUMNS = ("path", "file", "filename", "image")
LABEL_COLUMNS = ("label", "class", "target")
MAP_HEADER_WORDS = ("folder", "directory", "name", "label", "class", "id", "wnid", "synset", "code", "from")
DELIMITERS = (",", "\t", ";")
SNIFF_BYTES = 65536
TABLE_HINT = "the first line must name the columns: path,label and, if you like, split and group"


Status = Literal["ok", "left_out", "unreadable"]


class _Columns(NamedTuple):
    header: list[str]
    delimiter: str
    path: int
    label: int
    split: int | None
    group: int | None


def part_of_name(name: str) -> Part | None:
    """The part that a folder's name or a split's name stands for, or None; upper and lower case are the same."""
    match name.casefold():
        case "train" | "training":
            return "train"
        case "val" | "valid" | "validation":
            return "valid"
        case "test" | "testing":
            return "test"
        case _:
            return None


def is_table(path: Path) -> bool:
    """Whether a file is a CSV or TSV whose header names a path and a label column."""
    try:
        return _columns(_read_text(path)) is not None
    except (DataError, OSError):
        return False


def read_table(table: Path, *, group_by: str | None = None, inside: Path | None = None) -> list[Photo]:
    """Read the photos that a CSV or TSV lists; looks each file up but opens none.

    Args:
        table: file with a header ``path,label[,split][,group]``; paths are relative to its folder, or absolute.
        group_by: column that names the group; None takes ``group`` where there is one.
        inside: folder that no path may leave, for tables that came out of an archive.

    Returns:
        One photo for each path, in the table's order. A missing file is ``unreadable``; no label is ``left_out``.

    Raises:
        DataError: the header, a line or a split name cannot be used, or one path has two labels; names the line.
        UsageError: ``group_by`` is no column of the table, or one without any entry.
    """
    text = _read_text(table)
    columns = _columns(text)
    if columns is None:
        first = text.partition("\n")[0].strip()[:80]
        raise DataError(f"{table}: line 1 names no path column and label column: {first!r}", hint=TABLE_HINT)
    if group_by is not None:
        columns = columns._replace(group=_group_column(table, columns.header, group_by))
    folder = os.path.abspath(table.parent)  # noqa: PTH100 - the rows below join strings, 100,000 of them
    real_inside = None if inside is None else inside.resolve()
    seen: dict[str, tuple[int, Photo]] = {}
    for line, row in _rows(table, text, columns.delimiter, skip=1):
        photo = _photo_of(table, folder, columns, line, row)
        if real_inside is not None and not photo.file.resolve().is_relative_to(real_inside):
            raise DataError(f"{table.name}: line {line} names a file outside the archive: {photo.path!r}")
        earlier = seen.setdefault(photo.path, (line, photo))
        if earlier[1] is not photo:
            _require_same(table, earlier, (line, photo))
    photos = [photo for _, photo in seen.values()]
    if group_by is not None and photos and not any(photo.group for photo in photos):
        raise UsageError(f"the column {group_by!r} of {table} is empty on every line", hint="leave out --group-by")
    return photos


def _require_same(table: Path, earlier: tuple[int, Photo], later: tuple[int, Photo]) -> None:
    """Refuse two lines that name one file and say different things of it."""
    (line_1, first), (line_2, second) = earlier, later
    for word, old, new in (("labels", first.label, second.label), ("splits", first.part, second.part)):
        if old != new:
            raise DataError(
                f"{table}: lines {line_1} and {line_2} give {first.path!r} two {word}, {old or ''!r} and {new or ''!r}",
                hint="keep one line for each photo",
            )


def read_label_map(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Read which folder belongs to which class.

    Args:
        path: CSV or TSV of two columns, folder and class; a header is optional; an empty class drops the folder.
        names: folders (or labels) that are there.

    Returns:
        Class of each folder that the file names; "" for one to drop.

    Raises:
        UsageError: the file is not there, or names a folder that is not.
        DataError: a line cannot be used, or a folder has two classes; names the line.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}", hint="--labels takes a CSV with two columns, folder and class")
    known = set(names)
    text = _read_text(path)
    rows = list(_rows(path, text, _likely_delimiter(text)))
    classes: dict[str, tuple[int, str]] = {}
    for index, (line, row) in enumerate(rows):
        if len(row) < 2:
            raise DataError(f"{path}: line {line} has one column: {row[0]!r}", hint="write folder,class on each line")
        folder, name = row[0], row[1].strip()
        if folder not in known:
            folder = folder.strip()
        if folder not in known:
            if index == 0 and folder.casefold() in MAP_HEADER_WORDS:
                continue
            raise UsageError(f"{path}: line {line}: there is no folder {folder!r}", hint=_near(folder, known))
        _require_utf8(path, line, name)
        earlier, first = classes.setdefault(folder, (line, name))
        if first != name:
            raise DataError(f"{path}: lines {earlier} and {line} give the folder {folder!r} two classes")
    return {folder: name for folder, (_, name) in classes.items()}


def check_label_map(pairs: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    """What ``read_label_map`` reads, from (folder, class) pairs that a program gave.

    Raises:
        UsageError: a folder that is not there is named.
    """
    known = set(names)
    classes = {folder: name.strip() for folder, name in pairs}
    for folder in classes:
        if folder not in known:
            raise UsageError(f"labels: there is no folder {folder!r}", hint=_near(folder, known))
    return classes


def _near(name: str, known: set[str]) -> str:
    if not known:
        return "no class folder was found"
    by_lower = {other.casefold(): other for other in sorted(known)}
    near = [by_lower[lower] for lower in difflib.get_close_matches(name.casefold(), by_lower, n=3, cutoff=0.5)]
    if near:
        return "did you mean " + " or ".join(repr(other) for other in near) + "?"
    some = sorted(known)[:5]
    return "the folders are " + ", ".join(repr(other) for other in some) + (", ..." if len(known) > 5 else "")


def _read_text(path: Path) -> str:
    """The file's text; bytes that are no UTF-8 come back as the system's own escapes, as file names have them."""
    with path.open("rb") as file:
        data = file.read(SNIFF_BYTES)
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        binary = b"\0" in data and not utf16
        data += b"" if binary else file.read()
    try:
        text = data.decode("utf-16") if utf16 else data.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error.reason}", hint="save it as CSV UTF-8") from error
    if "\0" in text:
        raise DataError(
            f"{path} is not a folder, a table (CSV, TSV) or an archive (zip, tar)",
            hint="give the folder that holds the photos",
        )
    return text


def _rows(path: Path, text: str, delimiter: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that is not blank, after the first ``skip``."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if "".join(row).strip():
                if skip == 0:
                    yield line, row
                skip = max(0, skip - 1)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {line} is not a row of a table: {error}", hint="check its quotes") from error


def _likely_delimiter(text: str) -> str:
    """The delimiter that splits most of the first lines."""
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    return max(DELIMITERS, key=lambda delimiter: sum(delimiter in line for line in lines))


def _columns(text: str) -> _Columns | None:
    start = text[:SNIFF_BYTES]  # below csv's limit for one field, so that no content can make the reader fail here
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
        header = next((row for row in ([field.strip() for field in row] for row in rows) if any(row)), [])
        lower = [field.casefold() for field in header]
        path, label = _first(lower, PATH_COLUMNS), _first(lower, LABEL_COLUMNS)
        if path is not None and label is not None:
            return _Columns(header, delimiter, path, label, _first(lower, ("split",)), _first(lower, ("group",)))
    return None


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _group_column(table: Path, header: list[str], group_by: str) -> int:
    if group_by in header:
        return header.index(group_by)
    lower = [field.casefold() for field in header]
    if group_by.casefold() in lower:
        return lower.index(group_by.casefold())
    raise UsageError(f"{table} has no column {group_by!r}", hint="its columns are " + ", ".join(map(repr, header)))


def _photo_of(table: Path, folder: str, columns: _Columns, line: int, row: list[str]) -> Photo:
    """The photo of one row, with the verdict that its label and its file's kind allow."""
    n_columns = len(columns.header)
    if len(row) > n_columns and any(field.strip() for field in row[n_columns:]):
        raise DataError(
            f"{table}: line {line} has {len(row)} columns and line 1 has {n_columns}",
            hint="put names with a comma in them between double quotes",
        )
    row += [""] * (n_columns - len(row))
    name, label = row[columns.path], row[columns.label].strip()
    if not name.strip():
        raise DataError(f"{table}: line {line} names no file", hint="fill in its path or delete the line")
    if not label.isascii():
        _require_utf8(table, line, label)
    split = "" if columns.split is None else row[columns.split].strip().casefold()
    part = part_of_name(split)
    if split and part is None:
        raise DataError(
            f"{table}: line {line} has the split {split!r}",
            hint="a split is train, valid, test or empty (drawn for you)",
        )
    file, status, reason = _look_up(folder, name)
    if not label:
        status, reason = "left_out", "no label in the table"
    inside = os.path.join(folder, "")  # noqa: PTH118 - keeps the separator at the end
    return Photo(
        path=(file[len(inside) :] if file.startswith(inside) else file).replace(os.sep, "/"),
        file=Path(file),
        label=label,
        part=part,
        group="" if columns.group is None else row[columns.group].strip(),
        status=status,
        reason=reason,
    )


def _look_up(folder: str, name: str) -> tuple[str, Status, str]:
    """Absolute name of a listed file, its status, and what is wrong with it ("" if nothing)."""
    file = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - strings, see read_table
    try:
        mode = os.stat(file).st_mode  # noqa: PTH116 - strings, see read_table
    except (FileNotFoundError, NotADirectoryError):
        if os.sep == "/" and "\\" in name:
            # Tables made on Windows write cats\1.jpg; a file of that very name was looked for first.
            return _look_up(folder, name.replace("\\", "/"))
        return file, "unreadable", "no such file"
    except OSError as error:
        return file, "unreadable", f"cannot be opened: {error.strerror}"
    if stat.S_ISREG(mode):
        return file, "ok", ""
    return file, "left_out", "a folder, not a file" if stat.S_ISDIR(mode) else "a pipe, socket or device, not a file"


def _require_utf8(path: Path, line: int, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: line {line} has a class name that is not UTF-8", hint="save it as CSV UTF-8"
        ) from error
