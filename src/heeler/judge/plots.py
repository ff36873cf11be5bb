"""Figures of photos, mistakes and curves: arrays in, a matplotlib figure out.

No figure is registered with pyplot, so none has to be closed, and no setting of the user's is changed. A figure shows
itself in a notebook; elsewhere it is saved with ``savefig``.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from heeler.judge.scores import reliability
from heeler.records import ByteArray, FloatArray, IntArray

__all__ = [
    "Chart",
    "plot_batch",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_rates",
    "plot_reliability",
    "plot_results",
    "plot_top_losses",
]

INK, SOFT, RULE = "#22261f", "#656a60", "#e2dfd6"
GOOD, BAD, ACCENT, SECOND = "#2e6b3f", "#b3261e", "#1f5f8b", "#b5651d"
TILE_IN, GAP_IN, LINE_IN, MIN_TITLE_IN, MAX_COLUMNS = 2.2, 0.12, 0.17, 4.8, 5
MAX_NAME = 26
# More classes than this have no counts in the cells and names in small print; more than the second, no names.
MAX_COUNTED, MAX_NAMED = 30, 120
N_BINS = 15
SMALL_CELL_IN = 0.115
# A smaller share of a cell is printed black on its colour.
DARK_CELL = 0.33
DPI = 100


class Chart(Figure):
    """A matplotlib figure that shows itself in a notebook, once in the cell that made it."""

    shown_in = 0

    def _ipython_display_(self) -> None:
        """Called by IPython for the last line of a cell; nothing where that cell has just shown the figure."""
        if self.shown_in == _cell_number():
            self.shown_in = 0
        else:
            self.show_in_notebook()
            self.shown_in = 0

    def show_in_notebook(self) -> None:
        """Put the figure into the output of the running cell."""
        from IPython.display import display

        display({"image/png": self.png(), "text/plain": repr(self)}, raw=True)  # type: ignore[no-untyped-call]
        self.shown_in = _cell_number()

    def png(self) -> bytes:
        """The figure as the content of a PNG file."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def plot_batch(squares: ByteArray, labels: Sequence[str], title: str = "") -> Chart:
    """Photos as training sees them, each under its class.

    Args:
        squares: (N, S, S, 3) uint8.
        labels: N class names.
        title: of the whole.
    """
    chart, tiles = _tiles(len(squares), n_lines=1, title=title)
    for axes, square, label in zip(tiles, squares, labels, strict=True):
        _photo(axes, square, [(short(label), INK)])
    return chart


def plot_results(
    squares: ByteArray, given: Sequence[str], predicted: Sequence[str], probabilities: Sequence[float], title: str = ""
) -> Chart:
    """Photos with what they are and what the model says of them.

    Args:
        squares: (N, S, S, 3) uint8.
        given: N class names, as labelled.
        predicted: N class names.
        probabilities: N, of the predicted classes, in [0, 1].
        title: of the whole.
    """
    chart, tiles = _tiles(len(squares), n_lines=2, title=title)
    for axes, square, truth, answer, share in zip(tiles, squares, given, predicted, probabilities, strict=True):
        colour = GOOD if truth == answer else BAD
        _photo(axes, square, [(short(truth), INK), (f"{short(answer)}  {_percent(share)}", colour)])
    return chart


def plot_top_losses(
    squares: ByteArray,
    given: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    losses: Sequence[float],
    title: str = "",
) -> Chart:
    """The photos that a model got most wrong, worst first.

    Args:
        squares: (N, S, S, 3) uint8.
        given: N class names, as labelled.
        predicted: N class names.
        probabilities: N, of the predicted classes, in [0, 1].
        losses: N, in nats.
        title: of the whole.
    """
    chart, tiles = _tiles(len(squares), n_lines=3, title=title)
    rows = zip(tiles, squares, given, predicted, probabilities, losses, strict=True)
    for axes, square, truth, answer, share, loss in rows:
        colour = GOOD if truth == answer else BAD
        lines = [(short(truth), INK), (f"{short(answer)}  {_percent(share)}", colour), (f"loss {loss:.2f}", SOFT)]
        _photo(axes, square, lines)
    return chart


