"""A finished run in, one HTML file out: nothing outside it is asked for; it opens from a mail or a USB stick."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from heeler.files import write_text
from heeler.fixes import Fix
from heeler.judge.advice import calibrated_by, headline, largest_class, next_steps, percent, taught_by
from heeler.judge.certainty import uncalibrated
from heeler.judge.explain import overlay
from heeler.judge.figures import coverage_chart, duration, learning_chart, loss_chart, reliability_chart, time_chart
from heeler.judge.gallery import Answers, Cell, Pictures, cells_of
from heeler.judge.images import data_uri, webp_bytes
from heeler.judge.prospects import CurvePoint, look_ahead, more_minutes, more_photos
from heeler.judge.scores import calibration_error, reliability
from heeler.judge.sections import (
    LAYERS,
    class_rows,
    coverage_rows,
    epoch_rows,
    epoch_titles,
    matrix_rows,
    planned_rows,
    result_rows,
    scale_marks,
    slider_rows,
    stage_rows,
    worst_rows,
)
from heeler.plans import Plan
from heeler.records import FloatArray, RunResult

__all__ = ["ReportContext", "Twin", "render_report", "write_report"]

OPEN_LEFT_OUT_ROWS = 8
MAX_LEFT_OUT_ROWS = 1000
MAX_SUSPECTS, MAX_PROBLEMS, MAX_TWINS = 24, 200, 12
# Of the worst photos and of what the network saw in them.
LARGE_PX, LARGE_QUALITY = 192, 72
SURE = 0.9
# Control characters, lone surrogates (bytes that are no UTF-8 in a file's name) and marks that reverse the reading
# direction: none can be shown, and the last would let a name pose as another.
_UNSHOWABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@dataclass(frozen=True)
class Twin:
    """Two near duplicates that lie in different parts: their paths, parts and classes."""

    paths: tuple[str, str]
    parts: tuple[str, str]
    labels: tuple[str, str]


@dataclass(frozen=True)
class ReportContext:
    """Everything that the page shows; what is empty is left out of it.

    Args:
        title: what the photos are, for people.
        result: the finished run.
        n_found: files found in the source, left-out ones included.
        left_out: (path, reason) of each file that had no part.
        n_unreadable: how many of those were opened and are no whole photo.
        n_by_class: usable photos of each class, all parts together; a class's judged photos are in the scores.
        n_test_changed: photos of the test part that decisions of the user's relabelled or dropped.
        answers: what the model said of each judged photo.
        pictures: the photos as pictures, of any part; a photo without one shows as an empty frame.
        maps: (T, h, w) float32, where the model looked in each of ``result.scores.top_losses``, for the class it said.
        sheet: (JPEG or WebP bytes, label) of photos as the network sees them.
        sheet_text: what was done to those, in a sentence.
        fixes: problems of photos and labels, the most suspect first.
        twins: near duplicates in different parts.
        curve: the head fitted on some of the photos, in rising order of how many.
        history: one mapping for each epoch of tuning, with the fields of ``records.Epoch``; may be empty.
        n_epochs: passes over the photos that tuning made.
        kept: which weights of tuning became the model, in words; empty where none did.
        kept_epoch: the epoch that these come from; 0 marks none in the table.
        stopped_early: whether tuning ended because it had not become better for long.
        command: the command line that made the run.
        versions: package -> version.
        settings: option -> value.
        hardware: what the run was made on, name -> value.
        seed: of the split and the training.
        split_key: hash of the split.
        plan: of the run, where minutes decided.
        timings: seconds by stage; empty takes ``result.seconds``. A stage ``total`` becomes the last row.
    """

    title: str
    result: RunResult
    n_found: int
    left_out: Sequence[tuple[str, str]] = ()
    n_unreadable: int = 0
    n_by_class: Mapping[str, int] = field(default_factory=dict)
    n_test_changed: int = 0
    answers: Answers | None = None
    pictures: Pictures | None = None
    maps: FloatArray | None = None
    sheet: Sequence[tuple[bytes, str]] = ()
    sheet_text: str = "Photos after they were turned upright, resized and cut to the input of the network."
    fixes: Sequence[Fix] = ()
    twins: Sequence[Twin] = ()
    curve: Sequence[CurvePoint] = ()
    history: Sequence[Mapping[str, Any]] = ()
    n_epochs: float = 0.0
    kept: str = ""
    kept_epoch: int = 0
    stopped_early: bool = False
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    seed: int = 42
    split_key: str = ""
    plan: Plan | None = None
    timings: Mapping[str, float] = field(default_factory=dict)


def write_report(path: Path, context: ReportContext) -> None:
    """Write the page whole or not at all.

    Args:
        path: the HTML file.
        context: what it shows.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    write_text(path, render_report(context))


