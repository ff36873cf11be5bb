"""The run folder: where it stands, that it is new or to be gone on with, and that it never lies inside the photos."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from heeler.errors import UsageError
from heeler.files import disk_errors, is_inside, sha256_file, write_csv, write_json
from heeler.plans import Plan, TrainOptions, options_from_json, plan_from_json

MAX_NAME_LETTERS = 80
# What a run writes before its model.
BEGINNINGS = ("run.json", "labels.csv", "plan.json", "history.jsonl", "catalogue.csv", "fixes.csv")
CHECKPOINT = "checkpoint"


def claim_run(options: TrainOptions, source: Path, name: str) -> Path:
    """Make the folder of a new run, or find the one to go on with.

    Args:
        options: ``out`` is the user's choice, or None for the first free ``runs/<name>-<n>``; with ``resume`` the
            newest run of the same source and options is looked for first.
        source: the photos; the run may not lie inside them.
        name: the source's name for people.

    Raises:
        UsageError: the folder holds something else already, lies inside the photos, or cannot be a folder; or the run
            to go on with has ended.
        ResourceError: it cannot be made.
    """
    out = options.out
    run = out or Path("runs")
    plain = re.sub(r"[^\w.-]+", "-", name)[:MAX_NAME_LETTERS].strip("-.") or "photos"
    if source.is_dir() and is_inside(run, source):
        raise UsageError(
            f"the run would be written to {run}, inside the photos in {source}",
            hint="choose a folder elsewhere with --out, or run the command from another folder",
        )
    begun = {"source": str(source.resolve()), "options": options.key, "asked": options.from_anywhere().to_json()}
    if options.fixes:
        begun["fixes"] = sha256_file(options.fixes)  # other decisions make other photos
    if options.resume:
        found = _begun_so([out] if out else _newest_first(run, plain), begun)
        if found is not None and not _is_going_on(found):
            raise UsageError(f"{found} has ended already", hint="leave --resume away to train anew")
        if found is not None:
            return found
    try:
        with disk_errors(run):
            if out is None:
                run = _first_free(run, plain)
            elif run.exists() and (not run.is_dir() or any(run.iterdir())):
                unfinished = (
                    "add --resume to go on with it, or " if _begun_so([run], begun) and _is_going_on(run) else ""
                )
                hint = f"{unfinished}choose a new folder with --out, or leave --out away"
                raise UsageError(f"{run} holds something already", hint=hint)
            run.mkdir(parents=True, exist_ok=True)
            if isinstance(options.labels, tuple) and options.labels:
                # Without a header, which a folder of that name would make a row.
                write_csv(run / "labels.csv", options.labels[0], options.labels[1:])
            write_json(run / "run.json", begun)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"{run} cannot be made: {reason}", hint="choose another folder with --out") from error
    return run


def repeat_command(run: Path, options: TrainOptions) -> tuple[str, ...]:
    """The words that make the same run again, its photos named as they were; none where nobody gave a command.

    A run that was told its classes in Python has kept them as a table.
    """
    told = isinstance(options.labels, tuple) and options.labels and options.command
    return (*options.command, "--labels", str(run / "labels.csv")) if told else options.command


def discard_unfinished(run: Path) -> None:
    """Remove what a run without a model left, so that nothing is in the way of the same command given again."""
    if not (run / "model").exists():
        shutil.rmtree(run / CHECKPOINT, ignore_errors=True)  # without a model, tuning has not begun
        with contextlib.suppress(OSError):
            for name in BEGINNINGS:
                (run / name).unlink(missing_ok=True)
            run.rmdir()


def save_plan(run: Path, plan: Plan | None) -> None:
    """Keep what was decided, so that a run that goes on decides the same; a fixed recipe decides nothing."""
    if plan:
        write_json(run / "plan.json", plan.to_json())


def saved_plan(run: Path) -> Plan | None:
    """The plan that this run began with; None where it has none yet."""
    try:
        return plan_from_json(json.loads((run / "plan.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def asked_of(run: Path) -> tuple[Path, TrainOptions]:
    """The photos and the options that a run was begun with.

    Raises:
        UsageError: its folder does not tell.
    """
    try:
        begun = json.loads((run / "run.json").read_bytes())
        return Path(begun["source"]), options_from_json(begun["asked"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run / 'run.json'} does not tell what the run learnt from", hint="train again") from error


def used_s(run: Path) -> float:
    """Seconds of the stages that this run has ended, as its history tells."""
    seconds = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError):
        seconds = sum(event["seconds"] for event in told_events(run) if event["event"] == "done")
    return seconds


def told_events(run: Path) -> list[dict[str, Any]]:
    """What a run has told, in order; a line that a kill cut short is passed over.

    Raises:
        OSError, ValueError: there is no history, or it is no text.
    """
    events = []
    for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    return events


def finish_run(run: Path) -> None:
    """Remove what is needed only to go on."""
    shutil.rmtree(run / CHECKPOINT, ignore_errors=True)


def _newest_first(folder: Path, name: str) -> list[Path]:
    numbered = re.compile(re.escape(name) + r"-(\d+)")
    runs = [(int(found[1]), path) for path in folder.glob(f"{name}-*") if (found := numbered.fullmatch(path.name))]
    return [path for _, path in sorted(runs, reverse=True)]


def _begun_so(runs: list[Path], begun: dict[str, Any]) -> Path | None:
    """The first of these that was begun so."""
    for run in runs:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads((run / "run.json").read_bytes())
            if all(found.get(name) == begun.get(name) for name in ("source", "options", "fixes")):
                return run
    return None


def _is_going_on(run: Path) -> bool:
    return not (run / "result.json").exists() or (run / CHECKPOINT).exists()


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
