"""The tables and lists of a report, as its template wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, sqrt
from typing import Any

import numpy as np

from heeler.judge.advice import percent
from heeler.judge.certainty import choosing, coverage, threshold_for
from heeler.judge.charts import bar
from heeler.judge.figures import coverage_words, duration
from heeler.judge.gallery import Answers
from heeler.judge.scores import wilson_interval
from heeler.records import RunResult, Scores, planned_and_actual

__all__ = [
    "class_rows", "coverage_rows", "epoch_rows", "epoch_titles", "matrix_rows", "planned_rows", "result_rows",
    "scale_marks", "slider_rows", "stage_rows", "worst_rows",
]  # fmt: skip

UNSURE = 0.6
UNKNOWN = "\u2013"
N_RESULTS = 12
# Steps of a cell's colour; the stylesheet has a class for each.
N_STRENGTHS = 12
TARGETS = (0.9, 0.95, 0.98, 0.99)
LAYERS = {"head": "the last layer", "last": "the last stages", "all": "all layers"}
EPOCH_COLUMNS = {
    "epoch": "Epoch",
    "phase": "Learning",
    "train_loss": "Training loss",
    "valid_loss": "Validation loss",
    "valid_error": "Validation error",
    "best_error": "Best so far",
    "seconds": "Time",
    "rate_per_s": "Photos per second",
}


def scale_marks(scores: Scores) -> dict[str, Any]:
    """Where the marks of the line under the headline lie, in per cent; its end is just beyond the largest of them."""
    low, high = scores.interval
    end = min(1.0, max(high, scores.baseline_error) * 1.05)
    places = {"low": low, "error": scores.error, "baseline": scores.baseline_error, "width": high - low}
    marks: dict[str, Any] = {name: f"{100 * value / end:.2f}" for name, value in places.items()}
    # A label grows away from the nearer end of the line, so that it never leaves the page.
    return marks | {
        "model_anchor": "start" if low + high < end else "end",
        "model_label": f"{100 * (low if low + high < end else high) / end:.2f}",
        "baseline_anchor": "start" if 2 * scores.baseline_error < end else "end",
    }


def matrix_rows(scores: Scores) -> list[dict[str, Any]]:
    """A row for each given class: its name and its cells, with what a screen reader says of each."""
    names = [row.name for row in scores.per_class]
    rows = []
    for k, counts in enumerate(scores.confusion):
        total = max(sum(counts), 1)
        # The square root keeps single mistakes visible beside hundreds of right answers.
        cells = [
            {
                "count": count,
                "share": f"{100 * count / total:.0f}" if count * 200 >= total or not count else "<1",
                "kind": "right" if j == k else "wrong",
                "strength": max(1, round(N_STRENGTHS * sqrt(count / total))),
                "predicted": j,
                "title": f"given {names[k]}, predicted {names[j]}: {count:,} of {sum(counts):,}" if count else "",
            }
            for j, count in enumerate(counts)
        ]
        rows.append({"name": names[k], "given": k, "cells": cells})
    return rows


def class_rows(scores: Scores, n_by_class: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row for each class: how much of it is found, and how often its name is right."""
    rows = []
    for k, row in enumerate(scores.per_class):
        n_right = scores.confusion[k][k]
        low, high = wilson_interval(n_right, row.support)
        n_predicted = sum(counts[k] for counts in scores.confusion)
        rows.append(
            {
                "name": row.name,
                "n": f"{n_by_class[row.name]:,}" if row.name in n_by_class else UNKNOWN,
                "support": f"{row.support:,}",
                "recall": percent(row.recall) if row.support else UNKNOWN,
                "interval": f"{percent(low)} to {percent(high)}" if row.support else UNKNOWN,
                "bar": bar(row.recall),
                "precision": percent(row.precision) if n_predicted else UNKNOWN,
                "f1": f"{row.f1:.3f}" if row.support or n_predicted else UNKNOWN,
            }
        )
    return rows


def worst_rows(scores: Scores) -> list[dict[str, Any]]:
    """A row for each of the worst photos."""
    return [
        {
            "path": row.path,
            "given": row.given,
            "predicted": row.predicted,
            "probability": percent(row.probability),
            "given_probability": percent(exp(-row.loss)),
            "loss": f"{row.loss:.2f}",
            "wrong": row.given != row.predicted,
            "unsure": row.probability < UNSURE,
        }
        for row in scores.top_losses
    ]


