"""Rates, phases and the clock of a run, on paper: no network is trained here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch

from heeler.learn import schedule
from heeler.learn.schedule import Cursor, Pace, is_timed, layer_groups, layer_rates, phases_of, rate_share
from heeler.plans import Recipe
from heeler.records import Epoch


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rate_rises_then_falls_to_almost_nothing() -> None:
    shares = [rate_share(done, 0.3) for done in np.linspace(0, 1, 1001)]
    top = int(np.argmax(shares))
    assert shares[0] == pytest.approx(0.04)
    assert 0.999 < max(shares) < 1.001 and top == pytest.approx(300, abs=1)
    assert 0 < shares[-1] < 1e-3
    assert all(a < b for a, b in itertools.pairwise(shares[:300]))
    assert all(a > b for a, b in itertools.pairwise(shares[301:]))


def test_layers_learn_more_slowly_towards_the_stem() -> None:
    rates = layer_rates(1e-2, 3)
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2])
    assert layer_rates(1e-2, 1) == [1e-2]


def test_groups_hold_each_parameter_once_and_end_with_the_head() -> None:
    model = timm.create_model("test_efficientnet", num_classes=3)
    groups = layer_groups(model)
    flat = [id(parameter) for group in groups for parameter in group]
    assert sorted(flat) == sorted(id(parameter) for parameter in model.parameters())
    assert [id(one) for one in groups[-1]] == [id(one) for one in model.get_classifier().parameters()]
    assert id(model.conv_stem.weight) in {id(one) for one in groups[0]}
    assert all(isinstance(one, torch.nn.Parameter) for group in groups for one in group)


def test_the_fixed_recipe_is_the_tutorials() -> None:
    recipe = Recipe(epochs=3, frozen_epochs=1, lr=4e-3)
    assert not is_timed(recipe)
    head, everything = phases_of(recipe)
    assert (head.name, head.first, head.epochs, head.lr) == ("head", 1, 1, 4e-3)
    assert (everything.name, everything.first, everything.epochs, everything.lr) == ("all", 2, 3, 2e-3)
    assert [phase.name for phase in phases_of(Recipe(epochs=0, frozen_epochs=2))] == ["head"]
    assert [phase.name for phase in phases_of(Recipe(epochs=2, frozen_epochs=0))] == ["all"]
    assert everything.done(2, 0, 10) == 0
    assert everything.done(3, 5, 10) == pytest.approx(0.5)
    assert everything.done(5, 0, 10) == 1


def test_a_timed_recipe_is_one_phase_without_an_end() -> None:
    recipe = Recipe(budget_s=60, lr=1e-3)
    (phase,) = phases_of(recipe)
    assert is_timed(recipe)
    assert (phase.name, phase.epochs, phase.lr) == ("all", 0, 1e-3)
    assert phase.done(1000, 3, 10) == 0
    (bounded,) = phases_of(Recipe(budget_s=60, max_epochs=4))
    assert bounded.done(3, 0, 10) == pytest.approx(0.5)
    assert not is_timed(Recipe(budget_s=60, epochs=2))


def test_what_is_done_is_the_share_of_the_time_that_training_has() -> None:
    clock = Clock()
    pace = Pace(100.0, 2, clock)
    clock.now_s += 10
    pace.judging_ended(2)
    assert pace.pass_s == 5
    clock.now_s += 35
    assert pace.step_ended() == 35
    assert pace.used_s == 45
    assert pace.done == pytest.approx(45 / 90)


def test_what_was_used_before_training_is_no_part_of_it() -> None:
    clock = Clock()
    pace = Pace(100.0, 2, clock, used_s=10.0)
    clock.now_s += 10
    pace.judging_ended(2)
    pace.training_begins()
    assert pace.done == 0
    clock.now_s += 35
    pace.step_ended()
    assert pace.used_s == 55
    assert pace.done == pytest.approx(35 / 70)
    # Another process sets up for 20 s before it can go on: a part of the time, and none of the schedule.
    other = Pace(100.0, 2, clock, used_s=20.0)
    other.resume(pace.facts())
    assert other.done == pytest.approx(35 / 70)
    clock.now_s += 7.5
    other.step_ended()
    assert other.used_s == 82.5
    assert other.done == pytest.approx(3 / 4)


def test_the_schedule_stands_still_while_something_is_set_up() -> None:
    clock = Clock()
    pace = Pace(100.0, 2, clock)
    pace.training_begins()
    clock.now_s += 40
    pace.step_ended()
    clock.now_s += 30
    pace.setup_ended()
    assert pace.done == pytest.approx(0.4) and pace.left_s == 30
    clock.now_s += 15
    pace.step_ended()
    assert pace.done == pytest.approx(0.7)
    assert Pace(0.0, 2, clock).left_s == float("inf")


def test_no_step_begins_that_would_end_too_late() -> None:
    clock = Clock()
    pace = Pace(100.0, 2, clock)
    clock.now_s += 5
    pace.judging_ended(1)
    steps = [2, 2, 7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    for seconds in itertools.cycle(steps):
        if not pace.has_time_for_step():
            break
        clock.now_s += seconds
        pace.step_ended()
        assert pace.used_s + 2 * pace.pass_s <= 100
    assert pace.used_s + 2 * pace.pass_s > 100 - 7


def test_a_run_without_a_budget_has_time_for_everything() -> None:
    clock = Clock()
    pace = Pace(0.0, 2, clock)
    clock.now_s += 1e6
    pace.step_ended()
    assert pace.has_time_for_step() and pace.has_time_for_pass() and pace.is_judging_due(2)
    assert pace.done == 0
    assert not pace.is_patience_over(10, 1000, 0.0)


def test_judging_stays_below_its_share() -> None:
    clock = Clock()
    pace = Pace(1000.0, 3, clock)
    clock.now_s += 2
    pace.judging_ended(1)
    at = []
    while pace.has_time_for_step():
        clock.now_s += 20
        pace.step_ended()
        if pace.is_judging_due(2):
            at.append(pace.used_s)
            clock.now_s += 4
            pace.judging_ended(2)
    assert len(at) >= 8
    assert min(after - before for before, after in itertools.pairwise(at)) >= 100
    assert pace.judging_s + 3 * pace.pass_s <= schedule.JUDGE_SHARE * 1000


def test_judging_that_is_dear_waits_for_the_end() -> None:
    clock = Clock()
    pace = Pace(100.0, 3, clock)
    clock.now_s += 3
    pace.judging_ended(1)
    while pace.has_time_for_step():
        clock.now_s += 1
        pace.step_ended()
        assert not pace.is_judging_due(2)


@pytest.mark.parametrize(("save_s", "most"), [(0.1, 20), (4.0, 8)])
def test_saving_stays_below_its_share(save_s: float, most: int) -> None:
    clock, n = Clock(), 0
    pace = Pace(0.0, 3, clock)
    for step in range(600):
        clock.now_s += 1
        pace.step_ended()
        if pace.is_save_due(epoch_ended=step % 400 == 399):
            clock.now_s += save_s
            pace.save_ended()
            n += 1
    assert most - 3 <= n <= most + 1
    assert n * save_s <= (schedule.SAVE_SHARE + 0.01) * pace.used_s


def test_patience_needs_judgements_and_time() -> None:
    clock = Clock()
    pace = Pace(100.0, 3, clock)
    clock.now_s += 60
    pace.step_ended()
    assert pace.is_patience_over(10, 5, 35.0)
    assert not pace.is_patience_over(10, 4, 35.0)
    assert not pace.is_patience_over(10, 5, 36.0)
    assert not pace.is_patience_over(9, 5, 35.0)


def test_a_hurried_run_goes_through_the_rest_of_its_schedule_in_a_part_of_the_time() -> None:
    clock = Clock()
    pace = Pace(1000.0, 1, clock)
    clock.now_s += 5
    pace.judging_ended(1)
    clock.now_s += 395
    pace.step_ended()
    before = pace.done
    assert before == pytest.approx(400 / 995)
    pace.hurry()
    assert pace.is_hurried
    assert pace.budget_s == pytest.approx(400 + schedule.HURRY_SHARE * 400 + 5)
    assert pace.done == pytest.approx(before)
    clock.now_s += 40
    pace.step_ended()
    assert pace.done == pytest.approx(before + (1 - before) / 2)
    other = Pace(1000.0, 1, clock)
    other.resume(pace.facts())
    assert other.done == pytest.approx(pace.done)
    assert not other.is_patience_over(10, 1000, 0.0)
    clock.now_s += 41
    pace.step_ended()
    assert pace.done == 1
    assert not pace.has_time_for_step()


def test_no_run_becomes_longer_by_hurrying() -> None:
    clock = Clock()
    pace = Pace(100.0, 1, clock)
    clock.now_s += 95
    pace.step_ended()
    pace.hurry()
    assert pace.budget_s == 100


def test_a_pace_goes_on_where_another_stopped() -> None:
    clock = Clock()
    pace = Pace(100.0, 2, clock)
    clock.now_s += 10
    pace.judging_ended(1)
    clock.now_s += 30
    pace.step_ended()
    other = Pace(100.0, 2, clock)
    clock.now_s += 500  # nothing of this is the run's
    other.resume(pace.facts())
    clock.now_s += 20
    other.step_ended()
    assert (other.used_s, other.pass_s, other.judging_s) == (60, 10, 10)


def test_a_cursor_counts_and_survives_json() -> None:
    cursor = Cursor()
    cursor.step_ended(8, 2.0, 1.5, all_layers=False)
    cursor.step_ended(4, 5.0, 0.5, all_layers=True)
    assert (cursor.step, cursor.n_seen, cursor.loss_sum, cursor.seconds) == (2, 12, 36, 2)
    assert (cursor.n_all, cursor.all_s) == (4, 0.5)
    assert cursor.n_epochs(24) == 0.5
    cursor.epoch_ended()
    assert cursor.n_epochs(24) == 1
    assert cursor.n_seen == 12  # for whoever tells of the epoch that ended
    cursor.history.append(Epoch(1, 2, "head", 3.0, 2.0, 0.5, 0.5, 2.0, 6.0))
    cursor.step_ended(8, 1.0, 1.0, all_layers=True)
    assert (cursor.n_seen, cursor.loss_sum) == (8, 8)
    from dataclasses import asdict

    assert Cursor.from_facts(asdict(cursor)) == cursor


def test_first_updates_that_reach_too_far_lower_the_rates() -> None:
    cursor, far, half = Cursor(), schedule.MAX_REACH * 4, schedule.N_REACHES // 2
    reaches = iter([*[far] * half, *[far / 2] * half])
    shares = [cursor.restraint(lambda: next(reaches)) for _ in range(2 * half)]
    assert shares == sorted(shares) and shares[:half] == pytest.approx([1 / 4] * half)
    assert shares[half] == pytest.approx((half + 1) / (4 * half + 2)) and shares[-1] == pytest.approx(1 / 3)
    assert [cursor.restraint(lambda: 1e9) for _ in range(3)] == pytest.approx([1 / 3] * 3)  # the first ones alone count
    assert Cursor().restraint(lambda: schedule.MAX_REACH / 2) == Cursor().restraint(lambda: 0.0) == 1
