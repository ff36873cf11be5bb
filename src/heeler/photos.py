"""The photos of a run: each file read once, and each photo given its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heeler.clock import Clock
from heeler.data.catalogue import read_source
from heeler.data.duplicates import near_duplicates
from heeler.data.pixels import Pixels, read_photos
from heeler.data.split import split_notes, split_photos
from heeler.errors import UsageError
from heeler.plans import TrainOptions
from heeler.records import Catalogue, IntArray, Note, Preprocessing, Split


@dataclass(frozen=True)
class Photos:
    """A source that was read, split and numbered: (N,) labels and (N,) parts over ``catalogue.usable``."""

    catalogue: Catalogue
    pixels: Pixels
    pairs: Sequence[tuple[int, int]]
    split: Split
    labels: IntArray

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.catalogue.classes)


def list_files(source: str | Path, options: TrainOptions, clock: Clock) -> Catalogue:
    """Every file of a source and what it is to a run; none is opened."""
    with clock.stage("list files", unit="files"):
        return read_source(Path(source), labels=options.labels, nested=options.nested, group_by=options.group_by)


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
    if options.recipe.epochs and not len(split.test):
        raise UsageError("--test 0 leaves no photo to judge a tuned network by", hint="use --test 0.1, or --epochs 0")
    number = {name: k for k, name in enumerate(catalogue.classes)}
    labels = np.array([number[photo.label] for photo in catalogue.usable], dtype=np.int64)
    return Photos(catalogue, pixels, pairs, split, labels)
