"""The run folder: where it stands, that it is new, and that it never lies inside the user's photos."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from heeler.errors import UsageError
from heeler.files import disk_errors, is_inside

MAX_NAME_LETTERS = 80
# What a run writes before its model.
BEGINNINGS = ("history.jsonl", "catalogue.csv")


def claim_run(out: Path | None, source: Path, name: str) -> Path:
    """Make the folder of a new run.

    Args:
        out: the user's choice, or None for the first free ``runs/<name>-<n>``.
        source: the photos; the run may not lie inside them.
        name: the source's name for people.

    Raises:
        UsageError: the folder holds something already, lies inside the photos, or cannot be a folder.
        ResourceError: it cannot be made.
    """
    run = out or Path("runs")
    if source.is_dir() and is_inside(run, source):
        raise UsageError(
            f"the run would be written to {run}, inside the photos in {source}",
            hint="choose a folder elsewhere with --out, or run the command from another folder",
        )
    try:
        with disk_errors(run):
            if out is None:
                return _first_free(run, re.sub(r"[^\w.-]+", "-", name)[:MAX_NAME_LETTERS].strip("-.") or "photos")
            if run.exists() and (not run.is_dir() or any(run.iterdir())):
                raise UsageError(
                    f"{run} holds something already", hint="choose a new folder with --out, or leave --out away"
                )
            run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"{run} cannot be made: {reason}", hint="choose another folder with --out") from error
    return run


def discard_unfinished(run: Path) -> None:
    """Remove what a run without a model left, so that nothing is in the way of the same command given again."""
    if not (run / "model").exists():
        with contextlib.suppress(OSError):
            for name in BEGINNINGS:
                (run / name).unlink(missing_ok=True)
            run.rmdir()


def _first_free(folder: Path, name: str) -> Path:
    n = 1
    while True:
        run = folder / f"{name}-{n}"
        try:
            run.mkdir(parents=True)  # not asked for before: another run may take the name in between
        except FileExistsError:
            n += 1
        else:
            return run
