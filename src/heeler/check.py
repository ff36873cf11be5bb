"""``heeler check``: the same reading as before a training, and what it found, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heeler.clock import Clock
from heeler.data.catalogue import read_source
from heeler.data.duplicates import exact_duplicates, near_duplicates
from heeler.data.pixels import Pixels, read_photos
from heeler.data.split import MIN_PHOTOS_PER_CLASS, find_problems, split_photos
from heeler.errors import DataError
from heeler.keywords import label_map
from heeler.plans import LabelMap
from heeler.records import Catalogue, OnEvent, Part, Photo, Preprocessing, Split, ignore_events


@dataclass(frozen=True)
class CheckResult:
    """What ``heeler check`` found in a source, without training.

    Args:
        source: the folder, table or archive as the user named it.
        n_found: files found, usable or not.
        n_usable: photos that training could use.
        classes: (class, usable photos), in class order.
        size_px: (smallest, median, largest) as (width, height) in pixels; None where no photo is usable.
        left_out: (path, status, reason) of each file that training would not use.
        exact_duplicates: groups of paths whose bytes are the same.
        near_duplicates: pairs of paths that look the same.
        label_conflicts: (path, class, path, class) of photos that look the same under different classes.
        across_parts: (path, part, path, part) of photos that look the same and fall into different parts.
        too_small: (class, usable photos) of classes with too few photos.
        problems: why training could not start; empty where it could.
        seconds: wall time of the check.
        rates_per_s: photos for each second, by stage.

    Example:
        >>> import heeler
        >>> found = heeler.check("photos")
        >>> found.n_usable, found.classes[0], found.size_px[1]
        (48, ('cat', 12), (160, 160))
    """

    source: str
    n_found: int
    n_usable: int
    classes: tuple[tuple[str, int], ...]
    size_px: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None
    left_out: tuple[tuple[str, str, str], ...]
    exact_duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, str], ...]
    label_conflicts: tuple[tuple[str, str, str, str], ...]
    across_parts: tuple[tuple[str, str, str, str], ...]
    too_small: tuple[tuple[str, int], ...]
    problems: tuple[str, ...]
    seconds: float
    rates_per_s: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler check --json`` prints."""
        pair = ("path_a", "path_b")
        labels = ("path_a", "label_a", "path_b", "label_b")
        parts = ("path_a", "part_a", "path_b", "part_b")
        sizes = zip(("min", "median", "max"), self.size_px or (), strict=False)
        return {
            "source": self.source,
            "n_found": self.n_found,
            "n_usable": self.n_usable,
            "classes": dict(self.classes),
            "size_px": {name: list(size) for name, size in sizes} or None,
            "left_out": [dict(zip(("path", "status", "reason"), row, strict=True)) for row in self.left_out],
            "exact_duplicates": [list(group) for group in self.exact_duplicates],
            "near_duplicates": [dict(zip(pair, row, strict=True)) for row in self.near_duplicates],
            "label_conflicts": [dict(zip(labels, row, strict=True)) for row in self.label_conflicts],
            "across_parts": [dict(zip(parts, row, strict=True)) for row in self.across_parts],
            "too_small": dict(self.too_small),
            "problems": list(self.problems),
            "seconds": round(self.seconds, 3),
            "rates_per_s": {name: round(value, 1) for name, value in self.rates_per_s.items()},
        }


def check(
    source: str | Path,
    *,
    labels: Mapping[str, str | None] | LabelMap | str | None = None,
    nested: bool = False,
    group_by: str | None = None,
    test: float = 0.2,
    valid: float = 0.1,
    seed: int = 42,
    alpha: tuple[int, int, int] = (255, 255, 255),
    on_event: OnEvent = ignore_events,
) -> CheckResult:
    """Read a source as a training would, and tell what is in it.

    The pixels are kept in heeler's cache, so a training that follows decodes nothing.

    Args:
        source: folder, table or archive of labelled photos; it is never written to.
        labels: CSV, or a mapping of folder to class, that renames, merges or (None) drops class folders.
        nested: the class is the whole path below the source, not its first level.
        group_by: a column of the CSV, or a regex on the path.
        test: share of the photos that a training would keep for testing.
        valid: share of the rest that it would keep for choosing.
        seed: of the split.
        alpha: colour behind transparent pixels, 8-bit RGB.
        on_event: told of stages and progress.

    Raises:
        UsageError: the source or an option does not make sense.
        DataError: nothing in the source can be read as labelled photos.

    Example:
        >>> import heeler
        >>> heeler.check("photos", labels={"cat": "animal"}).problems
        ()
    """
    labels, clock = label_map(labels), Clock(on_event)
    with clock.stage("list files", unit="files"):
        catalogue = read_source(Path(source), labels=labels, nested=nested, group_by=group_by)
    spec = replace(Preprocessing(), alpha=alpha)
    return result_of(read_all(catalogue, spec, clock, test=test, valid=valid, seed=seed), clock)


