"""The story: a folder becomes a catalogue, pixels, features, a head, perhaps a tuned network, scores, and a model.

Each step is one call into one room; this is the only module that sees all four.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heeler.clock import Clock
from heeler.data.catalogue import write_catalogue
from heeler.data.split import draw_folds
from heeler.files import write_bytes, write_json
from heeler.flaws import count_kinds, find_flaws, flaws_text, keep_flaws, next_step
from heeler.follow import lead, require_first
from heeler.judge.certainty import ANSWER_ACCURACY, choosing, threshold_for
from heeler.judge.report import write_report
from heeler.judge.scores import fit_temperature, score, scores_to_json, softmax
from heeler.learn.backbone import Backbone, with_head
from heeler.learn.choose import Look
from heeler.learn.contest import Tuned
from heeler.learn.costs import curve_shares
from heeler.learn.features import compute_features, feature_engine, known_features
from heeler.learn.network import network_logits
from heeler.learn.probe import N_FOLDS, Probe, fit_probe
from heeler.learn.relay import tune_in_parts
from heeler.photos import Photos, list_files, read_and_split
from heeler.planning import choose_look, first_look, plan_first, tuning_recipe
from heeler.plans import Plan, Recipe, TrainOptions
from heeler.records import (
    FloatArray,
    IntArray,
    Note,
    OnEvent,
    Prediction,
    Preprocessing,
    RunResult,
    Scores,
    Status,
    ignore_events,
)
from heeler.reporting import Shown, report_context, shown_of
from heeler.runs import CHECKPOINT, claim_run, discard_unfinished, finish_run, save_plan, saved_plan, used_s
from heeler.ship.bundle import write_bundle
from heeler.ship.card import model_card, versions
from heeler.ship.rows import write_predictions
from heeler.stopping import StopRequest, raise_interrupted, stop_requests

# Below this many photos a drawn test part is too small to say much; where the probe is the result, every photo is
# judged out of fold instead.
FEW_PHOTOS = 500


@dataclass(frozen=True)
class Candidate:
    """A network that could be the result, and its logits (n, K) on the valid and the test part."""

    name: Literal["probe", "tuned"]
    model: Any
    valid_logits: FloatArray
    test_logits: FloatArray


@dataclass(frozen=True)
class Verdict:
    """The network that won, and how it did on ``rows``: temperature, probabilities (n, K) and scores.

    ``valid_probabilities`` are those of the photos that chose it; None where each photo was judged out of fold.
    """

    chosen: Literal["probe", "tuned"]
    model: Any
    temperature: float
    rows: IntArray
    probabilities: FloatArray
    scores: Scores
    valid_probabilities: FloatArray | None = None


def train(source: str | Path, options: TrainOptions | None = None, on_event: OnEvent = ignore_events) -> RunResult:
    """Learn to tell the classes of a source apart, and measure how well.

    Args:
        source: folder, table (CSV, TSV) or archive (zip, tar) of labelled photos; it is never written to.
        options: see ``TrainOptions``.
        on_event: told of the plan, stages, progress, epochs and notes.

    Returns:
        Paths of what was made, scores and timings.

    Raises:
        UsageError: an option does not make sense, or the run folder is taken.
        DataError: the photos cannot be learnt from; nothing is left behind.
        ResourceError: the disk is full, or weights cannot be had.
        Interrupted: the user stopped the run; where a model was there already, the best one is kept.
    """
    require_first()
    source, options, clock = Path(source), options or TrainOptions(), Clock(on_event)
    catalogue = list_files(source, options, clock)
    run = claim_run(options, source, catalogue.name)
    try:
        clock.count_earlier(used_s(run))
        with clock.stage("load backbone", unit=""):
            look = first_look(options)
        catalogue, look, plan = plan_first(catalogue, look, saved_plan(run), options, clock)
        photos = read_and_split(catalogue, look.spec, options, clock)
        clock.log_to(run / "history.jsonl")
        write_catalogue(run / "catalogue.csv", photos.catalogue, photos.parts)

        look, photos, plan = choose_look(plan, photos, look, options, clock)
        features, engine = all_features(photos, look, clock)
        settings = {**_settings(options, look), "engine": engine, "split": photos.split.method}
        probe, fitted = probe_candidate(photos, look, features, options, clock)
        flaws = note_flaws(run, photos, features, probe, fitted, options, clock)
        shown = shown_of(photos, fitted, features, flaws, versions())
        start = with_head(look.backbone, fitted.head)  # it has not seen the photos that choose
        recipe, plan = tuning_recipe(photos, look, start, plan, options, clock)
        save_plan(run, plan)

        def deliver(winner: Candidate, tuned: Tuned | None = None) -> RunResult:
            verdict = judge(photos, look.backbone, features, winner, options, clock)
            return write_everything(run, photos, verdict, tuned, look.spec, options, settings, plan, shown, clock)

        if tunes := bool(recipe.epochs or recipe.budget_s):
            (run / CHECKPOINT).mkdir(exist_ok=True)
        result = deliver(probe)  # whatever happens while tuning, this one stands
        lead(photos, look, start, recipe, plan)
        if not tunes:
            return result
        with stop_requests() as stop:
            tuned = tune(photos, start, look.spec, recipe, run / CHECKPOINT, stop, clock)
        result = deliver(tuned_candidate(photos, tuned, look.spec, clock) or probe, tuned)
        if tuned.stopped or stop.signum:
            raise_interrupted(stop.signum or signal.SIGTERM)  # one of several processes may have been asked
        finish_run(run)
        return result
    except BaseException:
        discard_unfinished(run)
        raise


def all_features(photos: Photos, look: Look, clock: Clock) -> tuple[FloatArray, str]:
    """Features (N, D) of every photo, and the engine that computed them: the fastest on this machine."""
    names = [photo.sha256 for photo in photos.catalogue.usable]
    backbone, spec, rows = look.backbone, look.spec, photos.pixels.rows
    known = known_features(backbone, spec, names)
    if known is not None:
        with clock.stage("features", total=len(names)):
            clock.count("features", 0)
        return known[0], f"{known[1]}, from an earlier run"
    engine = look.engine
    if engine is None:
        with clock.stage("choose engine", unit=""):
            engine = feature_engine(backbone, spec, rows)
    with clock.stage("features", total=len(names)) as tell:
        features, n_computed = compute_features(backbone, spec, rows, names, engine, tell)
        clock.count("features", n_computed)
    return features, f"{engine.name} {engine.precision}"


def probe_candidate(
    photos: Photos, look: Look, features: FloatArray, options: TrainOptions, clock: Clock
) -> tuple[Candidate, Probe]:
    """A linear head on frozen features, as the train part chose it, and how.

    Its answers to the valid part, by which it is chosen or not, are of the head that learnt from the train part alone.
    Where it is chosen, nothing is left to choose, so what answers from then on has learnt from both parts.
    """
    split, labels = photos.split, photos.labels
    with clock.stage("probe", unit=""):
        folds = draw_folds(photos.catalogue.usable, photos.pairs, split.train.tolist(), N_FOLDS, options.seed)
        fitted = fit_probe(
            features[split.train], labels[split.train], photos.n_classes, folds,
            more=(features[split.valid], labels[split.valid]), shares=curve_shares(options.budget_s),
        )  # fmt: skip
    logits = fitted.head.logits(features[split.valid]), fitted.head_of_more.logits(features[split.test])
    return Candidate("probe", with_head(look.backbone, fitted.head_of_more), *logits), fitted


def note_flaws(
    run: Path,
    photos: Photos,
    features: FloatArray,
    probe: Candidate,
    fitted: Probe,
    options: TrainOptions,
    clock: Clock,
) -> dict[str, int]:
    """Write what seems wrong with the photos and their labels into ``fixes.csv``, and count it by kind."""
    split = photos.split
    with clock.stage("find flaws", unit="") as tell:
        logits = np.empty((len(photos.labels), photos.n_classes), np.float32)
        logits[split.train], logits[split.valid], logits[split.test] = (
            fitted.logits, probe.valid_logits, probe.test_logits,
        )  # fmt: skip
        flaws = keep_flaws(run / "fixes.csv", find_flaws(photos, features, logits), options.fixes)
        if flaws:
            tell(Note(f"in the photos: {flaws_text(flaws)}; {next_step(run)}"))
    return count_kinds(flaws)


def tune(
    photos: Photos,
    start: Any,
    spec: Preprocessing,
    recipe: Recipe,
    folder: Path,
    stop: StopRequest,
    clock: Clock,
) -> Tuned:
    """Fine-tune from the network with the head of the train part."""
    split = photos.split
    n_epochs = recipe.epochs + recipe.frozen_epochs if recipe.epochs else 0
    with clock.stage("tune", total=n_epochs * len(split.train), budget_s=recipe.budget_s) as tell:
        rows, labels = photos.pixels.rows, photos.labels
        tuned = tune_in_parts(
            start, rows, labels, split.train, split.valid, spec, recipe, tell,
            folder=folder, resume=True, stop=stop,
        )  # fmt: skip
        clock.rates_per_s["train_step"] = tuned.rate_per_s
    return tuned


def tuned_candidate(photos: Photos, tuned: Tuned, spec: Preprocessing, clock: Clock) -> Candidate | None:
    """The tuned network on the photos that it did not learn from; None where its start is better on the valid part.

    The start is the probe, before that learnt from the photos that choose as well.
    """
    if not tuned.best_epoch:
        return None
    split, rows = photos.split, photos.pixels.rows
    with clock.stage("predict", total=len(split.valid) + len(split.test)) as tell:
        logits = network_logits(tuned.model, spec, rows, np.concatenate([split.valid, split.test]), tell)
    return Candidate("tuned", tuned.model, logits[: len(split.valid)], logits[len(split.valid) :])


def judge(
    photos: Photos,
    backbone: Backbone,
    features: FloatArray,
    winner: Candidate,
    options: TrainOptions,
    clock: Clock,
) -> Verdict:
    """Measure what won on the valid part: on the test part, or out of fold where that would be too small."""
    with clock.stage("judge", unit=""):
        temperature = fit_temperature(winner.valid_logits, photos.labels[photos.split.valid])
        test_is_drawn = all(photo.part != "test" for photo in photos.catalogue.usable)
        too_few = len(photos.labels) < FEW_PHOTOS or len(photos.split.test) == 0
        if winner.name == "probe" and test_is_drawn and too_few:
            return judge_out_of_fold(photos, backbone, features, options.seed)
        probabilities = softmax(winner.test_logits, temperature)
        scores = _scores(photos, photos.split.test, probabilities, "test")
        on_choosing = softmax(winner.valid_logits, temperature)
        return Verdict(
            winner.name, winner.model, temperature, photos.split.test, probabilities, scores, on_choosing
        )  # fmt: skip


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
    plan: Plan | None,
    shown: Shown,
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
        planned_s={stage.name: stage.seconds for stage in plan.stages} if plan else {},
        flaws=dict(shown.flaws),
        n_test_changed=photos.n_test_changed,
    )
    threshold = answer_threshold(verdict, photos)
    with clock.stage("write model", unit=""):
        write_bundle(
            result.model,
            verdict.model,
            classes=catalogue.classes,
            spec=spec,
            temperature=verdict.temperature,
            threshold=threshold,
            card=model_card(catalogue.name, result, settings),
            facts=_facts(verdict, photos, options, settings),
            replace=True,
        )
        write_bytes(run / "classes.csv", (result.model / "classes.csv").read_bytes())
        write_predictions(result.predictions, _predictions(photos, verdict, threshold), len(catalogue.classes))
    with clock.stage("write report", unit=""):
        timed = replace(result, seconds=clock.totals())
        context = report_context(
            photos, verdict, timed, tuned=tuned, spec=spec, shown=shown, options=options, settings=settings, plan=plan,
        )  # fmt: skip
        write_report(result.report, context)
    result = replace(result, seconds=clock.totals())
    write_json(run / "result.json", result.to_json())
    return result


def answer_threshold(verdict: Verdict, photos: Photos) -> float:
    """From which probability on the model answers: the report's; 0 where the photos are too few to tell."""
    labels = photos.labels[photos.split.valid] if verdict.valid_probabilities is not None else None
    judged = verdict.probabilities, photos.labels[verdict.rows]
    return threshold_for(*choosing(judged, (verdict.valid_probabilities, labels)), ANSWER_ACCURACY) or 0.0


