"""Labels that are probably wrong, and photos that are like no others: arrays in, rows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heeler.errors import UsageError
from heeler.records import FloatArray, IntArray

__all__ = ["Outliers", "Suspects", "confident_labels", "find_outliers", "find_suspects", "label_quality"]

# Neighbours whose mean distance says how alone a photo is: with fewer, some strangers of a kind hide each other.
N_NEIGHBOURS = 10
# Photos that neighbours are looked for among; with more, a sample of them says the same in a time that stays linear.
MAX_REFERENCES = 2048
# Rows compared at a time: 1024 x 2048 similarities are 8 MB.
BLOCK = 1024
# Robust standard deviations above the median from which a photo is an outlier. Dogs, leaves and solar cells among
# clothes are at 2.7 or more nine times in ten, and 2 of 3,068 clothes at 3.
OUTLIER_DEVIATIONS = 2.5
# But no more than so many, or such a share: in some sets the distances trail off slowly, and nobody reads such a list.
MAX_OUTLIERS, MAX_OUTLIER_SHARE = 5, 0.01
# Median absolute deviation to standard deviation, for a normal distribution.
MAD_TO_STD = 1.4826
# Fewer photos have no usual distance to compare with.
MIN_PHOTOS = 20


@dataclass(frozen=True)
class Suspects:
    """Photos whose label is probably wrong, the most suspicious first.

    Args:
        rows: (S,) int64 into the arrays that were judged.
        likelier: (S,) int64, the class that each probably is.
        quality: (S,) float32 in [0, 1], ascending; see ``label_quality``.
    """

    rows: IntArray
    likelier: IntArray
    quality: FloatArray


@dataclass(frozen=True)
class Outliers:
    """Photos that are far from all others, the farthest first.

    Args:
        rows: (S,) int64 into the features that were judged.
        distances: (S,) float32, descending; mean cosine distance to the nearest neighbours, in [0, 2].
    """

    rows: IntArray
    distances: FloatArray


def label_quality(probabilities: FloatArray, labels: IntArray) -> FloatArray:
    """How well each label agrees with a model that did not see it: the probability of the given class.

    Of the three rankings in C. Northcutt, L. Jiang and I. Chuang, Confident learning: estimating uncertainty in dataset
    labels, JAIR 70, 2021, this self-confidence finds most of the labels that were flipped on clothing: 82 to 86 % of
    what heads the list, against 70 to 75 % by the normalised margin (``bench/label_errors.py``).

    Args:
        probabilities: (N, K) float32 in [0, 1], out of fold.
        labels: (N,) int64 in [0, K), as given.

    Returns:
        (N,) float32 in [0, 1]; low is suspicious.
    """
    quality: FloatArray = probabilities[np.arange(len(labels)), labels]
    return quality


def confident_labels(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """The class that each photo belongs to with confidence, or -1.

    Args:
        probabilities: (N, K) float32 in [0, 1], out of fold.
        labels: (N,) int64 in [0, K), as given.

    Returns:
        (N,) int64: the likeliest of the classes whose probability reaches the mean that photos given this class have
        (Northcutt et al. 2021, equation 2). Counted by given class, these are the confident joint.
    """
    n_classes = probabilities.shape[1]
    given = probabilities[np.arange(len(labels)), labels]
    sizes = np.bincount(labels, minlength=n_classes)
    thresholds = np.bincount(labels, weights=given, minlength=n_classes) / np.maximum(sizes, 1)
    # A class that no photo was given has no photos to be confident by.
    thresholds[sizes == 0] = np.inf
    confident = np.where(probabilities >= thresholds.astype(np.float32), probabilities, -1)
    found: IntArray = np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1).astype(np.int64)
    return found


def find_suspects(probabilities: FloatArray, labels: IntArray) -> Suspects:
    """Photos that probably belong to another class than the given one.

    The confident joint says how many there are: as many as lie off its diagonal (Northcutt et al. 2021). Its thresholds
    of each class's own keep a class that the model is unsure of from being suspected as a whole. Which they are, the
    quality of the labels says: on clothing 68 % of the photos named so had been flipped, and 55 % of those that lie off
    the diagonal themselves.

    Args:
        probabilities: (N, K) float32 in [0, 1], of models that did not see the photo they judge.
        labels: (N,) int64 in [0, K), as given.

    Raises:
        UsageError: the shapes do not fit together.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise UsageError(f"probabilities {probabilities.shape} do not fit labels {labels.shape}")
    if not len(labels):
        return Suspects(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    confident = confident_labels(probabilities, labels)
    n_suspects = int(((confident >= 0) & (confident != labels)).sum())
    likeliest = probabilities.argmax(axis=1).astype(np.int64)
    quality = label_quality(probabilities, labels)
    rows = np.flatnonzero(likeliest != labels)
    rows = rows[np.argsort(quality[rows], kind="stable")][:n_suspects]
    return Suspects(rows, likeliest[rows], quality[rows])


def neighbour_distances(features: FloatArray, *, seed: int = 0) -> FloatArray:
    """Mean cosine distance of each photo to its nearest others.

    Args:
        features: (N, D) float32, N at least 2.
        seed: of the sample that stands for all where there are more than ``MAX_REFERENCES``.

    Returns:
        (N,) float32 in [0, 2]. A distance to near neighbours in a network's features assumes nothing about the shape of
        a class: Y. Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022. Against distances
        to the classes themselves it was tried in docs/recipe.md.
    """
    n = len(features)
    lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", features, features)), 1e-12)[:, None]
    references = np.arange(n)
    if n > MAX_REFERENCES:
        references = np.sort(np.random.default_rng(seed).permutation(n)[:MAX_REFERENCES])
    k = min(N_NEIGHBOURS, len(references) - 1)
    among = (features[references] / lengths[references]).T
    place = np.full(n, -1)
    place[references] = np.arange(len(references))
    distances = np.empty(n, np.float32)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        similar = (features[rows] / lengths[rows]) @ among
        own = place[rows]
        similar[np.flatnonzero(own >= 0), own[own >= 0]] = -2  # nobody is a neighbour of its own
        nearest = np.partition(similar, len(references) - k, axis=1)[:, len(references) - k :]
        distances[rows] = 1 - nearest.mean(axis=1)
    return distances


def find_outliers(features: FloatArray) -> Outliers:
    """Photos that are far from every class: from their nearest neighbours, whatever class these have.

    Args:
        features: (N, D) float32.

    Returns:
        The farthest whose distance lies more than ``OUTLIER_DEVIATIONS`` robust standard deviations above the median
        (1.4826 times the median absolute deviation each); none of fewer than ``MIN_PHOTOS``.
    """
    if len(features) < MIN_PHOTOS:
        return Outliers(np.empty(0, np.int64), np.empty(0, np.float32))
    distances = neighbour_distances(features)
    median = float(np.median(distances))
    # Less is a rounding error of distances, as between copies of one photo.
    spread = max(MAD_TO_STD * float(np.median(np.abs(distances - median))), 1e-4)
    rows = np.flatnonzero(distances > median + OUTLIER_DEVIATIONS * spread)
    rows = rows[np.argsort(-distances[rows], kind="stable")]
    rows = rows[: max(MAX_OUTLIERS, round(MAX_OUTLIER_SHARE * len(features)))]
    return Outliers(rows, distances[rows])
