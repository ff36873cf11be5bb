"""Charts as inline SVG, drawn here: no library in the page, no style attribute, and words for who cannot see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

__all__ = ["Axis", "Series", "bar", "bars", "linear_axis", "log_axis", "plot"]

# Units of the picture: pixels where a phone shows it at its full width.
WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 42
ROW, NAME_WIDTH, WORDS_WIDTH = 22, 84, 132

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis of a plot: its ends, marks with their words, and what it measures."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one; what lies beyond an end is put on it."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Args:
        name: for the legend; "" leaves it out.
        points: (x, y).
        kind: ``line``; ``dashed`` line; ``dots``; ``band`` is closed and filled; ``step`` is a line and its dots.
        colour: a CSS class of the page: ``c1``, ``c2`` or ``c3``, or ``soft``.
    """

    name: str
    points: Sequence[Point]
    kind: Literal["line", "dashed", "dots", "band", "step"] = "line"
    colour: str = "c1"


def linear_axis(low: float, high: float, title: str, words: Callable[[float], str]) -> Axis:
    """An axis from at most ``low`` to at least ``high`` with three to six round marks."""
    high = high if high > low else low + 1
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [round(i * step, 12) for i in range(first, last + 1)]
    return Axis(marks[0], marks[-1], tuple((mark, words(mark)) for mark in marks), title)


def log_axis(values: Sequence[float], title: str, words: Callable[[float], str]) -> Axis:
    """A logarithmic axis over positive values, marked at some of them: the ends, and those with room between."""
    low, high = min(values), max(values)
    axis = Axis(low, high, (), title, is_log=True)
    marks: list[float] = []
    for value in sorted(set(values), reverse=True):  # the largest is always marked
        if not marks or axis.place(marks[-1]) - axis.place(value) >= 0.17:
            marks.append(value)
    return Axis(low, high, tuple((mark, words(mark)) for mark in sorted(marks)), title, is_log=True)


def plot(name: str, title: str, text: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """A plot of some series.

    Args:
        name: of the chart, unique on the page, letters and hyphens.
        title: what it is, in a few words.
        text: what it shows, with the figures, for who cannot see it.
        x: horizontal axis.
        y: vertical axis.
        series: drawn in order, the first at the bottom.
    """
    parts = [*_x_marks(x), *_y_marks(y), *(_drawn(each, x, y) for each in series)]
    return _svg(name, title, text, HEIGHT, parts) + _legend(series)


def bars(name: str, title: str, text: str, rows: Sequence[tuple[str, float, float, str]]) -> Markup:
    """Two bars for each row, one above the other: what was planned and what it took.

    Args:
        name: of the chart, unique on the page.
        title: what it is.
        text: what it shows, with the figures.
        rows: (name, first value, second value, words for both).
    """
    longest = max((max(first, second) for _, first, second, _ in rows), default=0) or 1
    room = WIDTH - NAME_WIDTH - WORDS_WIDTH
    parts = []
    for i, (label, first, second, words) in enumerate(rows):
        top = i * ROW
        parts += [
            Markup('<text class="t ink" x="{}" y="{}" text-anchor="end">{}</text>').format(
                NAME_WIDTH - 8, top + 14, label
            ),
            Markup('<rect class="f soft" x="{}" y="{}" width="{:.1f}" height="6" rx="1"/>').format(
                NAME_WIDTH, top + 3, max(1, room * first / longest)
            ),
            Markup('<rect class="f c1" x="{}" y="{}" width="{:.1f}" height="6" rx="1"/>').format(
                NAME_WIDTH, top + 10, max(1, room * second / longest)
            ),
            Markup('<text class="t" x="{:.1f}" y="{}">{}</text>').format(
                NAME_WIDTH + 6 + max(1, room * max(first, second) / longest), top + 14, words
            ),
        ]
    return _svg(name, title, text, ROW * len(rows) + 4, parts)


def bar(share: float) -> Markup:
    """A small bar in a table, whose value stands in the cell beside it."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="f wash" width="100" height="8"/><rect class="f c1" width="{:.1f}" height="8"/></svg>'
    ).format(100 * min(max(share, 0), 1))


def _svg(name: str, title: str, text: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{n}-title {n}-text">'
        '<title id="{n}-title">{}</title><desc id="{n}-text">{}</desc>{}</svg>'
    ).format(WIDTH, height, title, text, Markup("").join(parts), n=name)


def _legend(series: Sequence[Series]) -> Markup:
    named = [each for each in series if each.name]
    if not named:
        return Markup("")
    items = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 18 8" aria-hidden="true">{}</svg>{}</li>'
        ).format(_key(each), each.name)
        for each in named
    )  # fmt: skip
    return Markup('<ul class="legend">{}</ul>').format(items)


def _key(series: Series) -> Markup:
    if series.kind == "band":
        return Markup('<rect class="f band {}" width="18" height="8"/>').format(series.colour)
    if series.kind == "dots":
        return Markup('<circle class="f {}" cx="9" cy="4" r="3.2"/>').format(series.colour)
    dashed = " dashed" if series.kind == "dashed" else ""
    return Markup('<path class="l {}{}" d="M0 4H18"/>').format(series.colour, dashed)


def _at(point: Point, x: Axis, y: Axis) -> tuple[str, str]:
    across = LEFT + x.place(point[0]) * (WIDTH - LEFT - RIGHT)
    down = HEIGHT - BOTTOM - y.place(point[1]) * (HEIGHT - TOP - BOTTOM)
    return f"{across:.1f}", f"{down:.1f}"


def _drawn(series: Series, x: Axis, y: Axis) -> Markup:
    places = [_at(point, x, y) for point in series.points]
    dots = Markup("").join(
        Markup('<circle class="f {}" cx="{}" cy="{}" r="3"/>').format(series.colour, *place) for place in places
    )
    if series.kind == "dots" or len(places) < 2:
        return dots
    path = "M" + "L".join(f"{across} {down}" for across, down in places)
    if series.kind == "band":
        return Markup('<path class="f band {}" d="{}Z"/>').format(series.colour, path)
    dashed = " dashed" if series.kind == "dashed" else ""
    line = Markup('<path class="l {}{}" d="{}"/>').format(series.colour, dashed, path)
    return line + dots if series.kind == "step" else line


def _x_marks(axis: Axis) -> list[Markup]:
    floor = HEIGHT - BOTTOM
    found = []
    for value, words in axis.ticks:
        across = LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
        anchor = "end" if axis.place(value) > 0.97 else "middle"
        found.append(
            Markup('<text class="t" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                across, floor + 16, anchor, words
            )
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    title = Markup('<text class="t" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    return [*found, title.format(middle, HEIGHT - 6, axis.title)]


def _y_marks(axis: Axis) -> list[Markup]:
    found = []
    for value, words in axis.ticks:
        down = HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)
        found.append(
            Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(LEFT, down, WIDTH - RIGHT)
            + Markup('<text class="t" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, down + 4, words)
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    title = Markup('<text class="t" x="11" y="{0}" text-anchor="middle" transform="rotate(-90 11 {0})">{1}</text>')
    return [*found, title.format(f"{middle:.1f}", axis.title)]
