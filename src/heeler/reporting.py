"""From a judged run to its report: what the page shows, put together from the photos, the network and the answers."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.doctor import hardware
from heeler.fixes import read_fixes
from heeler.judge.advice import kept_weights
from heeler.judge.explain import class_activation
from heeler.judge.gallery import Answers, Pictures
from heeler.judge.images import webp_bytes
from heeler.judge.prospects import CurvePoint, points_of
from heeler.judge.report import LARGE_QUALITY, ReportContext, Twin
from heeler.learn.augment import augment_pixels, seed_of
from heeler.learn.backbone import head_of
from heeler.learn.contest import Tuned
from heeler.learn.network import last_maps
from heeler.learn.probe import Probe
from heeler.photos import Photos
from heeler.plans import Plan, TrainOptions
from heeler.records import ByteArray, FloatArray, Preprocessing, RunResult
from heeler.runs import repeat_command

if TYPE_CHECKING:
    from heeler.train import Verdict

SHEET_PHOTOS = 12
SHEET_PX = 160
# Photos that a learning curve is judged on; with fewer in the test part, the valid part joins them.
ENOUGH_JUDGED = 200


@dataclass(frozen=True)
class Shown:
    """What every report of one run shows alike: photos, learning curve, number of flaws by kind, packages, machine."""

    pictures: Pictures
    curve: Sequence[CurvePoint]
    flaws: Mapping[str, int]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]


def shown_of(
    photos: Photos, probe: Probe, features: FloatArray, flaws: Mapping[str, int], versions: Mapping[str, str]
) -> Shown:
    """What every report of a run shows alike."""
    return Shown(pictures_of(photos), learning_curve(photos, probe, features), flaws, versions, hardware())


def pictures_of(photos: Photos) -> Pictures:
    """The photos of a run as pictures by path, copies included, from the pixels that training used.

    A photo that stands in two classes was not used; it is seen where it is kept from reading.
    """
    row_by_content = {photo.sha256: row for row, photo in enumerate(photos.catalogue.usable)}
    row_of = {photo.path: row_by_content.get(photo.sha256) for photo in photos.catalogue.photos if photo.sha256}
    row_of |= {photo.path: row for row, photo in enumerate(photos.catalogue.usable)}
    known = {path: row for path, row in row_of.items() if row is not None}
    unused = {photo.path: photo.sha256 for photo in photos.catalogue.photos if row_of.get(photo.path, 0) is None}
    n_used, more = len(photos.catalogue.usable), None
    if unused:
        there, more = photos.pixels.kept(sorted(set(unused.values())))
        row_beyond = {name: n_used + i for i, name in enumerate(there)}
        known |= {path: row_beyond[name] for path, name in unused.items() if name in row_beyond}

    def squares_of(paths: Sequence[str]) -> ByteArray:
        rows = np.array([known[path] for path in paths], dtype=np.int64)
        squares: ByteArray = photos.pixels.rows.take(np.where(rows < n_used, rows, 0))
        if more is not None and (rows >= n_used).any():
            squares[rows >= n_used] = more.take(rows[rows >= n_used] - n_used)
        return squares

    return Pictures(squares_of, known)


def learning_curve(photos: Photos, probe: Probe, features: FloatArray) -> tuple[CurvePoint, ...]:
    """The probe's heads on photos that none of them has seen: the test part, and the valid part where those are few."""
    split = photos.split
    rows = split.test if len(split.test) >= ENOUGH_JUDGED else np.concatenate([split.valid, split.test])
    if not probe.smaller or not len(rows):
        return ()
    heads = [*probe.smaller, (len(split.train), probe.head)]
    judged = features[rows]
    return tuple(points_of([n for n, _ in heads], [head.logits(judged) for _, head in heads], photos.labels[rows]))


