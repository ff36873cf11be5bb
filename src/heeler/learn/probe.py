"""A linear head on frozen features: multinomial logistic regression by L-BFGS, its penalty chosen by inner folds.

All folds are solved together, as one problem whose parts share no weight: the features are then read once for all of
them. Two changes of variable make the problem round: features are scaled by the root of their spread, and rotated to
their principal axes, along each of which the curvature is known. Both look at the features of all photos, and at no
label.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from heeler.errors import HeelerError
from heeler.records import FloatArray, Head, IntArray

N_FOLDS = 5
# Penalties tried, as a half times the squared weights beside the mean loss; neighbours differ threefold.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
START = 2
# Mean of p (1 - p) over photos and classes as met on real sets: the curvature of the loss, for scaling only.
CURVATURE = 0.1
MAX_ITERATIONS = 100
# Relative gain of one step at which a fit ends. On Imagewoof, clothing and ELPV, stopping at 1e-5 moves the out-of-fold
# loss by less than 2e-4, a tenth of what neighbouring penalties differ by, and takes 60 % of the steps of 1e-6.
FOLDS_TOLERANCE = 1e-5
HEAD_TOLERANCE = 1e-6
# Photos worked on at once: their logits stay in a core's cache. The same on every machine, so that sums are too.
CHUNK = 2048
# Share of the largest variance below which an axis holds rounding errors only: those beyond the number of photos.
NO_VARIANCE = 1e-6


@dataclass(frozen=True)
class Probe:
    """A fitted head and what each photo's label looks like to a head that did not see it.

    Args:
        head: fitted on the N photos.
        logits: (N, K) float32, out of fold: each row from the fit that lacks its fold.
        penalty: the chosen one.
        tried: penalty -> out-of-fold loss in nats after temperature, of each that was tried.
        head_of_more: fitted on them and ``more`` photos with the same penalty; ``head`` where there are no more.
        smaller: (number of photos, head fitted on so many of them), for a learning curve; fewest photos first.
    """

    head: Head
    logits: FloatArray
    penalty: float
    tried: dict[float, float]
    head_of_more: Head
    smaller: tuple[tuple[int, Head], ...] = ()


@dataclass(frozen=True)
class _Problem:
    """Rotated features, labels, and F fits that differ in the photos they see."""

    features: Tensor  # (N, D)
    labels: Tensor  # (N,)
    weights: Tensor  # (N, F, 1), each fit's share of each photo
    variances: Tensor  # (D,) along the axes
    n_classes: int
    pool: ThreadPoolExecutor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(F, K, D)."""
        return self.weights.shape[1], self.n_classes, self.features.shape[1]


def fit_probe(
    features: FloatArray,
    labels: IntArray,
    n_classes: int,
    folds: IntArray,
    *,
    more: tuple[FloatArray, IntArray] | None = None,
    shares: Sequence[float] = (),
) -> Probe:
    """Fit a linear head and choose its penalty.

    Args:
        features: (N, D) float32.
        labels: (N,) int64 in [0, K).
        n_classes: K.
        folds: (N,) int64; photos with the same number are judged together, by a head fitted on the others.
        more: features (M, D) and labels (M,) of photos that choose nothing here: a second head learns from them too.
        shares: of the N photos, rising, in (0, 1): heads are fitted on so many of each class as well.

    Returns:
        The head for the raw features, the scaling folded into its weights.

    Raises:
        HeelerError: some features are not finite numbers.
    """
    for each in (features, more[0] if more else features[:0]):
        _require_finite(each)
    y, fold = torch.from_numpy(labels), torch.from_numpy(folds)
    with _pool() as pool:
        axes = _principal_axes(torch.from_numpy(features), pool)
        rotated = axes.rotate(torch.from_numpy(features), pool)
        numbers, position = torch.unique(fold, return_inverse=True)
        seen = (fold[:, None] != numbers).float()
        problem = _Problem(rotated, y, (seen / seen.sum(0).clamp_min(1))[:, :, None], axes.variances, n_classes, pool)
        penalty, solution, logits, tried = _choose(problem, position)
        near = (solution[0].mean(0, keepdim=True), solution[1].mean(0, keepdim=True))
        solved = _solve(_of_all(problem), penalty, near, HEAD_TOLERANCE)
        head = head_of_more = axes.head_of(solved)
        if more:
            both = torch.cat([rotated, axes.rotate(torch.from_numpy(more[0]), pool)])
            larger = replace(problem, features=both, labels=torch.cat([y, torch.from_numpy(more[1])]))
            head_of_more = axes.head_of(_solve(_of_all(larger), penalty, solved, HEAD_TOLERANCE))
        smaller = tuple((n, axes.head_of(each)) for n, each in _on_shares(problem, penalty, shares))
    return Probe(head, logits.numpy(), penalty, tried, head_of_more, smaller)


