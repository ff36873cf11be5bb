"""Folder, table or archive -> Catalogue: what each file is called, which class it has, and why some are left out.

No photo is opened here and nothing is written to the source; a later pass reads each candidate once.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from heeler.data.archives import is_archive, open_archive, plain_name
from heeler.data.split import draw_share
from heeler.data.tables import check_label_map, is_table, part_of_name, read_label_map, read_table
from heeler.data.walk import Found, Tree, walk
from heeler.errors import DataError, UsageError
from heeler.files import is_hidden, write_csv
from heeler.plans import LabelMap
from heeler.records import Catalogue, Part, Photo

__all__ = ["read_source", "recall_catalogue", "write_catalogue"]

BESIDE_CLASSES = "beside the class folders, in none of them"
EMPTY_CLASS = "an empty class: no photo in this folder"
EMPTY_PART = "an empty part: no photo in this folder"
NOT_READ = "not read: the minutes were too short for all photos"
LAYOUT_HINT = "make a folder for each class and move the photos there (cat/1.jpg, dog/2.jpg), or list them in a CSV"
COLUMNS = ("path", "class", "split", "group", "sha256", "width", "height", "format", "status", "reason")


def read_source(
    source: Path, *, labels: LabelMap | None = None, nested: bool = False, group_by: str | None = None
) -> Catalogue:
    """List the photos of a folder, a table or an archive with their classes; opens none of them.

    Args:
        source: a folder with a subfolder for each class; a folder with ``train`` and ``val`` or ``test`` in it; a
            CSV or TSV ``path,label[,split][,group]``; or a zip or tar of any of these.
        labels: CSV ``folder,class`` that renames, merges or (empty class) drops folders, or such pairs; others keep
            their names.
        nested: the class is the whole path below the source (``a/b``) instead of its first folder.
        group_by: for a table, the column that names the group; else a regular expression that is searched in the
            path, whose first bracketed part (or whole match) is the group. No match is group "".

    Returns:
        A photo for each file that was found, in path order: ``ok`` for one to read, else with the reason. A class
        folder without photos has a row of its own, ``left_out``.

    Raises:
        UsageError: the source is not there, ``labels`` names a folder that is not, or ``group_by`` matches nothing.
        DataError: there are no photos, they lie in no class folders, or a table or archive cannot be read.
    """
    source = Path(source)
    if not os.path.exists(source):  # noqa: PTH110 - Path.exists raises where a folder above may not be read
        raise UsageError(f"no such folder or file: {source}", hint=f"check the path; it is looked up in {Path.cwd()}")
    folder, table, name = _open(source)
    if table is not None:
        inside = None if table == source else folder
        photos = read_table(table, group_by=group_by, inside=inside)
    else:
        photos = _read_folder(folder, nested)
    if labels is not None:
        photos = _map_labels(photos, labels)
    if not any(photo.status == "ok" for photo in photos):
        raise _no_photos(source, photos)
    if table is None and group_by is not None:
        photos = _group(photos, group_by)
    return Catalogue(str(source), name, tuple(sorted(photos, key=lambda photo: photo.path)))


def write_catalogue(path: Path, catalogue: Catalogue, parts: Mapping[str, str] | None = None) -> None:
    """Write ``catalogue.csv``: a row for each file that was found.

    Args:
        path: file to write.
        catalogue: what was found.
        parts: part of each photo by its ``path``, where the split is known; others have the source's own part.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    drawn = parts or {}

    def row(photo: Photo) -> tuple[object, ...]:
        split = drawn.get(photo.path) or (photo.part if photo.status == "ok" else "") or ""
        size = (photo.width_px or "", photo.height_px or "")
        verdict = (photo.format, photo.status, photo.reason)
        return (photo.path, photo.label, split, photo.group, photo.sha256, *size, *verdict)

    write_csv(path, COLUMNS, map(row, catalogue.photos))


