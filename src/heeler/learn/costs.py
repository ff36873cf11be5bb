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
# The head's fits: gradients of all folds together while a penalty is chosen, then of single heads; nearly the most
# that were counted on solar cells, clothing, maize leaves and Imagewoof (81 to 132; 22 to 44). A gradient reads each
# photo's features, which takes as long as so many columns of weights do, and moves vectors of the size of all weights,
# which takes as long as so many photos do. Operations for each photo, column and feature, at the timed speed; there are
# no more features than photos.
N_FITTED_FOLDS, FOLD_GRADIENTS, HEAD_GRADIENTS = 5, 130, 42
READ_COLUMNS, VECTOR_PHOTOS, FIT_WORK = 19, 2_000, 2.5
# Principal axes of the features: seconds, and operations for each photo and pair of features.
AXES_S, AXES_WORK = 0.34, 1.5
# The first fit of a run loads the libraries that it needs.
FIRST_FIT_S = 0.3
# Of the seconds before a network's first photo, what grows with its work: Lite2 at 288 px, 2.5 times the work of Lite0
# at 224 px, took 2.9 s where that took 1.7.
ENGINE_SHARE = 0.5
# Shares of the photos that the learning curve's heads are fitted on besides all, the gradients of these fits, and the
# same with each counted by its share. A run of less than a minute goes without.
CURVE_SHARES = (0.1, 0.2, 0.4, 0.7)
CURVE_GRADIENTS, CURVE_PASSES = 110, 32
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


def setup_s(rates: Rates, setting: Setting) -> float:
    """Seconds before the first photo of a setting's network; none where it is the one that was timed."""
    is_timed = (setting.backbone, setting.image_px) == (rates.base.backbone, rates.base.image_px)
    return 0.0 if is_timed else engine_s(rates, setting)


def forward_per_s(rates: Rates, setting: Setting) -> float:
    """Photos whose features are computed in a second."""
    return 1 / forward_s(rates, setting, 1)


def fit_s(rates: Rates, n_photos: int, n_classes: int, n_features: int = 1280) -> float:
    """Seconds to fit the linear head and to choose its penalty."""
    axes_s = untimed_s(rates, AXES_S) + AXES_WORK * n_photos * n_features**2 / rates.fit_per_s
    folds = FOLD_GRADIENTS, FOLD_GRADIENTS * n_photos, N_FITTED_FOLDS * n_classes
    heads = HEAD_GRADIENTS, HEAD_GRADIENTS * n_photos, n_classes
    return axes_s + sum(_gradients_s(rates, *each, min(n_photos, n_features)) for each in (folds, heads))


def _gradients_s(rates: Rates, n_gradients: int, n_photos: float, n_columns: int, n_features: int) -> float:
    """Seconds for gradients of so many columns of weights, by the photos that they see in all."""
    work = n_photos * (n_columns + READ_COLUMNS) + n_gradients * VECTOR_PHOTOS * n_columns
    return FIT_WORK * work * n_features / rates.fit_per_s


def flaws_s(rates: Rates, n_photos: int) -> float:
    """Seconds to look for flaws in photos and labels."""
    return untimed_s(rates, FLAWS_S_PER_PHOTO * n_photos)


def curve_shares(budget_s: float) -> tuple[float, ...]:
    """Shares of the photos for the learning curve of a run of so many seconds; 0 is no limit."""
    return CURVE_SHARES if not budget_s or budget_s >= LEAST_CURVE_S else ()


def curve_s(rates: Rates, n_photos: int, n_classes: int, budget_s: float, n_features: int = 1280) -> float:
    """Seconds to fit the heads of the learning curve."""
    if not curve_shares(budget_s):
        return 0.0
    return _gradients_s(rates, CURVE_GRADIENTS, CURVE_PASSES * n_photos, n_classes, min(n_photos, n_features))


def write_s(rates: Rates, n_judged: int) -> float:
    """Seconds to write everything the first time."""
    return untimed_s(rates, WRITE_S + PICTURE_S * min(n_judged, MOST_PICTURES))


def finish_s(rates: Rates, setting: Setting, n_judged: int) -> float:
    """Seconds to judge a tuned network on some photos and to write everything once more."""
    judge_s = JUDGE_ENGINE_SHARE * rates.engine_s + rates.exact_work * forward_s(rates, setting, n_judged)
    return judge_s + untimed_s(rates, WRITE_S)
