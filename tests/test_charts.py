"""Charts are whole SVG that says in words what it draws, and styles nothing by itself."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from heeler.judge.charts import Axis, Series, bar, bars, linear_axis, log_axis, plot
from heeler.judge.figures import coverage_chart, learning_chart, loss_chart, reliability_chart, time_chart
from heeler.judge.gallery import Answers
from heeler.judge.prospects import CurvePoint, look_ahead
from heeler.judge.scores import reliability

SVG = "{http://www.w3.org/2000/svg}"
X = Axis(0, 10, ((0, "none"), (10, "<ten>")), "across")


def tree(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(f'<div xmlns="http://www.w3.org/2000/svg">{chart}</div>')


def words(chart: str) -> str:
    return " ".join(" ".join(tree(chart).itertext()).replace("\u00a0", " ").split())


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 0.061, [0, 0.02, 0.04, 0.06, 0.08]), (0.4, 0.9, [0.4, 0.6, 0.8, 1.0]),
     (3, 3, [3, 3.25, 3.5, 3.75, 4.0]), (0, 1e-9, None), (0, 12345, None), (-3.3, 7, None)],
)  # fmt: skip
def test_axis_has_round_marks_around_its_values(low: float, high: float, marks: list[float] | None) -> None:
    axis = linear_axis(low, high, "x", str)
    assert axis.low <= low and axis.high >= high
    assert 2 <= len(axis.ticks) <= 7
    if marks:
        assert [mark for mark, _ in axis.ticks] == pytest.approx(marks)


def test_logarithmic_axis_marks_ends_and_leaves_out_what_would_collide() -> None:
    axis = log_axis([100, 1000, 1010, 10_000], "n", str)
    assert [mark for mark, _ in axis.ticks] == [100, 1010, 10_000]
    assert axis.place(1000) == pytest.approx(0.5)
    assert axis.place(1) == 0 and axis.place(1e9) == 1
    assert log_axis([5], "n", str).place(5) == 0.5


def test_a_plot_has_a_title_a_text_and_every_point() -> None:
    chart = plot(
        "name", "A <title>", "What & why", X, X,
        [Series("one", [(0, 0), (10, 10)]), Series("", [(5, 5)], "dots"), Series("b", [(0, 0), (1, 1), (1, 0)], "band"),
         Series("s", [(0, 1), (1, 2)], "step"), Series("d", [(0, 1), (1, 2)], "dashed", "soft")],
    )  # fmt: skip
    svg = tree(chart).find(f"{SVG}svg")
    assert svg is not None and svg.get("role") == "img"
    title, text = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert title is not None and text is not None
    assert svg.get("aria-labelledby") == f"{title.get('id')} {text.get('id')}"
    assert (title.text, text.text) == ("A <title>", "What & why")
    assert len(svg.findall(f"{SVG}circle")) == 3
    assert "style" not in {name for each in tree(chart).iter() for name in each.attrib}
    assert "<ten>" in words(chart) and words(chart).endswith("one b s d")


def test_bars_grow_with_their_values_and_stay_inside() -> None:
    chart = bars("b", "t", "x", [("decode", 1, 2, "1 s, 2 s"), ("<tune>", 200, 100, "200 s"), ("none", 0, 0, "")])
    widths = [float(each.get("width", "0")) for each in tree(chart).iter(f"{SVG}rect")]
    assert widths[2] == max(widths) and widths[3] == pytest.approx(widths[2] / 2, abs=0.1)
    assert min(widths) >= 1 and "<tune>" in words(chart)
    assert 'width="100.0"' in bar(7) and 'width="0.0"' in bar(-1) and 'width="12.3"' in bar(0.1234)


def test_figures_say_their_numbers() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    probabilities = rng.dirichlet((1, 1, 1), 600).astype(np.float32)
    bins = reliability(probabilities, labels)
    assert sum(each.n for each in bins) == 600 and len(bins) == 15
    said = words(reliability_chart(bins, bins))
    assert f"{100 * bins[3].stated:.1f} % stated, {100 * bins[3].right:.1f} % right of 40" in said
    assert "100 % answered" in words(coverage_chart(Answers([""] * 600, labels, probabilities)))
    hard = rng.random(500)
    points = [CurvePoint(n, hard < n**-0.3) for n in (100, 200, 400, 700, 1000)]
    outlook = look_ahead(points)
    assert outlook
    said = words(learning_chart(points, outlook))
    assert f"1,000 photos: {100 * points[-1].error:.1f} %" in said and "2,000 photos: expected" in said
    assert "expected" not in words(learning_chart(points, None))
    assert "is 0.3000; it ended at 0.3500" in words(loss_chart([{"valid_loss": 0.3}, {"valid_loss": 0.35}]))
    assert "tune: planned 10.0 s, took 12.0 s" in words(time_chart({"tune": (10, 12), "choose": (0, 0)}))


def test_one_photo_one_bin_and_one_epoch_still_draw() -> None:
    one = np.array([[0.25, 0.75]], np.float32), np.array([1])
    tree(coverage_chart(Answers(["a"], one[1], one[0])))
    tree(reliability_chart(reliability(*one), reliability(*one)))
    tree(loss_chart([{"train_loss": 0.3, "valid_loss": 0.3}]))
    tree(learning_chart([CurvePoint(10, np.array([True]))], None))
