"""How deep to tune: which stages of a network train, how many epochs some seconds have room for, what these bring.

With few seconds only the last stages train, whose steps are fast; with more time more stages, or all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from heeler.plans import Rates, Setting

# Work of a forward pass against EfficientNet-Lite0's at the same pixels, as timed; others are taken to cost the same.
RELATIVE_WORK = {"tf_efficientnet_lite0": 1.0, "tf_efficientnet_lite1": 1.3, "tf_efficientnet_lite2": 1.5}
# Tuning for less than this would be over before its first steps are done.
MIN_TUNING_S = 5.0
# With fewer, the rate has no time to come down: docs/recipe.md.
MIN_EPOCHS = 2.0
# The share of tuning's time for the first stages of views, and most views.
VIEWS_SHARE, MAX_VIEWS = 0.35, 12


@dataclass(frozen=True)
class Depth:
    """The part of a network that tuning trains.

    Args:
        last_stages: how many stages it is, and the head; 0 is all layers.
        step_work: time of a step, against that of the last two stages.
        gain: share of the loss that tuning takes off at most, in [0, 1).
        enough_epochs: that it takes to get there; a single one gains nothing.
    """

    last_stages: int
    step_work: float
    gain: float
    enough_epochs: float

    def gain_after(self, n_epochs: float) -> float:
        """Share of the loss that so many epochs take off."""
        if n_epochs < MIN_EPOCHS:
            return 0.0
        return self.gain * min(1.0, (n_epochs - 1) / (self.enough_epochs - 1))

    def __str__(self) -> str:
        return f"the last {self.last_stages} stages" if self.last_stages else "all layers"


# As on clothing and on solar cells: docs/recipe.md. Where a network is not divided, its steps are timed as they are.
DEPTHS = (Depth(2, 1.0, 0.2, 6), Depth(4, 1.8, 0.26, 10), Depth(0, 5.3, 0.28, 16))
WHOLE = (Depth(0, 1.0, 0.28, 8),)


def relative_work(setting: Setting) -> float:
    """Work of one photo's forward pass; EfficientNet-Lite0 at 224 px is 1."""
    return RELATIVE_WORK.get(setting.backbone, 1.0) * (setting.image_px / 224) ** 2


def depths_of(rates: Rates) -> tuple[Depth, ...]:
    """The depths that this machine can tune at."""
    return DEPTHS if rates.view_per_s else WHOLE


def epochs_in(rates: Rates, setting: Setting, n_photos: int, seconds: float, depth: Depth) -> float:
    """Epochs of tuning that some seconds have room for, the first stages of a few views included."""
    work = n_photos * relative_work(setting) / relative_work(rates.base)
    if rates.view_per_s and depth.last_stages:
        if rates.engine_s + work / rates.view_per_s > VIEWS_SHARE * seconds:
            return 0.0  # not one view
        seconds -= min(VIEWS_SHARE * seconds, MAX_VIEWS * work / rates.view_per_s)
    return max(0.0, seconds * rates.step_per_s / depth.step_work / work)


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
        return depth.gain_after(epochs_in(rates, setting, n_photos, seconds, depth))

    best = max(depths_of(rates), key=gain)
    return best, gain(best)
