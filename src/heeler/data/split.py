"""Who trains, who chooses, who judges: three parts that share no photo, no near duplicate and no group.

Parts that the user made are kept; what is missing is drawn, class by class, whole groups at a time. The order of the
draw is a hash of the seed and the photo's content, so adding photos later moves few of the old ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from heeler.errors import DataError, UsageError
from heeler.records import PARTS, Catalogue, IntArray, Part, Photo, Split, short_hash

MIN_PHOTOS_PER_CLASS = 3


@dataclass(frozen=True)
class _Unit:
    """Photos that must stay together."""

    order: str
    rows: tuple[int, ...]
    label: str


def split_photos(
    catalogue: Catalogue, pairs: Sequence[tuple[int, int]], *, test: float = 0.2, valid: float = 0.1, seed: int = 42
) -> Split:
    """Give each usable photo its part.

    Args:
        catalogue: its usable photos are split; a photo's own ``part`` is kept.
        pairs: near duplicates, as indices into ``catalogue.usable``; a pair stays together where the draw decides.
        test: share of all photos to draw for testing, in [0, 1); unused where the user made a test part.
        valid: share of the rest to draw for choosing, in (0, 1); unused where the user made a valid part.
        seed: of the draw.

    Raises:
        DataError: fewer than two classes, a class with fewer than three photos, or one that train would lack.
        UsageError: a share out of range.
    """
    if not 0 <= test < 1 or not 0 < valid < 1:
        raise UsageError(f"--test {test} and --valid {valid} must be shares between 0 and 1", hint="try --test 0.2")
    photos = catalogue.usable
    problems = find_problems(catalogue)
    if problems:
        raise DataError(problems[0], hint="run `heeler check` on the same folder for the whole list")
    given: dict[Part, list[int]] = {part: [] for part in PARTS}
    free: list[int] = []
    for row, photo in enumerate(photos):
        (given[photo.part] if photo.part else free).append(row)
    made_by_user = {part for part in PARTS if given[part]}
    free = _join_given(photos, pairs, given, free)
    # A folder of the user's that is missing is drawn from the one that is there.
    wanted: tuple[tuple[Part, float], ...] = (("test", test), ("valid", valid))
    for part, share in wanted:
        if part not in made_by_user and share > 0:
            given[part] = _draw(photos, pairs, free + given["train"], share, f"{seed}/{part}")
            gone = set(given[part])
            free = [row for row in free if row not in gone]
            given["train"] = [row for row in given["train"] if row not in gone]
            if not given[part]:
                raise _none_drawn(part)
    parts = {"train": sorted(given["train"] + free), "valid": sorted(given["valid"]), "test": sorted(given["test"])}
    _check_parts(photos, parts)
    n_given = sum(photo.part is not None for photo in photos)
    everything = n_given == len(photos) and len(made_by_user) == len(PARTS)
    method: Literal["folders", "drawn", "mixed"] = "folders" if everything else "mixed" if n_given else "drawn"
    names = {part: sorted(photos[row].sha256 for row in rows) for part, rows in parts.items()}
    arrays = {part: np.array(rows, dtype=np.int64) for part, rows in parts.items()}
    return Split(arrays["train"], arrays["valid"], arrays["test"], method=method, key=short_hash(names))


def judged_share(photos: Sequence[Photo], test: float, valid: float) -> float:
    """Share of some listed photos that will be in the test or the valid part, in [0, 1); see ``split_photos``."""
    given = Counter(photo.part for photo in photos)
    n_test = given["test"] or test * (len(photos) - given["valid"])
    n_valid = given["valid"] or valid * (len(photos) - n_test)
    return (n_test + n_valid) / max(1, len(photos))


def split_notes(catalogue: Catalogue, split: Split, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """What the user should know of a split: look-alikes in different parts, classes that a part lacks.

    Args:
        catalogue: whose usable photos were split.
        split: as ``split_photos`` made it.
        pairs: near duplicates, as indices into ``catalogue.usable``.
    """
    parts, usable = split.part_of(), catalogue.usable
    notes = []
    across = [(i, j) for i, j in pairs if parts[i] != parts[j]]
    if across:
        i, j = across[0]
        notes.append(
            f"{len(across)} pairs of near duplicates lie in different parts of yours, such as {usable[i].path} "
            f"({parts[i]}) and {usable[j].path} ({parts[j]}): the error may look lower than it is"
        )
    first_rows: dict[str, dict[Part, int]] = {}
    for row, photo in enumerate(usable):
        if photo.group:
            first_rows.setdefault(photo.group, {}).setdefault(parts[row], row)
    if torn := [rows for rows in first_rows.values() if len(rows) > 1]:
        i, j = list(torn[0].values())[:2]
        notes.append(
            f"{len(torn)} {'group lies' if len(torn) == 1 else 'groups lie'} in different parts of yours, such as that "
            f"of {usable[i].path} ({parts[i]}) and {usable[j].path} ({parts[j]}): the error may look lower than it is"
        )
    for part, rows in (("test", split.test), ("valid", split.valid)):
        missing = sorted(set(catalogue.classes) - {usable[row].label for row in rows}) if len(rows) else []
        if missing:
            more = f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""
            notes.append(
                f"no photo of {missing[0]!r}{more} is in the {part} part: "
                "its photos look alike, are one group, or are too few to share out"
            )
    return notes


def find_problems(catalogue: Catalogue) -> list[str]:
    """Why training cannot start with these photos, worst first; empty where it can."""
    counts = Counter(photo.label for photo in catalogue.usable)
    # Folders without photos and classes that the user dropped are no trouble; those whose photos are all bad are.
    opened = [photo for photo in catalogue.photos if photo.label and (photo.sha256 or photo.status == "unreadable")]
    found = Counter(photo.label for photo in opened)
    if not counts:
        bad = [photo for photo in catalogue.photos if photo.status == "unreadable"]
        why = f"; {bad[0].path} {bad[0].reason}" if bad else ""
        return [f"no usable photo in {catalogue.source} ({len(catalogue.photos)} files found{why})"]
    problems = [
        f"class {label!r}: none of its {n} files can be used" for label, n in found.items() if label not in counts
    ]
    if len(counts) == 1:
        problems.insert(0, f"only one class was found, {next(iter(counts))!r}; two or more are needed to tell apart")
    for label, n in sorted(counts.items(), key=lambda item: item[1]):
        if n < MIN_PHOTOS_PER_CLASS:
            noun = "photo" if n == 1 else "photos"
            problems.append(
                f"class {label!r} has {n} {noun}; at least {MIN_PHOTOS_PER_CLASS} different ones are needed"
            )
    in_train = {photo.label for photo in catalogue.usable if photo.part in (None, "train")}
    problems += [
        f"class {label!r} is in test or valid and train lacks it" for label in sorted(counts) if label not in in_train
    ]
    return problems


def _check_parts(photos: Sequence[Photo], parts: dict[str, list[int]]) -> None:
    in_train = {photos[row].label for row in parts["train"]}
    for part in ("test", "valid"):
        missing = sorted({photos[row].label for row in parts[part]} - in_train)
        if missing:
            raise DataError(
                f"class {missing[0]!r} is in {part} and train lacks it",
                hint="its photos may all be near duplicates or one group; add different ones, or drop the class",
            )


def _none_drawn(part: Part) -> DataError:
    return DataError(
        f"no photo can be drawn for {part}: what each class has left is one group or near duplicates",
        hint="add different photos, or let --group-by make smaller groups",
    )


def _join_given(
    photos: Sequence[Photo], pairs: Sequence[tuple[int, int]], given: dict[Part, list[int]], free: list[int]
) -> list[int]:
    """Give a free photo that is tied to the user's test or valid part to that part; returns the others."""
    if not free or not (given["test"] or given["valid"]):
        return free
    left: list[int] = []
    for unit in _units(photos, pairs, free + given["test"] + given["valid"], ""):
        parts = {photos[row].part for row in unit.rows}
        new = [row for row in unit.rows if photos[row].part is None]
        place = given["test"] if "test" in parts else given["valid"] if "valid" in parts else left
        place += new
    return sorted(left)


