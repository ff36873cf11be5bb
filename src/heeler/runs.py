"""The run folder: where it stands, that it is new, and that it never lies inside the user's photos."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from heeler.errors import UsageError
from heeler.files import disk_errors, is_inside


def claim_run(out: Path | None, source: Path, name: str) -> Path:
    """Make the folder of a new run.

    Args:
        out: the user's choice, or None for the first free ``runs/<name>-<n>``.
        source: the photos; the run may not lie inside them.
        name: the source's name for people.

    Raises:
        UsageError: the folder holds something already, or lies inside the photos.
        ResourceError: it cannot be made.
    """
    if out is None:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "photos"
        n = 1
        while (run := Path("runs") / f"{safe}-{n}").exists():
            n += 1
    else:
        run = out
    if source.is_dir() and is_inside(run, source):
        raise UsageError(
            f"the run would be written to {run}, inside the photos in {source}",
            hint="choose a folder elsewhere with --out, or run the command from another folder",
        )
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UsageError(f"{run} holds something already", hint="choose a new folder with --out, or leave --out away")
    with disk_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    return run


def discard_if_empty(run: Path) -> None:
    """Remove a run folder that nothing was written to."""
    with contextlib.suppress(OSError):
        run.rmdir()
