"""Fine-tuning: from the probe's head through all layers, the best epoch of the whole run kept.

A run is a head phase (the backbone frozen) and a phase for all layers, each one cycle of the learning rate; rates fall
from the head towards the stem. Batch normalisation keeps its statistics, so the head's first steps start where the
probe ended. All randomness is a function of (seed, epoch, step).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from heeler.data.rows import Rows
from heeler.learn.augment import augment, seed_of
from heeler.learn.engines import has_fast_bf16
from heeler.records import Epoch, IntArray, Note, OnEvent, Preprocessing, Progress, Recipe

BATCH_SIZE = 32
# On 1,000 clothing photos from a probe at 15.2 % error, two epochs of all layers gave 14.3 % at these rates, and 14.8 %
# at 1e-3 and 5e-4, which undo part of what the probe has learnt before they improve on it.
HEAD_LR = 1e-4
ALL_LR = 2e-4
# The stem learns this many times more slowly than the head.
STEM_DIVISOR = 100.0
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.99)
EVALUATE_BATCH = 64


@dataclass(frozen=True)
class Tuned:
    """The best network of a run.

    Args:
        model: timm network with its head, on the CPU, in evaluation mode.
        history: one record for each epoch that ended.
        best_epoch: number of the epoch it comes from, counted from 1 through both phases; 0 is the probe's start.
        rate_per_s: photos trained in a second, all layers; 0 where that phase did not run.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int
    rate_per_s: float


@dataclass(frozen=True)
class _Phase:
    name: Literal["head", "all"]
    epochs: int
    lr: float
    warm: float  # share of the steps in which the rate rises


