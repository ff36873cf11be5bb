"""Several processes of one run: the first says what it decided, and the others train with it.

A launcher (``torchrun``, ``accelerate launch``) gives all of them the same command. The first lives through the whole
story and is the only one that writes; the others wait until there is a network to tune, and read the photos for that.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heeler.clock import Clock
from heeler.data.catalogue import thin_catalogue
from heeler.data.pixels import read_photos
from heeler.errors import DataError, UsageError
from heeler.learn.backbone import with_head
from heeler.learn.checkpoint import Checkpoint
from heeler.learn.choose import Look
from heeler.learn.plan import MIN_OF_CLASS
from heeler.learn.team import Team, leave, n_launched
from heeler.learn.tune import fine_tune
from heeler.photos import Photos, list_files
from heeler.planning import look_of
from heeler.plans import Plan, Recipe, Setting, TrainOptions
from heeler.records import Catalogue, Head, ignore_events, short_hash
from heeler.stopping import raise_interrupted, stop_requests

__all__ = ["follow", "is_follower", "lead", "leave", "require_first"]


def is_follower() -> bool:
    """Whether a launcher started this process, and not as the first."""
    return n_launched() > 1 and int(os.environ.get("RANK") or 0) > 0


def require_first() -> None:
    """Refuse to lead a run as another process of one.

    Raises:
        UsageError: a launcher started this process, and not as the first.
    """
    if is_follower():
        raise UsageError(
            "a process that follows cannot begin a run of its own",
            hint="launch the command, which knows its place: torchrun ... -m heeler train ...",
        )


def lead(photos: Photos, look: Look, model: Any, recipe: Recipe, plan: Plan | None) -> None:
    """Let the other processes know what will be tuned, and on which photos; nothing where there are none.

    Args:
        photos: of the run.
        look: network and preprocessing.
        model: timm network to start from: the backbone with its head.
        recipe: how to tune; where it asks for no tuning, the others end.
        plan: of the run, where it has one.
    """
    import torch

    if n_launched() == 1:
        return
    team = Team()
    if not (recipe.epochs or recipe.budget_s):
        team.first_checkpoint(None)
        return
    split, classifier = photos.split, model.get_classifier()
    tensors = {
        "weight": classifier.weight.detach(),
        "bias": classifier.bias.detach(),
        "labels": torch.from_numpy(photos.labels),
        "train": torch.from_numpy(split.train),
        "valid": torch.from_numpy(split.valid),
    }
    facts = {
        "setting": asdict(look.setting),
        "recipe": asdict(recipe),
        "photos": _names_of(photos.catalogue),
        "weights": look.backbone.key,
        "n_read": plan.n_read if plan and plan.n_read < plan.n_found else 0,
    }
    team.first_checkpoint(Checkpoint({name: tensor.contiguous() for name, tensor in tensors.items()}, facts))


def follow(source: str | Path, options: TrainOptions) -> None:
    """Wait for what the first process decides, then tune with it; nothing is written or told.

    Args:
        source: as the first process has it: the same photos by the same names.
        options: the same.

    Raises:
        DataError: the photos or the weights are others.
        Interrupted: the run was stopped.
    """
    told = Team().first_checkpoint(None)
    if told is None:
        return
    catalogue = list_files(source, options, Clock(ignore_events))
    facts, look = told.facts, look_of(Setting(**told.facts["setting"]), options)
    if look.backbone.key != facts["weights"]:
        raise DataError(
            f"{look.backbone.name} has other weights here than for the first process",
            hint="give every machine the same --weights file, or the same cache of the hub",
        )
    if facts["n_read"]:
        catalogue = thin_catalogue(catalogue, facts["n_read"], MIN_OF_CLASS, options.seed)
    catalogue, pixels = read_photos(catalogue, look.spec, ignore_events)
    if _names_of(catalogue) != facts["photos"]:
        raise DataError(
            f"{source} holds other photos here than for the first process",
            hint="give every machine the same folder, and one cache with HEELER_CACHE where they share a disk",
        )
    tensors = {name: tensor.numpy() for name, tensor in told.tensors.items()}
    model = with_head(look.backbone, Head(tensors["weight"], tensors["bias"]))
    with stop_requests() as stop:
        tuned = fine_tune(
            model, pixels.rows, tensors["labels"], tensors["train"], tensors["valid"], look.spec,
            Recipe(**facts["recipe"]), ignore_events, stop=stop,
        )  # fmt: skip
    if tuned.stopped:
        raise_interrupted(stop.signum or signal.SIGTERM)


def _names_of(catalogue: Catalogue) -> str:
    return short_hash([photo.sha256 for photo in catalogue.usable])