def report_context(
    photos: Photos,
    verdict: Verdict,
    result: RunResult,
    *,
    tuned: Tuned | None,
    spec: Preprocessing,
    shown: Shown,
    options: TrainOptions,
    settings: Mapping[str, str],
    plan: Plan | None,
) -> ReportContext:
    """Everything that the report shows.

    Args:
        photos: of the run.
        verdict: the network that won, and its answers.
        result: the finished run.
        tuned: how tuning went, where there was any.
        spec: the preprocessing that the network wants.
        shown: the same object for each report of a run, so that pictures are made once.
        options: the user's.
        settings: what was chosen, name -> value.
        plan: where minutes decided.
    """
    usable, split, fixes = photos.catalogue.usable, photos.split, result.run / "fixes.csv"
    valid_labels = photos.labels[split.valid] if verdict.valid_probabilities is not None else None
    paths = [usable[row].path for row in verdict.rows]
    return ReportContext(
        title=photos.catalogue.name,
        result=result,
        n_found=len(photos.catalogue.photos),
        left_out=[(photo.path, photo.reason) for photo in photos.catalogue.photos if photo.status != "ok"],
        n_unreadable=sum(photo.status == "unreadable" for photo in photos.catalogue.photos),
        n_by_class=Counter(photo.label for photo in usable),
        answers=Answers(
            paths, photos.labels[verdict.rows], verdict.probabilities, verdict.valid_probabilities, valid_labels
        ),
        pictures=shown.pictures,
        maps=_maps(verdict, result, spec, shown.pictures),
        fixes=read_fixes(fixes) if fixes.is_file() else (),
        n_test_changed=photos.n_test_changed,
        twins=_twins(photos),
        curve=shown.curve,
        history=[asdict(epoch) for epoch in tuned.history] if tuned else (),
        n_epochs=tuned.n_epochs if tuned else 0.0,
        **_kept(tuned if verdict.chosen == "tuned" else None),
        stopped_early=bool(tuned and tuned.stopped_early),
        command=shlex.join(repeat_command(result.run, options)),
        versions=shown.versions,
        settings=settings,
        hardware=shown.hardware,
        seed=options.seed,
        split_key=split.key,
        plan=plan,
        **_sheet(photos, spec, options, is_tuned=tuned is not None),
    )


def _kept(tuned: Tuned | None) -> dict[str, Any]:
    if tuned is None:
        return {}
    words = kept_weights(tuned.kind, tuned.best_epoch, tuned.best_loss, tuned.best_error)
    return {"kept": words, "kept_epoch": tuned.best_epoch}


def _maps(verdict: Verdict, result: RunResult, spec: Preprocessing, pictures: Pictures) -> FloatArray | None:
    """Where the network looked in the worst photos, for the class that it predicted."""
    worst = result.scores.top_losses
    maps = last_maps(verdict.model, spec, pictures.squares_of([row.path for row in worst]))
    if maps is None:
        return None
    predicted = np.array([result.classes.index(row.predicted) for row in worst], dtype=np.int64)
    return class_activation(maps, head_of(verdict.model).weight, predicted)


def _twins(photos: Photos) -> list[Twin]:
    usable, parts = photos.catalogue.usable, photos.split.part_of()
    return [
        Twin((usable[i].path, usable[j].path), (parts[i], parts[j]), (usable[i].label, usable[j].label))
        for i, j in photos.pairs
        if parts[i] != parts[j]
    ]


def _sheet(photos: Photos, spec: Preprocessing, options: TrainOptions, *, is_tuned: bool) -> dict[str, Any]:
    """Photos that train, as training changed them where it tuned, and the words for that."""
    train_rows, usable = photos.split.train, photos.catalogue.usable
    rows = train_rows[np.linspace(0, len(train_rows) - 1, min(SHEET_PHOTOS, len(train_rows))).astype(int)]
    squares = photos.pixels.rows.take(rows)
    text = f"Photos after they were turned upright, resized and brought to {spec.image_px} x {spec.image_px} pixels."
    preset = options.recipe.augment
    if is_tuned and preset != "none":
        squares = augment_pixels(squares, preset, seed=seed_of(options.recipe.seed, 0, 0), out_px=squares.shape[1])
        text = (
            f"Photos of a batch that trained: turned upright, brought to {spec.image_px} x {spec.image_px} pixels, and "
            f"changed at random (--augment {preset}), so that the model learns what does not matter."
        )
    sheet = [
        (webp_bytes(square, SHEET_PX, LARGE_QUALITY), usable[row].label)
        for row, square in zip(rows, squares, strict=True)
    ]
    return {"sheet": sheet, "sheet_text": text}
