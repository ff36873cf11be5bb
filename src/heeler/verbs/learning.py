"""Verbs that learn: train, plan and demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from heeler import collecting, options
from heeler.errors import UsageError
from heeler.exits import print_json

if TYPE_CHECKING:
    from heeler.plans import TrainOptions


def train(
    context: typer.Context,
    source: options.Source,
    out: options.Run = None,
    labels: options.Labels = None,
    fixes: options.Fixes = None,
    nested: options.Nested = False,
    test: options.Test = 0.2,
    valid: options.Valid = 0.1,
    seed: options.Seed = 42,
    group_by: options.GroupBy = None,
    minutes: options.Minutes = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_px: options.ImagePx = None,
    fit: options.ChosenFit = None,
    alpha: options.Alpha = "#ffffff",
    epochs: options.Epochs = None,
    frozen_epochs: options.FrozenEpochs = 1,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    augment: options.Augment = "photo",
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Learn from labelled photos, and measure how often it is wrong.

    \b
    Examples:
      heeler train photos/
      heeler train photos/ --minutes 15 --out runs/first
      heeler train labels.csv --group-by plot_id --json > result.json
    """
    options.need(source, "a folder of photos, a table or an archive")
    for file in (labels, fixes, weights):
        if file is not None:
            options.need(file, "a file")
    colour = options.parse_colour(alpha)
    if minutes is not None and epochs is not None:
        raise UsageError("--minutes and --epochs exclude each other", hint="say how long, or how many epochs")
    from heeler.plans import Recipe, TrainOptions

    recipe = Recipe(
        epochs=epochs or 0, frozen_epochs=frozen_epochs, batch_size=batch_size, lr=lr, augment=augment, seed=seed
    )
    settings = TrainOptions(
        out=out, labels=labels, fixes=fixes, nested=nested, test=test, valid=valid, seed=seed, group_by=group_by,
        backbone=backbone, weights=weights, image_px=image_px, fit=fit, alpha=colour, recipe=recipe, resume=resume,
        command=context.obj, minutes=(minutes or options.DEFAULT_MINUTES) if epochs is None else None,
    )  # fmt: skip
    return _train_and_tell(source, settings, json=json, quiet=quiet)


def plan(
    source: options.Source,
    minutes: options.Minutes = options.DEFAULT_MINUTES,
    labels: options.Labels = None,
    nested: options.Nested = False,
    group_by: options.GroupBy = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_px: options.ImagePx = None,
    fit: options.ChosenFit = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Show what train would do with its minutes, without training.

    \b
    Examples:
      heeler plan photos/ --minutes 15
      heeler plan photos/ --minutes 1 --json
    """
    options.need(source, "a folder of photos, a table or an archive")
    with collecting.paused():
        from heeler.planning import plan_only
    from heeler.plans import TrainOptions
    from heeler.terminal import listener, print_plan

    settings = TrainOptions(
        labels=labels, nested=nested, group_by=group_by, minutes=minutes, backbone=backbone, weights=weights,
        image_px=image_px, fit=fit,
    )  # fmt: skip
    with listener(quiet=True) as on_event:
        planned = plan_only(source, settings, on_event)
    if json:
        print_json(planned.to_json())
    else:
        print_plan(planned)
    return 0


def demo(
    context: typer.Context,
    out: options.Run = None,
    minutes: options.DemoMinutes = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Train on 2,624 photos of solar cells (needs heeler[demo]).

    \b
    Photos: the ELPV data set, CC BY-NC-SA 4.0; papers: Buerhop-Lutz et al. 2018,
    Deitsch et al. 2019 (Solar Energy 185), Deitsch et al. 2021 (Machine Vision and
    Applications 32).

    \b
    Examples:
      heeler demo
      heeler demo --minutes 5
      heeler demo --out runs/solar-cells --json
    """
    from heeler.demo import CREDITS, prepare_demo
    from heeler.files import cache_root

    table = prepare_demo(cache_root() / "demo")
    if not quiet:
        print(CREDITS, end="\n\n", file=sys.stderr)
    from heeler.plans import TrainOptions

    settings = TrainOptions(out=out, minutes=minutes, command=context.obj)
    return _train_and_tell(table, settings, json=json, quiet=quiet)


def _train_and_tell(source: Path, settings: TrainOptions, *, json: bool, quiet: bool) -> int:
    with collecting.paused():
        from heeler.train import train as train_photos
    from heeler.follow import follow, is_follower, leave
    from heeler.terminal import listener, print_result

    try:
        if is_follower():
            follow(source, settings)
            return 0
        with listener(quiet=quiet) as on_event:
            result = train_photos(source, settings, on_event)
    finally:
        leave()
    if json:
        print_json(result.to_json())
    else:
        print_result(result)
    return 0
