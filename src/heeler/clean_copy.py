"""``heeler fix --write-clean``: the photos once more, a folder for each class, as the decisions want them.

The originals are only read. The copy is built in ``COPY.partial`` and gets its name when it is whole.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heeler.data.archives import is_archive
from heeler.data.catalogue import NOT_READ
from heeler.data.duplicates import mark_duplicates
from heeler.data.tables import part_of_name
from heeler.errors import ResourceError, UsageError
from heeler.files import disk_errors, is_hidden, is_inside, name_mark, require_space, safe_name, write_csv
from heeler.fixes import Fix
from heeler.records import Catalogue, Photo

# Says of each photo what its folder cannot: the class by its own name, the part, the group.
TABLE = "photos.csv"


@dataclass(frozen=True)
class CleanCopy:
    """What a cleaned copy holds, and the command that trains on it.

    Args:
        folder: the copy.
        n_linked: photos that share their bytes with the original.
        n_copied: photos whose bytes were copied.
        n_relabelled: of these, those in another class than before.
        n_dropped: photos that were dropped.
        n_left_out: other files that training would not use: unreadable, without a class, second copies.
        next: the command.
    """

    folder: Path
    n_linked: int
    n_copied: int
    n_relabelled: int
    n_dropped: int
    n_left_out: int
    next: str

    @property
    def told(self) -> str:
        """The line that people read at the end."""
        return (
            f"{self.n_linked + self.n_copied:,} photos in {self.folder} ({self.n_linked:,} as hard links), "
            f"{self.n_relabelled:,} relabelled; {self.n_dropped:,} dropped, {self.n_left_out:,} left out"
        )

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler fix --write-clean --json`` prints."""
        return {
            "copy": str(self.folder),
            "n_linked": self.n_linked,
            "n_copied": self.n_copied,
            "n_relabelled": self.n_relabelled,
            "n_dropped": self.n_dropped,
            "n_left_out": self.n_left_out,
            "next": self.next,
        }


def write_clean(catalogue: Catalogue, fixes: Mapping[str, Fix], folder: Path) -> CleanCopy:
    """Write the photos that training would use, in the classes that were decided.

    Hard links where the disk allows, else copies: of another disk, and of what an archive was unpacked to, which must
    stay as it is. Of photos with the same bytes and the same class one is written, of such in two classes none.

    Args:
        catalogue: the photos and where they are.
        fixes: of each photo that has any, by path; the one that decides about it.
        folder: to make; it may be there, empty.

    Raises:
        UsageError: the folder holds something, lies inside the photos, or an earlier copy was stopped before its end.
        ResourceError: the disk is full, the place cannot be written, or a photo has gone.
    """
    source = Path(catalogue.source)
    _require_place(folder, source, catalogue.photos)
    photos = cleaned(catalogue.photos, fixes)
    partial = folder.with_name(folder.name + ".partial")
    with disk_errors(partial):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.mkdir()
        except FileExistsError:
            raise UsageError(
                f"{partial} is there: a copy that was stopped before its end, or is still being made",
                hint="remove that folder (the originals are elsewhere), or choose another name",
            ) from None
    try:
        rows, n_linked = _fill(partial, photos, may_link=source.is_dir() or not is_archive(source))
        needs_table = _says_more(rows)
        if needs_table:
            write_csv(partial / TABLE, ("path", "label", "split", "group"), rows)
        with disk_errors(folder):
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    found = {photo.path: photo for photo in catalogue.photos}
    n_dropped = sum(path in found and fix.action == "drop" for path, fix in fixes.items())
    return CleanCopy(
        folder=folder,
        n_linked=n_linked,
        n_copied=len(photos) - n_linked,
        n_relabelled=sum(photo.label != found[photo.path].label for photo in photos),
        n_dropped=n_dropped,
        n_left_out=len(found) - n_dropped - len(photos),
        next=shlex.join(["heeler", "train", str(folder / TABLE if needs_table else folder)]),
    )