def _facts(verdict: Verdict, photos: Photos, options: TrainOptions, settings: dict[str, str]) -> dict[str, Any]:
    """What the bundle tells of its making."""
    split = photos.split
    return {
        "scores": scores_to_json(verdict.scores),
        "split": {"key": split.key, "seed": options.seed, "method": split.method},
        "chosen": verdict.chosen,
        "settings": settings,
        "versions": versions(),
    }


def _scores(
    photos: Photos, rows: IntArray, probabilities: FloatArray, estimate: Literal["test", "out-of-fold"]
) -> Scores:
    usable = photos.catalogue.usable
    paths = [usable[row].path for row in rows]
    return score(probabilities, photos.labels[rows], photos.catalogue.classes, paths, estimate=estimate)


def _predictions(photos: Photos, verdict: Verdict, threshold: float) -> list[Prediction]:
    usable, classes = photos.catalogue.usable, photos.catalogue.classes
    predictions = []
    for row, probabilities in zip(verdict.rows, verdict.probabilities, strict=True):
        ranked = tuple((classes[k], float(probabilities[k])) for k in np.argsort(-probabilities, kind="stable"))
        status: Status = "ok" if ranked[0][1] >= threshold else "unsure"
        predictions.append(Prediction(usable[row].path, status, ranked=ranked, given=usable[row].label))
    return predictions


def _settings(options: TrainOptions, look: Look) -> dict[str, str]:
    recipe, spec = options.recipe, look.spec
    return {
        "backbone": look.backbone.name,
        "image": f"{spec.image_px} px, {spec.fit}",
        "test and valid share": f"{options.test:g} and {options.valid:g}",
        **({"minutes": f"{options.budget_s / 60:g}"} if options.budget_s else {"epochs": f"{recipe.epochs}"}),
    } | ({"augment": recipe.augment} if recipe.epochs or options.budget_s else {})
