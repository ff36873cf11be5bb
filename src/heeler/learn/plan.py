"""Minutes -> what to do with them: arithmetic over measured rates, which touches no photo.

A plan is made twice. Before a run it says what will be read and tried. Once the settings were tried on a sample, the
frozen pass is known, and what is left of the time is for tuning.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from heeler.learn.costs import (
    FIRST_FIT_S,
    curve_s,
    finish_s,
    fit_s,
    flaws_s,
    forward_s,
    read_s,
    setup_s,
    split_s,
    write_s,
)
from heeler.learn.depth import BEFORE_ALL, RELATIVE_WORK, before_all_s, best_depth, epochs_in, relative_work
from heeler.plans import Plan, PlannedStage, Rates, Setting, Trial
from heeler.records import Fit

LARGE_BACKBONE = "tf_efficientnet_lite2"
# Sides that a first reading may fall back to, largest first; below the last, photos are left out instead: fewer pixels
# cost more than the photos that they make time for (docs/recipe.md, "Fewer pixels or fewer photos").
FIRST_SIDES_PX = (224, 192)
# Sides to try above the first: the largest that the time allows, the last only with minutes to spare for the choice.
LARGE_SIDES_PX, HUGE_PX, HUGE_CHOICE_S = (288, 256), 352, 100.0
# Shares of the budget: for trying settings, where tuning can use the time and where it cannot, and the most that the
# frozen pass may take of what is then left.
CHOICE_SHARES, LONG_CHOICE_SHARES = (0.0, 0.08, 0.15), (0.35, 0.5)
FROZEN_SHARE = 0.85
# Shares of the loss that trying the other geometry takes off, and trying more pixels and the larger network besides
# (none to a quarter of it, as sets differ), from many photos; half as much from so few.
GEOMETRY_GAIN, OTHERS_GAIN, HALF_SURE = 0.08, 0.05, 200
# Photos on which settings can be told apart at all, and beyond which more say little new.
MIN_SAMPLE, MAX_SAMPLE = 400, 2500
# At least so many photos of a class are read where the budget is too short for all.
MIN_OF_CLASS = 20


def spare_s(plan: Plan, elapsed_s: float) -> float:
    """Seconds that a choice may take besides its own, where a plan leaves time over: what no setting may count on.

    Args:
        plan: as made before the run.
        elapsed_s: seconds of the run until the choice begins.
    """
    late_s = max(0.0, elapsed_s - sum(plan.seconds_of(name) for name in ("prepare", "decode", "split")))
    left_s = plan.budget_s - late_s - sum(stage.seconds for stage in plan.stages)
    return (1 - FROZEN_SHARE) * max(0.0, left_s)


def plan_run(
    budget_s: float,
    elapsed_s: float,
    counts: Sequence[int],
    rates: Rates,
    free: Sequence[str],
    judged: float,
    *,
    may_tune: bool = True,
) -> Plan:
    """Plan a run before its photos are read.

    Args:
        budget_s: seconds that it may take in all.
        elapsed_s: seconds that are gone.
        counts: photos of each class, as listed.
        rates: as measured.
        free: which of ``backbone``, ``image_px`` and ``fit`` the user left to the plan.
        judged: share of the photos that a tuned network is judged on.
        may_tune: whether any are left to judge it by.
    """
    n_found, n_classes = sum(counts), len(counts)
    room_s = budget_s - elapsed_s - write_s(rates, round(judged * n_found))
    first, n_read = _first_setting(room_s, n_found, n_classes, rates, "image_px" in free)
    left_s = room_s - _pass_s(first, n_read, n_classes, rates)
    few = f"{n_read:,} of {n_found:,} photos: too little time for all" if n_read < n_found else f"{n_read:,} photos"
    known = f", {100 * rates.known:.0f} % of them already known" if rates.known >= 0.005 else ""
    before = [
        PlannedStage("prepare", elapsed_s, "list the files, load the network, time this machine"),
        PlannedStage("decode", read_s(rates, first, n_read), f"{few} at {rates.decode_per_s:,.0f}/s{known}"),
        PlannedStage("split", split_s(rates, n_read), "parts for learning, choosing, judging; near duplicates"),
    ]

    def with_choice(share: float) -> Plan:
        n_train = max(1, round((1 - judged) * n_read))
        tried, n_sample = _choice(first, n_read, n_train, n_classes, rates, share * budget_s, left_s, free)
        choice = PlannedStage(
            "choose",
            _choice_s(first, tried, n_sample, n_classes=n_classes, rates=rates),
            _choice_text(first, tried, n_sample),
        )
        features_s = forward_s(rates, first, n_read - n_sample) + (0.0 if tried else setup_s(rates, first))
        rest = _after_choice(first, n_read, n_classes, rates, features_s, budget_s)
        stages = (*before, choice, *rest)
        made = Plan(budget_s, first, tuple(tried), n_found, n_read, n_sample, judged, rates, stages, may_tune)
        return _filled(made, first)

    def worth(made: Plan) -> tuple[float, int, int]:
        return _promise(made), len(made.candidates), made.n_sample

    short, long = (max(map(with_choice, shares), key=worth) for shares in (CHOICE_SHARES, LONG_CHOICE_SHARES))
    return long if _promise(long) > _promise(short) and not long.seconds_of("tune") else short


def _promise(plan: Plan) -> float:
    """Share of the loss that a plan's choice and its tuning should take off."""
    tuned = best_depth(plan.rates, plan.first, _n_train(plan), plan.seconds_of("tune"))[1]
    tells_geometry = any(one.fit != plan.first.fit for one in plan.candidates)
    tells_others = any(one.image_px != plan.first.image_px for one in plan.candidates)
    chosen = GEOMETRY_GAIN * tells_geometry + OTHERS_GAIN * tells_others
    return 1 - (1 - tuned) * (1 - chosen * plan.n_sample / (plan.n_sample + HALF_SURE))


