"""``heeler fix``: the photos of a run that may be wrong, put before a person; what is decided stays in fixes.csv.

RUN is the folder of a run, whose fixes.csv, catalogue.csv and run.json say what was found in which photos; or a
fixes.csv alone, together with the photos.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heeler.clean_copy import CleanCopy, write_clean
from heeler.data.catalogue import read_source, recall_catalogue
from heeler.deciding import Decisions, Suspect
from heeler.errors import DataError, UsageError
from heeler.fixes import Fix, read_fixes, words_to_read
from heeler.records import Catalogue, Photo

# Seconds between two looks at whether the user wants the end.
LOOK_S = 0.1


@dataclass(frozen=True)
class Review:
    """What there is to decide, and where the photos are.

    Args:
        name: the source's name for people.
        catalogue: the files of the source, with the classes that training knew them by.
        classes: that a photo can be relabelled as, sorted.
        decisions: about its N photos.
        read_with: words of a command line that reads the photos as they were read for the table.
        files: N files; None where the source has no such photo any more.
        kinds: N times the kind of each of the photo's problems, by which the page filters.
        twins: N times the photo that a problem names as the same one: its path, class and file; or None.
    """

    name: str
    catalogue: Catalogue
    classes: tuple[str, ...]
    decisions: Decisions
    read_with: tuple[str, ...]
    files: tuple[Path | None, ...]
    kinds: tuple[tuple[str, ...], ...]
    twins: tuple[tuple[str, str, Path] | None, ...]


@dataclass(frozen=True)
class ReviewResult:
    """How many photos have which decision, where that stands, and the command that applies it."""

    fixes: Path
    n_keep: int
    n_relabel: int
    n_drop: int
    n_undecided: int
    next: str

    @property
    def told(self) -> str:
        """The line that people read at the end."""
        return (
            f"{self.n_keep:,} kept, {self.n_relabel:,} relabelled, {self.n_drop:,} dropped, "
            f"{self.n_undecided:,} undecided: {self.fixes}"
        )

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler fix --json`` prints."""
        return {
            "fixes": str(self.fixes),
            "n_keep": self.n_keep,
            "n_relabel": self.n_relabel,
            "n_drop": self.n_drop,
            "n_undecided": self.n_undecided,
            "next": self.next,
        }


def open_review(run: Path, photos: Path | None = None, *, labels: Path | None = None, nested: bool = False) -> Review:
    """Find the problems, the photos and the classes.

    Args:
        run: the folder of a run, or a fixes.csv.
        photos: the folder, table or archive of the photos; None takes the one that the run was made from.
        labels: table by which the check that made a fixes.csv named the classes; a run knows its own.
        nested: whether that check took whole paths for classes.

    Raises:
        UsageError: there is no fixes.csv, or the photos are not where they were and ``photos`` is None; or a run is
            told how to name its classes.
        DataError: the table or the catalogue cannot be used.
    """
    file = run / "fixes.csv" if run.is_dir() else run
    if not file.is_file():
        raise UsageError(f"there is no {file}", hint="name the folder of a run that lists problems, or a fixes.csv")
    desk = Decisions(file)
    source = photos or _source_of(file.parent)
    if not source.exists():
        raise UsageError(f"the photos are no longer in {source}", hint="say where they are now with --photos FOLDER")
    table = file.parent / "catalogue.csv"
    if table.exists() and (labels or nested):
        raise UsageError(f"{file.parent} is a run, which knows its classes", hint="leave out --labels and --nested")
    if table.exists():
        catalogue, read_with = recall_catalogue(source, table), _read_with(file.parent)
    else:
        catalogue = read_source(source, labels=labels, nested=nested)
        read_with = words_to_read({"labels": labels, "nested": nested})
    found = {photo.path: photo for photo in catalogue.photos if photo.label}
    suspects = [desk.suspect(number) for number in range(len(desk))]
    files = tuple(found[suspect.path].file if suspect.path in found else None for suspect in suspects)
    if not any(files):
        raise DataError(f"{source} has none of the photos in {file}", hint="say where they are with --photos FOLDER")
    if not table.exists():
        _require_named_so(file, suspects, found)
    named = {label for suspect in suspects for label in (suspect.given, suspect.suggested) if label}
    split = [[_split_problem(problem, found.keys()) for problem in suspect.problems] for suspect in suspects]
    twins = [next((found[twin] for _, twin in each if twin), None) for each in split]
    return Review(
        name=catalogue.name,
        catalogue=catalogue,
        classes=tuple(sorted({*catalogue.classes, *named})),
        decisions=desk,
        read_with=tuple(read_with),
        files=files,
        kinds=tuple(tuple(dict.fromkeys(kind for kind, _ in each)) for each in split),
        twins=tuple((twin.path, twin.label, twin.file) if twin else None for twin in twins),
    )