@dataclass(frozen=True)
class Reading:
    """A source that was read; ``split`` is None, and ``problems`` say why, where training could not start."""

    catalogue: Catalogue
    pixels: Pixels
    pairs: Sequence[tuple[int, int]]
    split: Split | None
    problems: Sequence[str]


def read_all(
    catalogue: Catalogue, spec: Preprocessing, clock: Clock, *, test: float, valid: float, seed: int
) -> Reading:
    """Read each file of a catalogue once, look for duplicates, and split the photos if that can be done.

    Args:
        catalogue: as listed.
        spec: how a photo becomes a square of pixels.
        clock: of the check.
        test: share of the photos to draw for testing.
        valid: share of the rest to draw for choosing.
        seed: of the split.
    """
    with clock.stage("decode", total=len(catalogue.usable)) as tell:
        catalogue, pixels = read_photos(catalogue, spec, tell)
        clock.count("decode", pixels.n_decoded)
    with clock.stage("duplicates", unit=""):
        pairs = near_duplicates(pixels.thumbs)
    problems, split = find_problems(catalogue), None
    try:
        split = None if problems else split_photos(catalogue, pairs, test=test, valid=valid, seed=seed)
    except DataError as error:
        problems = [error.message]
    return Reading(catalogue, pixels, pairs, split, problems)


def result_of(reading: Reading, clock: Clock) -> CheckResult:
    """What a reading found."""
    catalogue, pairs, problems = reading.catalogue, reading.pairs, reading.problems
    parts = reading.split.part_of() if reading.split else []
    usable = catalogue.usable
    counts = Counter(photo.label for photo in usable)
    exact = exact_duplicates(catalogue)
    return CheckResult(
        source=catalogue.source,
        n_found=len(catalogue.photos),
        n_usable=len(usable),
        classes=tuple(sorted(counts.items())),
        size_px=sizes(usable),
        left_out=tuple((photo.path, photo.status, photo.reason) for photo in catalogue.photos if photo.status != "ok"),
        exact_duplicates=tuple(tuple(photo.path for photo in copies) for copies in exact),
        near_duplicates=tuple((usable[i].path, usable[j].path) for i, j in pairs),
        label_conflicts=conflicts(exact, [(usable[i], usable[j]) for i, j in pairs]),
        across_parts=across(usable, pairs, parts) + given_across(exact),
        too_small=tuple((name, n) for name, n in sorted(counts.items()) if n < MIN_PHOTOS_PER_CLASS),
        problems=tuple(problems),
        seconds=clock.totals()["total"],
        rates_per_s=clock.rates_per_s,
    )


def conflicts(
    exact: Sequence[Sequence[Photo]], pairs: Sequence[tuple[Photo, Photo]]
) -> tuple[tuple[str, str, str, str], ...]:
    """(path, class, path, class) of photos that look the same under different classes; same bytes first."""
    same = [(copies[0], other) for copies in exact for other in copies[1:]]
    return tuple((a.path, a.label, b.path, b.label) for a, b in [*same, *pairs] if a.label != b.label)


def across(
    usable: Sequence[Photo], pairs: Sequence[tuple[int, int]], parts: Sequence[Part]
) -> tuple[tuple[str, str, str, str], ...]:
    """(path, part, path, part) of near duplicates that a training would have in different parts."""
    if not parts:
        return ()
    return tuple((usable[i].path, parts[i], usable[j].path, parts[j]) for i, j in pairs if parts[i] != parts[j])


def given_across(exact: Sequence[Sequence[Photo]]) -> tuple[tuple[str, str, str, str], ...]:
    """(path, part, path, part) of photos with the same bytes in different parts of the user's own."""
    return tuple(
        (copies[0].path, copies[0].part, other.path, other.part)
        for copies in exact
        for other in copies[1:]
        if copies[0].part and other.part and copies[0].part != other.part
    )


def sizes(photos: Sequence[Photo]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """(width, height) in pixels of the smallest, the median and the largest photo by area; None without photos."""
    if not photos:
        return None
    ordered = sorted(
        ((photo.width_px, photo.height_px) for photo in photos), key=lambda size: (size[0] * size[1], size)
    )
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