def plan_rest(plan: Plan, setting: Setting, rate_per_s: float, elapsed_s: float, n_classes: int) -> Plan:
    """The plan once the settings were tried: what has passed stays as it was planned, what follows is planned anew.

    Args:
        plan: as made before the run.
        setting: chosen for the frozen pass.
        rate_per_s: photos whose features it computes in a second.
        elapsed_s: seconds of the run until now.
        n_classes: K.
    """
    n_left = plan.n_read - plan.n_sample  # what was tried on the sample is known
    rates = replace(plan.rates, forward_per_s=rate_per_s * relative_work(setting) / relative_work(plan.rates.base))
    past = [stage for stage in plan.stages if stage.name in ("prepare", "decode", "split", "choose")]
    again = [PlannedStage("decode again", n_left / rates.decode_per_s, f"as {setting} wants the photos")]
    features_s = n_left / rate_per_s + (0.0 if plan.candidates else setup_s(plan.rates, setting))
    rest = _after_choice(setting, plan.n_read, n_classes, rates, features_s, plan.budget_s)
    if setting == plan.first:
        again = []
    late_s = elapsed_s - sum(stage.seconds for stage in past)
    return _filled(replace(plan, rates=rates, stages=(*past, *again, *rest), chosen=setting), setting, late_s)


def _after_choice(
    setting: Setting, n_photos: int, n_classes: int, rates: Rates, features_s: float, budget_s: float
) -> list[PlannedStage]:
    probe_s = fit_s(rates, n_photos, n_classes) + curve_s(rates, n_photos, n_classes, budget_s)
    return [
        PlannedStage("features", features_s, f"{setting}, of the photos that were not tried"),
        PlannedStage("probe", probe_s, "the last layer, its penalty by inner folds"),
        PlannedStage("tune", 0, ""),
        PlannedStage("finish", flaws_s(rates, n_photos), "judge, write the model, the predictions and the report"),
    ]


def _filled(plan: Plan, setting: Setting, late_s: float = 0) -> Plan:
    """Give what is left of the budget to tuning and to judging what it makes, where that is enough to be of use."""
    n_judged = round(plan.judged * plan.n_read)
    frozen_s = max(0.0, late_s) + sum(stage.seconds for stage in plan.stages) + write_s(plan.rates, n_judged)
    judge_s = finish_s(plan.rates, setting, n_judged)
    left_s = plan.budget_s - frozen_s - judge_s
    n_train = _n_train(plan)
    depth, gain = best_depth(plan.rates, setting, n_train, left_s)
    if gain and plan.may_tune:
        before_s = before_all_s(plan.rates, setting, n_train, left_s, depth)
        n_epochs = epochs_in(plan.rates, setting, n_train, left_s - before_s, depth)
        text = f"{depth}, about {n_epochs:.0f} epochs in the time that is left"
        if before_s:
            text = f"{BEFORE_ALL}, then {depth} for about {n_epochs:.0f} epochs"
        tune = PlannedStage("tune", left_s, text)
    else:
        why = "too little time for a pass over the photos" if plan.may_tune else "no photo is left to judge it by"
        tune, judge_s = PlannedStage("tune", 0, f"nothing: {why}"), 0
    last_s = write_s(plan.rates, n_judged) + plan.stages[-1].seconds + judge_s
    rest = {"tune": tune, "finish": replace(plan.stages[-1], seconds=last_s)}
    return replace(plan, stages=tuple(rest.get(stage.name, stage) for stage in plan.stages))


