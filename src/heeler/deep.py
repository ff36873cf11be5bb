"""``heeler check --deep``: what a frozen network makes of the photos and their labels, without a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heeler.check import CheckResult, Reading, read_all, result_of
from heeler.clock import Clock
from heeler.data.split import draw_folds
from heeler.errors import UsageError
from heeler.files import is_inside
from heeler.fixes import count_actions, read_fixes, words_to_read, write_fixes
from heeler.flaws import Flaw, count_kinds, find_flaws
from heeler.learn.choose import Look
from heeler.learn.probe import N_FOLDS, fit_probe
from heeler.photos import Photos, labels_of, list_files
from heeler.planning import first_look
from heeler.plans import TrainOptions
from heeler.records import FloatArray, OnEvent, ignore_events
from heeler.train import all_features

DEFAULT_FIXES = Path("fixes.csv")


@dataclass(frozen=True)
class DeepResult:
    """What ``heeler check --deep`` found.

    Args:
        check: what a plain check finds.
        flaws: what seems wrong with photos and labels, the most important first.
        fixes: the table that was written; None where the photos cannot be trained on, which ``check`` tells.
        read_with: words of a command line that reads the photos in the same way.
        named_with: those of them that name the classes.
    """

    check: CheckResult
    flaws: Sequence[Flaw]
    fixes: Path | None
    read_with: tuple[str, ...] = ()
    named_with: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler check --deep --json`` prints."""
        return {
            **self.check.to_json(),
            "flaws": count_kinds(self.flaws),
            "found": [{"kind": flaw.kind, **asdict(flaw.fix)} for flaw in self.flaws],
            "fixes": str(self.fixes) if self.fixes else None,
        }


def check_deep(
    source: str | Path,
    options: TrainOptions | None = None,
    *,
    out: Path = DEFAULT_FIXES,
    on_event: OnEvent = ignore_events,
) -> DeepResult:
    """Read a source, compute the features of its photos, and judge each photo by a head that did not see it.

    Pixels and features are kept in heeler's cache, so a training that follows computes neither again.

    Args:
        source: folder, table or archive of labelled photos; it is never written to.
        options: what a training would be asked; the default network looks unless they name one.
        out: table to write, see ``heeler.fixes``; one without decisions that is there is replaced.
        on_event: told of stages and progress.

    Raises:
        UsageError: the source or an option does not make sense, or the table cannot be put there.
        DataError: nothing in the source can be read as labelled photos.
        ResourceError: the disk is full, or weights cannot be had.
    """
    source, options, clock = Path(source), options or TrainOptions(), Clock(on_event)
    _require_place(out, source)
    catalogue = list_files(source, options, clock)
    with clock.stage("load backbone", unit=""):
        look = first_look(options)
    reading = read_all(catalogue, look.spec, clock, test=options.test, valid=options.valid, seed=options.seed)
    photos = photos_of(reading)
    if photos is None:
        return DeepResult(result_of(reading, clock), (), None)
    features, logits = judge_all(photos, look, options.seed, clock)
    with clock.stage("find flaws", unit=""):
        flaws = find_flaws(photos, features, logits)
        write_fixes(out, [flaw.fix for flaw in flaws])
    named = {"labels": options.labels, "nested": options.nested}
    words = [tuple(words_to_read(asked)) for asked in (vars(options), named)]
    return DeepResult(result_of(reading, clock), flaws, out, *words)


def judge_all(photos: Photos, look: Look, seed: int, clock: Clock) -> tuple[FloatArray, FloatArray]:
    """Features (N, D) of every photo, and its logits (N, K) by a head that was fitted without it."""
    features, _ = all_features(photos, look, clock)
    with clock.stage("probe", unit=""):
        rows = np.arange(len(photos.labels))
        folds = draw_folds(photos.catalogue.usable, photos.pairs, rows.tolist(), N_FOLDS, seed)
        return features, fit_probe(features, photos.labels, photos.n_classes, folds).logits


def photos_of(reading: Reading) -> Photos | None:
    """The photos of a run, from a reading; None where training could not start."""
    if reading.split is None:
        return None
    return Photos(reading.catalogue, reading.pixels, reading.pairs, reading.split, labels_of(reading.catalogue))


def _require_place(out: Path, source: Path) -> None:
    """Refuse a place inside the photos, and a table in which somebody has decided something.

    Raises:
        UsageError: one of these.
        DataError: another kind of file is there.
    """
    if source.is_dir() and is_inside(out, source):
        raise UsageError(
            f"the table would be written to {out}, inside the photos in {source}",
            hint="choose a place elsewhere with --out, or run the command from another folder",
        )
    if not os.path.lexists(out):
        return
    n_decided = sum(n for action, n in count_actions(read_fixes(out)).items() if action)
    if n_decided:
        raise UsageError(
            f"{out} is there, and {n_decided:,} of its rows are decided", hint="choose another name with --out"
        )
