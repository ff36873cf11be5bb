"""What tuning has come to: the best weights so far, and the network that a run ends with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from heeler.learn.probe import best_temperature, by_chance
from heeler.learn.weights import State, plain_state
from heeler.learn.worker import Worker
from heeler.records import Epoch, IntArray

Kind = Literal["raw", "ema", "average"]


@dataclass(frozen=True)
class Tuned:
    """The best network of a run.

    Args:
        model: timm network with its head, on the CPU, in evaluation mode.
        kind: the weights as trained, their running average, or an average of the start's and the best of these.
        history: one record for each time that the run was judged.
        best_epoch: number of the epoch it comes from, counted from 1 through all phases; 0 is the probe's start.
        best_loss: its loss on the validation photos in nats, after the best temperature.
        best_error: the share of these that it named wrongly, in [0, 1].
        rate_per_s: photos trained in a second by more than the head; 0 where it alone trained.
        n_epochs: passes over the photos.
        stopped_early: whether a timed run ended because it had not become better for long.
        stopped: whether it was told to stop.
    """

    model: nn.Module
    kind: Kind
    history: tuple[Epoch, ...]
    best_epoch: int
    best_loss: float
    best_error: float
    rate_per_s: float
    n_epochs: float
    stopped_early: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Best:
    """Weights, the epoch that they come from, and how they did on the validation photos.

    Args:
        loss: mean over these photos after the best temperature, in nats.
        error: share of them that were named wrongly, in [0, 1].
        epoch: counted from 1; 0 is the start.
        kind: of weights.
        state: the weights.
        losses: (n,) float32, of each photo.
    """

    loss: float
    error: float
    epoch: int
    kind: Kind
    state: State = field(repr=False)
    losses: Tensor = field(repr=False)


class Contest:
    """Which weights are the best so far: those of the lowest loss after the best temperature, ties by error.

    Every network is calibrated later, so being too sure is no fault of its weights. What was judged of the latest epoch
    is in ``last``, for ``prefer_last``.

    Args:
        worker: who computes answers.
        valid: (n,) rows of the validation photos.
        start: the weights that are best where no others can be judged.
    """

    def __init__(self, worker: Worker, valid: IntArray, start: State) -> None:
        self._worker, self._valid = worker, valid
        self.best = Best(math.inf, 1.0, 0, "raw", start, torch.full((len(valid),), math.inf))
        self.last: list[Best] = []

    def enter(self, model: Any, kind: Kind, epoch: int) -> tuple[float, float]:
        """Judge a network: (loss in nats, error), the same in every process; the loss may be infinite."""
        logits, labels = self._worker.logits(model, self._valid), self._worker.labels[self._valid]
        if not logits.isfinite().all():
            return math.inf, 1.0
        error = float((logits.argmax(1) != labels).double().mean())
        temperature, loss = best_temperature(logits, labels)
        losses = cross_entropy(logits / temperature, labels, reduction="none")
        loss, error, *each = self._worker.team.first([loss, error, *losses.tolist()])
        entry = Best(loss, error, epoch, kind, plain_state(model), torch.tensor(each))
        self.last = [*(one for one in self.last if one.epoch == epoch), entry]
        if (loss, error) < (self.best.loss, self.best.error):
            self.best = entry
        return loss, error

    def prefer_last(self) -> None:
        """Take the best of the last epoch, unless what was best before it is so by more than chance.

        On a few hundred photos, the losses of two networks differ by chance as much as tuning gains, and the lowest
        of many is low by luck. The end of a schedule is better than its middle, and tuning than its start, on most
        sets (docs/recipe.md), so it takes evidence to keep these: a mean difference, photo by photo, of more than its
        standard error.
        """
        if not self.last:
            return
        last = min(self.last, key=lambda one: (one.loss, one.error))
        worse = last.losses - self.best.losses
        if len(worse) > 1 and float(worse.double().mean()) <= by_chance(worse):
            self.best = last