def _n_train(plan: Plan) -> int:
    return max(1, round((1 - plan.judged) * plan.n_read))  # none at all is refused later, in words


def _first_setting(left_s: float, n_found: int, n_classes: int, rates: Rates, may_shrink: bool) -> tuple[Setting, int]:
    """The largest pixels at which all photos can be read and their features computed; else fewer photos."""
    base = rates.base
    sides = [px for px in FIRST_SIDES_PX if px <= base.image_px] if may_shrink else []
    settings = [base, *(Setting(base.backbone, px, base.fit) for px in sides if px < base.image_px)]
    for setting in settings:
        if _pass_s(setting, n_found, n_classes, rates) <= FROZEN_SHARE * left_s:
            return setting, n_found

    def share_of(setting: Setting) -> float:
        fixed_s = _pass_s(setting, 0, n_classes, rates)
        return max(0.0, FROZEN_SHARE * left_s - fixed_s) / (_pass_s(setting, n_found, n_classes, rates) - fixed_s)

    # Few pixels, unless a network for these takes longer to set up than it saves.
    best = max((settings[-1], base), key=share_of)
    share = share_of(best)
    return best, max(min(n_found, n_classes * MIN_OF_CLASS), math.floor(share * n_found))


def _pass_s(setting: Setting, n_photos: int, n_classes: int, rates: Rates) -> float:
    forward = setup_s(rates, setting) + forward_s(rates, setting, n_photos)
    frozen_s = read_s(rates, setting, n_photos) + forward + fit_s(rates, n_photos, n_classes)
    return frozen_s + split_s(rates, n_photos) + flaws_s(rates, n_photos)


def _choice(
    first: Setting,
    n_photos: int,
    n_train: int,
    n_classes: int,
    rates: Rates,
    choice_s: float,
    left_s: float,
    free: Sequence[str],
) -> tuple[list[Setting], int]:
    """Settings to try beside the first, and on how many photos; none where there is no time to use another."""

    def is_affordable(setting: Setting) -> bool:
        more_s = forward_s(rates, setting, n_photos) - forward_s(rates, first, n_photos)
        return more_s + n_photos / rates.decode_per_s <= FROZEN_SHARE * (left_s - choice_s)

    affordable = alternatives(first, free, is_affordable, huge=choice_s >= HUGE_CHOICE_S)
    while affordable:
        trials_s = partial(_choice_s, first, affordable, n_classes=n_classes, rates=rates)
        n_sample = bisect_right(range(min(n_train, MAX_SAMPLE) + 1), choice_s, key=trials_s) - 1
        # A second network more is worth less than photos that tell the first from what there is.
        least = MIN_SAMPLE * max(1, len(_networks(affordable, rates))) ** 2
        if n_sample >= min(n_train, least):
            return affordable, n_sample
        affordable.pop()
    return [], 0


def alternatives(
    first: Setting, free: Sequence[str], is_affordable: Callable[[Setting], bool], *, huge: bool = False
) -> list[Setting]:
    """Settings worth a try beside the first, the most promising first.

    None of them is best everywhere: larger pixels, the larger network and the geometry each moved the error by up to
    3 points, one way on clothing and the other on solar cells (docs/recipe.md).

    Args:
        first: setting that every photo is read at.
        free: which of ``backbone``, ``image_px`` and ``fit`` may differ.
        is_affordable: whether there is time to use a setting.
        huge: whether to try the largest pixels too.
    """
    fits: tuple[Fit, ...] = ("crop", "squash") if "fit" in free else (first.fit,)
    names = [first.backbone]
    if "backbone" in free and first.backbone in RELATIVE_WORK and first.backbone != LARGE_BACKBONE:
        names.insert(0, LARGE_BACKBONE)

    def at(name: str, sides: Sequence[int]) -> list[Setting]:
        """The largest of some sides that there is time for, in each geometry."""
        sides = [px for px in sides if px > first.image_px] if "image_px" in free else [first.image_px]
        fitting = [px for px in sides if is_affordable(Setting(name, px, first.fit))]
        return [Setting(name, px, fit) for px in fitting[:1] for fit in fits]

    grid = [replace(first, fit=fit) for fit in fits]
    for sides in (LARGE_SIDES_PX, (HUGE_PX,))[: 2 if huge else 1]:
        grid += [setting for name in names for setting in at(name, sides)]
    return [setting for setting in dict.fromkeys(grid) if setting != first and is_affordable(setting)]


