"""The story: a folder becomes a catalogue, pixels, features, a head, perhaps a tuned network, scores, and a model.

Each step is one call into one room; this is the only module that sees all four.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heeler.clock import Clock
from heeler.data.catalogue import read_source, write_catalogue
from heeler.data.duplicates import near_duplicates
from heeler.data.pixels import Pixels, read_photos
from heeler.data.split import draw_folds, split_notes, split_photos
from heeler.errors import UsageError
from heeler.files import write_bytes, write_json
from heeler.judge.images import jpeg_bytes
from heeler.judge.report import ReportContext, write_report
from heeler.judge.scores import fit_temperature, score, scores_to_json, softmax
from heeler.learn.backbone import DEFAULT_BACKBONE, Backbone, load_backbone, with_head
from heeler.learn.features import compute_features, feature_engine, known_features
from heeler.learn.network import network_logits
from heeler.learn.probe import N_FOLDS, fit_probe
from heeler.learn.tune import Tuned, fine_tune
from heeler.records import (
    Catalogue,
    Fit,
    FloatArray,
    IntArray,
    Note,
    OnEvent,
    Prediction,
    Preprocessing,
    Recipe,
    RunResult,
    Scores,
    Split,
    ignore_events,
)
from heeler.runs import claim_run, discard_unfinished
from heeler.ship.bundle import write_bundle
from heeler.ship.card import model_card, versions
from heeler.ship.rows import write_predictions

# Below this many photos a drawn test part is too small to say much, and every photo is judged out of fold instead.
FEW_PHOTOS = 500
SHEET_PHOTOS = 12


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose; every field has the default of ``heeler train``.

    Args:
        out: run folder to make; ``runs/<source's name>-<n>`` where None.
        labels: CSV that renames, merges or drops class folders.
        nested: the class is the whole path below the source, not its first level.
        test: share of the photos to keep for the headline figure, in [0, 1).
        valid: share of the rest to keep for choosing, in (0, 1).
        seed: of the split and of training.
        group_by: a column of the CSV, or a regex on the path; photos of one group stay in one part.
        backbone: timm's name of the network.
        weights: safetensors file with its pretrained weights, in place of the embedded or the hub's.
        image_px: side of the network's input in pixels; the backbone's own where None.
        fit: how a photo becomes a square.
        alpha: colour behind transparent pixels, 8-bit RGB.
        recipe: fine-tuning; 0 epochs leave the probe.
        command: the words of the command line, for the report.
    """

    out: Path | None = None
    labels: Path | None = None
    nested: bool = False
    test: float = 0.2
    valid: float = 0.1
    seed: int = 42
    group_by: str | None = None
    backbone: str = DEFAULT_BACKBONE
    weights: Path | None = None
    image_px: int | None = None
    fit: Fit = "crop"
    alpha: tuple[int, int, int] = (255, 255, 255)
    recipe: Recipe = field(default_factory=Recipe)
    command: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Candidate:
    """A network that could be the result, and its logits (n, K) on the valid and the test part."""

    name: Literal["probe", "tuned"]
    model: Any
    valid_logits: FloatArray
    test_logits: FloatArray


@dataclass(frozen=True)
class Verdict:
    """The network that won, and how it did on ``rows``: temperature, probabilities (n, K) and scores."""

    chosen: Literal["probe", "tuned"]
    model: Any
    temperature: float
    rows: IntArray
    probabilities: FloatArray
    scores: Scores


def train(source: str | Path, options: TrainOptions | None = None, on_event: OnEvent = ignore_events) -> RunResult:
    """Learn to tell the classes of a source apart, and measure how well.

    Args:
        source: folder, table (CSV, TSV) or archive (zip, tar) of labelled photos; it is never written to.
        options: see ``TrainOptions``.
        on_event: told of stages, progress, epochs and notes.

    Returns:
        Paths of what was made, scores and timings.

    Raises:
        UsageError: an option does not make sense, or the run folder is taken.
        DataError: the photos cannot be learnt from; nothing is left behind.
        ResourceError: the disk is full, or weights cannot be had.
    """
    source, options = Path(source), options or TrainOptions()
    clock = Clock(on_event)
    with clock.stage("list files", unit="files"):
        catalogue = read_source(source, labels=options.labels, nested=options.nested, group_by=options.group_by)
    run = claim_run(options.out, source, catalogue.name)
    try:
        with clock.stage("load backbone", unit=""):
            backbone = load_backbone(options.backbone, weights=options.weights, image_px=options.image_px)
            spec = replace(backbone.spec, fit=options.fit, alpha=options.alpha)
        photos = read_and_split(catalogue, spec, options, clock)
        clock.log_to(run / "history.jsonl")
        parts = dict(zip((photo.path for photo in photos.catalogue.usable), photos.split.part_of(), strict=True))
        write_catalogue(run / "catalogue.csv", photos.catalogue, parts)

        features, engine = all_features(photos, backbone, spec, clock)
        candidates = [probe := probe_candidate(photos, backbone, features, options, clock)]
        tuned = None
        if options.recipe.epochs > 0:
            tuned = tune(photos, backbone, probe, spec, options.recipe, clock)
            candidates.append(tuned_candidate(photos, tuned, spec, clock))
        with clock.stage("judge", unit=""):
            verdict = judge(photos, backbone, features, candidates, options)
        settings = {**_settings(options, spec), "engine": engine, "split": photos.split.method}
        return write_everything(run, photos, verdict, tuned, spec, options, settings, clock)
    except BaseException:
        discard_unfinished(run)
        raise


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