def recall_catalogue(source: Path, table: Path) -> Catalogue:
    """List a source again, and say of its files what an earlier run has found.

    Args:
        source: the folder, table or archive of that run, perhaps at another place by now.
        table: the run's ``catalogue.csv``.

    Returns:
        The photos that both name: file and part (the user's own) from the source; class, group, hash, format and
        verdict from the table.

    Raises:
        UsageError: the source is not there.
        DataError: the source cannot be listed, or the table is none.
    """
    rows = _catalogue_rows(table)
    listed = read_source(source)
    photos = tuple(_recalled(photo, rows[photo.path]) for photo in listed.photos if photo.path in rows)
    if not photos:
        raise DataError(
            f"{source} has none of the {len(rows):,} files in {table}",
            hint="name the folder that they are in now",
        )
    return replace(listed, photos=photos)


def _catalogue_rows(table: Path) -> dict[str, dict[str, str]]:
    hint = "name the folder of a run, as heeler wrote it"
    try:
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}", hint=hint) from error
    if not rows or set(COLUMNS) - rows[0].keys():
        raise DataError(f"{table} is no catalogue of a run", hint=hint)
    return {row["path"]: row for row in rows}


def _recalled(photo: Photo, row: dict[str, str]) -> Photo:
    known = replace(photo, label=row["class"], group=row["group"], sha256=row["sha256"], format=row["format"])
    # A link out of the source, say, stays closed whatever the table claims.
    return known if photo.status != "ok" else replace(known, status=row["status"], reason=row["reason"])  # type: ignore[arg-type]


def thin_catalogue(catalogue: Catalogue, n_wanted: int, n_least: int, seed: int) -> Catalogue:
    """A catalogue of which about ``n_wanted`` photos will be read: a share of each class and part; the others say so.

    Args:
        catalogue: as listed.
        n_wanted: photos to keep.
        n_least: photos of each class and part that are kept anyway.
        seed: of the draw.
    """
    candidates = catalogue.usable
    cells = sorted({(photo.label, photo.part or "") for photo in candidates})
    labels = np.array([cells.index((photo.label, photo.part or "")) for photo in candidates], dtype=np.int64)
    kept = {candidates[row].path for row in draw_share(labels, n_wanted, n_least, seed)}
    return replace(
        catalogue,
        photos=tuple(
            photo if photo.status != "ok" or photo.path in kept else replace(photo, status="left_out", reason=NOT_READ)
            for photo in catalogue.photos
        ),
    )


def _open(source: Path) -> tuple[Path, Path | None, str]:
    """The folder to list or the table to read, and the source's name for people."""
    if source.is_dir():
        whole = source.resolve()
        # One part of a set that its author split is called like every other such part.
        name = f"{whole.parent.name} {whole.name}" if part_of_name(whole.name) else whole.name
        return source, None, name.strip() or "photos"
    if not source.is_file():
        raise UsageError(f"{source} is neither a folder nor a file", hint="give the folder that holds the photos")
    if not os.access(source, os.R_OK):
        raise UsageError(f"{source} may not be read", hint="check who may read that file")
    if not is_archive(source):
        return source.parent, source, source.stem
    folder = _step_in(open_archive(source))
    return folder, _only_table(folder), plain_name(source)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))


def _step_in(folder: Path) -> Path:
    """The single folder that many archives wrap everything in; but a single folder of nothing but photos is a class."""
    top = _visible(folder)
    if len(top) != 1 or not top[0].is_dir() or top[0].is_symlink():
        return folder
    below = _visible(top[0])
    return top[0] if any(entry.is_dir() for entry in below) or _only_table(top[0]) else folder


def _only_table(folder: Path) -> Path | None:
    """The table that says what the photos of an archive are; None where there is none, or several that compete."""
    tables = [entry for entry in _visible(folder) if entry.suffix.lower() in (".csv", ".tsv") and entry.is_file()]
    tables = [entry for entry in tables if entry.resolve().is_relative_to(folder.resolve()) and is_table(entry)]
    return tables[0] if len(tables) == 1 else None


def _read_folder(root: Path, nested: bool) -> list[Photo]:
    tree = walk(root)
    parts = _parts(tree)
    place = _placer(parts, nested)
    visible = set(tree.folders)
    filled: set[str] = set()
    photos = []
    for found in tree.files:
        folder = found.path.rpartition("/")[0]
        part, label, class_folder = place(folder)
        reason = found.reason or ("" if label else BESIDE_CLASSES)
        if not reason:
            filled.add(class_folder)
        photos.append(_photo(found, part, label if folder in visible else "", reason))
    return photos + _empty_folders(root, tree, parts, nested, filled)


