"""A finished run in, one HTML file out: no script, no network, images inside; it opens from a mail or a USB stick."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import exp, sqrt
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from heeler.files import write_text
from heeler.judge.advice import headline, largest_class, next_steps, percent
from heeler.judge.scores import wilson_interval
from heeler.records import RunResult, Scores, planned_and_actual

__all__ = ["ReportContext", "render_report", "write_report"]

UNSURE = 0.6
UNKNOWN = "\u2013"
OPEN_LEFT_OUT_ROWS = 8
MAX_LEFT_OUT_ROWS = 1000
# Control characters, lone surrogates (bytes that are no UTF-8 in a file's name) and marks that reverse the reading
# direction: none can be shown, and the last would let a name pose as another.
_UNSHOWABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LAYERS = {"head": "the last layer", "last": "the last stages", "all": "all layers"}
_EPOCH_COLUMNS = {
    "epoch": "Epoch",
    "phase": "Learning",
    "train_loss": "Training loss",
    "valid_loss": "Validation loss",
    "valid_error": "Validation error",
    "best_error": "Best so far",
    "seconds": "Time",
    "rate_per_s": "Photos per second",
}


@dataclass(frozen=True)
class ReportContext:
    """Everything that the page shows.

    Args:
        title: what the photos are, for people.
        result: the finished run.
        n_found: files found in the source, left-out ones included.
        left_out: (path, reason) of each file that had no part.
        n_unreadable: how many of those were opened and are no whole photo.
        n_by_class: usable photos of each class, all parts together; a class's judged photos are in the scores.
        thumbnails: JPEG bytes by path, for the worst photos; a path without one shows as an empty frame.
        sheet: (JPEG bytes, label) of photos as the network sees them.
        command: the command line that made the run.
        versions: package -> version.
        settings: option -> value.
        seed: of the split and the training.
        split_key: hash of the split.
        history: one mapping for each epoch of tuning, with the fields of ``records.Epoch``; may be empty.
        timings: seconds by stage; empty takes ``result.seconds``. A stage ``total`` becomes the last row.
    """

    title: str
    result: RunResult
    n_found: int
    left_out: Sequence[tuple[str, str]] = ()
    n_unreadable: int = 0
    n_by_class: Mapping[str, int] = field(default_factory=dict)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    sheet: Sequence[tuple[bytes, str]] = ()
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 42
    split_key: str = ""
    history: Sequence[Mapping[str, Any]] = ()
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
        A whole HTML document without scripts and without a reference to anything outside it.
    """
    scores = context.result.scores
    return _template().render(
        context=context,
        result=context.result,
        scores=scores,
        largest=largest_class(scores),
        headline=headline(scores),
        scale=_scale(scores),
        steps=next_steps(scores, context.n_by_class, context.n_unreadable),
        sheet=[(_data_uri(image), label) for image, label in context.sheet],
        matrix=_matrix_rows(scores),
        classes=_class_rows(scores, context.n_by_class),
        worst=_worst_rows(context),
        epoch_columns=[
            title for name, title in _EPOCH_COLUMNS.items() if context.history and name in context.history[0]
        ],
        epochs=_epoch_rows(context.history),
        tuned=_LAYERS[context.history[-1]["phase"]] if context.history else "all layers",
        stages=_stage_rows(context),
        planned=_planned_rows(context.result),
        left_out=list(context.left_out[:MAX_LEFT_OUT_ROWS]),
        open_left_out=len(context.left_out) <= OPEN_LEFT_OUT_ROWS,
    )


def _scale(scores: Scores) -> dict[str, str]:
    """CSS positions on the line under the headline, whose right end is just beyond the largest of its marks."""
    low, high = scores.interval
    end = min(1.0, max(high, scores.baseline_error) * 1.05)
    marks = {"low": low, "error": scores.error, "baseline": scores.baseline_error, "width": high - low}
    return {name: f"{100 * value / end:.2f}%" for name, value in marks.items()} | {
        "model_label": _label_position(low / end, high / end),
        "baseline_label": _label_position(scores.baseline_error / end, scores.baseline_error / end),
    }


def _label_position(left: float, right: float) -> str:
    """A label grows away from the nearer end of the line, so that it never leaves the page."""
    return f"left: {100 * left:.2f}%" if left + right < 1 else f"right: {100 - 100 * right:.2f}%"