def _draw(
    photos: Sequence[Photo], pairs: Sequence[tuple[int, int]], rows: list[int], share: float, salt: str
) -> list[int]:
    """Draw ``share`` of each class of ``rows``; at least one unit, and never its last."""
    drawn: list[int] = []
    by_class: dict[str, list[_Unit]] = defaultdict(list)
    for unit in _units(photos, pairs, rows, salt):
        by_class[unit.label].append(unit)
    for units in by_class.values():
        wanted = max(1, round(share * sum(len(unit.rows) for unit in units)))
        # What the user put in train goes last: it moves only where nothing else can be drawn.
        units.sort(key=lambda unit: (any(photos[row].part for row in unit.rows), unit.order))
        taken: list[int] = []
        for unit in units[:-1]:
            # A group larger than what is still wanted would unbalance the part; a later, smaller one may fit.
            if len(unit.rows) <= wanted - len(taken) or (not taken and len(unit.rows) <= 2 * wanted):
                taken += unit.rows
        if not taken and len(units) > 1:
            taken += min(units, key=lambda unit: len(unit.rows)).rows
        drawn += taken
    return drawn


def _units(photos: Sequence[Photo], pairs: Sequence[tuple[int, int]], rows: list[int], salt: str) -> list[_Unit]:
    """Join photos of one group and near duplicates; a unit's class is its commonest."""
    parent = {row: row for row in rows}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first_of_group: dict[str, int] = {}
    for row in rows:
        group = photos[row].group
        if group:
            parent[root(row)] = root(first_of_group.setdefault(group, row))
    for i, j in pairs:
        if i in parent and j in parent:
            parent[root(j)] = root(i)
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        members[root(row)].append(row)
    units = []
    for together in members.values():
        label = Counter(photos[row].label for row in together).most_common(1)[0][0]
        first = min(photos[row].sha256 for row in together)
        order = hashlib.sha256(f"{salt}/{first}".encode()).hexdigest()
        units.append(_Unit(order, tuple(together), label))
    return units


