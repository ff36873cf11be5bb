"""From minutes to a plan, and from the plan's trials to the way a run looks at its photos."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from heeler.clock import Clock
from heeler.data.catalogue import thin_catalogue
from heeler.data.pixels import read_again
from heeler.data.split import draw_folds, draw_share, judged_share
from heeler.errors import UsageError
from heeler.learn.backbone import DEFAULT_BACKBONE
from heeler.learn.calibrate import calibrate, tuning_rates
from heeler.learn.choose import Look, load_look, try_settings
from heeler.learn.costs import forward_per_s
from heeler.learn.depth import BEFORE_ALL, MIN_TUNING_S, before_all_s, best_depth, epochs_in, views_in
from heeler.learn.plan import MIN_OF_CLASS, choose, chosen_text, plan_rest, plan_run, spare_s, to_try, tuning_s
from heeler.learn.probe import N_FOLDS
from heeler.learn.rates import first_restraint
from heeler.learn.team import n_launched
from heeler.photos import Photos, list_files
from heeler.plans import Plan, Recipe, Setting, TrainOptions
from heeler.records import Catalogue, Note, OnEvent, Planned, ignore_events

# A choice that is slower than planned may take so many times its seconds: the last of its settings is worth them.
CHOICE_SLACK = 1.2


def plan_only(source: str | Path, options: TrainOptions | None = None, on_event: OnEvent = ignore_events) -> Plan:
    """What ``train`` would do with its minutes; a few photos are read to time this machine, and no run is begun.

    Raises:
        UsageError: the options leave nothing to plan.
        DataError: the source holds no photos.
    """
    source, options = Path(source), options or TrainOptions()
    clock = Clock(on_event)
    catalogue = list_files(source, options, clock)
    with clock.stage("load backbone", unit=""):
        look = first_look(options)
    plan = plan_first(catalogue, look, None, options, clock)[2]
    if plan is None:
        raise UsageError("a fixed recipe has no plan", hint="give --minutes, and no --epochs")
    return plan


def first_look(options: TrainOptions) -> Look:
    """What the user asked for; where that is left to the plan, the default to begin with."""
    name, fit = options.backbone or DEFAULT_BACKBONE, options.fit or "crop"
    return load_look(name, options.image_px, fit, weights=options.weights, alpha=options.alpha)


def plan_first(
    catalogue: Catalogue, look: Look, saved: Plan | None, options: TrainOptions, clock: Clock
) -> tuple[Catalogue, Look, Plan | None]:
    """Time this machine on the user's photos, and say what the minutes will be used for; None where epochs decide.

    Args:
        catalogue: as listed.
        look: to begin with.
        saved: the plan of the run to go on with, which stays as it is.
        options: the user's.
        clock: of the run.

    Returns:
        The photos to read, how to read them, and the plan.
    """
    counts = Counter(photo.label for photo in catalogue.usable)
    if not options.budget_s or not counts:
        return catalogue, look, None
    plan, engine = saved, None
    if plan is None:
        with clock.stage("calibrate", unit=""):
            rates, engine = calibrate(catalogue, look.backbone, look.spec)
        free = [name for name in ("backbone", "image_px", "fit") if getattr(options, name) is None]
        if options.weights:
            free = [name for name in free if name != "backbone"]
        judged = judged_share(catalogue.usable, options.test, options.valid)
        may_tune = options.test > 0 or any(photo.part == "test" for photo in catalogue.usable)
        plan = plan_run(options.budget_s, clock.total_s, list(counts.values()), rates, free, judged, may_tune=may_tune)
    clock.tell(Planned(plan))
    if plan.n_read < plan.n_found:
        catalogue = thin_catalogue(catalogue, plan.n_read, MIN_OF_CLASS, options.seed)
    # A run that goes on begins with the same pixels: look-alikes, and so the parts, hang on them.
    look = replace(look, engine=engine) if plan.first == look.setting else look_of(plan.first, options)
    return catalogue, look, plan


def choose_look(
    plan: Plan | None, photos: Photos, first: Look, options: TrainOptions, clock: Clock
) -> tuple[Look, Photos, Plan | None]:
    """Try the plan's settings on photos that train; where another is better, read all photos again as it wants them."""
    if plan is None:
        return first, photos, None
    if plan.chosen:
        look = first if plan.chosen == first.setting else look_of(plan.chosen, options)
        return look, _as_wanted(photos, first, look, clock), plan
    usable, train_rows = photos.catalogue.usable, photos.split.train
    make = partial(look_of, options=options)
    with clock.stage("choose", total=1 + len(to_try(plan.first, plan.candidates)), unit="settings") as tell:
        if plan.candidates:
            rows = train_rows[draw_share(photos.labels[train_rows], plan.n_sample, N_FOLDS, options.seed)]
            sample = replace(photos.catalogue, photos=tuple(usable[row] for row in rows))
            folds = draw_folds(usable, photos.pairs, rows.tolist(), N_FOLDS, options.seed)
            most_s = CHOICE_SLACK * plan.seconds_of("choose") + spare_s(plan, clock.total_s)
            deadline_s = time.perf_counter() + most_s
            trials, looks = try_settings(
                sample, photos.labels[rows], photos.n_classes, folds, first, plan.candidates, make, deadline_s, tell
            )
            best = choose(plan, trials, clock.total_s, photos.n_classes, len(train_rows))
            tell(Note(chosen_text(trials, best)))
            look, rate_per_s = looks[trials.index(best)], best.rate_per_s
        else:
            look, rate_per_s = first, forward_per_s(plan.rates, first.setting)
    plan = plan_rest(plan, look.setting, rate_per_s, clock.total_s, photos.n_classes)
    return look, _as_wanted(photos, first, look, clock), plan


