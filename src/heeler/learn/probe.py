"""A linear head on frozen features: multinomial logistic regression by L-BFGS, its penalty chosen by inner folds.

All folds and the fit on everything are solved together, as one problem whose parts share no weight: the features are
then read once for all of them. Two changes of variable make the problem round: features are scaled by the root of their
spread, and rotated to their principal axes, along each of which the curvature is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heeler.records import FloatArray, Head, IntArray

N_FOLDS = 5
# Penalties tried, as a half times the squared weights beside the mean loss; neighbours differ threefold.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
START = 2
# Mean of p (1 - p) over photos and classes as met on real sets: the curvature of the loss, for scaling only.
CURVATURE = 0.1
MAX_ITERATIONS = 100
# Relative fall of the loss below which a fit has converged. At 1e-6 fits take half as many steps again, and the
# out-of-fold errors of three sets (3,000 photos each) move by less than 0.05 points.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Probe:
    """A fitted head and what each photo's label looks like to a head that did not see it.

    Args:
        head: fitted on all the photos given.
        logits: (N, K) float32, out of fold: each row from the fit that lacks its fold.
        penalty: the chosen one.
        tried: penalty -> out-of-fold loss in nats after temperature, of each that was tried.
    """

    head: Head
    logits: FloatArray
    penalty: float
    tried: dict[float, float]


@dataclass(frozen=True)
class _Problem:
    """Rotated features, labels and fold masks. F fits: one for each fold, and one for everything."""

    features: Tensor  # (N, D)
    labels: Tensor  # (N,)
    one_hot: Tensor  # (N, 1, K)
    weights: Tensor  # (N, F, 1), each fit's share of each photo
    variances: Tensor  # (D,) along the axes
    folds: Tensor  # (N,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(F, K, D)."""
        return self.weights.shape[1], self.one_hot.shape[2], self.features.shape[1]


def fit_probe(features: FloatArray, labels: IntArray, n_classes: int, folds: IntArray) -> Probe:
    """Fit a linear head and choose its penalty.

    Args:
        features: (N, D) float32.
        labels: (N,) int64 in [0, K).
        n_classes: K.
        folds: (N,) int64; photos with the same number are judged together, by a head fitted on the others.

    Returns:
        The head for the raw features, the scaling folded into its weights.
    """
    x = torch.from_numpy(features)
    mean, spread = x.mean(0), x.std(0, correction=0)
    scale = 1 / torch.sqrt((spread + 1e-6) * (x.std() + 1e-6))
    x = (x - mean) * scale
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    problem = _problem(x @ axes, torch.from_numpy(labels), n_classes, torch.from_numpy(folds), variances.clamp_min(0))
    chosen, solution, logits, tried = _choose(problem)
    weight, bias = (part[-1] for part in solution)
    weight = (weight @ axes.T) * scale
    bias = bias - weight @ mean
    return Probe(Head(weight.numpy(), bias.numpy()), logits.numpy(), chosen, tried)


def _problem(x: Tensor, labels: Tensor, n_classes: int, folds: Tensor, variances: Tensor) -> _Problem:
    numbers = torch.unique(folds)
    masks = torch.cat([folds[:, None] != numbers, torch.ones(len(x), 1, dtype=torch.bool)], 1).float()
    weights = (masks / masks.sum(0).clamp_min(1))[:, :, None]
    one_hot = torch.nn.functional.one_hot(labels, n_classes).float()[:, None, :]
    position = torch.searchsorted(numbers, folds)
    return _Problem(x, labels, one_hot, weights, variances, position)


def _choose(problem: _Problem) -> tuple[float, tuple[Tensor, Tensor], Tensor, dict[float, float]]:
    """Walk the penalties downhill from the usual one, each fit begun from its neighbour's."""
    tried: dict[float, float] = {}
    best: tuple[float, tuple[Tensor, Tensor], Tensor] | None = None
    n_fits, n_classes, n_features = problem.shape
    for direction in (1, -1):
        start = START if direction == 1 else START - 1
        solution = best[1] if best else (torch.zeros(n_fits, n_classes, n_features), torch.zeros(n_fits, n_classes))
        for i in range(start, len(PENALTIES) if direction == 1 else -1, direction):
            penalty = PENALTIES[i]
            solution = _solve(problem, penalty, solution)
            logits = _out_of_fold(problem, solution)
            tried[penalty] = _calibrated_loss(logits, problem.labels)
            if best is not None and tried[penalty] >= tried[best[0]]:
                break
            best = (penalty, solution, logits)
        if len(tried) > 2:
            break  # a smaller penalty was better, so a larger one is not
    assert best is not None
    return (*best, tried)


def _solve(problem: _Problem, penalty: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights (F, K, D) and biases (F, K) that minimise each fit's mean loss and penalty."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    n_fits, n_classes, n_features = problem.shape
    size = n_fits * n_classes * n_features
    scale = 1 / torch.sqrt(CURVATURE * problem.variances + penalty)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.from_numpy(flat.astype(np.float32))
        weights = values[:size].view(n_fits * n_classes, n_features) * scale
        logits = torch.addmm(values[size:], problem.features, weights.T).view(-1, n_fits, n_classes)
        log_p = torch.log_softmax(logits, 2)
        loss = 0.5 * penalty * weights.square().sum() - (log_p * problem.one_hot * problem.weights).sum()
        residual = ((log_p.exp() - problem.one_hot) * problem.weights).view(-1, n_fits * n_classes)
        gradient = (residual.T @ problem.features + penalty * weights) * scale
        both = torch.cat([gradient.flatten(), residual.sum(0)])
        return float(loss), both.numpy().astype(np.float64)

    first = torch.cat([(start[0] / scale).flatten(), start[1].flatten()]).numpy().astype(np.float64)
    options = {"maxiter": MAX_ITERATIONS, "ftol": TOLERANCE, "gtol": 1e-5, "maxcor": 10}
    # L-BFGS itself only adds vectors: a second BLAS thread waits for work, and takes a core from the products above.
    with threadpool_limits(1, user_api="blas"):
        solution = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options).x
    found = torch.from_numpy(solution.astype(np.float32))
    return found[:size].view(n_fits, n_classes, n_features) * scale, found[size:].view(n_fits, n_classes)


def _out_of_fold(problem: _Problem, solution: tuple[Tensor, Tensor]) -> Tensor:
    weights, biases = solution
    n_fits, n_classes, n_features = problem.shape
    logits = torch.addmm(biases.flatten(), problem.features, weights.view(-1, n_features).T)
    return logits.view(-1, n_fits, n_classes)[torch.arange(len(logits)), problem.folds]


def _calibrated_loss(logits: Tensor, labels: Tensor) -> float:
    """Loss at the best temperature: every head is calibrated later, so being too sure is no fault of a penalty."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    return float(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-2}).fun)
