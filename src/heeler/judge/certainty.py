"""What stated probabilities are worth: how many photos a model answers where it answers only if it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heeler.records import FloatArray, IntArray

__all__ = ["ANSWER_ACCURACY", "Coverage", "choosing", "coverage", "threshold_for", "uncalibrated"]

# Share of right answers that a model keeps to, where nobody sets another threshold.
ANSWER_ACCURACY = 0.95
Judged = tuple[FloatArray, IntArray]


@dataclass(frozen=True)
class Coverage:
    """What comes of answering only where the top class has at least a probability.

    Args:
        threshold: that probability, in [0, 1].
        n: photos there were.
        n_answered: those that were answered.
        n_right: those of them that got the given class.
        stated: mean probability of the answers, in [0, 1]: the accuracy that the model claims; 1 where it gave none.
    """

    threshold: float
    n: int
    n_answered: int
    n_right: int
    stated: float

    @property
    def share(self) -> float:
        """Photos that were answered, in [0, 1]."""
        return self.n_answered / self.n if self.n else 0.0

    @property
    def accuracy(self) -> float:
        """Right answers among those given, in [0, 1]; 1 where none was given."""
        return self.n_right / self.n_answered if self.n_answered else 1.0


def coverage(probabilities: FloatArray, labels: IntArray, thresholds: Sequence[float]) -> tuple[Coverage, ...]:
    """Answered photos and right answers at each of some thresholds.

    Args:
        probabilities: (N, K) in [0, 1], rows sum to 1.
        labels: (N,) class indices in [0, K).
        thresholds: probabilities of the top class, in [0, 1].
    """
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    found = []
    for threshold in thresholds:
        answered = top >= threshold
        n_answered = int(answered.sum())
        stated = float(top[answered].mean()) if n_answered else 1.0
        found.append(Coverage(threshold, len(labels), n_answered, int(right[answered].sum()), stated))
    return tuple(found)


def threshold_for(probabilities: FloatArray, labels: IntArray, accuracy: float) -> float | None:
    """The lowest probability from which on answers are right often enough, by two accounts.

    The model's own, the mean of the probabilities, has little noise and may boast; the share of right answers does not
    boast and is noisy where photos are few, so that one standard error is taken off it, by Wilson's interval. A
    threshold must satisfy both. It should come from photos that are not the ones on which it is then said to hold.

    Args:
        probabilities: (N, K) in [0, 1], rows sum to 1.
        labels: (N,) class indices in [0, K).
        accuracy: wanted share of right answers, in [0, 1].

    Returns:
        A probability in [0, 1]; None where no answers satisfy both, as where photos are too few to tell.
    """
    top = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-top, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    ranks = np.arange(1, len(top) + 1)
    share = np.cumsum(right) / ranks
    lowest = (share + 1 / (2 * ranks) - np.sqrt(share * (1 - share) / ranks + 1 / (4 * ranks**2))) / (1 + 1 / ranks)
    enough = (np.cumsum(top[order]) / ranks >= accuracy) & (lowest >= accuracy)
    # A threshold answers all photos of equal probability or none of them.
    enough &= np.append(np.diff(top[order]) < 0, True) if len(top) else False
    last = np.flatnonzero(enough)
    if len(last) == 0:
        return None
    # Where even the least sure answer may be given, so may those that are less sure still.
    return 0.0 if last[-1] == len(top) - 1 else float(top[order][last[-1]])


def choosing(judged: Judged, valid: tuple[FloatArray | None, IntArray | None]) -> Judged:
    """The answers that a threshold is chosen on: those of the valid part, or the judged ones where there are none.

    Args:
        judged: probabilities (N, K) and labels (N,) of the photos that the scores are of.
        valid: the same of the photos that made the choices; None or empty where each photo was judged out of fold.
    """
    probabilities, labels = valid
    return judged if probabilities is None or labels is None or not len(labels) else (probabilities, labels)


def uncalibrated(probabilities: FloatArray, temperature: float) -> FloatArray:
    """The probabilities (N, K) before they were divided by a temperature; exact up to the rounding of tiny ones."""
    logits = temperature * np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
