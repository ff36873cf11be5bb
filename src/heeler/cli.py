"""The ``heeler`` command: its verbs put together, and each error turned into an exit code."""

from __future__ import annotations

import json as json_format
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import heeler
from heeler import collecting, options
from heeler.errors import UsageError
from heeler.exits import explain, give_up_stdout, prepare_process, tell_error
from heeler.verbs.learning import demo, plan, train
from heeler.verbs.machine import doctor
from heeler.verbs.models import export, predict, serve
from heeler.verbs.photos import check, fix, preview
from heeler.verbs.sets import get

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
    for verb in (train, plan, predict, export, serve, check, fix, preview, get, demo, doctor):
        app.command()(verb)
    return app


def _begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: print it as JSON.")] = False,
    debug: options.Debug = False,  # read by ``main``, before or behind the verb
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


def run() -> int:
    """``main`` in a process of its own, which ends with it."""
    code = main()
    collecting.leave_out()
    return code


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
