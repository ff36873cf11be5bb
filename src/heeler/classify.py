"""What ``heeler predict`` does with its answers: rows in a table, in an object, or photos copied by class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import heeler
from heeler.errors import DataError
from heeler.records import STATUSES, Note, Prediction, Stage
from heeler.ship.bundle import EXPORTS
from heeler.ship.export import bundle_mark
from heeler.ship.onnx_model import exported_engine
from heeler.ship.predict import EVERY, Classifier, load
from heeler.ship.ray_predict import RayJob, predict_on_ray
from heeler.ship.rows import begin_rows, row_to_json, sort_into, stream_rows
from heeler.ship.table import Begun, Job, begun_table
from heeler.terminal import listener


@dataclass(frozen=True)
class Wanted:
    """Which answers are wanted, and where.

    Args:
        top: classes named for each photo.
        unsure_below: probability below which a photo is unsure; the model's where None.
        out: table to write; standard output where None.
        resume: rows that an earlier attempt has written there are kept.
        folder: where each photo is copied into a folder of its class; None copies nothing.
        json: the answer is printed as an object afterwards, with the rows in it unless ``out`` takes them.
        engine: ``auto`` is the fastest of this machine, ``onnx`` the file that ``heeler export`` has written.
    """

    top: int = 3
    unsure_below: float | None = None
    out: Path | None = None
    resume: bool = False
    folder: Path | None = None
    json: bool = False
    engine: Literal["auto", "onnx"] = "auto"


def classify(
    model: Path, names: Iterator[str], wanted: Wanted, n_names: int = 0
) -> tuple[dict[str, int], dict[str, Any]]:
    """Classify files and put the answers where they are wanted, each as it comes.

    Args:
        model: a bundle's folder.
        names: photos, in the order of the rows.
        wanted: which answers, and where.
        n_names: how many there are; 0 where nobody has counted.

    Returns:
        Photos of each status, and the object for ``--json``.
    """
    classifier = load(model)
    exported = exported_engine(classifier.bundle) if wanted.engine == "onnx" else None
    kept: list[dict[str, Any]] = []
    # A display that redraws itself and rows on the same screen would overwrite each other.
    on_screen = wanted.out is None and not wanted.json and sys.stdout.isatty()
    with listener(quiet=on_screen) as on_event, _begun(classifier, names, wanted) as begun:
        if begun.n_rows:
            on_event(Note(f"{begun.n_rows:,} rows are there already; going on after them"))
        on_event(Stage("classify", max(0, n_names - begun.n_rows)))
        rows = classifier.stream(
            begun.names, top=wanted.top, unsure_below=wanted.unsure_below, on_event=on_event,
            engine=exported or begun.engine, on_engine=lambda engine: begun.keep_engine(engine.name),
        )  # fmt: skip
        if wanted.folder is not None:
            rows = sort_into(wanted.folder, rows, start=begun.n_rows, n_copied=begun.n_copied)
        if wanted.json and wanted.out is None:
            rows = _kept(rows, wanted.top, kept)
        new = stream_rows(begun.file, rows, wanted.top)
        counts: dict[str, int] = {status: begun.counts[status] + new[status] for status in STATUSES}
    answer: dict[str, Any] = {
        "model": str(model),
        "n": sum(counts.values()),
        **{f"n_{status}": n for status, n in counts.items()},
        "unsure_below": classifier.threshold(wanted.unsure_below),
        "predictions": str(wanted.out) if wanted.out else kept,
    }
    if wanted.folder is not None:
        answer.update(sorted_into=str(wanted.folder), n_copied=counts["ok"] + counts["unsure"])
    return counts, answer


def classify_on_ray(job: RayJob) -> tuple[dict[str, int], dict[str, Any]]:
    """Classify photos on a Ray cluster into shards; what is returned is as of ``classify``.

    Raises:
        DataError: there is no photo.
    """
    classifier = load(job.model)
    with listener() as on_event:
        counts = predict_on_ray(job, classifier, on_event)
    if not sum(counts.values()):
        raise DataError(
            f"no files were found in {', '.join(job.inputs)}", hint="name a photo, or a folder with photos in it"
        )
    return counts, {
        "model": str(job.model),
        "n": sum(counts.values()),
        **{f"n_{status}": n for status, n in counts.items()},
        "unsure_below": classifier.threshold(job.unsure_below),
        "predictions": job.out,
    }


@contextmanager
def _begun(classifier: Classifier, names: Iterator[str], wanted: Wanted) -> Iterator[Begun]:
    """Where the rows go: a table, standard output, or nowhere but the object."""
    none: dict[str, int] = dict.fromkeys(STATUSES, 0)
    if wanted.out is not None:
        manifest = classifier.bundle.manifest
        model = bundle_mark(manifest)  # an export that is made meanwhile changes no answer, but where it answers
        if wanted.engine == "onnx":
            told = manifest.get(EXPORTS, {})
            model += "".join(told[name]["sha256"] for name in ("onnx", "onnx-int8") if name in told)
        job = Job(
            model, wanted.top, classifier.threshold(wanted.unsure_below), heeler.__version__, str(wanted.folder or ""),
            wanted.engine,
        )  # fmt: skip
        with begun_table(wanted.out, job, names, resume=wanted.resume, every=EVERY) as begun:
            yield begun
    elif wanted.json:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield Begun(nowhere, names, none)
    else:
        begin_rows(sys.stdout, wanted.top)
        yield Begun(sys.stdout, names, none)


def _kept(rows: Iterable[Prediction], top: int, kept: list[dict[str, Any]]) -> Iterator[Prediction]:
    for row in rows:
        kept.append(row_to_json(row, top))
        yield row