def _photo(found: Found, part: Part | None, label: str, reason: str) -> Photo:
    status = "left_out" if reason else "ok"
    return Photo(found.path, Path(found.file), label=label, part=part, status=status, reason=reason)  # type: ignore[arg-type]


def _parts(tree: Tree) -> dict[str, Part]:
    """Part of each top folder; empty unless ``train`` stands with another part and with nothing but parts."""
    top = [folder for folder in tree.folders if "/" not in folder]
    parts = {folder: part for folder in top if (part := part_of_name(folder)) is not None}
    found = set(parts.values())
    return parts if len(parts) == len(top) and "train" in found and len(found) > 1 else {}


def _placer(parts: dict[str, Part], nested: bool) -> Callable[[str], tuple[Part | None, str, str]]:
    """A function from a folder's path to its part, class and class folder, which remembers what it said."""
    known: dict[str, tuple[Part | None, str, str]] = {}

    def place(folder: str) -> tuple[Part | None, str, str]:
        if folder not in known:
            steps = folder.split("/") if folder else []
            part = parts.get(steps[0]) if steps else None
            below = steps[1:] if part else steps
            label = "/".join(below if nested else below[:1])
            known[folder] = (part, label, f"{steps[0]}/{label}" if part and label else label)
        return known[folder]

    return place


def _empty_folders(root: Path, tree: Tree, parts: dict[str, Part], nested: bool, filled: set[str]) -> list[Photo]:
    """A row for each class folder, and each part, that gave no photo."""
    parents = {folder.rpartition("/")[0] for folder in tree.folders}
    place = _placer(parts, nested)
    rows = []
    for folder in tree.folders:
        part, label, class_folder = place(folder)
        if not label:
            if not any(other.startswith(folder + "/") for other in filled):
                rows.append(_photo(Found(folder, os.fspath(root / folder)), part, "", EMPTY_PART))
        elif folder == class_folder and folder not in filled and not (nested and folder in parents):
            rows.append(_photo(Found(folder, os.fspath(root / folder)), part, label, EMPTY_CLASS))
    return rows


def _map_labels(photos: list[Photo], labels: LabelMap) -> list[Photo]:
    names = (photo.label for photo in photos if photo.label)
    classes = read_label_map(labels, names) if isinstance(labels, Path) else check_label_map(labels, names)
    dropped = f"dropped by {labels.name if isinstance(labels, Path) else 'labels'}"

    def apply(photo: Photo) -> Photo:
        name = classes.get(photo.label)
        if name is None or name == photo.label:
            return photo
        if name:
            return replace(photo, label=name)
        return replace(photo, status="left_out", reason=photo.reason or dropped)

    return [apply(photo) for photo in photos]


def _group(photos: list[Photo], group_by: str) -> list[Photo]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UsageError(
            f"--group-by {group_by!r} is not a regular expression: {error}", hint=r"for example --group-by '(field\d+)'"
        ) from error
    which = 1 if pattern.groups else 0
    grouped = [
        replace(photo, group=match[which] or "") if (match := pattern.search(photo.path)) else photo for photo in photos
    ]
    if not any(photo.group for photo in grouped if photo.status == "ok"):
        example = next(photo.path for photo in photos if photo.status == "ok")
        raise UsageError(
            f"--group-by {group_by!r} matches no photo's path", hint=f"a path is, for example, {example!r}"
        )
    return grouped


def _no_photos(source: Path, photos: list[Photo]) -> DataError:
    """The error for a source without one candidate: how many files there are, and what is wrong with them."""
    files = [photo for photo in photos if photo.reason not in (EMPTY_CLASS, EMPTY_PART)]
    n_beside = sum(photo.reason == BESIDE_CLASSES for photo in files)
    if n_beside:
        return DataError(
            f"{source}: {n_beside:,} photos lie in no class folder, and no class folder has any", hint=LAYOUT_HINT
        )
    reasons = Counter(photo.reason for photo in files).most_common()
    told = "; ".join(f"{n:,} {reason}" for reason, n in reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    missing = next((photo.file for photo in files if photo.status == "unreadable"), None)
    hint = LAYOUT_HINT if missing is None else f"paths are looked up beside the table; the first was {missing}"
    return DataError(f"no photos in {source}: {len(files):,} files found" + (f" ({told})" if told else ""), hint=hint)