def cleaned(photos: Iterable[Photo], fixes: Mapping[str, Fix]) -> list[Photo]:
    """The photos that training would use after the decisions, with their classes, in path order.

    Args:
        photos: of a catalogue.
        fixes: by path.
    """
    after = []
    for photo in photos:
        fix = fixes.get(photo.path)
        # A run that was trained with decisions has catalogued them; what counts is what is decided by now.
        own = fix.given if fix and fix.given else photo.label
        label = fix.suggested if fix and fix.action == "relabel" else own
        # What was left out for the sake of its copies is looked at again: the copies may have gone, or been relabelled.
        again = photo.reason.startswith(("same bytes", NOT_READ)) or (fix and photo.reason.startswith("dropped by"))
        if (photo.status in ("ok", "duplicate") or again) and label and not (fix and fix.action == "drop"):
            after.append(replace(photo, label=label, status="ok", reason=""))
    return [photo for photo in mark_duplicates(after) if photo.status == "ok"]


def class_folders(classes: Iterable[str]) -> dict[str, str]:
    """A folder name for each class: its own where every system takes it and training reads it back as that class."""
    names = {label: safe_name(label) for label in classes}
    # Some disks do not tell Cat from cat.
    seen = Counter(name.casefold() for name in names.values())
    return {
        label: f"{name}-{name_mark(label)}"
        if name == label and (seen[name.casefold()] > 1 or is_hidden(name) or part_of_name(name))
        else name
        for label, name in names.items()
    }


def _require_place(folder: Path, source: Path, photos: Sequence[Photo]) -> None:
    homes = {source} if source.is_dir() else {photo.file.parent for photo in photos if photo.status == "ok"}
    for home in homes:
        if is_inside(folder, home):
            raise UsageError(
                f"the copy would be written to {folder}, inside the photos in {home}", hint="choose a folder elsewhere"
            )
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already", hint="choose a folder that is new or empty")


def photo_name(name: str) -> str:
    """A file name that every system takes, with the ending by which other programs know what it is."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - of a name, which is no path
    return safe_name(stem) + ending if safe_name("x" + ending) == "x" + ending else safe_name(name)


def _fill(folder: Path, photos: Sequence[Photo], *, may_link: bool) -> tuple[list[tuple[str, str, str, str]], int]:
    """Put the photos into ``folder``; the rows of the table, and how many are links."""
    homes = class_folders({photo.label for photo in photos})
    parts = {photo.part for photo in photos} - {None}
    rows: list[tuple[str, str, str, str]] = []
    n_linked, taken = 0, set[str]()
    for number, photo in enumerate(photos):
        # Parts that the user made stay parts; without a name, a photo of such a source is one to train or draw from.
        steps = ((photo.part or "train") if parts else "", homes[photo.label])
        home = "/".join(step for step in steps if step)
        name = _free_name(f"{home}/{photo_name(photo.file.name)}", taken)
        target = folder / name
        try:
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                linked = may_link and _link(photo.file, target)
                if not linked:
                    if may_link or number == 0:
                        require_space(folder, sum(rest.file.stat().st_size for rest in photos[number:]))
                    may_link = False
                    _copy(photo.file, target)
        except OSError as error:
            raise ResourceError(
                f"{photo.file} could not be put into the copy: {error.strerror}",
                hint="nothing was left behind",
            ) from error
        n_linked += linked
        rows.append((name, photo.label, photo.part or "", photo.group))
    return rows, n_linked


def _says_more(rows: Sequence[tuple[str, str, str, str]]) -> bool:
    """Whether the table holds what the folders do not: a group, or a class that its folder is not named for."""
    return any(group or Path(name).parent.name != label for name, label, _, group in rows)


def _free_name(name: str, taken: set[str]) -> str:
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - a name with slashes, not a file
    free, n = name, 1
    while free.casefold() in taken:
        n += 1
        free = f"{stem} ({n}){ending}"
    taken.add(free.casefold())
    return free


def _link(file: Path, target: Path) -> bool:
    """Make a hard link; False where the disk, or its owner's rules, allow none."""
    try:
        os.link(file.resolve(strict=True), target)
    except FileNotFoundError:
        raise
    except (OSError, NotImplementedError):
        return False
    return True


def _copy(file: Path, target: Path) -> None:
    with target.open("xb") as output, file.open("rb") as original:
        shutil.copyfileobj(original, output)
    shutil.copystat(file, target)