def review(
    opened: Review, on_address: Callable[[str, int], None], stop: Callable[[], bool], port: int = 0
) -> ReviewResult:
    """Serve the page on loopback until the end is asked for.

    Args:
        opened: what there is to decide.
        on_address: told the page's address once it can be opened, and how many photos are on it.
        stop: asked again and again whether to end.
        port: to listen on; 0 takes a free one.

    Raises:
        UsageError: the port is taken.
    """
    from heeler.serve_review import serve

    pause = threading.Event()
    with serve(opened, port) as address:
        on_address(address, len(opened.decisions))
        while not stop():
            pause.wait(LOOK_S)
    return summary(opened)


def summary(opened: Review) -> ReviewResult:
    """What has been decided by now."""
    counts = opened.decisions.counts()
    file = opened.decisions.file
    return ReviewResult(
        fixes=file,
        n_keep=counts["keep"],
        n_relabel=counts["relabel"],
        n_drop=counts["drop"],
        n_undecided=counts[""],
        next=shlex.join(["heeler", "train", opened.catalogue.source, *opened.read_with, "--fixes", str(file)]),
    )


def clean_copy(opened: Review, folder: Path) -> CleanCopy:
    """Write the photos once more as the decisions want them: see ``clean_copy.write_clean``.

    Args:
        opened: what there was to decide.
        folder: to make.
    """
    deciding: dict[str, Fix] = {}
    for fix in read_fixes(opened.decisions.file):
        if fix.action or fix.path not in deciding:
            deciding[fix.path] = fix
    return write_clean(opened.catalogue, deciding, folder)


def open_browser(address: str) -> None:
    """Open the page where there is a screen; a browser for terminals would take this one over."""
    screen = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in screen):
        import webbrowser

        webbrowser.open(address)


def _require_named_so(file: Path, suspects: Sequence[Suspect], found: Mapping[str, Photo]) -> None:
    """Refuse photos whose classes have other names than in the table: no decision would mean what it says."""
    for suspect in suspects:
        photo = found.get(suspect.path)
        if photo and suspect.given not in ("", photo.label.strip()):  # read_fixes takes blanks off the ends
            raise DataError(
                f"{file} has {suspect.path} as {suspect.given!r}, and here it is {photo.label!r}",
                hint="name the classes as the check did that made the table: --labels CSV, --nested",
            )


def _source_of(run: Path) -> Path:
    try:
        return Path(json.loads((run / "run.json").read_bytes())["source"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{run} does not say where the photos are", hint="name them: --photos FOLDER (or the table, or the archive)"
        ) from error


def _read_with(run: Path) -> list[str]:
    """The options by which a run named and divided its photos, as far as its run.json tells: they must be the same."""
    try:
        asked = json.loads((run / "run.json").read_bytes()).get("asked", {})
        return words_to_read(asked, run / "labels.csv")  # classes that were told in Python are in a table beside
    except (OSError, ValueError, AttributeError):
        return []


def _split_problem(problem: str, paths: Container[str]) -> tuple[str, str]:
    """The kind of a problem, and the photo that its words name; "" for none.

    Of ``near duplicate: looks like cat/3.jpg (valid, dog)`` these are ``near duplicate`` and ``cat/3.jpg``.
    """
    kind = re.split(r"[:(,]", problem, maxsplit=1)[0].strip()
    for space in re.finditer(" ", problem):
        rest = problem[space.end() :]
        while rest:
            if rest in paths:
                before = re.sub(r"( (of|as|to|with|like)|[:,(])*$", "", problem[: space.start()])
                return min(kind, before, key=len), rest
            rest = rest.rpartition(" (")[0] if rest.endswith(")") else ""
    return kind, ""
