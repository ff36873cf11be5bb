"""How to look at the photos: pixels, geometry and network, tried on a sample and judged by inner folds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heeler.data.pixels import read_again
from heeler.learn.backbone import Backbone, load_backbone
from heeler.learn.depth import relative_work
from heeler.learn.engines import Engine
from heeler.learn.features import compute_features, feature_engine, known_features
from heeler.learn.probe import by_chance, calibrated_losses, fit_probe
from heeler.plans import Setting, Trial
from heeler.records import Catalogue, Fit, IntArray, OnEvent, Preprocessing, Progress, ignore_events


@dataclass(frozen=True)
class Look:
    """One way to look at photos: a network, the preprocessing before it and, once timed, its engine."""

    backbone: Backbone
    spec: Preprocessing
    engine: Engine | None = None

    @property
    def setting(self) -> Setting:
        """What it is called in a plan."""
        return Setting(self.backbone.name, self.spec.image_px, self.spec.fit)


def load_look(
    name: str, image_px: int | None, fit: Fit, *, weights: Path | None = None, alpha: tuple[int, int, int]
) -> Look:
    """A network with the preprocessing that the user or the plan wants; see ``load_backbone`` for what it raises."""
    backbone = load_backbone(name, weights=weights, image_px=image_px)
    return Look(backbone, replace(backbone.spec, fit=fit, alpha=alpha))


def try_settings(
    sample: Catalogue,
    labels: IntArray,
    n_classes: int,
    folds: IntArray,
    first: Look,
    others: Sequence[Setting],
    make: Callable[[Setting], Look],
    deadline_s: float,
    on_event: OnEvent,
) -> tuple[list[Trial], list[Look]]:
    """Fit a head on each setting's features of a sample, out of fold.

    Args:
        sample: photos that train, and no others: what is judged later must have had no part in a choice.
        labels: (n,) class numbers of its usable photos.
        n_classes: K.
        folds: (n,) inner folds.
        first: what is always tried.
        others: settings to try beside it, the most promising first.
        make: of a look from a setting.
        deadline_s: of ``time.perf_counter``; no other is tried that would probably end later.
        on_event: told of progress, one unit a trial.

    Returns:
        The trials that were made, and what was tried in each.
    """
    trials: list[Trial] = []
    tried: list[Look] = []
    engines: dict[tuple[str, int], Engine] = {}
    first_losses = torch.empty(0)
    besides_s = 0.0  # of a trial, whatever the setting: engine, photos and head
    for setting in (first.setting, *others):
        start = time.perf_counter()
        if trials and start + besides_s + _network_s(setting, trials) > deadline_s:
            continue  # a smaller one may still fit
        if _has_worse_geometry(setting, trials):
            continue
        look = make(setting) if trials else first
        key = look.backbone.name, look.spec.image_px
        look = look if look.engine else replace(look, engine=engines.get(key))
        trial, look, losses = _try(sample, labels, n_classes, folds, look)
        if look.engine:
            engines[key] = look.engine
        if trials:
            trial = replace(trial, by_chance=by_chance(losses - first_losses))
        else:
            first_losses = losses
        trials.append(trial)
        tried.append(look)
        besides_s = max(besides_s, time.perf_counter() - start - trial.n_photos / trial.rate_per_s)
        on_event(Progress(len(trials)))
    return trials, tried


def _network_s(setting: Setting, trials: Sequence[Trial]) -> float:
    """Seconds that a setting's network should take for the sample, as the slowest of the trials goes."""
    each_s = (trial.n_photos / trial.rate_per_s / relative_work(trial.setting) for trial in trials)
    return relative_work(setting) * max(each_s)


def _has_worse_geometry(setting: Setting, trials: Sequence[Trial]) -> bool:
    """Whether the first trial's network, at its pixels, was better in another geometry than this setting's."""
    if not trials:
        return False
    first = trials[0].setting
    loss_of = {one.setting.fit: one.loss for one in trials if replace(one.setting, fit=first.fit) == first}
    told = replace(setting, fit=first.fit) != first and setting.fit in loss_of
    return told and loss_of[setting.fit] > min(loss_of.values())


def _try(
    sample: Catalogue, labels: IntArray, n_classes: int, folds: IntArray, look: Look
) -> tuple[Trial, Look, Tensor]:
    pixels = read_again(sample, look.spec, ignore_events)
    names = [photo.sha256 for photo in sample.usable]
    known = known_features(look.backbone, look.spec, names)
    engine = look.engine
    if engine is None:
        engine = feature_engine(look.backbone, look.spec, pixels.rows)
    rate_per_s = engine.rate_per_s
    if known is None:
        start = time.perf_counter()
        features, n_computed = compute_features(look.backbone, look.spec, pixels.rows, names, engine, ignore_events)
        if n_computed > len(names) // 2:
            rate_per_s = n_computed / (time.perf_counter() - start)
    else:
        features = known[0]
    probe = fit_probe(features, labels, n_classes, folds)
    error = float(np.mean(probe.logits.argmax(1) != labels))
    trial = Trial(look.setting, len(names), error, probe.tried[probe.penalty], rate_per_s)
    losses = calibrated_losses(torch.from_numpy(probe.logits), torch.from_numpy(labels))
    return trial, replace(look, engine=engine), losses
