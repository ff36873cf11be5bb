"""The data doctor's part of a run: what seems wrong with the photos and labels of a run, the most important first.

It looks at what a run has anyway (pixels, miniatures, features, and answers of heads that did not see the photo), and
says each problem in words, as a row of ``fixes.csv`` that a person decides about.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from heeler.data.duplicates import exact_duplicates
from heeler.fixes import Fix, read_fixes, write_fixes
from heeler.judge.quality import find_faults, measure_looks
from heeler.judge.scores import fit_temperature, softmax
from heeler.judge.suspects import find_outliers, find_suspects
from heeler.photos import Photos
from heeler.records import Catalogue, FloatArray, IntArray, Part, Photo

Kind = Literal[
    "across parts", "two classes", "label", "blank", "dark", "tiny", "odd shape", "blurred", "outlier",
    "near duplicate", "exact copy",
]  # fmt: skip
# The most important first: what makes the error look lower than it is, then what teaches the wrong thing.
KINDS: tuple[Kind, ...] = get_args(Kind)
# What one photo of a kind is called, and several are.
IN_WORDS: Mapping[Kind, tuple[str, str]] = {
    "across parts": ("look-alike in another part", "look-alikes in different parts"),
    "two classes": ("look-alike in another class", "look-alikes in different classes"),
    "label": ("label that may be wrong", "labels that may be wrong"),
    "blank": ("blank", "blank"),
    "dark": ("dark", "dark"),
    "tiny": ("tiny", "tiny"),
    "odd shape": ("of an odd shape", "of an odd shape"),
    "blurred": ("blurred", "blurred"),
    "outlier": ("unlike all others", "unlike all others"),
    "near duplicate": ("near duplicate", "near duplicates"),
    "exact copy": ("exact copy", "exact copies"),
}
# Kinds that are about two photos or more.
OF_PAIRS: tuple[Kind, ...] = ("across parts", "two classes", "near duplicate", "exact copy")
PART_RANK: Mapping[Part, int] = {"test": 0, "valid": 1, "train": 2}
# Squares in memory at once.
BLOCK = 64


@dataclass(frozen=True)
class Flaw:
    """One problem of one photo: its kind, and the row of ``fixes.csv`` that says it."""

    kind: Kind
    fix: Fix


def find_flaws(photos: Photos, features: FloatArray, logits: FloatArray) -> list[Flaw]:
    """Look for suspicious labels, outliers, poor photos and duplicates.

    Args:
        photos: of a run.
        features: (N, D) float32 of its usable photos.
        logits: (N, K) float32, of each photo by a head that did not see it.

    Returns:
        The problems by ``KINDS``, and the worst of each kind first: of look-alikes in different parts those of
        different classes. A test photo's says that it is one.
    """
    usable, parts = photos.catalogue.usable, photos.split.part_of()
    copies = [*_copies(photos.catalogue), *_look_alikes(usable, photos.pairs, parts)]
    told = {(one.fix.path, one.fix.suggested) for one in copies}
    labels = [one for one in _labels(photos, logits) if (one.fix.path, one.fix.suggested) not in told]
    faults = _faults(photos)
    poor = {one.fix.path for one in faults}
    outliers = [
        Flaw("outlier", Fix(usable[row].path, "outlier: unlike the photos of every class", usable[row].label))
        for row in find_outliers(features).rows
        if usable[row].path not in poor
    ]
    in_test = {path for path, part in photos.parts.items() if part == "test"}
    found = [*copies, *labels, *faults, *outliers]
    return [_flagged(one, in_test) for one in sorted(found, key=_rank)]


def honest_probabilities(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Probabilities (N, K) of logits by heads that did not see the photos, made as sure as they are right."""
    return softmax(logits, fit_temperature(logits, labels))


def count_kinds(flaws: Sequence[Flaw]) -> dict[str, int]:
    """How many problems of each kind were found, in the order of ``KINDS``; kinds without any are left out."""
    counts = Counter(flaw.kind for flaw in flaws)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def flaws_text(flaws: Sequence[Flaw]) -> str:
    """What was found, in one line: ``34 labels that may be wrong, 5 blurred``."""
    return ", ".join(counted(kind, n) for kind, n in count_kinds(flaws).items())  # type: ignore[arg-type]


def counted(kind: Kind, n: int) -> str:
    """So many photos of a kind, in words: ``5 blurred``."""
    return f"{n:,} {IN_WORDS[kind][n != 1]}"


def next_step(run: Path) -> str:
    """What to do with the flaws of a run, in one line."""
    quoted, table = shlex.quote(str(run)), shlex.quote(str(run / "fixes.csv"))
    return f"look at them with heeler fix {quoted}, then train again with --fixes {table}"