def all_features(photos: Photos, backbone: Backbone, spec: Preprocessing, clock: Clock) -> tuple[FloatArray, str]:
    """Features (N, D) of every photo, and the engine that computed them: the fastest on this machine."""
    names = [photo.sha256 for photo in photos.catalogue.usable]
    known = known_features(backbone, spec, names)
    if known is not None:
        with clock.stage("features", total=len(names)):
            clock.count("features", 0)
        return known[0], f"{known[1]}, from an earlier run"
    with clock.stage("choose engine", unit=""):
        engine = feature_engine(backbone, spec, photos.pixels.rows)
    with clock.stage("features", total=len(names)) as tell:
        features, n_computed = compute_features(backbone, spec, photos.pixels.rows, names, engine, tell)
        clock.count("features", n_computed)
    return features, f"{engine.name} {engine.precision}"


def probe_candidate(
    photos: Photos, backbone: Backbone, features: FloatArray, options: TrainOptions, clock: Clock
) -> Candidate:
    """A linear head on the frozen features of the train part."""
    split = photos.split
    with clock.stage("probe", unit=""):
        folds = draw_folds(photos.catalogue.usable, photos.pairs, split.train.tolist(), N_FOLDS, options.seed)
        probe = fit_probe(features[split.train], photos.labels[split.train], photos.n_classes, folds)
    head = probe.head
    return Candidate(
        "probe", with_head(backbone, head), head.logits(features[split.valid]), head.logits(features[split.test])
    )


def tune(
    photos: Photos, backbone: Backbone, probe: Candidate, spec: Preprocessing, recipe: Recipe, clock: Clock
) -> Tuned:
    """Fine-tune from the probe."""
    split, n_epochs = photos.split, recipe.epochs + recipe.frozen_epochs
    with clock.stage("tune", total=n_epochs * len(split.train)) as tell:
        rows, labels = photos.pixels.rows, photos.labels
        tuned = fine_tune(probe.model, rows, labels, split.train, split.valid, spec, recipe, tell)
        clock.rates_per_s["train_step"] = tuned.rate_per_s
    return tuned


def tuned_candidate(photos: Photos, tuned: Tuned, spec: Preprocessing, clock: Clock) -> Candidate:
    """The tuned network on the photos that it did not learn from."""
    split, rows = photos.split, photos.pixels.rows
    with clock.stage("predict", total=len(split.valid) + len(split.test)) as tell:
        logits = network_logits(tuned.model, spec, rows, np.concatenate([split.valid, split.test]), tell)
    return Candidate("tuned", tuned.model, logits[: len(split.valid)], logits[len(split.valid) :])


def judge(
    photos: Photos, backbone: Backbone, features: FloatArray, candidates: Sequence[Candidate], options: TrainOptions
) -> Verdict:
    """Choose on the valid part; measure on the test part, or out of fold where that would be too small."""
    split, labels = photos.split, photos.labels
    truth = labels[split.valid]
    temperatures = [fit_temperature(one.valid_logits, truth) for one in candidates]

    def on_valid(i: int) -> tuple[float, float]:
        probabilities = softmax(candidates[i].valid_logits, temperatures[i])
        right = probabilities[np.arange(len(truth)), truth]
        return float(np.mean(probabilities.argmax(1) != truth)), float(-np.log(np.maximum(right, 1e-7)).mean())

    best = min(range(len(candidates)), key=on_valid)
    winner, temperature = candidates[best], temperatures[best]
    test_is_drawn = all(photo.part != "test" for photo in photos.catalogue.usable)
    if winner.name == "probe" and test_is_drawn and (len(labels) < FEW_PHOTOS or len(split.test) == 0):
        return judge_out_of_fold(photos, backbone, features, options.seed)
    probabilities = softmax(winner.test_logits, temperature)
    scores = _scores(photos, split.test, probabilities, "test")
    return Verdict(winner.name, winner.model, temperature, split.test, probabilities, scores)


def judge_out_of_fold(photos: Photos, backbone: Backbone, features: FloatArray, seed: int) -> Verdict:
    """Few photos: the head learns from all of them, and each is judged by a head that did not see it."""
    rows = np.arange(len(photos.labels))
    folds = draw_folds(photos.catalogue.usable, photos.pairs, rows.tolist(), N_FOLDS, seed)
    probe = fit_probe(features, photos.labels, photos.n_classes, folds)
    temperature = fit_temperature(probe.logits, photos.labels)
    probabilities = softmax(probe.logits, temperature)
    scores = _scores(photos, rows, probabilities, "out-of-fold")
    return Verdict("probe", with_head(backbone, probe.head), temperature, rows, probabilities, scores)


