"""How deep to tune: which stages of a network train, how many epochs some seconds have room for, what these bring.

With few seconds only the last stages train, whose steps are fast; with more time more stages, or all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from heeler.plans import Rates, Setting

# Work of a forward pass against EfficientNet-Lite0's at the same pixels, as timed; others are taken to cost the same.
RELATIVE_WORK = {"tf_efficientnet_lite0": 1.0, "tf_efficientnet_lite1": 1.3, "tf_efficientnet_lite2": 1.5}
# Tuning for less than this would be over before its first steps are done.
MIN_TUNING_S = 5.0
# What the last stages learn in less is lost in noise. On clothing (two drawings, one view, the rates coming down in the
# time that there is) 0.35, 0.6, 0.8, 1 and 2 epochs took 2, 6; 0, 3; 10, 8; 13, 14; and 18, 25 % off the loss.
# All layers were seen to do harm in less than two; in more than one, they are tried, and the guard on *valid* decides.
MIN_EPOCHS, MIN_EPOCHS_OF_ALL = 0.75, 1.0
# The most that the first stages of views may take of tuning's time; epochs for each view, and most views.
VIEWS_SHARE, EPOCHS_PER_VIEW, MAX_VIEWS = 0.5, 2.0, 12


@dataclass(frozen=True)
class Depth:
    """The part of a network that tuning trains.

    Args:
        last_stages: how many stages it is, and the head; 0 is all layers.
        step_work: time of a step, against that of the last two stages.
        gain: share of the loss that tuning takes off at most, in [0, 1).
        enough_epochs: that it takes to get there, the rate rising and falling once.
        enough_photos: that it takes as well, each counted as often as it is seen: a small set needs more epochs.
    """

    last_stages: int
    step_work: float
    gain: float
    enough_epochs: float
    enough_photos: int

    @property
    def least_epochs(self) -> float:
        """Fewer are of no use."""
        return MIN_EPOCHS if self.last_stages else MIN_EPOCHS_OF_ALL

    def gain_after(self, n_epochs: float, n_photos: int) -> float:
        """Share of the loss that some epochs take off, in [0, 1).

        Args:
            n_epochs: passes over the photos that train; fractions count.
            n_photos: that train.
        """
        if n_epochs < self.least_epochs:
            return 0.0
        return self.gain * min(1.0, n_epochs / self.enough_epochs, n_epochs * n_photos / self.enough_photos)

    def __str__(self) -> str:
        return f"the last {self.last_stages} stages" if self.last_stages else "all layers"


# As on clothing and on solar cells: docs/recipe.md. Where a network is not divided, its steps are timed as they are.
DEPTHS = (Depth(2, 1.0, 0.17, 2, 3_000), Depth(4, 2.1, 0.25, 2.5, 4_500), Depth(0, 4.5, 0.33, 40, 60_000))
WHOLE = (Depth(0, 1.0, 0.3, 4, 6_000),)
# Before all layers the last four stages train, for so many epochs; less than the least, or more than this share of the
# time, is not worth it.
BEFORE_ALL, BEFORE_EPOCHS, LEAST_BEFORE, BEFORE_SHARE = DEPTHS[1], 4.0, 2.0, 0.3


def relative_work(setting: Setting) -> float:
    """Work of one photo's forward pass; EfficientNet-Lite0 at 224 px is 1."""
    return RELATIVE_WORK.get(setting.backbone, 1.0) * (setting.image_px / 224) ** 2


def _as_restrained(rates: Rates, depth: Depth) -> Depth:
    """A depth with as many more epochs to get there as its rates are lower."""
    slower = 1 / rates.restraint if depth.last_stages else 1.0
    n_epochs, n_photos = slower * depth.enough_epochs, round(slower * depth.enough_photos)
    return replace(depth, enough_epochs=n_epochs, enough_photos=n_photos)


def depths_of(rates: Rates) -> tuple[Depth, ...]:
    """The depths that this machine can tune at."""
    return tuple(_as_restrained(rates, depth) for depth in DEPTHS) if rates.view_per_s else WHOLE


def views_in(rates: Rates, setting: Setting, n_photos: int, seconds: float, depth: Depth) -> int:
    """Views of each photo whose first stages are computed once: one for every few epochs; 0 where none is needed."""
    if not (rates.view_per_s and depth.last_stages):
        return 0
    work = n_photos * relative_work(setting) / relative_work(rates.base)
    epoch_s = work * depth.step_work / rates.step_per_s
    each_s = work / rates.view_per_s + EPOCHS_PER_VIEW / rates.restraint * epoch_s
    left_s = seconds - _views_s(rates, work, 1) + work / rates.view_per_s
    return max(1, min(MAX_VIEWS, math.floor(left_s / each_s + 1e-6)))


def _views_s(rates: Rates, work: float, n_views: int) -> float:
    """Seconds for the first stages of views; in the first of these, photos are as they are."""
    return rates.engine_s + work / rates.forward_per_s + (n_views - 1) * work / rates.view_per_s


def epochs_in(rates: Rates, setting: Setting, n_photos: int, seconds: float, depth: Depth) -> float:
    """Epochs of tuning that some seconds have room for, the first stages of the views included."""
    work = n_photos * relative_work(setting) / relative_work(rates.base)
    if n_views := views_in(rates, setting, n_photos, seconds, depth):
        views_s = _views_s(rates, work, n_views)
        if views_s > VIEWS_SHARE * seconds:
            return 0.0  # not one view
        seconds -= views_s
    return max(0.0, seconds * rates.step_per_s / depth.step_work / work)


def before_all_s(rates: Rates, setting: Setting, n_photos: int, seconds: float, depth: Depth) -> float:
    """Seconds of tuning for the last stages before all layers train; 0 where all layers are not to, or time is short.

    Args:
        rates: as measured.
        setting: of the frozen pass.
        n_photos: that train.
        seconds: for all of tuning.
        depth: that the time is best used at.
    """
    if depth.last_stages or not rates.view_per_s:
        return 0.0
    work = n_photos * relative_work(setting) / relative_work(rates.base)
    steps_s = BEFORE_EPOCHS * work * BEFORE_ALL.step_work / rates.step_per_s
    wanted_s = _views_s(rates, work, round(BEFORE_EPOCHS / EPOCHS_PER_VIEW)) + steps_s
    part_s = min(wanted_s, BEFORE_SHARE * seconds)
    return part_s if epochs_in(rates, setting, n_photos, part_s, BEFORE_ALL) >= LEAST_BEFORE else 0.0


def best_depth(rates: Rates, setting: Setting, n_photos: int, seconds: float) -> tuple[Depth, float]:
    """The depth from which most is expected in some seconds, and what that is: the share of the loss that goes.

    Args:
        rates: as measured.
        setting: of the frozen pass.
        n_photos: that train.
        seconds: for all of tuning.
    """

    def gain(depth: Depth) -> float:
        if seconds < MIN_TUNING_S:
            return 0.0
        return depth.gain_after(epochs_in(rates, setting, n_photos, seconds, depth), n_photos)

    best = max(depths_of(rates), key=gain)
    return best, gain(best)
