"""A learning curve is carried on with honest bounds, or not at all; sentences say which."""

from __future__ import annotations

import numpy as np
import pytest

from heeler.judge.prospects import CurvePoint, look_ahead, more_minutes, more_photos, points_of

SIZES = (500, 1000, 2000, 3500, 5000)


def curve(rates: list[float], n_judged: int, seed: int, sizes: tuple[int, ...] = SIZES) -> list[CurvePoint]:
    """Photos whose difficulty decides at which point they are got right, as with real heads."""
    hard = np.random.default_rng(seed).random(n_judged)
    return [CurvePoint(n, hard < rate) for n, rate in zip(sizes, rates, strict=True)]


def law(a: float, b: float, c: float, n: float) -> float:
    return a * n**-b + c


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 0.4, 0.0), (3.0, 0.5, 0.03), (0.4, 0.15, 0.0), (0.0, 0.4, 0.1)])
def test_the_interval_covers_what_twice_as_many_photos_bring(a: float, b: float, c: float) -> None:
    truth, covered, widths = law(a, b, c, 10_000), 0, []
    for seed in range(40):
        outlook = look_ahead(curve([law(a, b, c, n) for n in SIZES], 1500, seed))
        assert outlook is not None
        assert (outlook.n_now, outlook.n_then) == (5000, 10_000)
        assert outlook.interval[0] <= outlook.then <= outlook.interval[1]
        assert outlook.then <= outlook.now + 1e-12
        covered += outlook.interval[0] <= truth <= outlook.interval[1]
        widths.append(outlook.interval[1] - outlook.interval[0])
    assert covered >= 36
    assert np.mean(widths) < 0.6 * law(a, b, c, 5000)


def test_too_little_is_said_to_be_too_little() -> None:
    rates = [0.2, 0.15, 0.12, 0.1, 0.09]
    assert look_ahead([]) is None
    assert look_ahead(curve(rates[:3], 1000, 0, SIZES[:3])) is None
    assert look_ahead(curve(rates, 50, 0)) is None
    assert look_ahead(curve([0.003] * 5, 1000, 0)) is None
    assert "cannot be told" in more_photos(curve(rates, 50, 0), None)
    assert more_photos([], None) == ""
    one = more_photos([CurvePoint(40, np.arange(78) == 3)], None)
    assert "1 mistake on 78 judged photos" in one


def test_sentences_tell_a_steep_curve_from_a_flat_one() -> None:
    steep = curve([law(2.0, 0.4, 0.0, n) for n in SIZES], 3000, 1)
    outlook = look_ahead(steep)
    assert outlook and outlook.is_gain
    text = more_photos(steep, outlook).replace("\u00a0", " ")
    assert text.startswith(
        f"Twice as many photos would take the error of the last layer from {100 * outlook.now:.1f} %"
    )
    assert f"about {100 * outlook.then:.1f} %" in text and text.endswith("as it began.")
    flat = curve([0.101, 0.1, 0.1, 0.1, 0.1], 3000, 1)
    found = look_ahead(flat)
    assert found and not found.is_gain and found.then > 0.95 * found.now
    assert "would help little" in more_photos(flat, found)


def test_the_drawn_curve_begins_at_the_first_point_and_ends_beyond_the_last() -> None:
    outlook = look_ahead(curve([law(2.0, 0.4, 0.0, n) for n in SIZES], 3000, 1))
    assert outlook
    assert outlook.sizes[0] == pytest.approx(500) and outlook.sizes[-1] == pytest.approx(10_000)
    assert all(low <= at <= high for low, at, high in zip(outlook.low, outlook.fitted, outlook.high, strict=True))
    again = look_ahead(curve([law(2.0, 0.4, 0.0, n) for n in SIZES], 3000, 1))
    assert again == outlook


FALLING, LEVEL = [0.9, 0.7, 0.55, 0.48, 0.42, 0.38], [0.9, 0.5, 0.41, 0.4, 0.401, 0.4]


@pytest.mark.parametrize(
    ("losses", "n_epochs", "budget_s", "stopped_early", "tuned_is_better", "words"),
    [
        ([], 0.0, 60.0, False, False, "1 minute had no room to tune"),
        ([], 0.0, 0.0, False, False, "heeler train --minutes 5 also tunes"),
        (LEVEL, 9.0, 300.0, False, False, "unlikely to help"),
        (LEVEL, 9.0, 300.0, True, True, "would not help: tuning ended early"),
        (FALLING, 9.0, 300.0, False, True, "still falling"),
        (LEVEL, 9.0, 300.0, False, True, "help little"),
        (LEVEL, 2.5, 300.0, False, True, "time for 2.5 passes"),
        (FALLING, 3.0, 300.0, False, False, "did not beat the last layer alone, and its loss was still falling"),
        ([0.4], 9.0, 300.0, False, True, "help little"),
    ],
)
def test_minutes_are_judged_by_how_tuning_ended(
    losses: list[float], n_epochs: float, budget_s: float, stopped_early: bool, tuned_is_better: bool, words: str
) -> None:
    text = more_minutes(
        losses, n_epochs, budget_s=budget_s, stopped_early=stopped_early, tuned_is_better=tuned_is_better
    )
    assert text.startswith("More minutes ") and words in text


def test_points_say_which_photos_were_wrong() -> None:
    logits = [np.array([[2, 1], [0, 1], [3, 1]], np.float32), np.array([[2, 1], [0, 1], [1, 3]], np.float32)]
    points = points_of([10, 20], logits, np.array([0, 1, 1]))
    assert [point.n_train for point in points] == [10, 20]
    assert points[0].wrong.tolist() == [False, False, True] and points[0].error == pytest.approx(1 / 3)
    assert points[1].error == 0