@dataclass(frozen=True)
class _Axes:
    """The change of variable: features (N, D) less their mean, scaled, and turned to their principal axes."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)
    turn: Tensor  # (D, A)
    variances: Tensor  # (A,) along the axes

    def rotate(self, features: Tensor, pool: ThreadPoolExecutor) -> Tensor:
        """(N, A) of (N, D)."""
        scaled = (features - self.mean) * self.scale
        return torch.cat(list(pool.map(lambda rows: scaled[rows] @ self.turn, _chunks(len(scaled)))))

    def head_of(self, solution: tuple[Tensor, Tensor]) -> Head:
        """The head for the raw features of a single fit's weights (1, K, A) and biases (1, K)."""
        weight = (solution[0][0] @ self.turn.T) * self.scale
        return Head(weight.numpy(), (solution[1][0] - weight @ self.mean).numpy())


def _principal_axes(x: Tensor, pool: ThreadPoolExecutor) -> _Axes:
    mean, spread = x.mean(0), x.std(0, correction=0)
    scale = 1 / torch.sqrt((spread + 1e-6) * (x.std(correction=0) + 1e-6))
    x = (x - mean) * scale
    covariance = sum(pool.map(lambda rows: x[rows].T @ x[rows], _chunks(len(x))), torch.zeros(())) / len(x)
    # In double precision: with few or nearly equal photos, float32 does not converge.
    variances, turn = (part.float() for part in torch.linalg.eigh(covariance.double()))
    kept = variances >= NO_VARIANCE * variances[-1]
    return _Axes(mean, scale, turn[:, kept], variances[kept].clamp_min(0))


def _of_all(problem: _Problem) -> _Problem:
    """The problem of a single fit that sees every photo alike."""
    n = len(problem.features)
    return replace(problem, weights=torch.full((n, 1, 1), 1 / n))


def _on_shares(
    problem: _Problem, penalty: float, shares: Sequence[float]
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Solutions on a part of the photos, each begun from the one on fewer."""
    if not shares:
        return
    n_all, (_, n_classes, n_features) = len(problem.features), problem.shape
    order = torch.from_numpy(class_order(problem.labels.numpy()))
    features, labels = problem.features[order], problem.labels[order]
    solution = torch.zeros(1, n_classes, n_features), torch.zeros(1, n_classes)
    for n in sorted({min(n_all, max(n_classes, round(share * n_all))) for share in shares}):
        weights = torch.full((n, 1, 1), 1 / n)
        some = replace(problem, features=features[:n], labels=labels[:n], weights=weights)
        # On clothing and Imagewoof, folds choose this penalty for a tenth of the photos as well, or its neighbour.
        solution = _solve(some, penalty, solution, FOLDS_TOLERANCE)
        yield n, solution


def class_order(labels: IntArray, seed: int = 0) -> IntArray:
    """An order (N,) of photos whose every beginning has the classes in about their shares, and each at least once."""
    place = np.empty(len(labels))
    rng = np.random.default_rng(seed)
    for k in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == k))
        place[rows] = (np.arange(len(rows)) + rng.random(len(rows))) / len(rows)
        place[rows[0]] = 0.0
    return np.argsort(place, kind="stable")


def _require_finite(features: FloatArray) -> None:
    broken = int((~np.isfinite(features).all(1)).sum())
    if broken:
        raise HeelerError(
            f"the features of {broken} of {len(features)} photos are not finite numbers",
            hint="these weights cannot be used: try another --backbone, or another file with --weights",
        )


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads of our own, in place of torch's and of the BLAS that scipy's L-BFGS calls.

    Theirs spin while they wait: on two cores with other work on them, a fit that takes 6 s of one core took 22 to 32 s.
    """
    import scipy.optimize  # noqa: F401 - only a BLAS that is loaded already can be limited
    from threadpoolctl import threadpool_limits

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)