def plot_confusion_matrix(
    confusion: Sequence[Sequence[int]] | IntArray, classes: Sequence[str], *, normalize: bool = False
) -> Chart:
    """Which classes are taken for which.

    Colour is the share of the row's photos, so that small classes count as much as large ones.

    Args:
        confusion: (K, K) counts, rows given, columns predicted.
        classes: K names.
        normalize: print shares of the row, in per cent, and not counts.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    n = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.5 * n, 3.2, 11)) if n <= MAX_COUNTED else max(11.0, min(n, MAX_NAMED) * SMALL_CELL_IN)
    names = [short(name) for name in classes]
    size = 10.0 if n <= MAX_COUNTED else 6.0
    room = 0.008 * size * max(map(len, names), default=1) + 0.7 if n <= MAX_NAMED else 0.7
    chart = _chart(side + room, side + room)
    axes = chart.add_subplot()
    # By the root, or the few photos of a mistake could not be seen beside the many right ones.
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="equal", interpolation="nearest")
    axes.set_xlabel("predicted", color=SOFT)
    axes.set_ylabel("given", color=SOFT)
    if n <= MAX_NAMED:
        axes.set_xticks(range(n), labels=names, rotation=90, fontsize=size)
        axes.set_yticks(range(n), labels=names, fontsize=size)
    else:
        axes.set_title(f"{n:,} classes, in the order of their names", fontsize=10, color=SOFT)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    if n <= MAX_COUNTED:
        for i, j in zip(*np.nonzero(counts), strict=True):
            text = f"{100 * shares[i, j]:.0f}" if normalize else f"{counts[i, j]:,}"
            ink = "white" if shares[i, j] > DARK_CELL else INK
            fits = min(size, 72 * side / n / (0.7 * len(text)))
            axes.text(int(j), int(i), text, ha="center", va="center", fontsize=fits, color=ink)
    return chart


def plot_curves(history: Sequence[Mapping[str, Any]]) -> Chart:
    """Losses and errors as tuning went on; the dashed line is where it began to train all that it trains.

    Args:
        history: one mapping for each judgement, with the fields of ``records.Epoch``; where it is empty, the figure
            says so.
    """
    chart = _chart(9, 3.4)
    if not history:
        axes = chart.add_subplot()
        axes.axis("off")
        text = "no curves: the last layer alone was fitted, in one go"
        axes.text(0.5, 0.5, text, ha="center", va="center", color=SOFT, fontsize=11)
        return chart
    epochs = [row["epoch"] for row in history]
    left, right = chart.subplots(1, 2)
    marker = "o" if len(history) < 30 else ""
    for name, label, colour in (("train_loss", "training", SECOND), ("valid_loss", "validation", ACCENT)):
        left.plot(epochs, [row[name] for row in history], marker=marker, ms=3, label=label, color=colour)
    for name, label, colour in (("valid_error", "validation", ACCENT), ("ema_error", "its average", GOOD)):
        values = [row.get(name) for row in history]
        if all(value is not None for value in values):
            right.plot(epochs, values, marker=marker, ms=3, label=label, color=colour)
    for axes, what in ((left, "loss, nats"), (right, "error")):
        _plain(axes, "epoch", what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # room above the highest point, which may be the first
        axes.legend(frameon=False, fontsize=9)
        turns = [b["epoch"] for a, b in pairwise(history) if a["phase"] != b["phase"]]
        for turn in turns:
            axes.axvline(turn - 0.5, color=SOFT, lw=0.8, ls="--")
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return chart


def plot_reliability(probabilities: FloatArray, labels: IntArray, n_bins: int = N_BINS) -> Chart:
    """Whether the model is right as often as it says: on the diagonal it is.

    Args:
        probabilities: (N, K) in [0, 1].
        labels: (N,) class numbers in [0, K).
        n_bins: bins of equal mass, by the probability of the predicted class.
    """
    chart = _chart(4.6, 4.6)
    axes = chart.add_subplot()
    bins = reliability(probabilities, labels, n_bins)
    said, was = [each.stated for each in bins], [each.right for each in bins]
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls="--")
    axes.plot(said, was, marker="o", ms=4, color=ACCENT)
    low = max(0.0, math.floor(10 * min([*said, *was, 0.9])) / 10)
    axes.set_xlim(low, 1.01)
    axes.set_ylim(low, 1.01)
    _plain(axes, "probability that the model gives", "share of right answers")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return chart


def plot_rates(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], suggestion: float) -> Chart:
    """The loss of training steps at rising learning rates, and the rate that they suggest.

    Args:
        rates: of each step.
        losses: in nats, of each step.
        smooth: the same without the noise of single batches.
        suggestion: the rate to mark.
    """
    chart = _chart(6.4, 3.6)
    axes = chart.add_subplot()
    axes.plot(rates, losses, color=RULE, lw=1)
    axes.plot(rates, smooth, color=ACCENT)
    axes.axvline(suggestion, color=SECOND, lw=1, ls="--")
    axes.set_xscale("log")
    low = min(smooth)
    axes.set_ylim(0.75 * low, min(1.1 * max(smooth), 2.2 * low))
    axes.set_title(f"suggested: lr={suggestion:.1e}", fontsize=10, color=SECOND)
    _plain(axes, "learning rate of the head", "loss, nats")
    return chart


def short(name: str, n_most: int = MAX_NAME) -> str:
    """A name that fits above a photo, and that matplotlib takes as plain text.

    Letters that the font lacks show as boxes; line breaks and characters without a shape become spaces.
    """
    shown = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in name)
    shown = shown if len(shown) <= n_most else f"{shown[: n_most // 2]}…{shown[-(n_most - n_most // 2 - 1) :]}"
    return shown.replace("$", r"\$")


def _cell_number() -> int:
    """Of the cell that runs, counted from 1; 0 where none does."""
    from IPython import get_ipython

    return getattr(get_ipython(), "execution_count", 0)


def _chart(width_in: float, height_in: float, layout: Literal["constrained"] | None = "constrained") -> Chart:
    chart = Chart(figsize=(width_in, height_in), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(chart)
    return chart


def _tiles(n: int, *, n_lines: int, title: str) -> tuple[Chart, list[Axes]]:
    """A grid of empty places for photos with so many lines of text above each."""
    n_columns = max(1, min(MAX_COLUMNS, math.ceil(math.sqrt(n))))
    n_rows = max(1, math.ceil(n / n_columns))
    text_in, head_in = n_lines * LINE_IN + 0.06, 0.36 if title else 0.06
    width_in = max(n_columns * (TILE_IN + GAP_IN) + GAP_IN, MIN_TITLE_IN if title else 0)
    height_in = head_in + n_rows * (text_in + TILE_IN + GAP_IN)
    chart = _chart(width_in, height_in, None)
    if title:
        chart.text(0.5, 1 - 0.2 / height_in, short(title, 90), ha="center", va="center", fontsize=10.5, color=INK)
    start_in = (width_in - n_columns * TILE_IN - (n_columns - 1) * GAP_IN) / 2
    places = []
    for i in range(n):
        row, column = divmod(i, n_columns)
        left_in = start_in + column * (TILE_IN + GAP_IN)
        bottom_in = height_in - head_in - (row + 1) * (text_in + TILE_IN) - row * GAP_IN
        box = (left_in / width_in, bottom_in / height_in, TILE_IN / width_in, TILE_IN / height_in)
        axes = chart.add_axes(box)
        axes.axis("off")
        places.append(axes)
    return chart, places


def _photo(axes: Axes, square: ByteArray, lines: Sequence[tuple[str, str]]) -> None:
    axes.imshow(square, interpolation="antialiased")
    for number, (text, colour) in enumerate(reversed(lines)):
        height = 1 + (0.04 + number * LINE_IN) / TILE_IN
        axes.text(0.5, height, text, ha="center", va="bottom", fontsize=8.5, color=colour, transform=axes.transAxes)


def _plain(axes: Axes, x: str, y: str) -> None:
    """Two spines, quiet ticks."""
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=SOFT)
    axes.grid(axis="y", color=RULE, lw=0.6)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
