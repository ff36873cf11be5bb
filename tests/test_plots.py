"""Figures: what is drawn, that it is readable with two and with a hundred classes, and that nothing is left behind."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import scene
from heeler.judge.plots import (
    MAX_NAME,
    Chart,
    plot_batch,
    plot_confusion_matrix,
    plot_curves,
    plot_rates,
    plot_reliability,
    plot_results,
    plot_top_losses,
    short,
)
from heeler.records import ByteArray
from images import HOSTILE_NAMES

LONG = "a class whose name is longer than any photo is wide"
EPOCHS = [
    {"epoch": i, "phase": "head" if i < 3 else "all", "train_loss": 1 / i, "valid_loss": 0.9 / i,
     "valid_error": 0.3 / i, "ema_error": None}
    for i in range(1, 7)
]  # fmt: skip


def squares(n: int) -> ByteArray:
    return np.stack([np.asarray(scene("cat", i).resize((64, 64))) for i in range(n)])


def drawn(chart: Chart) -> np.ndarray:
    """The figure's pixels (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(chart.png())).convert("RGB"))


def texts(chart: Chart) -> list[str]:
    return [text.get_text() for axes in chart.axes for text in axes.texts]


def inside(chart: Chart) -> bool:
    """Whether every name lies within the figure."""
    chart.canvas.draw()
    room = chart.bbox.padded(1)
    named = [t for axes in chart.axes for t in (*axes.texts, *(axes.get_xticklabels() if axes.axison else ()))]
    boxes = [text.get_window_extent() for text in (*named, *chart.texts) if text.get_text()]
    return all(room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1 for box in boxes)


def overlaps(chart: Chart) -> list[tuple[str, str]]:
    """Pairs of texts above photos that cover each other."""
    chart.canvas.draw()
    found = [(t.get_text(), t.get_window_extent()) for axes in chart.axes for t in axes.texts]
    return [(a, b) for i, (a, x) in enumerate(found) for b, y in found[:i] if x.padded(-1).overlaps(y.padded(-1))]


@pytest.mark.parametrize("n", [1, 2, 9, 25])
def test_photos_stand_under_their_classes(n: int) -> None:
    chart = plot_batch(squares(n), [LONG] * n)
    assert texts(chart) == [short(LONG)] * n
    assert inside(chart) and overlaps(chart) == []
    assert len(np.unique(drawn(chart).reshape(-1, 3), axis=0)) > 500  # there are photos in it


@pytest.mark.parametrize("n", [1, 4, 9])
def test_results_and_losses_name_given_and_predicted(n: int) -> None:
    given, predicted, shares = [LONG] * n, ["b"] * n, [0.914] * n
    results = plot_results(squares(n), given, predicted, shares, "9 of 525")
    assert texts(results)[:2] == ["b  91 %", short(LONG)]
    worst = plot_top_losses(squares(n), given, predicted, shares, [4.5] * n)
    assert set(texts(worst)) == {short(LONG), "b  91 %", "loss 4.50"}
    for chart in (results, worst):
        assert inside(chart) and overlaps(chart) == []


def test_right_and_wrong_answers_differ_in_colour() -> None:
    chart = plot_results(squares(2), ["a", "a"], ["a", "b"], [0.9, 0.9])
    colours = {t.get_text(): t.get_color() for axes in chart.axes for t in axes.texts}
    assert colours["a  90 %"] != colours["b  90 %"]


@pytest.mark.parametrize(("n", "n_counts"), [(2, 4), (10, 100), (100, 0)])
def test_a_confusion_matrix_of_few_and_of_many_classes(n: int, n_counts: int) -> None:
    confusion = np.random.default_rng(0).integers(1, 30, (n, n))
    names = [f"{LONG} {i}" for i in range(n)]
    chart = plot_confusion_matrix(confusion, names)
    assert texts(chart) == [f"{count:,}" for count in confusion.ravel()[:n_counts]]
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert labels == [short(name) for name in names]
    assert all(label.endswith(str(i)) for i, label in enumerate(labels))  # names that differ at their end still do
    assert inside(chart)
    chart.canvas.draw()
    heights = [label.get_window_extent() for label in chart.axes[0].get_yticklabels()]
    assert all(a.y0 >= b.y1 - 1 for a, b in pairwise(heights))
    assert max(drawn(chart).shape) < 1900


def test_a_confusion_matrix_in_per_cent() -> None:
    chart = plot_confusion_matrix([[3, 1], [0, 4]], ["a", "b"], normalize=True)
    assert texts(chart) == ["75", "25", "100"]


def test_too_many_classes_to_name() -> None:
    chart = plot_confusion_matrix(np.eye(500, dtype=np.int64), [str(i) for i in range(500)])
    assert "500 classes" in chart.axes[0].get_title()


def test_curves() -> None:
    chart = plot_curves(EPOCHS)
    left, right = chart.axes
    assert [line.get_label() for line in left.get_lines()[:2]] == ["training", "validation"]
    assert list(right.get_lines()[0].get_ydata()) == [row["valid_error"] for row in EPOCHS]
    assert left.get_ylim()[1] > 1.05 * max(row["train_loss"] for row in EPOCHS)
    assert list(left.get_lines()[2].get_xdata()) == [2.5, 2.5]  # where all layers began to learn
    drawn(chart)


def test_no_curves_say_why() -> None:
    assert texts(plot_curves([])) == ["no curves: the last layer alone was fitted, in one go"]


def test_an_honest_model_is_on_the_diagonal() -> None:
    draw = np.random.default_rng(1)
    sure = draw.uniform(0.5, 1, 20_000).astype(np.float32)
    labels = (draw.random(20_000) > sure).astype(np.int64)
    chart = plot_reliability(np.stack([sure, 1 - sure], axis=1), labels)
    said, was = (np.asarray(values) for values in chart.axes[0].get_lines()[1].get_data())
    assert np.abs(said - was).max() < 0.03


def test_rates_mark_the_suggestion() -> None:
    rates = np.geomspace(1e-6, 1, 50)
    chart = plot_rates(rates.tolist(), (1 + rates).tolist(), (1 + rates).tolist(), 1e-3)
    assert chart.axes[0].get_title() == "suggested: lr=1.0e-03"
    drawn(chart)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_can_be_drawn(name: str) -> None:
    for chart in (plot_batch(squares(1), [name]), plot_confusion_matrix([[1, 0], [0, 1]], [name, "b"])):
        drawn(chart)
    assert len(short(name * 20)) <= MAX_NAME + 20  # a backslash before each dollar


def test_names_keep_their_ends() -> None:
    assert short("short") == "short"
    cut = short("Norwegian elkhound of the north, young")
    assert len(cut) == MAX_NAME and cut.startswith("Norwegian") and cut.endswith("young")


def test_nothing_is_registered_with_pyplot_and_no_setting_changed(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from heeler.judge.plots import plot_curves\n"
        f"plot_curves([]).savefig({str(tmp_path / 'x.png')!r})\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False True\n"
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (900, 340)


def test_answers_of_equal_probability_share_their_rightness() -> None:
    """As in the report; else the order of the rows would make dots that mean nothing."""
    sure = np.ones(300, np.float32)
    labels = np.repeat([0, 1], 150)  # the first half is right
    chart = plot_reliability(np.stack([sure, 1 - sure], axis=1), labels)
    _, was = chart.axes[0].get_lines()[1].get_data()
    assert np.allclose(was, 0.5)
