"""Which learning rates a network bears on some photos.

The range test makes training steps while the rate rises from far too low to too high. Source: L. N. Smith, Cyclical
learning rates for training neural networks, WACV 2017.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from heeler.data.rows import Rows
from heeler.errors import HeelerError
from heeler.learn.augment import seed_of
from heeler.learn.depth import BEFORE_ALL
from heeler.learn.schedule import LAST_LR, Cursor, layer_groups, layer_rates
from heeler.learn.stages import last_groups
from heeler.learn.team import Team
from heeler.learn.weights import Weights
from heeler.learn.worker import Worker, accelerator_of_machine, in_training
from heeler.plans import Recipe
from heeler.records import IntArray, OnEvent, Preprocessing, Progress, ignore_events

LOWEST, HIGHEST = 1e-6, 1.0
# Weight of what was before in the average over steps.
SMOOTHING = 0.9
# The test ends where the average has grown to so many times its lowest value.
TOO_HIGH = 2.0
# Of the lowest average, and how far below the rate that is too high training stays.
NEAR = 1.05
SAFETY = 10.0
# Batches from which the reach of the first updates is foreseen.
N_LOOKED_AT = 2


@dataclass(frozen=True)
class RateRange:
    """How the loss went as the learning rate rose.

    Args:
        rates: of the head, at each step.
        losses: mean of each step's batch, in nats.
        smooth: their running average.
        suggestion: the rate to train with.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float


def rate_range(
    start: Any,
    rows: Rows,
    labels: IntArray,
    train: IntArray,
    spec: Preprocessing,
    recipe: Recipe,
    n_steps: int,
    on_event: OnEvent,
) -> RateRange:
    """Train a copy of a network at rates that rise by the same factor from step to step.

    Args:
        start: timm network with the head to start from; not changed.
        rows: squares (S, S, 3) uint8 of all photos.
        labels: (N,) class numbers.
        train: rows to learn from.
        spec: the preprocessing that made the rows.
        recipe: batch size, augmentation and seed. With ``last_views`` the last stages alone are trained, where the
            network and the device allow it; else all layers.
        n_steps: how many steps; fewer where the loss grows too much.
        on_event: told of progress, one unit a step.

    Raises:
        ResourceError: the memory is too small for one photo at a time.
        HeelerError: the loss is no finite number from the first steps on.
    """
    accelerator = accelerator_of_machine()
    model = copy.deepcopy(start).to(accelerator.device, memory_format=torch.channels_last)
    worker = Worker(accelerator, Team(), model, rows, torch.from_numpy(labels), spec, recipe, on_event)
    size = min(worker.batch_size, len(train))
    n_passes = -(-n_steps * size // len(train))
    order = np.concatenate([np.random.default_rng([recipe.seed, i]).permutation(train) for i in range(n_passes)])
    with in_training(accelerator.device):
        if recipe.last_views and worker.can_divide():
            wanted = np.unique(order[: n_steps * size])
            worker.divide(wanted, wanted[:0], math.inf)
        try:
            trains_last = recipe.last_views > 0 and worker.can_divide()
            return _climb(worker, order, n_steps, size, recipe, on_event, trains_last=trains_last)
        finally:
            worker.close()


def first_restraint(
    start: Any, rows: Rows, labels: IntArray, train: IntArray, spec: Preprocessing, recipe: Recipe
) -> float:
    """Share of the usual peak rates that the last stages bear on some photos, in (0, 1]; see ``Cursor.restraint``.

    A run lowers its rates by its own first updates. This looks at a few before it is decided how many epochs there
    are to be, and moves no weight.

    Args:
        start: timm network that can be divided, with the head to start from; not changed.
        rows: squares (S, S, 3) uint8 of all photos.
        labels: (N,) class numbers.
        train: rows to learn from.
        spec: the preprocessing that made the rows.
        recipe: batch size and seed of the run.

    Raises:
        ResourceError: the memory is too small for one photo at a time.
    """
    accelerator = accelerator_of_machine()
    model = copy.deepcopy(start).to(accelerator.device, memory_format=torch.channels_last)
    recipe = replace(recipe, augment="none")  # a short run sees the photos as they are
    worker = Worker(accelerator, Team(), model, rows, torch.from_numpy(labels), spec, recipe, ignore_events)
    groups = last_groups(model, BEFORE_ALL.last_stages)
    weights = Weights(accelerator, model, ema_decay=0.0)
    order = np.random.default_rng(recipe.seed).permutation(train)[: N_LOOKED_AT * worker.batch_size]
    cursor, share = Cursor(), 1.0
    with in_training(accelerator.device):
        worker.begin(groups, learns_norms=False)
        weights.begin(groups, [LAST_LR] * len(groups))
        for batch in np.array_split(order, -(-len(order) // worker.batch_size)):
            worker.gradient(batch, recipe.seed)
            share = cursor.restraint(weights.reach)
    return share or 1.0  # 0 where a gradient is infinite, which says nothing of the others


def suggest_rate(rates: Sequence[float], smooth: Sequence[float]) -> float:
    """A tenth of the highest rate at which the average loss is near its lowest.

    Tuning begins from a fitted head, so the loss may hardly fall: where it is lowest is then chance, and where it
    begins to grow is not. The first steps, which average little, do not count.
    """
    first = len(rates) // 10
    near = np.flatnonzero(np.asarray(smooth[first:]) <= NEAR * min(smooth[first:]))
    return rates[first + int(near[-1])] / SAFETY


def _climb(
    worker: Worker,
    order: IntArray,
    n_steps: int,
    size: int,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    trains_last: bool,
) -> RateRange:
    model = worker.model
    groups = last_groups(model, recipe.last_stages) if trains_last else layer_groups(model)
    worker.begin(groups, learns_norms=False)
    weights = Weights(worker.accelerator, model, ema_decay=0.0)
    weights.begin(groups, [HIGHEST] * len(groups) if trains_last else layer_rates(HIGHEST, len(groups)))
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    average = 0.0
    for step in range(n_steps):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, n_steps - 1))
        loss = worker.gradient(order[step * size : (step + 1) * size], seed_of(recipe.seed, 0, step))
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smooth.append(average / (1 - SMOOTHING ** (step + 1)))
        if smooth[-1] > TOO_HIGH * min(smooth):
            break
        weights.update(rate / HIGHEST, step)
        on_event(Progress(step + 1, loss=smooth[-1]))
    if len(rates) < 3:
        raise HeelerError("the loss is no finite number from the first steps on", hint="look at the photos with check")
    return RateRange(tuple(rates), tuple(losses), tuple(smooth), suggest_rate(rates, smooth))