def result_rows(answers: Answers, classes: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Some of the judged photos by chance, with what they were given and what the model said."""
    n = len(answers.labels)
    rows = np.random.default_rng(seed).permutation(n)[:N_RESULTS].tolist()
    predicted = answers.probabilities.argmax(axis=1)
    return [
        {
            "path": answers.paths[row],
            "given": classes[int(answers.labels[row])],
            "predicted": classes[int(predicted[row])],
            "probability": percent(float(answers.probabilities[row].max())),
            "wrong": bool(predicted[row] != answers.labels[row]),
        }
        for row in rows
    ]


def coverage_rows(answers: Answers) -> list[dict[str, str]]:
    """For each wanted accuracy: from which probability on to answer, and what that came to on the judged photos."""
    chosen_on = choosing((answers.probabilities, answers.labels), (answers.valid_probabilities, answers.valid_labels))
    rows = []
    for target in TARGETS:
        threshold = threshold_for(*chosen_on, target)
        if threshold is None:
            rows.append({"target": percent(target), "threshold": "", "share": "", "accuracy": "", "interval": ""})
            continue
        share, accuracy, interval = coverage_words(coverage(answers.probabilities, answers.labels, [threshold])[0])
        start = percent(threshold) if threshold else "any"
        rows.append(
            {"target": percent(target), "threshold": start, "share": share, "accuracy": accuracy, "interval": interval}
        )
    return rows


def slider_rows(answers: Answers) -> list[tuple[float, int, int]]:
    """(threshold, photos answered, of these right) at whole per cent, for the slider."""
    found = coverage(answers.probabilities, answers.labels, [i / 100 for i in range(100)])
    return [(each.threshold, each.n_answered, each.n_right) for each in found]


def epoch_titles(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the table of epochs that the history has."""
    return [title for name, title in EPOCH_COLUMNS.items() if history and name in history[0]]


def epoch_rows(history: Sequence[Mapping[str, Any]], kept_epoch: int) -> list[dict[str, Any]]:
    """A row for each time that tuning was judged; the one that was kept is marked.

    An epoch may be judged several times: then it is the time of its lowest loss, of the weights or of their average.
    """
    losses = {i: _lowest_loss(epoch) for i, epoch in enumerate(history) if epoch["epoch"] == kept_epoch}
    kept = min(losses, key=losses.__getitem__, default=-1)
    columns = [name for name in EPOCH_COLUMNS if history and name in history[0]]
    return [
        {
            "cells": [_epoch_cell(name, epoch.get(name)) for name in columns],
            "best": i == kept,
        }
        for i, epoch in enumerate(history)
    ]


def _lowest_loss(epoch: Mapping[str, Any]) -> float:
    return min((epoch[name] for name in ("valid_loss", "ema_loss") if epoch.get(name) is not None), default=inf)


def _epoch_cell(name: str, value: Any) -> str:
    if value is None:
        return UNKNOWN
    if name == "phase":
        return LAYERS.get(str(value), str(value))
    if name in ("valid_error", "best_error"):
        return percent(float(value))
    if name == "seconds":
        return duration(float(value))
    return f"{value:.4f}" if name.endswith("loss") else f"{value:,.0f}"


def stage_rows(result: RunResult, timings: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each stage: its time and its rate."""
    seconds = dict(timings or result.seconds)
    total = seconds.pop("total", sum(seconds.values()))
    longest = max(seconds.values(), default=0.0) or 1.0
    rates = {name: rate for name, rate in result.rates_per_s.items() if rate}
    names = [*seconds, *(name for name in rates if name not in seconds)]
    rows = [
        {
            "name": name.replace("_", " "),
            "time": duration(seconds[name]) if name in seconds else "",
            "bar": bar(seconds[name] / longest) if name in seconds else "",
            "rate": f"{rates[name]:,.0f}/s" if name in rates else "",
        }
        for name in names
    ]
    return [*rows, {"name": "total", "time": duration(total), "bar": "", "rate": ""}]


def planned_rows(result: RunResult) -> dict[str, tuple[float, float]]:
    """Planned and actual seconds of each stage; empty where nothing was planned."""
    return planned_and_actual(result) if result.planned_s else {}