def fine_tune(
    probe: Any,
    rows: Rows,
    labels: IntArray,
    train: IntArray,
    valid: IntArray,
    spec: Preprocessing,
    recipe: Recipe,
    on_event: OnEvent,
) -> Tuned:
    """Train a copy of a network, all layers.

    Args:
        probe: timm network with the head to start from; not changed.
        rows: squares (S, S, 3) uint8 of all photos.
        labels: (N,) class numbers.
        train: rows to learn from.
        valid: rows to choose the best epoch on.
        spec: the preprocessing that made the rows.
        recipe: epochs, batch size, rates, augmentation, seed.
        on_event: told of ``Epoch`` and ``Progress``, one unit a photo.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=_precision())
    model = copy.deepcopy(probe).to(memory_format=torch.channels_last)
    loop = _Loop(accelerator, accelerator.prepare(model), rows, torch.from_numpy(labels), spec, recipe)
    best, best_epoch, best_state = loop.judge(valid), 0, copy.deepcopy(model.state_dict())
    history: list[Epoch] = []
    phases = [phase for phase in _phases(recipe) for _ in range(phase.epochs)]
    for number, phase in enumerate(phases, start=1):
        if phase is not loop.phase:
            loop.begin(phase, n_steps=phase.epochs * math.ceil(len(train) / loop.batch_size))
        start = time.perf_counter()
        loss = loop.epoch(train, number, on_event)
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            on_event(
                Note(f"epoch {number}: the loss is not finite any more; the best epoch before it is kept", "warning")
            )
            break
        valid_error, valid_loss = loop.judge(valid)
        if (valid_error, valid_loss) < best:
            best, best_epoch, best_state = (valid_error, valid_loss), number, copy.deepcopy(model.state_dict())
        rate_per_s = len(train) / seconds
        epoch = Epoch(number, len(phases), phase.name, loss, valid_loss, valid_error, best[0], seconds, rate_per_s)
        history.append(epoch)
        on_event(epoch)
    model.load_state_dict(best_state)
    rates = [epoch.rate_per_s for epoch in history if epoch.phase == "all"]
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    return Tuned(model, tuple(history), best_epoch, max(rates, default=0.0))


def _phases(recipe: Recipe) -> tuple[_Phase, ...]:
    head_lr = recipe.lr or HEAD_LR
    all_lr = recipe.lr / 2 if recipe.lr else ALL_LR
    phases = (
        _Phase("head", recipe.frozen_epochs, head_lr, warm=0.3),
        _Phase("all", recipe.epochs, all_lr, warm=0.3),
    )
    return tuple(phase for phase in phases if phase.epochs > 0)


def _precision() -> str:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if has_fast_bf16() else "no"


class _Loop:
    """The moving parts of one run: model, optimiser, schedule, and where the photos come from."""

    def __init__(
        self, accelerator: Any, model: Any, rows: Rows, labels: Tensor, spec: Preprocessing, recipe: Recipe
    ) -> None:
        self.accelerator, self.model = accelerator, model
        self.rows, self.labels, self.spec, self.recipe = rows, labels, spec, recipe
        self.batch_size = recipe.batch_size or BATCH_SIZE
        self.optimizer: Any = None
        self.step = 0
        self.n_steps = 1
        self.phase = _Phase("head", 0, HEAD_LR, 0.3)
        self.peak_lrs: list[float] = []

    def begin(self, phase: _Phase, n_steps: int) -> None:
        """Set up the optimiser of a phase that will take ``n_steps``."""
        groups = layer_groups(self.model)
        if phase.name == "head":
            groups = groups[-1:]
        n = len(groups)
        self.peak_lrs = [phase.lr * STEM_DIVISOR ** -((n - 1 - i) / max(1, n - 1)) for i in range(n)]
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        settings = []
        for group, lr in zip(groups, self.peak_lrs, strict=True):
            for parameter in group:
                parameter.requires_grad_(True)
            # Biases and the gains of normalisation are not pulled to zero.
            matrices = [parameter for parameter in group if parameter.ndim > 1]
            vectors = [parameter for parameter in group if parameter.ndim <= 1]
            settings += [
                {"params": matrices, "lr": lr, "weight_decay": WEIGHT_DECAY},
                {"params": vectors, "lr": lr, "weight_decay": 0.0},
            ]
        self.optimizer = self.accelerator.prepare(torch.optim.AdamW(settings, betas=BETAS))
        self.phase, self.step, self.n_steps = phase, 0, n_steps

    def epoch(self, train: IntArray, number: int, on_event: OnEvent) -> float:
        """Train once over the photos; the mean loss in nats, not finite as soon as one step's is not."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        total, done = 0.0, 0
        for batch, targets in self._batches(train, number):
            with self.accelerator.autocast():
                logits = self.model(batch)
            loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
            value = float(loss.detach())
            if not math.isfinite(value):
                return value
            self._set_rates()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            total += value * len(targets)
            done += len(targets)
            on_event(Progress(done, loss=total / done))
        return total / max(1, done)

    def judge(self, valid: IntArray) -> tuple[float, float]:
        """(error, loss in nats) on photos as prediction will see them."""
        self.model.eval()
        n_wrong, total = 0, 0.0
        for start in range(0, len(valid), EVALUATE_BATCH):
            wanted = valid[start : start + EVALUATE_BATCH]
            targets = self.labels[wanted].to(self.accelerator.device)
            with torch.inference_mode(), self.accelerator.autocast():
                logits = self.model(self._network_input(wanted, "none", 0)).float()
            n_wrong += int((logits.argmax(1) != targets).sum())
            total += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
        return n_wrong / max(1, len(valid)), total / max(1, len(valid))

    def _batches(self, train: IntArray, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng([self.recipe.seed, number]).permutation(train)
        for step, start in enumerate(range(0, len(order), self.batch_size)):
            wanted = order[start : start + self.batch_size]
            batch = self._network_input(wanted, self.recipe.augment, seed_of(self.recipe.seed, number, step))
            yield batch, self.labels[wanted].to(self.accelerator.device)

    def _network_input(self, wanted: IntArray, preset: str, seed: int) -> Tensor:
        """Some photos as the network's input, changed as the preset says."""
        pixels = torch.from_numpy(self.rows.take(wanted)).to(self.accelerator.device, non_blocking=True)
        spec = self.spec
        return augment(pixels, preset, seed=seed, mean=spec.mean, std=spec.std, out_px=spec.image_px)

    def _set_rates(self) -> None:
        """One cycle: the rate rises over the first share of the steps and falls to almost nothing by the last."""
        done, warm = self.step / self.n_steps, self.phase.warm
        if done < warm:
            share = 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm)) / 2
        else:
            share = 1e-4 + (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.peak_lrs[i // 2] * share


def layer_groups(model: Any, n_groups: int = 4) -> list[list[nn.Parameter]]:
    """Parameters in groups from stem to head; the head is the last group, the rest are split by depth."""
    classifier = {id(parameter) for parameter in model.get_classifier().parameters()}
    body = [parameter for parameter in model.parameters() if id(parameter) not in classifier]
    size = max(1, math.ceil(len(body) / (n_groups - 1)))
    groups = [body[start : start + size] for start in range(0, len(body), size)]
    return [*groups, list(model.get_classifier().parameters())]
