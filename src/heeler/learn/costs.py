"""What each step of a run costs: seconds by the measured rates of a machine. Nothing is decided here."""

from __future__ import annotations

from heeler.learn.depth import relative_work
from heeler.plans import Rates, Setting

# The speed of the head's fit that goes with the seconds below, for which no rate is timed: on a slower machine they are
# as many times more, within these limits.
FIT_PER_S, LEAST_SLOW, MOST_SLOW = 9.5e10, 0.5, 3.0
# Seconds of what is written, once before tuning and once after it: the bundle, the predictions, the report and the
# network's look at the worst photos. The first report makes a picture of each photo that is judged, up to so many.
WRITE_S = 0.5
PICTURE_S, MOST_PICTURES = 6e-4, 1000
# Of the seconds before a network's first photo, what it takes to judge it: no engine is chosen then.
JUDGE_ENGINE_SHARE = 0.5
# Seconds to look for flaws: neighbours in feature space, blur, duplicates; before tuning.
FLAWS_S_PER_PHOTO = 1e-4
# Floating-point operations of the probe's choice of penalty for each photo, class and feature: 5 folds, 124 gradients.
FIT_WORK = 5 * 124 * 4
FIT_BASE_S = 0.5
# The first fit of a run loads the libraries that it needs.
FIRST_FIT_S = 0.3
# Of the seconds before a network's first photo, what grows with its work: Lite2 at 288 px, 2.5 times the work of Lite0
# at 224 px, took 2.9 s where that took 1.7.
ENGINE_SHARE = 0.5
# Shares of the photos that the learning curve's heads are fitted on besides all, and the gradients of these fits, each
# counted by its share. A run of less than a minute goes without.
CURVE_SHARES = (0.1, 0.2, 0.4, 0.7)
CURVE_WORK = 4 * 20
LEAST_CURVE_S = 60.0
# Near duplicates: each pair of photos is glanced at.
SPLIT_S_PER_PHOTO, SPLIT_S_PER_PAIR = 3e-5, 7e-9


def read_s(rates: Rates, setting: Setting, n_photos: int) -> float:
    """Seconds to read some photos; what is known of them is known at the pixels that were timed."""
    is_base = (setting.image_px, setting.fit) == (rates.base.image_px, rates.base.fit)
    return n_photos * (1 - rates.known * is_base) / rates.decode_per_s


def untimed_s(rates: Rates, seconds: float) -> float:
    """Seconds on this machine of what takes so many where ``FIT_PER_S`` was timed."""
    return seconds * min(MOST_SLOW, max(LEAST_SLOW, FIT_PER_S / rates.fit_per_s))


def split_s(rates: Rates, n_photos: int) -> float:
    """Seconds to find near duplicates and to give each photo its part."""
    return untimed_s(rates, SPLIT_S_PER_PHOTO * n_photos + SPLIT_S_PER_PAIR * n_photos**2 / 2)


def forward_s(rates: Rates, setting: Setting, n_photos: int) -> float:
    """Seconds for the features of some photos."""
    return n_photos * relative_work(setting) / relative_work(rates.base) / rates.forward_per_s


def engine_s(rates: Rates, setting: Setting) -> float:
    """Seconds before a network's first photo: it is exported and compiled."""
    work = relative_work(setting) / relative_work(rates.base)
    return rates.engine_s * (1 + ENGINE_SHARE * (work - 1))


def forward_per_s(rates: Rates, setting: Setting) -> float:
    """Photos whose features are computed in a second."""
    return 1 / forward_s(rates, setting, 1)


def fit_s(rates: Rates, n_photos: int, n_classes: int, n_features: int = 1280) -> float:
    """Seconds to fit the linear head and to choose its penalty."""
    return FIT_BASE_S + FIT_WORK * n_photos * n_classes * n_features / rates.fit_per_s


def flaws_s(rates: Rates, n_photos: int) -> float:
    """Seconds to look for flaws in photos and labels."""
    return untimed_s(rates, FLAWS_S_PER_PHOTO * n_photos)


def curve_shares(budget_s: float) -> tuple[float, ...]:
    """Shares of the photos for the learning curve of a run of so many seconds; 0 is no limit."""
    return CURVE_SHARES if not budget_s or budget_s >= LEAST_CURVE_S else ()


def curve_s(rates: Rates, n_photos: int, n_classes: int, budget_s: float, n_features: int = 1280) -> float:
    """Seconds to fit the heads of the learning curve."""
    return CURVE_WORK * len(curve_shares(budget_s)) * n_photos * n_classes * n_features / rates.fit_per_s


def write_s(rates: Rates, n_judged: int) -> float:
    """Seconds to write everything the first time."""
    return untimed_s(rates, WRITE_S + PICTURE_S * min(n_judged, MOST_PICTURES))


def finish_s(rates: Rates, setting: Setting, n_judged: int) -> float:
    """Seconds to judge a tuned network on some photos and to write everything once more."""
    judge_s = JUDGE_ENGINE_SHARE * rates.engine_s + rates.exact_work * forward_s(rates, setting, n_judged)
    return judge_s + untimed_s(rates, WRITE_S)
