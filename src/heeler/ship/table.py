"""A table of predictions that survives a kill: its rows wait beside it until the last one, and can be gone on with.

.<name>.part        the rows so far, flushed one by one; renamed to <name> after the last
.<name>.part.json   the job that they are of: model, options, engine
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, TextIO

from heeler.errors import UsageError
from heeler.files import disk_errors, fsync_folder, lock_file, write_json
from heeler.records import STATUSES
from heeler.ship.rows import begin_rows, header_of

AFRESH = "give the same model, options and photos in the same order, or leave --resume out to begin again"


@dataclass(frozen=True)
class Job:
    """What decides the rows of a table beside the photos.

    Args:
        model: what names the bundle (``bundle_mark``), and the exported files where these answer.
        top: classes named in each row.
        unsure_below: probability below which a photo is unsure.
        heeler: version of heeler.
        sorted_into: where photos are copied; empty where nowhere.
        wanted_engine: what was asked for: ``auto`` or ``onnx``.
        engine: which one computes; empty before one was picked. Others differ in the last digits.
        n_copied: photos, unreadable ones included, that earlier attempts have copied, as far as rows tell.
    """

    model: str
    top: int
    unsure_below: float
    heeler: str
    sorted_into: str = ""
    wanted_engine: str = "auto"
    engine: str = ""
    n_copied: int = 0


def _keep_nothing(_: str) -> None:
    """Where there is no table, there is nothing to go on with."""


@dataclass(frozen=True)
class Begun:
    """A table that is being written.

    Args:
        file: where rows are to be written; its header is there.
        names: those that still have no row.
        counts: rows of each status that are there already.
        n_copied: rows that were written before a kill, some of which are made again; None where there was no kill.
        engine: which one computed then; empty where any may go on.
        keep_engine: to be called with the engine's name before rows of it are written.
    """

    file: TextIO
    names: Iterator[str]
    counts: dict[str, int]
    n_copied: int | None = None
    engine: str = ""
    keep_engine: Callable[[str], None] = _keep_nothing

    @property
    def n_rows(self) -> int:
        """Rows that are there already."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Kept:
    """Rows of an earlier attempt: bytes of the table up to their end, and how many there are of each status.

    ``n_whole`` counts those too that were whole and are made again.
    """

    n_bytes: int
    counts: dict[str, int]
    n_whole: int = 0


@contextmanager
def begun_table(out: Path, job: Job, names: Iterator[str], *, resume: bool, every: int) -> Iterator[Begun]:
    """Begin a table, or go on with it; it stands at ``out`` once the block inside has ended well.

    Args:
        out: the file; an earlier one stays until then.
        job: what decides the rows.
        names: the photos, in the order of the rows.
        resume: whether rows of an earlier attempt are kept, where there are any; else they go.
        every: rows computed together. So many, or a multiple, are kept, so that the rest is computed as it would have
            been: the same batches give the same digits.

    Raises:
        UsageError: the rows that are there are of another job, or of other photos; or a folder is there.
        ResourceError: another process is writing the same table, or the disk is full or cannot be written.
    """
    if os.path.isdir(out):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
        raise UsageError(f"{out} is a folder", hint="name a file for the rows")
    part = out.with_name(f".{out.name}.part")
    note = out.with_name(f".{out.name}.part.json")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            lock_file(file, f"another heeler is writing {out}")
            told = _told(note) if resume else None
            if told is None:
                note.unlink(missing_ok=True)
                kept, engine, n_copied = Kept(0, dict.fromkeys(STATUSES, 0)), "", None
            else:
                _require_same(part, told, job)
                kept, names = _kept_rows(part, file, names, job.top, every)
                engine = told.engine if sum(kept.counts.values()) else ""
                n_copied = max(told.n_copied, kept.n_whole)
            job = replace(job, engine=engine, n_copied=n_copied or 0)
            if told is not None:  # what was copied is told before the rows that tell it too are gone
                write_json(note, asdict(job))
            file.seek(kept.n_bytes)
            file.truncate()
            if told is None:
                write_json(note, asdict(job))
            text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
            if not kept.n_bytes:
                begin_rows(text, job.top)
            yield Begun(text, names, kept.counts, n_copied, engine, partial(_keep_engine, note, job))
            text.flush()
            os.fsync(file.fileno())
        part.replace(out)
        note.unlink(missing_ok=True)
        fsync_folder(out.parent)


def _keep_engine(note: Path, job: Job, name: str) -> None:
    write_json(note, asdict(replace(job, engine=name)))


def _told(note: Path) -> Job | None:
    """The job that a table was begun for; None where there is none to go on with."""
    try:
        return Job(**json.loads(note.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{note} is not as heeler wrote it: {error}", hint=AFRESH) from error


def _require_same(part: Path, told: Job, job: Job) -> None:
    for name, before in asdict(told).items():
        now = getattr(job, name)
        if name not in ("engine", "n_copied") and before != now:
            what = (
                "another model"
                if name == "model"
                else f"{name.replace('_', ' ')} {before or 'nothing'}, and this is {now or 'nothing'}"
            )
            raise UsageError(f"the rows in {part} were made with {what}", hint=AFRESH)


def _kept_rows(part: Path, file: IO[bytes], names: Iterator[str], top: int, every: int) -> tuple[Kept, Iterator[str]]:
    """Rows of an earlier attempt that are whole and of these photos, and the names that are left."""
    header = header_of(top)
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    kept, since = Kept(0, dict(counts)), list[str]()
    for number, (n_bytes, cells) in enumerate(_whole_records(part, file)):
        if number == 0 and cells == header:
            kept = Kept(n_bytes, dict(counts))
            continue
        name = next(names, None)
        if len(cells) != len(header) or cells[1] not in counts or number == 0:
            raise UsageError(f"row {number:,} of {part} is none that heeler wrote", hint=AFRESH)
        if name != cells[0]:
            told = f"these photos have {name!r} there" if name is not None else f"there are {number - 1:,} photos"
            raise UsageError(f"row {number:,} of {part} is of {cells[0]!r}, and {told}", hint=AFRESH)
        counts[cells[1]] += 1
        since.append(name)
        if len(since) == every:
            kept = Kept(n_bytes, dict(counts))
            since = []
    return replace(kept, n_whole=sum(counts.values())), chain(since, names)


def _whole_records(part: Path, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """The records of a table, each with the bytes up to its end; what was torn at the end is left out."""
    n_bytes = 0
    torn = False

    def lines() -> Iterator[str]:
        nonlocal n_bytes, torn
        for line in file:
            if not line.endswith(b"\n"):
                break
            n_bytes += len(line)
            yield line.decode("utf-8", "surrogateescape")
        torn = True

    reader = csv.reader(lines(), strict=True)
    try:
        for cells in reader:
            yield n_bytes, cells
    except csv.Error as error:
        if not torn:  # else the end of the file lies inside quotes
            raise UsageError(f"{part} cannot be read after {n_bytes:,} bytes: {error}", hint=AFRESH) from error
