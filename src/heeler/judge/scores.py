"""Probabilities and labels in, ``Scores`` out: intervals, per class, confusion, calibration, worst photos.

numpy and scipy only, so that reading scores costs neither torch nor scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heeler.errors import BundleError, DataError, HeelerError, UsageError
from heeler.records import ClassScore, FloatArray, IntArray, Scores, TopLoss

__all__ = [
    "ReliabilityBin",
    "calibration_error",
    "fit_temperature",
    "log_loss",
    "paired_interval",
    "reliability",
    "score",
    "scores_from_json",
    "scores_to_json",
    "softmax",
    "wilson_interval",
]

# A float32 softmax reaches exact zeros; below this floor a loss would be infinite, which JSON cannot hold.
# It is the floor that scikit-learn's log_loss uses for float32.
PROBABILITY_FLOOR = float(np.finfo(np.float32).eps)
TEMPERATURE_BOUNDS = (0.05, 20.0)
TEMPERATURE_PRIOR_PHOTOS = 10.0
_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityBin:
    """Photos that the model is about equally sure of: how many, its mean probability, the share that was right."""

    n: int
    stated: float
    right: float


def wilson_interval(n_wrong: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share, which stays inside [0, 1] and is honest for small counts.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Args:
        n_wrong: photos counted, in [0, n].
        n: photos judged; 0 gives (0, 1), for nothing is known.
        z: two-sided normal quantile; 1.959964 is 95 %.

    Returns:
        (low, high), exactly 0 below where nothing was counted and exactly 1 above where everything was.

    Raises:
        UsageError: ``n_wrong`` is not in [0, n].
    """
    if not 0 <= n_wrong <= n:
        raise UsageError(f"{n_wrong} of {n} photos is not a share")
    if n == 0:
        return 0.0, 1.0
    share, z2 = n_wrong / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if n_wrong == 0 else centre - half), (1.0 if n_wrong == n else centre + half)


