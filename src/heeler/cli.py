"""The ``heeler`` command: each verb turns its options into one library call, and each error into an exit code."""

from __future__ import annotations

import errno
import io
import json as json_format
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import heeler
from heeler import options
from heeler.errors import HeelerError, UsageError

if TYPE_CHECKING:
    from heeler.records import Prediction
    from heeler.train import TrainOptions


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
    for verb in (train, predict, check, demo, doctor):
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
    backbone: options.Backbone = "tf_efficientnet_lite0",
    weights: options.Weights = None,
    image_px: options.ImagePx = None,
    fit: options.Fitting = "crop",
    alpha: options.Alpha = "#ffffff",
    epochs: options.Epochs = 0,
    frozen_epochs: options.FrozenEpochs = 1,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    augment: options.Augment = "photo",
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Learn from labelled photos, and measure how often it is wrong.

    \b
    Examples:
      heeler train photos/
      heeler train photos/ --epochs 3 --fit squash --out runs/first
      heeler train labels.csv --group-by plot_id --json > result.json
    """
    _need(source, "a folder of photos, a table or an archive")
    for file in (labels, weights):
        if file is not None:
            _need(file, "a file")
    colour = options.parse_colour(alpha)
    from heeler.records import Recipe
    from heeler.train import TrainOptions

    recipe = Recipe(
        epochs=epochs, frozen_epochs=frozen_epochs, batch_size=batch_size, lr=lr, augment=augment, seed=seed
    )
    settings = TrainOptions(
        out=out, labels=labels, nested=nested, test=test, valid=valid, seed=seed, group_by=group_by, backbone=backbone,
        weights=weights, image_px=image_px, fit=fit, alpha=colour, recipe=recipe, command=context.obj,
    )  # fmt: skip
    return _train_and_tell(source, settings, json=json, quiet=quiet)


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
    counts, answer = _predict_all(model, files, top, target, sort_into, json)
    if json:
        _print_json(answer)
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
        _print_json(result.to_json())
    else:
        print_check(result)
    return DataError.exit_code if result.problems else 0


def demo(
    context: typer.Context,
    out: options.Run = None,
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
      heeler demo --out runs/solar-cells --json
    """
    from heeler.demo import CREDITS, prepare_demo
    from heeler.files import cache_root

    table = prepare_demo(cache_root() / "demo")
    if not quiet:
        print(CREDITS, end="\n\n", file=sys.stderr)
    from heeler.records import Recipe
    from heeler.train import TrainOptions

    settings = TrainOptions(out=out, recipe=Recipe(), command=context.obj)
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
        _print_json(found.to_json())
    else:
        print_doctor(found)
    return 0 if found.works else HeelerError.exit_code


def _train_and_tell(source: Path, settings: TrainOptions, *, json: bool, quiet: bool) -> int:
    from heeler.terminal import listener, print_result
    from heeler.train import train as train_photos

    with listener(quiet=quiet) as on_event:
        result = train_photos(source, settings, on_event)
    if json:
        _print_json(result.to_json())
    else:
        print_result(result)
    return 0


def _predict_all(
    model: Path, files: list[str], top: int, out: Path | None, folder: Path | None, json: bool
) -> tuple[dict[str, int], dict[str, Any]]:
    from heeler.ship.predict import predict_paths
    from heeler.ship.rows import row_to_json, sort_into, write_predictions
    from heeler.terminal import listener

    in_answer = json and out is None
    kept: list[Prediction] = []

    def tapped(rows: Iterable[Prediction]) -> Iterator[Prediction]:
        for row in rows:
            if in_answer or folder is not None:
                kept.append(row)
            yield row

    target = io.StringIO() if in_answer else out or sys.stdout
    # A display that redraws itself and rows on the same screen would overwrite each other.
    on_screen = out is None and not json and sys.stdout.isatty()
    with listener(quiet=on_screen) as on_event:
        counts = write_predictions(target, tapped(predict_paths(model, files, top=top, on_event=on_event)), top)
    answer: dict[str, Any] = {"model": str(model), "n": len(files), **{f"n_{key}": n for key, n in counts.items()}}
    answer["predictions"] = [row_to_json(row, top) for row in kept] if in_answer else str(out)
    if folder is not None:
        answer.update(sorted_into=str(folder), n_copied=sort_into(folder, kept))
    return counts, answer


def _need(path: Path, what: str) -> None:
    if not path.exists():
        raise UsageError(f"{path} does not exist", hint=f"give {what}; the name is read from {Path.cwd()}")


def _print_json(value: object) -> None:
    print(json_format.dumps(value, indent=2, allow_nan=False))


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
    _prepare_process(debug)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _give_up_stdout()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, hint, code = _explain(error)
        _tell_error(message, hint, code, json="--json" in flags)
        return code


def _give_up_stdout() -> None:
    # What is left in the buffer cannot be written; Python would try again at its end, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: list[str]) -> int:
    # Not app(): it would turn an interrupt and a broken pipe into exits of its own before they can be told.
    command = typer.main.get_command(build_app())
    try:
        with command.make_context("heeler", list(args), obj=("heeler", *args)) as context:
            return command.invoke(context) or 0
    except typer.Exit as stop:
        return stop.exit_code


def _prepare_process(debug: bool) -> None:
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file's name may hold bytes that are no text; it must come out as it went in.
            odd = "surrogateescape" if stream.encoding.lower().replace("-", "") == "utf8" else "backslashreplace"
            stream.reconfigure(errors=odd)


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Message, hint and exit code of an error."""
    usage_error = typer.BadParameter.__base__ or typer.BadParameter
    if isinstance(error, HeelerError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, usage_error):
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "heeler"
        return error.format_message(), f"{verb} --help lists what it takes", UsageError.exit_code  # type: ignore[attr-defined]
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped before the end", "earlier results are as they were; run the same command to go on", 130
    if isinstance(error, MemoryError):
        return "the memory of this machine is full", "close other programs, or use a smaller --image-px", 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: {error.filename or 'a file could not be written'}",
            "free some space and run it again",
            1,
        )
    said = f"something went wrong inside heeler: {type(error).__name__}: {error}"
    return said, "run the same command with --debug to see where, and report it", HeelerError.exit_code


def _tell_error(message: str, hint: str, code: int, *, json: bool) -> None:
    message, hint = " ".join(message.split()), " ".join(hint.split())
    print(f"heeler: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
    try:
        if json:
            _print_json({"error": {"message": message, "hint": hint, "exit_code": code}})
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