def render_report(context: ReportContext) -> str:
    """The page as text; names of classes and files are escaped and cannot become markup.

    Args:
        context: what it shows.

    Returns:
        A whole HTML document. Its policy lets the browser run the one script and the one stylesheet that are in it,
        by their hashes, show the pictures that are in it, and fetch nothing.
    """
    scores = context.result.scores
    style, script = _asset("report.css"), _asset("report.js")
    return _template().render(
        context=context,
        result=context.result,
        scores=scores,
        largest=largest_class(scores),
        headline=headline(scores),
        taught=taught_by(context.result),
        calibrated=calibrated_by(context.result),
        scale=scale_marks(scores),
        sheet=[(data_uri(image), label) for image, label in context.sheet],
        matrix=matrix_rows(scores),
        classes=class_rows(scores, context.n_by_class),
        left_out=list(context.left_out[:MAX_LEFT_OUT_ROWS]),
        open_left_out=len(context.left_out) <= OPEN_LEFT_OUT_ROWS,
        facts=[*context.settings.items(), *context.versions.items(), *context.hardware.items()],
        style=Markup(style),  # noqa: S704 - this package's own files, whose hashes the policy names
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
        **_training(context),
        **_trust(context),
        **_photos(context),
    )


def _training(context: ReportContext) -> dict[str, Any]:
    """What the page says of learning and time, and what to do next."""
    result, history = context.result, context.history
    outlook = look_ahead(context.curve)
    losses = [float(epoch["valid_loss"]) for epoch in history if epoch.get("valid_loss") is not None]
    minutes = more_minutes(
        losses, context.n_epochs, budget_s=context.plan.budget_s if context.plan else 0.0,
        stopped_early=context.stopped_early, tuned_is_better=result.chosen == "tuned",
    )  # fmt: skip
    n_suspects = len({fix.path for fix in context.fixes if _is_suspect(fix) and not fix.action})
    planned = planned_rows(result)
    return {
        "steps": next_steps(
            result.scores, context.n_by_class, context.n_unreadable,
            n_suspects=n_suspects, prospects=(more_photos(context.curve, outlook), minutes),
        ),
        "outlook": outlook,
        "learning": learning_chart(context.curve, outlook) if context.curve else "",
        "n_curve": len(context.curve[-1].wrong) if context.curve else 0,
        "loss": loss_chart(history) if len(losses) > 1 else "",
        "epoch_columns": epoch_titles(history),
        "epochs": epoch_rows(history, context.kept_epoch),
        "tuned": LAYERS[history[-1]["phase"]] if history else "all layers",
        "stages": stage_rows(result, context.timings),
        "planned": time_chart(planned) if planned else "",
    }  # fmt: skip


def _trust(context: ReportContext) -> dict[str, Any]:
    """What stated probabilities are worth; nothing without the answers that they are of."""
    answers = context.answers
    if answers is None:
        return {"trust": None}
    before = uncalibrated(answers.probabilities, context.result.temperature)
    bins = reliability(answers.probabilities, answers.labels)
    return {
        "trust": {
            "reliability": reliability_chart(reliability(before, answers.labels), bins),
            "bin_size": bins[0].n,
            "ece_before": calibration_error(before, answers.labels),
            "coverage": coverage_chart(answers),
            "rows": coverage_rows(answers),
            "on_valid": answers.valid_labels is not None and len(answers.valid_labels) > 0,
            "start": round(100 * SURE),
        }
    }