def _chunks(n: int) -> list[slice]:
    """Rows 0 to n in equal parts of at most ``CHUNK``."""
    edges = np.linspace(0, n, -(-n // CHUNK) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def _choose(problem: _Problem, position: Tensor) -> tuple[float, tuple[Tensor, Tensor], Tensor, dict[float, float]]:
    """Walk the penalties downhill from the usual one, each fit begun from its neighbour's."""
    tried: dict[float, float] = {}
    best: tuple[float, tuple[Tensor, Tensor], Tensor] | None = None
    n_fits, n_classes, n_features = problem.shape
    for direction in (1, -1):
        start = START if direction == 1 else START - 1
        solution = best[1] if best else (torch.zeros(n_fits, n_classes, n_features), torch.zeros(n_fits, n_classes))
        for i in range(start, len(PENALTIES) if direction == 1 else -1, direction):
            penalty = PENALTIES[i]
            solution = _solve(problem, penalty, solution, FOLDS_TOLERANCE)
            logits = _out_of_fold(problem, solution, position)
            tried[penalty] = calibrated_loss(logits, problem.labels)
            if best is not None and tried[penalty] >= tried[best[0]]:
                break
            best = (penalty, solution, logits)
        if len(tried) > 2:
            break  # a smaller penalty was better, so a larger one is not
    assert best is not None
    return (*best, tried)


def _solve(problem: _Problem, penalty: float, start: tuple[Tensor, Tensor], tolerance: float) -> tuple[Tensor, Tensor]:
    """Weights (F, K, D) and biases (F, K) that minimise each fit's mean loss and penalty."""
    from scipy.optimize import minimize

    n_fits, n_classes, n_features = problem.shape
    size = n_fits * n_classes * n_features
    scale = 1 / torch.sqrt(CURVATURE * problem.variances + penalty)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.from_numpy(flat.astype(np.float32))
        weights = values[:size].view(n_fits * n_classes, n_features) * scale
        loss, gradient, bias_gradient = _data_term(problem, weights, values[size:])
        loss += 0.5 * penalty * float(weights.square().sum(dtype=torch.float64))
        both = torch.cat([((gradient + penalty * weights) * scale).flatten(), bias_gradient])
        return loss, both.numpy().astype(np.float64)

    first = torch.cat([(start[0] / scale).flatten(), start[1].flatten()]).numpy().astype(np.float64)
    options = {"maxiter": MAX_ITERATIONS, "ftol": tolerance, "gtol": 1e-5, "maxcor": 10}
    found = torch.from_numpy(
        minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options).x.astype(np.float32)
    )
    return found[:size].view(n_fits, n_classes, n_features) * scale, found[size:].view(n_fits, n_classes)


def _data_term(problem: _Problem, weights: Tensor, biases: Tensor) -> tuple[float, Tensor, Tensor]:
    """Sum of all fits' mean losses, and its gradient by the weights (F K, D) and the biases (F K,)."""
    n_fits, n_classes, _ = problem.shape

    def part(rows: slice) -> tuple[float, Tensor, Tensor]:
        x, share = problem.features[rows], problem.weights[rows]
        given = problem.labels[rows, None, None].expand(-1, n_fits, 1)
        p = torch.addmm(biases, x, weights.T).view(-1, n_fits, n_classes).softmax(2)
        loss = -float((p.gather(2, given).clamp_min(1e-38).log() * share).sum(dtype=torch.float64))
        residual = (p.scatter_add_(2, given, torch.full_like(p[:, :, :1], -1)) * share).view(-1, n_fits * n_classes)
        return loss, residual.T @ x, residual.sum(0)

    losses, gradients, bias_gradients = zip(*problem.pool.map(part, _chunks(len(problem.features))), strict=True)
    return sum(losses), torch.stack(gradients).sum(0), torch.stack(bias_gradients).sum(0)


def _out_of_fold(problem: _Problem, solution: tuple[Tensor, Tensor], position: Tensor) -> Tensor:
    weights, biases = solution
    n_fits, n_classes, n_features = problem.shape
    logits = torch.addmm(biases.flatten(), problem.features, weights.view(-1, n_features).T)
    return logits.view(-1, n_fits, n_classes)[torch.arange(len(logits)), position]


def calibrated_loss(logits: Tensor, labels: Tensor) -> float:
    """Loss at the best temperature: every head is calibrated later, so being too sure is no fault of a penalty."""
    return best_temperature(logits, labels)[1]


def calibrated_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss (n,) in nats of each photo at the best temperature, of logits (n, K)."""
    return torch.nn.functional.cross_entropy(logits / best_temperature(logits, labels)[0], labels, reduction="none")


def by_chance(differences: Tensor) -> float:
    """The standard error of the mean of differences (n,), photo by photo, n at least 2."""
    return float(differences.double().std()) / math.sqrt(len(differences))


def best_temperature(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The temperature at which the mean loss of logits (n, K) is lowest, and that loss in nats."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-2})
    return math.exp(found.x), float(found.fun)
