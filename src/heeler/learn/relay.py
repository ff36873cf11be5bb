"""Tuning in two parts: the last stages first, whose steps are fast, then all layers from where these ended.

Either way alone is the better one on some sets and much the worse on others; one after the other is as good as the
better one on each that was tried (docs/recipe.md).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from heeler.data.rows import Rows
from heeler.errors import ResourceError
from heeler.learn.checkpoint import Checkpoint, key_of, read_checkpoint, write_checkpoint
from heeler.learn.contest import Tuned
from heeler.learn.tune import fine_tune
from heeler.learn.weights import plain_state
from heeler.plans import Recipe
from heeler.records import Epoch, Event, IntArray, Note, OnEvent, Preprocessing, Progress

# In the folder of a run's checkpoints, those of the first part; the last of them is what it ended with.
FIRST, ENDED = "first", "ended "
# Less than this is not worth a second part.
LEAST_S = 1.0
# What of a result is not its network.
FACTS = ("kind", "best_epoch", "best_loss", "best_error", "rate_per_s", "n_epochs", "stopped_early")


def tune_in_parts(
    probe: Any,
    rows: Rows,
    labels: IntArray,
    train: IntArray,
    valid: IntArray,
    spec: Preprocessing,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    folder: Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """``fine_tune``, and before it the last stages alone where ``recipe.last_s`` says so; what is better is kept.

    Epochs and photos are told as counted through both parts, and the rates rise and fall in each. Once ``stop`` says
    yes, no other part is begun. All else is as for ``fine_tune``, its errors too.
    """
    photos = rows, labels, train, valid, spec
    if not recipe.last_s:
        return fine_tune(probe, *photos, recipe, on_event, folder=folder, resume=resume, stop=stop)
    place = folder / FIRST if folder else None
    first, used_s = _first_part(probe, photos, recipe, on_event, place, resume, stop)
    rest = replace(recipe, budget_s=recipe.budget_s - used_s, last_views=0, last_s=0.0)
    if first.stopped or rest.budget_s < LEAST_S:
        return first

    def later(event: Event) -> None:
        if isinstance(event, Epoch):
            event = _after(event, first)
        elif isinstance(event, Progress):
            event = replace(event, done=event.done + round(first.n_epochs * len(train)))
        on_event(event)

    return _joined(first, fine_tune(first.model, *photos, rest, later, folder=folder, resume=resume, stop=stop))


def _first_part(
    probe: Any,
    photos: tuple[Rows, IntArray, IntArray, IntArray, Preprocessing],
    recipe: Recipe,
    on_event: OnEvent,
    place: Path | None,
    resume: bool,
    stop: Callable[[], bool],
) -> tuple[Tuned, float]:
    """What the last stages alone come to, now or before a kill, and the seconds that it took."""
    began_s, (_, labels, train, valid, _) = time.perf_counter(), photos
    part = replace(recipe, budget_s=recipe.last_s, last_s=0.0)
    key = key_of(asdict(part), (train, labels[train], valid, labels[valid]), plain_state(probe))
    if place and resume and (found := _read(place, key, probe)):
        return found
    is_begun = bool(place and resume and read_checkpoint(place))
    first = fine_tune(probe, *photos, part, on_event, folder=place, resume=resume, stop=stop)
    used_s = max(time.perf_counter() - began_s, part.budget_s if is_begun else 0.0)
    if place and not first.stopped:
        _write(place, key, first, used_s, on_event)
    return first, used_s


def _joined(first: Tuned, second: Tuned) -> Tuned:
    """One result of two parts. Where what the second began with stayed the best, it is the first's, or the start."""
    history = (*first.history, *(_after(epoch, first) for epoch in second.history))
    better = second if second.best_epoch else first
    return replace(
        better,
        history=history,
        best_epoch=second.best_epoch + _n_before(first) if second.best_epoch else first.best_epoch,
        rate_per_s=second.rate_per_s,
        n_epochs=first.n_epochs + second.n_epochs,
        stopped_early=second.stopped_early,
        stopped=second.stopped,
    )


def _n_before(first: Tuned) -> int:
    return math.ceil(first.n_epochs)


def _after(epoch: Epoch, first: Tuned) -> Epoch:
    """An epoch of the second part, counted from the beginning of the first."""
    n_before = _n_before(first)
    return replace(epoch, epoch=epoch.epoch + n_before, epochs=epoch.epochs + n_before)


def _write(place: Path, key: str, first: Tuned, used_s: float, on_event: OnEvent) -> None:
    """Keep how the first part ended, so that it need not be done again after a kill."""
    facts = {name: getattr(first, name) for name in FACTS}
    facts |= {"history": [asdict(epoch) for epoch in first.history], "used_s": used_s, "key": ENDED + key}
    try:
        write_checkpoint(place, Checkpoint(plain_state(first.model), facts))
    except ResourceError as error:
        on_event(Note(f"tuning goes on, how its first part ended is not on the disk: {error}", "warning"))


def _read(place: Path, key: str, probe: Any) -> tuple[Tuned, float] | None:
    """What ``_write`` kept of this run, and the seconds that it took; None where the first part has not ended."""
    found = read_checkpoint(place)
    if found is None or found.facts["key"] != ENDED + key:
        return None
    model = copy.deepcopy(probe)
    model.load_state_dict(found.tensors)
    facts = {name: found.facts[name] for name in FACTS}
    history = tuple(Epoch(**epoch) for epoch in found.facts["history"])
    return Tuned(model=model.eval().requires_grad_(True), history=history, **facts), found.facts["used_s"]
