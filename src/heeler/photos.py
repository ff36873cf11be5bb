"""The photos of a run: each file read once, and each photo given its part."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heeler.clock import Clock
from heeler.data.catalogue import read_source
from heeler.data.duplicates import near_duplicates
from heeler.data.pixels import Pixels, read_photos
from heeler.data.split import split_notes, split_photos
from heeler.errors import DataError, UsageError
from heeler.fixes import Fix, decisions, read_fixes
from heeler.plans import TrainOptions
from heeler.records import Catalogue, IntArray, Note, Part, Photo, Preprocessing, Split, ignore_events

DROPPED, RELABELLED = "dropped by", "relabelled by"


@dataclass(frozen=True)
class Photos:
    """A source that was read, split and numbered: (N,) labels and (N,) parts over ``catalogue.usable``.

    ``n_test_changed`` counts the photos of the test part that a user's ``fixes.csv`` relabelled or dropped.
    """

    catalogue: Catalogue
    pixels: Pixels
    pairs: Sequence[tuple[int, int]]
    split: Split
    labels: IntArray
    n_test_changed: int = 0

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.catalogue.classes)

    @property
    def parts(self) -> dict[str, Part]:
        """The part of each usable photo by its path."""
        return dict(zip((photo.path for photo in self.catalogue.usable), self.split.part_of(), strict=True))


def list_files(source: str | Path, options: TrainOptions, clock: Clock) -> Catalogue:
    """Every file of a source and what it is to a run; none is opened.

    Raises:
        UsageError: the source or an option does not make sense.
        DataError: the source holds no labelled photos, or the fixes cannot be applied to it.
    """
    with clock.stage("list files", unit="files") as tell:
        catalogue = read_source(Path(source), labels=options.labels, nested=options.nested, group_by=options.group_by)
        if options.fixes:
            catalogue, notes = apply_fixes(catalogue, read_fixes(options.fixes), options.fixes)
            for note in notes:
                tell(note)
        return catalogue


def apply_fixes(catalogue: Catalogue, fixes: Sequence[Fix], file: Path) -> tuple[Catalogue, list[Note]]:
    """Relabel and drop photos as a person decided; each says so in its ``reason``.

    Args:
        catalogue: as listed.
        fixes: the table; undecided and kept photos stay as they are.
        file: the table's, for messages.

    Returns:
        The catalogue, and what to tell: how many photos were changed, and decisions about photos that are not there.

    Raises:
        DataError: a photo would get a class that no photo has.
    """
    decided = decisions(fixes)
    classes = {photo.label for photo in catalogue.usable}
    for fix in decided.values():
        if fix.action == "relabel" and fix.suggested not in classes:
            raise _new_class(fix, classes, file)
    photos = [_fixed(photo, decided.get(photo.path), file) for photo in catalogue.photos]
    n_dropped, n_relabelled = (
        sum(new is not old and new.reason.startswith(done) for new, old in zip(photos, catalogue.photos, strict=True))
        for done in (DROPPED, RELABELLED)
    )
    photo = "photo" if n_relabelled == 1 else "photos"
    notes = [Note(f"{file.name}: {n_relabelled:,} {photo} relabelled, {n_dropped:,} dropped")]
    known = {photo.path for photo in catalogue.photos}
    if unknown := [path for path in decided if path not in known]:
        text = f"{file.name} decides about {len(unknown):,} photos that are not in {catalogue.source}"
        notes.append(Note(f"{text}, such as {unknown[0]}: these decisions change nothing", "warning"))
    return replace(catalogue, photos=tuple(photos)), notes


def _fixed(photo: Photo, fix: Fix | None, file: Path) -> Photo:
    if fix is None or photo.status != "ok":
        return photo
    if fix.action == "drop":
        return replace(photo, status="left_out", reason=f"{DROPPED} {file.name}")
    if fix.suggested == photo.label:
        return photo
    return replace(photo, label=fix.suggested, reason=f"{RELABELLED} {file.name}, was {photo.label}")


def _new_class(fix: Fix, classes: set[str], file: Path) -> DataError:
    near = difflib.get_close_matches(fix.suggested, sorted(classes), n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"a class is, for example, {min(classes)!r}"
    return DataError(
        f"{file} relabels {fix.path!r} as {fix.suggested!r}, and no photo has that class",
        hint=f"{meant} A new class needs photos of its own in the source",
    )


def read_and_split(catalogue: Catalogue, spec: Preprocessing, options: TrainOptions, clock: Clock) -> Photos:
    """Read each file once, then give each photo its part."""
    with clock.stage("decode", total=len(catalogue.usable)) as tell:
        catalogue, pixels = read_photos(catalogue, spec, tell)
        clock.count("decode", pixels.n_decoded)
    with clock.stage("split", unit="") as tell:
        pairs = near_duplicates(pixels.thumbs)
        split = split_photos(catalogue, pairs, test=options.test, valid=options.valid, seed=options.seed)
        for text in split_notes(catalogue, split, pairs):
            tell(Note(text, "warning"))
        n_test_changed = 0
        if options.fixes:
            n_test_changed = count_changed_in_test(catalogue, split, spec, options)
            if n_test_changed:
                were = "photo was" if n_test_changed == 1 else "photos were"
                text = f"{n_test_changed:,} test {were} changed by {options.fixes.name}"
                tell(Note(f"{text}: the error is not of the same photos and labels as before", "warning"))
    if options.recipe.epochs and not len(split.test):
        raise UsageError("--test 0 leaves no photo to judge a tuned network by", hint="use --test 0.1, or --epochs 0")
    return Photos(catalogue, pixels, pairs, split, labels_of(catalogue), n_test_changed)


def labels_of(catalogue: Catalogue) -> IntArray:
    """(N,) class number of each usable photo."""
    number = {name: k for k, name in enumerate(catalogue.classes)}
    return np.array([number[photo.label] for photo in catalogue.usable], dtype=np.int64)


def count_changed_in_test(catalogue: Catalogue, split: Split, spec: Preprocessing, options: TrainOptions) -> int:
    """Photos of the test part that fixes relabelled, and those that they dropped and that would be in it.

    Which dropped photos these are, a split of all photos with them tells; their pixels are those of an earlier run.
    """
    usable = catalogue.usable
    n_relabelled: int = sum(usable[row].reason.startswith(RELABELLED) for row in split.test)
    by_fixes = f"{DROPPED} {options.fixes.name}" if options.fixes else ""
    dropped = {photo.path for photo in catalogue.photos if by_fixes and photo.reason == by_fixes}
    if not dropped or not len(split.test):
        return n_relabelled
    restored = [replace(p, status="ok", reason="") if p.path in dropped else p for p in catalogue.photos]
    everything, pixels = read_photos(replace(catalogue, photos=tuple(restored)), spec, ignore_events)
    try:
        before = split_photos(
            everything, near_duplicates(pixels.thumbs), test=options.test, valid=options.valid, seed=options.seed
        )
    except DataError:  # a copy of a dropped photo in another class can leave a class too small
        return n_relabelled
    n_dropped: int = sum(everything.usable[row].path in dropped for row in before.test)
    return n_relabelled + n_dropped