def _as_wanted(photos: Photos, first: Look, look: Look, clock: Clock) -> Photos:
    """The photos with the pixels of a look, read again where they are not those of the first; the parts stay."""
    if look.setting == first.setting:
        return photos
    usable = photos.catalogue.usable
    with clock.stage("decode again", total=len(usable)) as tell:
        pixels = read_again(photos.catalogue, look.spec, tell)
        clock.count("decode again", pixels.n_decoded)
    return replace(photos, pixels=pixels)


def tuning_recipe(
    photos: Photos, look: Look, start: Any, plan: Plan | None, options: TrainOptions, clock: Clock
) -> tuple[Recipe, Plan | None]:
    """The user's fixed recipe, or tuning for what is left of the minutes; the plan says how long that is.

    Args:
        photos: of the run.
        look: that was chosen.
        start: timm network with the head that tuning starts from.
        plan: of the run; None where epochs decide.
        options: the user's.
        clock: of the run.
    """
    if plan is None:
        return options.recipe, None
    n_train, n_judged = len(photos.split.train), len(photos.split.valid) + len(photos.split.test)

    def left(plan: Plan) -> float:
        return tuning_s(plan, look.setting, clock.total_s, n_judged) if plan.may_tune else 0.0

    if plan.tune_s is None and left(plan) >= MIN_TUNING_S:
        plan = _timed_anew(plan, photos, look, start, options, clock)
    rates = plan.rates
    if plan.tune_s is None:
        left_s = left(plan)
        depth, gain = best_depth(rates, look.setting, n_train, left_s)
        if left_s >= MIN_TUNING_S and not gain:
            n_epochs = epochs_in(rates, look.setting, n_train, left_s, depth)
            text = f"not tuned: there is time for {n_epochs:.1f} epochs, and it takes at least {depth.least_epochs:g}"
            clock.tell(Note(f"{text}; more minutes would help"))
        plan = replace(plan, tune_s=left_s if gain else 0.0)
    if not plan.tune_s:
        return replace(options.recipe, budget_s=0.0), plan
    depth, _ = best_depth(rates, look.setting, n_train, plan.tune_s)
    recipe = replace(options.recipe, budget_s=plan.tune_s)
    last_s = 0.0
    if n_launched() == 1:  # several processes train all layers, whatever the plan of one that they go on from
        last_s = before_all_s(rates, look.setting, n_train, plan.tune_s, depth)
    if last_s:
        depth = BEFORE_ALL
    if n_views := views_in(rates, look.setting, n_train, last_s or plan.tune_s, depth):
        recipe = replace(recipe, last_views=n_views, last_stages=depth.last_stages, last_s=last_s)
    return recipe, plan


def _timed_anew(plan: Plan, photos: Photos, look: Look, start: Any, options: TrainOptions, clock: Clock) -> Plan:
    """The plan with rates of the setting and the head that were chosen: how deep to tune hangs on them, and the machine
    may have been busy when it was timed first."""
    # By a choice's trial or by all features: an engine's own rate is of a batch or two, before all else.
    forward = max(clock.rates_per_s.get("features", 0.0), forward_per_s(plan.rates, look.setting))
    with clock.stage("time steps", unit=""):
        view, step = tuning_rates(start, look.spec, forward, Recipe().last_stages)
        restraint = 1.0
        if view and not options.recipe.lr:
            parts = photos.pixels.rows, photos.labels, photos.split.train
            restraint = first_restraint(start, *parts, look.spec, options.recipe)
    rates = replace(plan.rates, base=look.setting, forward_per_s=forward, view_per_s=view, step_per_s=step)
    return replace(plan, rates=replace(rates, restraint=restraint))


def look_of(setting: Setting, options: TrainOptions) -> Look:
    """A setting of the plan, with the user's weights where it is of the user's network."""
    weights = options.weights if setting.backbone == (options.backbone or DEFAULT_BACKBONE) else None
    return load_look(setting.backbone, setting.image_px, setting.fit, weights=weights, alpha=options.alpha)
