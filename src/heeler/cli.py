"""The ``heeler`` command: each verb turns its options into one library call, and each error into an exit code."""

from __future__ import annotations

import io
import json as json_format
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import heeler
from heeler import options
from heeler.errors import HeelerError, UsageError
from heeler.exits import explain, give_up_stdout, prepare_process, print_json, tell_error

if TYPE_CHECKING:
    from heeler.plans import TrainOptions


ENDING = "Exit codes: 0 done, 1 the job failed, 2 wrong usage, 3 photos unusable, 4 model not trusted, 130 interrupted."


def build_app() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        name="heeler",
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    )
    app.callback(invoke_without_command=True, epilog=ENDING)(_begin)
    for verb in (train, plan, predict, check, preview, demo, doctor):
        app.command()(verb)
    return app


def _begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: print it as JSON.")] = False,
) -> None:
    """A folder of labelled photos in, an image classifier you can trust out.

    \b
    Examples:
      heeler train photos/
      heeler predict runs/photos-1/model new-photos/ --out predictions.csv
      heeler train --help
    """
    if version:
        print(json_format.dumps({"version": heeler.__version__}) if json else f"heeler {heeler.__version__}")
        raise typer.Exit(0)
    if json:
        raise UsageError("--json goes after the verb", hint="for example: heeler train photos/ --json")
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def train(
    context: typer.Context,
    source: options.Source,
    out: options.Run = None,
    labels: options.Labels = None,
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
    _need(source, "a folder of photos, a table or an archive")
    for file in (labels, weights):
        if file is not None:
            _need(file, "a file")
    colour = options.parse_colour(alpha)
    if minutes is not None and epochs is not None:
        raise UsageError("--minutes and --epochs exclude each other", hint="say how long, or how many epochs")
    from heeler.plans import TrainOptions
    from heeler.records import Recipe

    recipe = Recipe(
        epochs=epochs or 0, frozen_epochs=frozen_epochs, batch_size=batch_size, lr=lr, augment=augment, seed=seed
    )
    settings = TrainOptions(
        out=out, labels=labels, nested=nested, test=test, valid=valid, seed=seed, group_by=group_by, backbone=backbone,
        weights=weights, image_px=image_px, fit=fit, alpha=colour, recipe=recipe, resume=resume, command=context.obj,
        minutes=(minutes or options.DEFAULT_MINUTES) if epochs is None else None,
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
    _need(source, "a folder of photos, a table or an archive")
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


def predict(
    model: options.Model,
    paths: options.Paths,
    out: options.Table = None,
    top: options.Top = 3,
    sort_into: options.SortInto = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Classify photos with a model. One row for each photo, in the order given.

    \b
    Examples:
      heeler predict runs/photos-1/model new-photos/ --out predictions.csv
      heeler predict runs/photos-1/model photo.jpg --json
      find scans -name '*.jpg' | heeler predict runs/photos-1/model - --sort-into sorted/
    """
    _need(model, "a model folder")
    if json and out == "-":
        raise UsageError("--json and --out - both want standard output", hint="name a file: --out predictions.csv")
    from heeler.classify import classify
    from heeler.errors import DataError
    from heeler.ship.rows import expand_paths

    # A name may end in a carriage return, which Python would otherwise take for the end of a line.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline="\n")
    files = expand_paths(paths, sys.stdin)
    if not files:
        raise DataError(
            f"no files were found in {', '.join(paths)}", hint="name a photo, or a folder with photos in it"
        )
    target = None if out in (None, "-") else Path(out or "-")
    counts, answer = classify(model, files, top, target, sort_into, json)
    if json:
        print_json(answer)
    written = f", written to {target}" if target else ""
    copied = f", {answer['n_copied']:,} copied into {sort_into}" if sort_into else ""
    print(f"{counts['ok']:,} classified, {counts['unreadable']:,} unreadable{written}{copied}", file=sys.stderr)
    return 0 if counts["ok"] else DataError.exit_code


def check(
    source: options.Source,
    labels: options.Labels = None,
    nested: options.Nested = False,
    group_by: options.GroupBy = None,
    test: options.Test = 0.2,
    valid: options.Valid = 0.1,
    seed: options.Seed = 42,
    alpha: options.Alpha = "#ffffff",
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Look at labelled photos without training.

    What is there, what is left out and why, duplicates, classes that are too small.

    \b
    Examples:
      heeler check photos/
      heeler check labels.csv --json > check.json
    """
    _need(source, "a folder of photos, a table or an archive")
    colour = options.parse_colour(alpha)
    from heeler.check import check as check_photos
    from heeler.errors import DataError
    from heeler.terminal import listener, print_check

    with listener() as on_event:
        result = check_photos(
            source, labels=labels, nested=nested, group_by=group_by, test=test, valid=valid, seed=seed, alpha=colour,
            on_event=on_event,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
    else:
        print_check(result)
    return DataError.exit_code if result.problems else 0


def preview(
    source: options.Source,
    out: options.Sheet = Path("preview.html"),
    augment: options.Preset = None,
    photos: options.Photos = 8,
    variants: options.Variants = 5,
    labels: options.Labels = None,
    nested: options.Nested = False,
    seed: options.Seed = 42,
    group_by: options.GroupBy = None,
    image_px: options.SheetPx = 224,
    fit: options.Fitting = "crop",
    alpha: options.Alpha = "#ffffff",
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Show a few photos before and after augmentation.

    It opens only the photos that it shows. An earlier sheet of heeler's is replaced; no other
    file is, and nothing is written into the folder of the photos.

    \b
    Examples:
      heeler preview photos/
      heeler preview photos/ --augment overhead --fit squash --out overhead.png
    """
    _need(source, "a folder of photos, a table or an archive")
    if labels is not None:
        _need(labels, "a file")
    colour = options.parse_colour(alpha)
    from heeler.preview import preview as preview_photos
    from heeler.terminal import listener

    with listener() as on_event:
        result = preview_photos(
            source, out=out, augment=augment, n_photos=photos, n_variants=variants, labels=labels, nested=nested,
            group_by=group_by, image_px=image_px, fit=fit, alpha=colour, seed=seed, on_event=on_event,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
    else:
        print(f"{result.n_photos:,} photos before and after augmentation: {result.sheet}")
        print(f"pass the preset that you choose to heeler train: --augment {augment or 'NAME'}")
    return 0


def demo(
    context: typer.Context,
    out: options.Run = None,
    minutes: options.Minutes = None,
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


def doctor(json: options.Json = False, debug: options.Debug = False) -> int:
    """Look at this machine: what a run would use, what is wrong.

    Each thing that is wrong comes with what to do about it.

    \b
    Examples:
      heeler doctor
      heeler doctor --json > machine.json
    """
    from heeler.doctor import examine, print_doctor

    found = examine()
    if json:
        print_json(found.to_json())
    else:
        print_doctor(found)
    return 0 if found.works else HeelerError.exit_code


def _train_and_tell(source: Path, settings: TrainOptions, *, json: bool, quiet: bool) -> int:
    from heeler.follow import follow, is_follower, leave
    from heeler.terminal import listener, print_result
    from heeler.train import train as train_photos

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


def _need(path: Path, what: str) -> None:
    if not path.exists():
        raise UsageError(f"{path} does not exist", hint=f"give {what}; the name is read from {Path.cwd()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``heeler`` command.

    Args:
        argv: the words after ``heeler``; those of the process by default.

    Returns:
        The exit code: 0 done, 1 the job failed, 2 wrong usage, 3 photos unusable, 4 model not trusted, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    flags = set(args[: args.index("--")] if "--" in args else args)
    debug = "--debug" in flags or os.environ.get("HEELER_DEBUG") == "1"
    prepare_process(debug)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        give_up_stdout()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, hint, code = explain(error)
        tell_error(message, hint, code, json="--json" in flags)
        return code


def _run(args: list[str]) -> int:
    # Not app(): it would turn an interrupt and a broken pipe into exits of its own before they can be told.
    command = typer.main.get_command(build_app())
    try:
        with command.make_context("heeler", list(args), obj=("heeler", *args)) as context:
            return command.invoke(context) or 0
    except typer.Exit as stop:
        return stop.exit_code