def _photos(context: ReportContext) -> dict[str, Any]:
    """Everything that shows photos, and the data of those that the script shows."""
    answers, scores, classes = context.answers, context.result.scores, context.result.classes
    cells = cells_of(answers) if answers else []
    results = result_rows(answers, classes, context.seed) if answers else []
    suspects = [fix for fix in context.fixes if _is_suspect(fix)]
    problems = [fix for fix in context.fixes if not _is_suspect(fix)]
    twins = list(context.twins[:MAX_TWINS])
    large = _large(context, [row.path for row in scores.top_losses])
    on_page = [row["path"] for row in results] + [fix.path for fix in suspects[:MAX_SUSPECTS]]
    on_page += [path for twin in twins for path in twin.paths]
    in_cells = [answers.paths[row] for cell in cells for row in cell.rows] if answers else []
    small = context.pictures.small([*on_page, *(p for p in in_cells if p not in large)]) if context.pictures else {}
    row_of = {path: row for row, path in enumerate(answers.paths)} if answers else {}

    root = _root(answers.paths) if answers else ""

    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "picture": picture(row["path"]), "name": row["path"].removeprefix(root)}

    def picture(path: str) -> dict[str, Any]:
        image = large.get(path) or small.get(path)
        return {"src": data_uri(image) if image else "", "row": row_of.get(path)}

    maps = _overlays(context)
    shown = {path for path in (*on_page, *large) if path in row_of}
    return {
        "cells": cells,
        "results": list(map(named, results)),
        "worst": [{**named(row), "map": maps[i] if maps else ""} for i, row in enumerate(worst_rows(scores))],
        "has_maps": bool(maps),
        "suspects": [{"fix": fix, **named({"path": fix.path})} for fix in suspects[:MAX_SUSPECTS]],
        "n_suspects": len(suspects),
        "problems": problems[:MAX_PROBLEMS],
        "n_problems": len(problems),
        "twins": [{"twin": twin, "pictures": [picture(path) for path in twin.paths]} for twin in twins],
        "data": _data(context, cells, root, {row_of[p]: small[p] for p in small if p in row_of and p not in shown}),
    }


def _is_suspect(fix: Fix) -> bool:
    return bool(fix.suggested) and fix.suggested != fix.given


def _large(context: ReportContext, paths: Sequence[str]) -> dict[str, bytes]:
    if context.pictures is None or not paths:
        return {}
    squares = context.pictures.squares_of(paths)
    return {
        path: webp_bytes(square, LARGE_PX, LARGE_QUALITY, 4) for path, square in zip(paths, squares, strict=True)
    }  # fmt: skip


def _overlays(context: ReportContext) -> list[str]:
    """The worst photos under what the model saw in them; none where that is not known."""
    if context.maps is None or context.pictures is None:
        return []
    squares = context.pictures.squares_of([row.path for row in context.result.scores.top_losses])
    return [
        data_uri(webp_bytes(overlay(square, activation), LARGE_PX, LARGE_QUALITY, 4))
        for square, activation in zip(squares, context.maps, strict=True)
    ]


def _root(paths: Sequence[str]) -> str:
    """The folder that all absolute paths share: it tells no photos apart, and is nobody's business."""
    return f"{os.path.commonpath(paths)}/" if len(paths) > 1 and all(map(os.path.isabs, paths)) else ""


def _data(context: ReportContext, cells: Sequence[Cell], root: str, thumbs: Mapping[int, bytes]) -> Markup:
    """What the script needs, as JSON that cannot end the element it stands in."""
    answers = context.answers
    if answers is None:
        return Markup("{}")
    top = answers.probabilities.max(axis=1)
    value = {
        "n": len(answers.labels),
        "classes": [_showable(name) for name in context.result.classes],
        "photos": {
            row: [_showable(answers.paths[row].removeprefix(root)), round(float(top[row]), 4)]
            for cell in cells
            for row in cell.rows
        },
        "cells": {f"{cell.given},{cell.predicted}": [cell.n, cell.rows] for cell in cells},
        "sure": slider_rows(answers),
        "thumbs": {row: base64.b64encode(image).decode() for row, image in thumbs.items()},
    }
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - neither a tag nor a comment can begin in it


def _showable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSHOWABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), value)
    return value


def _breakable(name: str) -> Markup:
    """A name as text of the page, which may go on in a new line where a person would break it."""
    text = str(escape(_showable(name)))
    for sign in "_/":
        text = text.replace(sign, f"{sign}<wbr>")
    return Markup(text)  # noqa: S704 - escaped above; no entity holds either sign


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return files("heeler.judge").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, finalize=_showable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    environment.filters["percent"] = percent
    environment.filters["duration"] = duration
    return environment.from_string(_asset("report.html.j2"))