def draw_folds(
    photos: Sequence[Photo], pairs: Sequence[tuple[int, int]], rows: Sequence[int], n_folds: int, seed: int
) -> IntArray:
    """Deal some photos into folds, class by class, whole groups at a time.

    Args:
        photos: the usable photos of a catalogue.
        pairs: near duplicates, as indices into ``photos``.
        rows: which of them to deal.
        n_folds: at least 2.
        seed: of the draw.

    Returns:
        (len(rows),) fold numbers in [0, n_folds).
    """
    fold_of: dict[int, int] = {}
    sizes = [0] * n_folds
    by_class: dict[str, list[_Unit]] = defaultdict(list)
    for unit in _units(photos, pairs, list(rows), f"{seed}/fold"):
        by_class[unit.label].append(unit)
    for label in sorted(by_class):
        in_class = [0] * n_folds
        for unit in sorted(by_class[label], key=lambda unit: (-len(unit.rows), unit.order)):
            fold = min(range(n_folds), key=lambda fold: (in_class[fold], sizes[fold], fold))
            in_class[fold] += len(unit.rows)
            sizes[fold] += len(unit.rows)
            fold_of.update(dict.fromkeys(unit.rows, fold))
    return np.array([fold_of[row] for row in rows], dtype=np.int64)


def draw_share(labels: IntArray, n_wanted: int, n_least: int, seed: int) -> IntArray:
    """Draw about ``n_wanted`` rows at random, the same share of each class, and so few of none that it is lost.

    Args:
        labels: (N,) class numbers.
        n_wanted: rows to draw in all.
        n_least: rows of each class that are drawn anyway, as far as it has them.
        seed: of the draw.

    Returns:
        The rows, ascending.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        drawn.append(rows[: max(n_least, round(n_wanted * len(rows) / len(labels)))])
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