def to_try(first: Setting, candidates: Sequence[Setting]) -> list[Setting]:
    """Settings that a choice has time for beside the first: where that tells one geometry from another, others follow.

    What a geometry does to a set was much the same for both networks, and so the sample may be larger.
    """
    first_key = (first.backbone, first.image_px)
    tells = any((one.backbone, one.image_px) == first_key for one in candidates)
    if not tells:
        return list(candidates)
    seen: dict[tuple[str, int], Setting] = {}
    return [
        one
        for one in candidates
        if (key := (one.backbone, one.image_px)) == first_key or seen.setdefault(key, one) is one
    ]


def _choice_s(first: Setting, candidates: Sequence[Setting], n_sample: int, *, n_classes: int, rates: Rates) -> float:
    if not candidates:
        return 0.0
    candidates = to_try(first, candidates)
    engines_s = sum(setup_s(rates, setting) for setting in _networks([first, *candidates], rates))
    tries_s = sum(forward_s(rates, setting, n_sample) + n_sample / rates.decode_per_s for setting in candidates)
    fits_s = (len(candidates) + 1) * fit_s(rates, n_sample, n_classes) + FIRST_FIT_S
    return forward_s(rates, first, n_sample) + engines_s + tries_s + fits_s


def _networks(candidates: Sequence[Setting], rates: Rates) -> list[Setting]:
    """One of the settings for each network and side other than those that were timed."""
    networks = {(one.backbone, one.image_px): one for one in candidates}
    networks.pop((rates.base.backbone, rates.base.image_px), None)
    return list(networks.values())


def _choice_text(first: Setting, candidates: Sequence[Setting], n_sample: int) -> str:
    if not candidates:
        return "nothing to choose: no other setting fits into the minutes"
    n_tried = len(to_try(first, candidates))
    others = "1 other setting" if n_tried == 1 else f"{n_tried} other settings"
    return f"{others} on {n_sample:,} photos that train: pixels, geometry, network"


def choose(plan: Plan, trials: Sequence[Trial], elapsed_s: float, n_classes: int, n_tuned: int) -> Trial:
    """The setting that should come out best: its loss on the sample, times what tuning in the rest of the time leaves.

    Args:
        plan: of the run.
        trials: the first is the setting at which all photos are read already.
        elapsed_s: seconds of the run until now.
        n_classes: K.
        n_tuned: photos that train.

    Returns:
        The trial of the smallest expected loss among those whose pass over all photos fits and that are better than
        the first by more than chance; where there is none, the first: its photos are read already.
    """
    first, n_judged = trials[0], round(plan.judged * plan.n_read)

    def left_s(trial: Trial) -> float:
        n_left = plan.n_read - trial.n_photos
        again_s = 0.0 if trial is first else n_left / plan.rates.decode_per_s
        after_s = fit_s(plan.rates, plan.n_read, n_classes) + flaws_s(plan.rates, plan.n_read)
        frozen_s = n_left / trial.rate_per_s + after_s
        return plan.budget_s - elapsed_s - write_s(plan.rates, n_judged) - again_s - frozen_s

    def stays(trial: Trial) -> float:
        """Share of the loss that tuning leaves."""
        tune_s = left_s(trial) - finish_s(plan.rates, trial.setting, n_judged)
        return 1 - best_depth(plan.rates, trial.setting, n_tuned, tune_s)[1] if plan.may_tune else 1.0

    def expected(trial: Trial) -> float:
        return trial.loss * stays(trial)

    def is_better(trial: Trial) -> bool:
        return expected(first) - expected(trial) > trial.by_chance * stays(trial)

    return min((trial for trial in trials[1:] if left_s(trial) >= 0 and is_better(trial)), key=expected, default=first)


def chosen_text(trials: Sequence[Trial], best: Trial) -> str:
    """What a choice came to, in one line for people."""
    first = trials[0]
    figures = f"loss {best.loss:.3f} and {100 * best.error:.1f} % wrong out of fold on {best.n_photos:,} photos"
    if best is first:
        if len(trials) == 1:
            return f"chosen: {best.setting}; {figures}; there was no time to try another"
        others = "the other is not" if len(trials) == 2 else f"none of {len(trials) - 1} others is"
        return f"chosen: {best.setting}; {figures}; {others} expected to be better by more than chance in this time"
    return f"chosen: {best.setting}; {figures}; {first.setting} has {first.loss:.3f} and {100 * first.error:.1f} %"


def tuning_s(plan: Plan, setting: Setting, elapsed_s: float, n_judged: int) -> float:
    """Seconds left for tuning once the probe is there: the tuned network must still be judged and written.

    Args:
        plan: of the run.
        setting: of the frozen pass.
        elapsed_s: seconds of the run until now.
        n_judged: photos of the valid and the test part.
    """
    return plan.budget_s - elapsed_s - write_s(plan.rates, n_judged) - finish_s(plan.rates, setting, n_judged)