def _matrix_rows(scores: Scores) -> list[dict[str, Any]]:
    names = [row.name for row in scores.per_class]
    rows = []
    for k, counts in enumerate(scores.confusion):
        total = max(sum(counts), 1)
        # The square root keeps single mistakes visible beside hundreds of right answers.
        cells = [
            {
                "count": count,
                "kind": "right" if j == k else "wrong",
                "strength": f"{0.75 * sqrt(count / total):.2f}",
                "title": f"given {names[k]}, predicted {names[j]}: {count:,} of {sum(counts):,}" if count else "",
            }
            for j, count in enumerate(counts)
        ]
        rows.append({"name": names[k], "cells": cells})
    return rows


def _class_rows(scores: Scores, n_by_class: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    for k, row in enumerate(scores.per_class):
        n_right = scores.confusion[k][k]
        low, high = wilson_interval(n_right, row.support)
        n_predicted = sum(counts[k] for counts in scores.confusion)
        rows.append(
            {
                "name": row.name,
                "n": f"{n_by_class[row.name]:,}" if row.name in n_by_class else UNKNOWN,
                "support": row.support,
                "recall": percent(row.recall) if row.support else UNKNOWN,
                "interval": f"{percent(low)} to {percent(high)}" if row.support else UNKNOWN,
                "width": f"{100 * row.recall:.1f}%",
                "precision": percent(row.precision) if n_predicted else UNKNOWN,
                "f1": f"{row.f1:.3f}" if row.support or n_predicted else UNKNOWN,
            }
        )
    return rows


def _worst_rows(context: ReportContext) -> list[dict[str, Any]]:
    return [
        {
            "src": _data_uri(context.thumbnails[row.path]) if row.path in context.thumbnails else "",
            "path": row.path,
            "given": row.given,
            "predicted": row.predicted,
            "probability": percent(row.probability),
            "given_probability": percent(exp(-row.loss)),
            "loss": f"{row.loss:.2f}",
            "wrong": row.given != row.predicted,
            "unsure": row.probability < UNSURE,
        }
        for row in context.result.scores.top_losses
    ]


def _epoch_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    best = min((epoch["valid_error"] for epoch in history if "valid_error" in epoch), default=None)
    first_best = next((i for i, epoch in enumerate(history) if epoch.get("valid_error") == best), -1)
    columns = [name for name in _EPOCH_COLUMNS if history and name in history[0]]
    return [
        {
            "cells": [_epoch_cell(name, epoch.get(name)) for name in columns],
            "best": best is not None and i == first_best,
        }
        for i, epoch in enumerate(history)
    ]


def _epoch_cell(name: str, value: Any) -> str:
    if value is None:
        return UNKNOWN
    if name == "phase":
        return _LAYERS.get(str(value), str(value))
    if name in ("valid_error", "best_error"):
        return percent(float(value))
    if name == "seconds":
        return _duration(float(value))
    return f"{value:.4f}" if name.endswith("loss") else f"{value:,.0f}"


def _stage_rows(context: ReportContext) -> list[dict[str, str]]:
    seconds = dict(context.timings or context.result.seconds)
    total = seconds.pop("total", sum(seconds.values()))
    longest = max(seconds.values(), default=0.0) or 1.0
    rates = context.result.rates_per_s
    names = [*seconds, *(name for name in rates if name not in seconds)]
    rows = [
        {
            "name": name.replace("_", " "),
            "time": _duration(seconds[name]) if name in seconds else "",
            "width": f"{100 * seconds[name] / longest:.1f}%" if name in seconds else "",
            "rate": f"{rates[name]:,.0f} per second" if name in rates else "",
        }
        for name in names
    ]
    return [*rows, {"name": "total", "time": _duration(total), "width": "", "rate": ""}]


def _planned_rows(result: RunResult) -> list[tuple[str, str, str]]:
    if not result.planned_s:
        return []
    both = planned_and_actual(result)
    return [(name, _duration(planned), _duration(actual)) for name, (planned, actual) in both.items()]


def _duration(seconds: float) -> str:
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 1 else 1}f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,}\u00a0min {rest}\u00a0s"


def _data_uri(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def _showable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSHOWABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), value)
    return value


@cache
def _template() -> Template:
    text = files("heeler.judge").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, finalize=_showable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    return environment.from_string(text)
