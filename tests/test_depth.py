"""How deep to tune: arithmetic over measured rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heeler.learn.depth import (
    BEFORE_ALL,
    DEPTHS,
    MAX_VIEWS,
    WHOLE,
    Depth,
    before_all_s,
    best_depth,
    depths_of,
    epochs_in,
    views_in,
)
from heeler.plans import Rates, Setting

BASE = Setting("tf_efficientnet_lite0", 224, "crop")
RATES = Rates(
    base=BASE,
    decode_per_s=1400,
    known=0.0,
    forward_per_s=200,
    view_per_s=160,
    step_per_s=80,
    fit_per_s=9.5e10,
    engine_s=1.5,
    exact_work=2.0,
)
ON_A_CARD = replace(RATES, view_per_s=0.0, step_per_s=30)
TWO = next(depth for depth in DEPTHS if depth.last_stages == 2)
ALL = next(depth for depth in DEPTHS if depth.last_stages == 0)


def test_epochs_grow_with_seconds_and_shrink_with_pixels_and_photos() -> None:
    def epochs(seconds: float) -> float:
        return epochs_in(RATES, BASE, 1_000, seconds, TWO)

    assert epochs(0) == 0
    assert epochs(12.9) == 0 < epochs(13.1)  # the first view, of photos as they are, takes 6.5 s of a half
    assert epochs(40) == pytest.approx((40 - 1.5 - 1_000 / 200) * 80 / 1_000)
    others_s = (MAX_VIEWS - 1) * 1_000 / 160
    assert epochs(600) == pytest.approx((600 - 1.5 - 1_000 / 200 - others_s) * 80 / 1_000)
    assert epochs_in(ON_A_CARD, BASE, 1_000, 100, WHOLE[0]) == pytest.approx(3)
    assert epochs_in(ON_A_CARD, replace(BASE, image_px=448), 1_000, 100, WHOLE[0]) == pytest.approx(0.75)


def test_there_is_a_view_for_every_two_epochs() -> None:
    views = [views_in(RATES, BASE, 1_000, seconds, TWO) for seconds in (5, 40, 70, 200, 10_000)]
    assert views == [1, 1, 2, 6, MAX_VIEWS]
    assert views_in(RATES, BASE, 1_000, 600, ALL) == views_in(ON_A_CARD, BASE, 1_000, 600, WHOLE[0]) == 0


def test_all_layers_need_no_views_and_take_longer_steps() -> None:
    assert epochs_in(RATES, BASE, 1_000, 100, ALL) == pytest.approx(100 * 80 / ALL.step_work / 1_000)


@pytest.mark.parametrize("depth", DEPTHS + WHOLE, ids=str)
def test_a_depth_brings_something_from_its_least_epochs_on(depth: Depth) -> None:
    many = 10_000
    assert depth.gain_after(0.99 * depth.least_epochs, many) == 0 < depth.gain_after(depth.least_epochs, many)
    gains = [depth.gain_after(n_epochs, many) for n_epochs in (1, 1.5, depth.enough_epochs, 100)]
    assert 0 < gains[0] < gains[1] < gains[2] == gains[3] < 0.5


@pytest.mark.parametrize("depth", DEPTHS + WHOLE, ids=str)
def test_a_small_set_needs_more_epochs(depth: Depth) -> None:
    few = 100
    assert depth.gain_after(depth.enough_epochs, few) < depth.gain_after(depth.enough_epochs, 10_000)
    assert depth.gain_after(depth.enough_photos / few, few) == depth.gain


def test_few_photos_are_not_tuned_at_all_layers_until_there_is_time() -> None:
    few = 100
    seconds = 10 * ALL.step_work * few / RATES.step_per_s  # for ten epochs of all layers
    assert best_depth(RATES, BASE, few, seconds)[0].last_stages
    assert not best_depth(RATES, BASE, few, 60 * seconds)[0].last_stages


def test_more_seconds_go_deeper() -> None:
    found = [best_depth(RATES, BASE, 2_000, seconds) for seconds in (4, 60, 100, 300, 900, 3_600)]
    gains = [gain for _, gain in found]
    assert gains == sorted(gains) and gains[0] == 0 < gains[1]
    order = [DEPTHS.index(depth) for depth, gain in found if gain]
    assert order == sorted(order) and order[0] == 0 and order[-1] == len(DEPTHS) - 1


def test_where_the_last_stages_bear_half_of_the_rates_they_need_twice_the_epochs() -> None:
    gentle = replace(RATES, restraint=0.5)
    for usual, slow in zip(DEPTHS, depths_of(gentle), strict=True):
        factor = 2 if usual.last_stages else 1
        assert (slow.enough_epochs, slow.enough_photos) == (factor * usual.enough_epochs, factor * usual.enough_photos)
        assert slow == replace(usual, enough_epochs=slow.enough_epochs, enough_photos=slow.enough_photos)
    assert views_in(RATES, BASE, 1_000, 70, TWO) == 2 > views_in(gentle, BASE, 1_000, 70, TWO) == 1
    # So the quick steps of the last two have the time for longer.
    seconds = 160
    assert best_depth(RATES, BASE, 2_000, seconds)[0].last_stages == 4
    assert best_depth(gentle, BASE, 2_000, seconds)[0].last_stages == 2


def test_a_card_trains_all_layers() -> None:
    assert depths_of(ON_A_CARD) == WHOLE
    depth, gain = best_depth(ON_A_CARD, BASE, 1_000, 600)
    assert depth.last_stages == 0 and gain > 0


def test_a_depth_has_a_name() -> None:
    assert [str(depth) for depth in DEPTHS] == ["the last 2 stages", "the last 4 stages", "all layers"]


def test_before_all_layers_the_last_stages_have_four_epochs_in_two_views() -> None:
    part_s = before_all_s(RATES, BASE, 1_000, 3_600, ALL)
    assert part_s == pytest.approx(1.5 + 1_000 / 200 + 1_000 / 160 + 4 * 1_000 * BEFORE_ALL.step_work / 80)
    assert views_in(RATES, BASE, 1_000, part_s, BEFORE_ALL) == 2
    assert epochs_in(RATES, BASE, 1_000, part_s, BEFORE_ALL) == pytest.approx(4)


def test_the_last_stages_have_less_than_a_third_of_the_time_or_none() -> None:
    part_s = before_all_s(RATES, BASE, 1_000, 300, ALL)
    assert part_s == pytest.approx(90)
    assert 2 <= epochs_in(RATES, BASE, 1_000, part_s, BEFORE_ALL) < 4
    assert before_all_s(RATES, BASE, 1_000, 180, ALL) == 0  # not two epochs
    assert before_all_s(RATES, BASE, 1_000, 3_600, TWO) == 0
    assert before_all_s(ON_A_CARD, BASE, 1_000, 3_600, WHOLE[0]) == 0
