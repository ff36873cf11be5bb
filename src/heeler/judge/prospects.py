"""What more photos would bring: a power law through the learning curve, carried on with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heeler.judge.advice import percent
from heeler.records import FloatArray

__all__ = ["CurvePoint", "Outlook", "look_ahead", "more_minutes", "more_photos", "points_of"]

# Fewer photos, points or mistakes than these tell nothing about the next point.
MIN_POINTS, MIN_JUDGED, MIN_WRONG = 4, 60, 8
# Exponents tried; those published for image classifiers lie between 0.1 and 0.7.
EXPONENTS = np.linspace(0.05, 1.5, 30)
N_DRAWS = 1000
# A smaller relative gain is no reason to collect photos; one that is smaller still is none.
LITTLE_GAIN, NO_GAIN = 0.07, 0.01
# With fewer epochs of tuning, a run usually ends while more would help.
FEW_EPOCHS = 6
# Relative fall of the validation loss over the last third of a run that counts as still falling.
STILL_FALLING = 0.02

_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class CurvePoint:
    """The head fitted on some of the photos that train, judged on photos kept out of all of them.

    Args:
        n_train: photos it was fitted on.
        wrong: (N,) whether each judged photo got another class than the given one; the same photos at each point.
    """

    n_train: int
    wrong: NDArray[np.bool_]

    @property
    def error(self) -> float:
        """Share of wrong answers, in [0, 1]."""
        return float(self.wrong.mean())


@dataclass(frozen=True)
class Outlook:
    """Where a learning curve leads.

    Args:
        n_now: photos of its last point.
        n_then: photos that it was carried on to.
        now: error of the last point, in [0, 1].
        then: expected error at ``n_then``.
        interval: 95 % interval of that, (low, high).
        is_gain: whether nearly all (97.5 %) of the refits expect less error there than at the last point.
        sizes: numbers of photos at which the fitted curve is drawn, up to ``n_then``.
        fitted: error of the curve at each of them.
        low: lower end of its 95 % interval there.
        high: upper end.
    """

    n_now: int
    n_then: int
    now: float
    then: float
    interval: tuple[float, float]
    is_gain: bool
    sizes: tuple[float, ...]
    fitted: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def look_ahead(points: Sequence[CurvePoint], times: float = 2.0, seed: int = 0) -> Outlook | None:
    """Fit ``a n^-b + c`` to the errors and carry it on.

    The inverse power law and the larger weight of later points: R. L. Figueroa et al., Predicting sample size required
    for classification performance, BMC Medical Informatics and Decision Making 12:8 (2012). The interval comes from
    refits to the errors on photos drawn again with replacement (B. Efron, 1979), the same draw at each point, and from
    what the refits leave unexplained.

    Args:
        points: in rising order of photos.
        times: how many times as many photos as the last point has to look ahead to.
        seed: of the draws.

    Returns:
        None where points, judged photos or mistakes are too few to tell.
    """
    sizes = np.array([point.n_train for point in points], np.float64)
    if len(set(sizes)) < MIN_POINTS or len(points[-1].wrong) < MIN_JUDGED or points[-1].wrong.sum() < MIN_WRONG:
        return None
    # Photos that are wrong at the same points are drawn together: there are few such patterns.
    patterns, counts = np.unique(np.stack([point.wrong for point in points], axis=1), axis=0, return_counts=True)
    rng, n = np.random.default_rng(seed), counts.sum()
    drawn_counts = np.vstack([counts, rng.multinomial(n, counts / n, N_DRAWS)])
    errors = drawn_counts @ patterns.astype(np.float64) / n
    scale, drawn = sizes[-1], np.geomspace(sizes[0], times * sizes[-1], 41)
    curves, unexplained = _curves(sizes / scale, errors, np.append(drawn, times * scale) / scale)
    noise = rng.standard_normal(N_DRAWS) * unexplained[0]
    beyond = np.append(np.maximum(0, drawn / scale - 1), times - 1) / (times - 1)  # none where it was measured
    is_gain = bool(np.quantile(curves[1:, -1] / np.maximum(errors[1:, -1], 1e-12), 0.975) < 1 - NO_GAIN)
    low, high = np.quantile(np.maximum(0, curves[1:] * (1 + noise[:, None] * beyond)), (0.025, 0.975), axis=0)
    return Outlook(
        int(sizes[-1]), round(times * scale), points[-1].error, float(curves[0, -1]),
        (float(min(low[-1], curves[0, -1])), float(max(high[-1], curves[0, -1]))), is_gain, tuple(drawn.tolist()),
        tuple(curves[0, :-1].tolist()), tuple(low[:-1].tolist()), tuple(high[:-1].tolist()),
    )  # fmt: skip


def _curves(sizes: _Doubles, errors: _Doubles, wanted: _Doubles) -> tuple[_Doubles, _Doubles]:
    """The best curve of each row of errors (R, P) at the wanted sizes, (R, M), and its relative residual (R,).

    For one exponent the rest is a straight line with both coefficients at 0 or more, which has a closed form. The
    curve goes through the last point, whose error is the one that the page tells.
    """
    weight = sizes / sizes.sum()
    best = np.full(len(errors), np.inf)
    fits = np.zeros((3, len(errors)))  # exponent, slope and floor
    mean_y = errors @ weight
    for exponent in EXPONENTS:
        x = sizes**-exponent
        mean_x = float(weight @ x)
        slope = np.maximum(errors @ (weight * (x - mean_x)) / float(weight @ (x - mean_x) ** 2), 0)
        floor = mean_y - slope * mean_x
        slope = np.where(floor < 0, errors @ (weight * x) / float(weight @ x**2), slope)
        floor = np.maximum(floor, 0)
        rest = (errors - floor[:, None] - slope[:, None] * x) ** 2 @ weight
        better = rest < best
        best = np.where(better, rest, best)
        fits[:, better] = np.stack([np.full(len(errors), exponent), slope, floor])[:, better]
    exponents, slope, floor = fits[:, :, None]
    curves = (floor + slope * wanted**-exponents) * (errors[:, -1:] / np.maximum(floor + slope, 1e-12))
    n_free = max(1, len(sizes) - 3)
    return curves, np.sqrt(best * len(sizes) / n_free) / np.maximum(errors[:, -1], 1e-12)


def more_photos(points: Sequence[CurvePoint], outlook: Outlook | None) -> str:
    """Whether more photos would help, in a sentence; "" where nothing was tried."""
    if not points:
        return ""
    last = points[-1]
    if outlook is None:
        n_wrong = int(last.wrong.sum())
        mistakes = "1 mistake" if n_wrong == 1 else f"{n_wrong:,} mistakes"
        return (
            f"Whether more photos would help cannot be told: {mistakes} on {len(last.wrong):,} judged photos make too "
            "few points to carry the learning curve on from."
        )
    low, high = outlook.interval
    change = f"the error of the last layer from {percent(outlook.now)} to about {percent(outlook.then)}"
    sentence = f"Twice as many photos would take {change} ({percent(low)} to {percent(high)})"
    if outlook.then > (1 - LITTLE_GAIN) * outlook.now:
        return f"{sentence}: more photos of the same kind would help little. Look at the mistakes first."
    sure = "" if outlook.is_gain else "; the points do not rule out that nothing is gained"
    return f"{sentence}, if the learning curve goes on as it began{sure}."


def more_minutes(
    losses: Sequence[float], n_epochs: float, *, budget_s: float, stopped_early: bool, tuned_is_better: bool
) -> str:
    """Whether more minutes would help, in a sentence.

    Args:
        losses: validation loss at each time that tuning was judged; empty where nothing was tuned.
        n_epochs: passes over the photos that tuning made.
        budget_s: seconds that the run was given; 0 where epochs decided.
        stopped_early: whether tuning ended because it had not become better for long.
        tuned_is_better: whether the tuned network was chosen.
    """
    if not losses:
        if budget_s:
            return (
                f"More minutes may help: {_minutes(budget_s)} had no room to tune the network, so only its last layer "
                "was trained on your photos."
            )
        return "More minutes may help: only the last layer was trained. heeler train --minutes 5 also tunes the rest."
    third = losses[: max(1, len(losses) - max(1, len(losses) // 3))]
    falling = min(losses) < (1 - STILL_FALLING) * min(third)
    if stopped_early:
        return "More minutes would not help: tuning ended early, when its loss had stopped falling."
    if falling or n_epochs < FEW_EPOCHS:
        passes = f"{n_epochs:.1f} passes over the photos"
        had = f"its loss was still falling after {passes}" if falling else f"there was time for {passes}"
        what = "the network was tuned" if tuned_is_better else "tuning did not beat the last layer alone"
        return f"More minutes may help: {what}, and {had}."
    if not tuned_is_better:
        return "More minutes are unlikely to help: tuning the network was tried, and the last layer alone was as good."
    return "More minutes would help little: the loss of tuning had levelled off."


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:g} minute" if minutes == 1 else f"{minutes:g} minutes"


def points_of(counts: Sequence[int], logits: Sequence[FloatArray], labels: NDArray[np.int64]) -> list[CurvePoint]:
    """Curve points of the answers (N, K) that heads fitted on so many photos give to the same N photos."""
    return [CurvePoint(n, each.argmax(axis=1) != labels) for n, each in zip(counts, logits, strict=True)]
