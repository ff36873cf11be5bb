"""``heeler.train``: from the keywords of a call in Python to the options of the story that ``train.py`` tells."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

from heeler.dataset import PhotoFolder, open_folder
from heeler.errors import UsageError
from heeler.keywords import FITS, command_line, optional_path, require_choice, require_number
from heeler.notebook import progress
from heeler.plans import Augment, Recipe, TrainOptions
from heeler.records import Fit, OnEvent
from heeler.run import RateTest, Run

__all__ = ["train"]

DEFAULT_MINUTES = 5.0


def train(
    photos: PhotoFolder | str | os.PathLike[str], *, minutes: float | None = None, epochs: int | None = None,
    frozen_epochs: int = 1, backbone: str | None = None, weights: str | os.PathLike[str] | None = None,
    image_px: int | None = None, fit: Fit | None = None, batch_size: int | None = None,
    lr: float | RateTest | None = None, augment: Augment = "photo", seed: int | None = None,
    out: str | os.PathLike[str] | None = None, resume: bool = False, quiet: bool = False,
    on_event: OnEvent | None = None,
) -> Run:  # fmt: skip
    """Learn to tell the classes of photos apart, and measure how well.

    Args:
        photos: from ``heeler.open_folder``, or a path, which is opened so. It is never written to.
        minutes: how long the run may take, 0.1 to 10,080; 5 where neither this nor ``epochs`` is given.
        epochs: rounds of fine-tuning in place of minutes, 0 to 10,000; 0 fits the last layer alone, in the least time.
        frozen_epochs: rounds before them that train the last layer alone, 0 to 10,000.
        backbone: network to start from, by timm's name; the plan chooses where None.
        weights: safetensors file with its weights, in place of the embedded or the hub's.
        image_px: side of the network's input in pixels, 32 to 1,024; the plan chooses where None.
        fit: how a photo becomes a square, ``crop``, ``squash`` or ``pad``; the plan chooses where None.
        batch_size: photos in each step, 1 to 65,536; the device chooses where None.
        lr: highest learning rate, 1e-8 to 10; the recipe chooses where None.
        augment: how photos are varied while learning: ``photo``, ``overhead``, ``document`` or ``none``.
        seed: fixes training's chances; the photos' own where None.
        out: folder of the run; ``runs/<name>-<n>`` where None.
        resume: go on with the run that the same call began.
        quiet: show warnings alone, and no progress.
        on_event: called with each event of the run, a record; progress is then not shown.

    Returns:
        The run: its scores, model, report and plots.

    Raises:
        UsageError: an argument does not make sense, or ``out`` holds something already.
        DataError: the photos cannot be learnt from; nothing is left behind.
        ResourceError: the disk is full, or weights cannot be had.
        Interrupted: the run was stopped; where a model was there already, the best one is kept.

    Example:
        >>> import heeler
        >>> run = heeler.train("photos", epochs=0, image_px=64, quiet=True)
        >>> run.scores.n, run.error < 0.5
        (48, True)
    """
    _require_sense(minutes, epochs, frozen_epochs, image_px, batch_size, lr, seed, fit, augment)
    folder = _opened(photos, seed)
    recipe = Recipe(
        epochs=int(epochs or 0), frozen_epochs=int(frozen_epochs), batch_size=batch_size and int(batch_size),
        lr=None if lr is None else float(lr), augment=augment, seed=folder.options.seed if seed is None else int(seed),
    )  # fmt: skip
    options = replace(
        folder.options, minutes=float(minutes or DEFAULT_MINUTES) if epochs is None else None, backbone=backbone,
        weights=optional_path("weights", weights), image_px=image_px and int(image_px), fit=fit, recipe=recipe,
        out=optional_path("out", out), resume=resume,
    )  # fmt: skip
    return _train(folder.source, replace(options, command=command_line(folder.source, options)), quiet, on_event)


def _require_sense(
    minutes: object, epochs: object, frozen_epochs: object, image_px: object, batch_size: object, lr: object,
    seed: object, fit: object, augment: object,
) -> None:  # fmt: skip
    require_number("minutes", minutes, optional=True)
    require_number("epochs", epochs, whole=True, optional=True)
    require_number("frozen_epochs", frozen_epochs, whole=True)
    require_number("image_px", image_px, whole=True, optional=True)
    require_number("batch_size", batch_size, whole=True, optional=True)
    require_number("lr", lr, optional=True)
    require_number("seed", seed, whole=True, optional=True)
    require_choice("fit", fit, FITS)
    require_choice("augment", augment, get_args(Augment))
    if minutes is not None and epochs is not None:
        raise UsageError("minutes and epochs exclude each other", hint="say how long, or how many epochs")


def _opened(photos: PhotoFolder | str | os.PathLike[str], seed: int | None) -> PhotoFolder:
    if isinstance(photos, PhotoFolder):
        return photos
    source = optional_path("photos", photos)
    if source is None:
        raise UsageError("photos=None is no path", hint="give a folder, or what heeler.open_folder returns")
    return open_folder(source) if seed is None else open_folder(source, seed=seed)


def _train(source: Path, options: TrainOptions, quiet: bool, on_event: OnEvent | None) -> Run:
    from heeler.train import train as train_photos

    if on_event is not None:
        return Run(train_photos(source, options, on_event))
    with progress(quiet=quiet) as tell:
        return Run(train_photos(source, options, tell))