def keep_flaws(file: Path, flaws: Sequence[Flaw], earlier: Path | None = None) -> list[Flaw]:
    """Write ``fixes.csv``, unless a person has decided something in the one that is there.

    Args:
        file: the table to write.
        flaws: as they were found.
        earlier: a table whose decisions were applied. They are carried over, so that the new table is all that the next
            training needs, and nobody is asked about these photos again.

    Returns:
        The flaws of photos that nobody has decided about.

    Raises:
        DataError: a file that is there is no such table.
        ResourceError: the disk is full or the place cannot be written.
    """
    decided = [fix for fix in read_fixes(earlier) if fix.action] if earlier else []
    known = {fix.path for fix in decided}
    new = [flaw for flaw in flaws if flaw.fix.path not in known]
    if not (file.exists() and any(fix.action for fix in read_fixes(file))):
        write_fixes(file, [*(flaw.fix for flaw in new), *decided])
    return new


def _rank(flaw: Flaw) -> tuple[int, bool]:
    return KINDS.index(flaw.kind), flaw.kind == "across parts" and not flaw.fix.suggested


def _flagged(flaw: Flaw, in_test: set[str]) -> Flaw:
    fix = flaw.fix
    if fix.path not in in_test:
        return flaw
    return Flaw(flaw.kind, Fix(fix.path, f"{fix.problem} (test photo)", fix.given, fix.suggested, fix.action))


def _labels(photos: Photos, logits: FloatArray) -> Iterator[Flaw]:
    usable, classes = photos.catalogue.usable, photos.catalogue.classes
    probabilities = honest_probabilities(logits, photos.labels)
    suspects = find_suspects(probabilities, photos.labels)
    for row, likelier in zip(suspects.rows.tolist(), suspects.likelier.tolist(), strict=True):
        given, p = usable[row].label, probabilities[row]
        problem = f"label: {classes[likelier]} {_at(p[likelier])}, {given} {_at(p[photos.labels[row]])}"
        yield Flaw("label", Fix(usable[row].path, problem, given, classes[likelier]))


def _at(share: float) -> str:
    return f"at {100 * share:.0f} %" if share >= 0.005 else "below 1 %"


def _faults(photos: Photos) -> list[Flaw]:
    usable, pixels = photos.catalogue.usable, photos.pixels
    looks = measure_looks(pixels.rows.batches(BLOCK), pixels.thumbs)
    sizes_px = np.array([(photo.width_px, photo.height_px) for photo in usable], dtype=np.int64).reshape(-1, 2)
    return [
        Flaw(fault.kind, Fix(usable[fault.row].path, f"{fault.kind}: {fault.words}", usable[fault.row].label))
        for fault in find_faults(looks, sizes_px)
    ]


def _copies(catalogue: Catalogue) -> Iterator[Flaw]:
    """Files with the same bytes: each that is in two classes, and each that is counted as another."""
    for copies in exact_duplicates(catalogue):
        for photo in copies:
            other = next((copy for copy in copies if copy.label != photo.label), None)
            if other is not None:
                problem = f"two classes: same file as {other.path} ({other.label})"
                yield Flaw("two classes", Fix(photo.path, problem, photo.label, other.label))
            elif photo.status == "duplicate" and (far := _in_another_part(photo, copies)) is not None:
                problem = f"across parts: same file as {far.path} ({far.part})"
                yield Flaw("across parts", Fix(photo.path, problem, photo.label))
            elif photo.status == "duplicate":
                yield Flaw("exact copy", Fix(photo.path, f"exact copy: {photo.reason}", photo.label))


def _in_another_part(photo: Photo, copies: Sequence[Photo]) -> Photo | None:
    """The copy in another part of the user's own; the one that judges before the one that chooses."""
    others = [copy for copy in copies if copy.part and photo.part and copy.part != photo.part]
    return min(others, key=lambda copy: PART_RANK[copy.part or "train"], default=None)


def _look_alikes(usable: Sequence[Photo], pairs: Sequence[tuple[int, int]], parts: Sequence[Part]) -> Iterator[Flaw]:
    """At most one row for each photo of each kind: a thousand frames of one scene are a thousand rows."""
    told: set[tuple[Kind, int]] = set()

    def tell(kind: Kind, row: int, other: int, where: str) -> Iterator[Flaw]:
        if (kind, row) not in told:
            told.add((kind, row))
            photo, like = usable[row], usable[other]
            suggested = like.label if like.label != photo.label else ""
            named = f"{like.path} ({where})" if where else like.path
            yield Flaw(kind, Fix(photo.path, f"{kind}: looks like {named}", photo.label, suggested))

    for i, j in pairs:
        first, second = usable[i].label, usable[j].label
        if parts[i] != parts[j]:
            kept, other = sorted((i, j), key=lambda row: PART_RANK[parts[row]])
            where = parts[kept] if first == second else f"{parts[kept]}, {usable[kept].label}"
            yield from tell("across parts", other, kept, where)
        elif first != second:
            yield from tell("two classes", i, j, second)
            yield from tell("two classes", j, i, first)
        else:
            yield from tell("near duplicate", j, i, "")
