"""The charts of a report: which figures go into them, and the words that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from heeler.judge.advice import percent
from heeler.judge.certainty import Coverage, coverage
from heeler.judge.charts import Axis, Series, bars, linear_axis, log_axis, plot
from heeler.judge.gallery import Answers
from heeler.judge.prospects import CurvePoint, Outlook
from heeler.judge.scores import ReliabilityBin, wilson_interval

__all__ = ["coverage_chart", "duration", "learning_chart", "loss_chart", "reliability_chart", "time_chart"]

# Points of the curve of coverage against error: more could not be seen apart.
N_COVERAGE = 60


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 1 else 1}f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,}\u00a0min {rest:02d}\u00a0s"


def reliability_chart(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> Markup:
    """Stated probability against the share that was right, before and after temperature."""
    least = min([0.99, *(min(each.stated, each.right) for each in (*before, *after))])
    low = 0.5 if least >= 0.5 else 0.0
    axis = linear_axis(low, 1, "stated probability", _whole)
    said = "; ".join(
        f"{percent(each.stated)} stated, {percent(each.right)} right of {each.n:,}" for each in after if each.n
    )
    return plot(
        "reliability",
        "Stated probabilities beside the share of right answers",
        f"On the diagonal both are equal. After temperature, in bins of equally many photos: {said}.",
        axis,
        linear_axis(low, 1, "share that was right", _whole),
        [
            Series("as honest as can be", [(low, low), (1, 1)], "dashed", "soft"),
            Series("before temperature", _points(before), "step", "c2"),
            Series("after", _points(after), "step", "c1"),
        ],
    )


def _points(bins: Sequence[ReliabilityBin]) -> list[tuple[float, float]]:
    return [(each.stated, each.right) for each in bins]


def coverage_chart(answers: Answers) -> Markup:
    """Error among the answered photos against the share that is answered, measured and as the model states it."""
    top = np.sort(answers.probabilities.max(axis=1).astype(np.float64))
    ranks = np.unique(np.linspace(0, 0.95 * len(top), N_COVERAGE).astype(int))
    found = coverage(answers.probabilities, answers.labels, top[ranks[ranks < len(top)]].tolist())
    measured = [(each.share, 1 - each.accuracy) for each in found]
    stated = [(each.share, 1 - each.stated) for each in found]
    highest = max([0.01, *(error for _, error in (*measured, *stated))])
    some = found[:: max(1, len(found) // 6)]
    said = "; ".join(f"{percent(each.share)} answered, {percent(1 - each.accuracy)} of these wrong" for each in some)
    return plot(
        "coverage",
        "Error among the answered photos against the share that is answered",
        f"Answering only where sure: {said}.",
        linear_axis(0, 1, "share of photos answered", _whole),
        linear_axis(0, highest, "wrong among them", _fine),
        [Series("as the model states it", stated, "dashed", "c2"), Series("measured", measured, "line", "c1")],
    )


def learning_chart(points: Sequence[CurvePoint], outlook: Outlook | None) -> Markup:
    """The error of the last layer against the photos it learns from, and where that leads."""
    sizes: list[float] = [point.n_train for point in points]
    series, highest = [], [point.error for point in points]
    said = [f"{point.n_train:,} photos: {percent(point.error)}" for point in points]
    if outlook:
        band = [*zip(outlook.sizes, outlook.high, strict=True)]
        band += reversed([*zip(outlook.sizes, outlook.low, strict=True)])
        series += [
            Series("95 % interval", band, "band", "c1"),
            Series("power law", [*zip(outlook.sizes, outlook.fitted, strict=True)], "dashed", "c1"),
        ]
        sizes.append(outlook.n_then)
        highest.append(max(outlook.high))
        low, high = outlook.interval
        said.append(f"{outlook.n_then:,} photos: expected {percent(outlook.then)}, {percent(low)} to {percent(high)}")
    series.append(Series("measured", [(point.n_train, point.error) for point in points], "dots", "c3"))
    return plot(
        "learning",
        "Error of the last layer against the photos it learns from",
        "; ".join(said) + ".",
        log_axis(sizes, "photos to learn from", lambda value: f"{value:,.0f}"),
        linear_axis(0, max(highest), "error", _fine),
        series,
    )


def loss_chart(history: Sequence[Mapping[str, Any]]) -> Markup:
    """Training and validation loss of tuning, each time that it was judged."""
    found: dict[str, list[tuple[float, float]]] = {"train_loss": [], "valid_loss": []}
    for i, epoch in enumerate(history):
        for name, points in found.items():
            if epoch.get(name) is not None:
                points.append((i + 1.0, float(epoch[name])))
    values = [value for points in found.values() for _, value in points]
    train, valid = found["train_loss"], found["valid_loss"]
    last = f"; it ended at {valid[-1][1]:.4f}" if valid else ""
    best = f"The lowest loss on the photos that choose is {min(v for _, v in valid):.4f}{last}." if valid else ""
    count = len(history)
    step = max(1, round(count / 6))
    ticks = tuple((float(i), f"{i:,}") for i in range(1, count + 1) if (count - i) % step == 0)
    return plot(
        "loss",
        "Loss while the network was tuned",
        best,
        Axis(1, max(count, 2), ticks, "times judged"),
        linear_axis(min(values), max(values), "loss", lambda value: f"{value:g}"),
        [Series("photos that train", train, "step", "c2"), Series("photos that choose", valid, "step", "c1")],
    )


def time_chart(both: Mapping[str, tuple[float, float]]) -> Markup:
    """Planned and actual seconds of each stage."""
    rows = [
        (name, planned, took, f"{duration(planned)}, {duration(took)}")
        for name, (planned, took) in both.items()
        if max(planned, took) >= 0.005
    ]
    said = "; ".join(f"{name}: planned {duration(planned)}, took {duration(took)}" for name, planned, took, _ in rows)
    return bars("time-chart", "Planned and actual time of each stage", f"{said}.", rows)


def coverage_words(each: Coverage) -> tuple[str, str, str]:
    """Share answered, share of these that was right, and that share's 95 % interval."""
    if not each.n_answered:
        return percent(0), "", ""
    low, high = wilson_interval(each.n_right, each.n_answered)
    return percent(each.share), percent(each.accuracy), f"{percent(low)} to {percent(high)}"


def _whole(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _fine(value: float) -> str:
    return f"{100 * value:g}\u00a0%"