def paired_interval(n_lost: int, n_won: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of the accuracy that a model loses to another on the same photos.

    Source: A. Agresti and Y. Min, Simple improved confidence intervals for comparing matched proportions, Statistics
    in Medicine 24 (2005): half a photo is added to each of the four kinds of pairs.

    Args:
        n_lost: photos that only the first gets right.
        n_won: photos that only the second gets right.
        n: photos judged by both.
        z: two-sided normal quantile; 1.959964 is 95 %.

    Returns:
        (low, high) of the share lost, in [-1, 1]; below 0 is won.
    """
    lost, won, all_ = n_lost + 0.5, n_won + 0.5, n + 2
    share = (lost - won) / all_
    half = z * math.sqrt(max(lost + won - (lost - won) ** 2 / all_, 0.0)) / all_
    return max(-1.0, share - half), min(1.0, share + half)


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities of logits, each row divided by a temperature first.

    Args:
        logits: (N, K) float.
        temperature: above 0; more than 1 makes the probabilities milder.

    Returns:
        (N, K) float32 in [0, 1], rows sum to 1.
    """
    return np.exp(_log_softmax(logits / temperature)).astype(np.float32)


def log_loss(probabilities: FloatArray, labels: IntArray) -> float:
    """Mean negative log-likelihood of the given classes, in nats.

    Args:
        probabilities: (N, K) in [0, 1], rows sum to 1; values below 1.2e-7 count as 1.2e-7.
        labels: (N,) class indices in [0, K).

    Returns:
        0 or more, at most 15.95; 0 for no photos.
    """
    return float(_losses(probabilities, labels).mean()) if len(labels) else 0.0


def reliability(probabilities: FloatArray, labels: IntArray, n_bins: int = 15) -> tuple[ReliabilityBin, ...]:
    """Stated probabilities of the top class beside shares of right answers.

    Photos are sorted by the probability of their top class and cut into bins of equal mass, which has less bias
    than bins of equal width: R. Roelofs et al., Mitigating bias in calibration error estimation, AISTATS 2022.
    Photos with equal probability share their mean rightness, so the order of the rows does not matter.

    Args:
        probabilities: (N, K) in [0, 1].
        labels: (N,) class indices in [0, K).
        n_bins: number of bins; fewer photos than that make one bin each.

    Returns:
        The bins, least sure first; none for no photos.
    """
    n = len(labels)
    if n == 0:
        return ()
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    _, tie = np.unique(confidence, return_inverse=True)
    right = (np.bincount(tie, weights=right) / np.bincount(tie))[tie]
    order = np.argsort(confidence, kind="stable")
    return tuple(
        ReliabilityBin(len(rows), float(confidence[rows].mean()), float(right[rows].mean()))
        for rows in np.array_split(order, min(n_bins, n))
    )


def calibration_error(probabilities: FloatArray, labels: IntArray, n_bins: int = 15) -> float:
    """Expected calibration error of the top class: how far stated probabilities are from shares of right answers.

    Args:
        probabilities: (N, K) in [0, 1].
        labels: (N,) class indices in [0, K).
        n_bins: as in ``reliability``, whose bins' distances are averaged.

    Returns:
        A share in [0, 1]; 0 for no photos.
    """
    bins = reliability(probabilities, labels, n_bins)
    return min(1.0, sum(each.n * abs(each.right - each.stated) for each in bins) / max(len(labels), 1))


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The temperature that makes probabilities honest on photos that were not trained on.

    Minimises the negative log-likelihood over log T (C. Guo et al., On calibration of modern neural networks, ICML
    2017). The prior is worth ten photos: it adds ten times the mean cross-entropy against the network's own
    probabilities at T = 1, so a handful of photos that happen to be all right cannot make the model boast. The sum
    is convex in 1/T, so it has one minimum.

    Args:
        logits: (N, K) float.
        labels: (N,) class indices in [0, K).

    Returns:
        T in [0.05, 20]; 1.0 for no photos, or where T changes nothing.
    """
    n = len(labels)
    if n == 0:
        return 1.0
    # Imported here: scipy.optimize costs 0.2 s, and a reader of scores never needs it.
    from scipy.optimize import minimize_scalar

    logits64 = logits.astype(np.float64)
    target = np.exp(_log_softmax(logits64)) * (TEMPERATURE_PRIOR_PHOTOS / n)
    target[np.arange(n), labels] += 1.0

    def objective(log_temperature: float) -> float:
        return -float((target * _log_softmax(logits64 * math.exp(-log_temperature))).sum())

    low, high = TEMPERATURE_BOUNDS
    found = minimize_scalar(
        objective, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-5}
    )
    at_one = objective(0.0)
    return float(math.exp(found.x)) if found.fun < at_one - 1e-9 * abs(at_one) else 1.0


def score(
    probabilities: FloatArray,
    labels: IntArray,
    classes: Sequence[str],
    paths: Sequence[str],
    *,
    estimate: Literal["test", "out-of-fold"] = "test",
    n_top_losses: int = 24,
) -> Scores:
    """Judge predictions against given labels.

    A class that no judged photo belongs to has support 0 and recall 0, one that was never predicted has precision 0,
    and F1 is 0 where both are. (The true value is "unknown", for which JSON has no number: read recall beside support.)
    ``TopLoss.probability`` is that of the predicted class; the given class's is ``exp(-loss)``.

    Args:
        probabilities: (N, K) float32 in [0, 1], rows sum to 1.
        labels: (N,) int64 class indices in [0, K).
        classes: K names in column order.
        paths: N names of photos.
        estimate: where the photos come from, see ``Scores``.
        n_top_losses: how many of the worst photos to list.

    Returns:
        The scores; the baseline is the error of always guessing the largest class among the judged photos.

    Raises:
        UsageError: the shapes do not fit together, or a label is no column.
        DataError: there are no photos to judge.
        HeelerError: a probability is not a finite number.
    """
    _require_fit(probabilities, labels, classes, paths)
    n, n_classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    n_wrong = n - int(np.trace(confusion))
    return Scores(
        n=n,
        n_wrong=n_wrong,
        error=n_wrong / n,
        interval=wilson_interval(n_wrong, n),
        loss=log_loss(probabilities, labels),
        ece=calibration_error(probabilities, labels),
        baseline_error=(n - int(confusion.sum(axis=1).max())) / n,
        per_class=_per_class(confusion, classes),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        top_losses=_top_losses(probabilities, labels, classes, paths, n_top_losses),
        estimate=estimate,
    )


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """The JSON-able form of scores, without NaN; ``scores_from_json`` reads it back equal."""
    found = asdict(scores)
    found["interval"] = list(scores.interval)
    found["confusion"] = [list(row) for row in scores.confusion]
    found["per_class"] = list(found["per_class"])
    found["top_losses"] = list(found["top_losses"])
    return found


def scores_from_json(value: Mapping[str, Any]) -> Scores:
    """Read what ``scores_to_json`` wrote.

    Raises:
        BundleError: a field is missing, unknown or of the wrong kind.
    """
    try:
        low, high = value["interval"]
        return Scores(
            **{
                **value,
                "interval": (float(low), float(high)),
                "per_class": tuple(ClassScore(**row) for row in value["per_class"]),
                "confusion": tuple(tuple(int(count) for count in row) for row in value["confusion"]),
                "top_losses": tuple(TopLoss(**row) for row in value["top_losses"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the scores cannot be read: {type(error).__name__} {error}", hint="train again with this version of heeler"
        ) from error


def _log_softmax(logits: NDArray[Any]) -> _Doubles:
    """Log-probabilities (N, K) in float64; float32 sums lose the tail that the losses are made of."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _losses(probabilities: FloatArray, labels: IntArray) -> _Doubles:
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(np.clip(given, PROBABILITY_FLOOR, 1.0)), dtype=np.float64)


def _require_fit(probabilities: FloatArray, labels: IntArray, classes: Sequence[str], paths: Sequence[str]) -> None:
    wanted = (len(paths), len(classes))
    if probabilities.shape != wanted or labels.shape != wanted[:1]:
        raise UsageError(
            f"{len(paths)} paths and {len(classes)} classes do not fit probabilities {probabilities.shape} "
            f"and labels {labels.shape}"
        )
    if len(paths) == 0:
        raise DataError("there are no photos to judge", hint="give the test part a larger share with --test")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UsageError(f"labels go from {labels.min()} to {labels.max()} and there are {len(classes)} classes")
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        first = paths[int(broken.argmax())]
        raise HeelerError(
            f"{int(broken.sum())} of {len(paths)} photos got a probability that is no number, the first is {first}",
            hint="train again with a lower --lr",
        )


def _per_class(confusion: IntArray, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    right, given, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(given, 1)
    f1 = 2 * right / np.maximum(given + predicted, 1)
    return tuple(
        ClassScore(name, float(precision[k]), float(recall[k]), float(f1[k]), int(given[k]))
        for k, name in enumerate(classes)
    )


def _top_losses(
    probabilities: FloatArray, labels: IntArray, classes: Sequence[str], paths: Sequence[str], n_top_losses: int
) -> tuple[TopLoss, ...]:
    losses = _losses(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    worst = np.argsort(-losses, kind="stable")[:n_top_losses].tolist()
    return tuple(
        TopLoss(
            row=row,
            path=paths[row],
            given=classes[int(labels[row])],
            predicted=classes[int(predicted[row])],
            probability=float(probabilities[row, predicted[row]]),
            loss=float(losses[row]),
        )
        for row in worst
    )