def write_everything(
    run: Path,
    photos: Photos,
    verdict: Verdict,
    tuned: Tuned | None,
    spec: Preprocessing,
    options: TrainOptions,
    settings: dict[str, str],
    clock: Clock,
) -> RunResult:
    """The bundle first, since it is what must not be lost; then predictions, scores and the report."""
    catalogue, split, scores = photos.catalogue, photos.split, verdict.scores
    result = RunResult(
        run=run,
        model=run / "model",
        report=run / "report.html",
        predictions=run / "predictions.csv",
        chosen=verdict.chosen,
        scores=scores,
        n_train=len(split.train),
        n_valid=len(split.valid),
        n_test=len(split.test),
        classes=catalogue.classes,
        temperature=verdict.temperature,
        seconds={},
        rates_per_s={"train_step": 0.0, **clock.rates_per_s},
        notes=tuple(clock.notes),
    )
    facts = {
        "scores": scores_to_json(scores),
        "split": {"key": split.key, "seed": options.seed, "method": split.method},
        "chosen": verdict.chosen,
        "settings": settings,
        "versions": versions(),
    }
    with clock.stage("write model", unit=""):
        write_bundle(
            result.model,
            verdict.model,
            classes=catalogue.classes,
            spec=spec,
            temperature=verdict.temperature,
            card=model_card(catalogue.name, result, settings),
            facts=facts,
        )
        write_bytes(run / "classes.csv", (result.model / "classes.csv").read_bytes())
        write_predictions(result.predictions, _predictions(photos, verdict), len(catalogue.classes))
    with clock.stage("write report", unit=""):
        timed = replace(result, seconds=clock.totals())
        write_report(result.report, _report_context(photos, verdict, timed, tuned, options, settings))
    result = replace(result, seconds=clock.totals())
    write_json(run / "result.json", result.to_json())
    return result


def _scores(
    photos: Photos, rows: IntArray, probabilities: FloatArray, estimate: Literal["test", "out-of-fold"]
) -> Scores:
    usable = photos.catalogue.usable
    paths = [usable[row].path for row in rows]
    return score(probabilities, photos.labels[rows], photos.catalogue.classes, paths, estimate=estimate)


def _predictions(photos: Photos, verdict: Verdict) -> list[Prediction]:
    usable, classes = photos.catalogue.usable, photos.catalogue.classes
    predictions = []
    for row, probabilities in zip(verdict.rows, verdict.probabilities, strict=True):
        ranked = tuple((classes[k], float(probabilities[k])) for k in np.argsort(-probabilities, kind="stable"))
        predictions.append(Prediction(usable[row].path, "ok", ranked=ranked, given=usable[row].label))
    return predictions


def _report_context(
    photos: Photos,
    verdict: Verdict,
    result: RunResult,
    tuned: Tuned | None,
    options: TrainOptions,
    settings: dict[str, str],
) -> ReportContext:
    usable, squares, train_rows = photos.catalogue.usable, photos.pixels.rows, photos.split.train
    worst = [int(verdict.rows[loss.row]) for loss in verdict.scores.top_losses]
    thumbs = {usable[row].path: jpeg_bytes(square) for row, square in zip(worst, squares.take(worst), strict=True)}
    sheet_rows = train_rows[np.linspace(0, len(train_rows) - 1, min(SHEET_PHOTOS, len(train_rows))).astype(int)]
    sheet = [
        (jpeg_bytes(square), usable[row].label)
        for row, square in zip(sheet_rows, squares.take(sheet_rows), strict=True)
    ]
    return ReportContext(
        title=photos.catalogue.name,
        result=result,
        n_found=len(photos.catalogue.photos),
        left_out=[(photo.path, photo.reason) for photo in photos.catalogue.photos if photo.status != "ok"],
        n_unreadable=sum(photo.status == "unreadable" for photo in photos.catalogue.photos),
        n_by_class=Counter(photo.label for photo in usable),
        thumbnails=thumbs,
        sheet=sheet,
        command=shlex.join(options.command),
        versions=versions(),
        settings=settings,
        seed=options.seed,
        split_key=photos.split.key,
        history=[asdict(epoch) for epoch in tuned.history] if tuned else (),
    )


def _settings(options: TrainOptions, spec: Preprocessing) -> dict[str, str]:
    recipe = options.recipe
    return {
        "backbone": options.backbone,
        "image": f"{spec.image_px} px, {spec.fit}",
        "test and valid share": f"{options.test:g} and {options.valid:g}",
        "epochs": f"{recipe.epochs}",
    } | ({"augment": recipe.augment} if recipe.epochs else {})
