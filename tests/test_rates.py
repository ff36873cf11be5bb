"""Which rates a network bears: where the loss falls, where it grows, and that the network is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heeler.learn import rates, schedule
from heeler.learn.rates import HIGHEST, LOWEST, first_restraint, rate_range, suggest_rate
from heeler.plans import Recipe
from heeler.records import Event, Progress, ignore_events
from tiny import LABELS, SPEC, TRAIN, difference, exact, network, store

RECIPE = Recipe(batch_size=8, augment="none")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> object:
    return store(tmp_path_factory.mktemp("rates"))


def test_rates_rise_by_the_same_factor_until_the_loss_has_grown(rows: object) -> None:
    told: list[Event] = []
    with exact():
        found = rate_range(network(), rows, LABELS, TRAIN, SPEC, RECIPE, 60, told.append)  # type: ignore[arg-type]
    factors = np.diff(np.log(found.rates))
    assert found.rates[0] == pytest.approx(LOWEST) and np.allclose(factors, factors[0])
    assert len(found.rates) == len(found.losses) == len(found.smooth)
    # A head that knows nothing begins at the entropy of four classes, learns, and is thrown off at last.
    assert found.losses[0] == pytest.approx(np.log(4), abs=0.05)
    assert min(found.smooth) < found.smooth[0] - 0.02
    assert found.rates[-1] == pytest.approx(HIGHEST) or found.smooth[-1] > 2 * min(found.smooth)
    assert LOWEST < found.suggestion < 0.1
    steps = [event.done for event in told if isinstance(event, Progress)]
    assert steps == list(range(1, len(steps) + 1))


def test_the_network_and_the_chances_of_others_are_left_alone(rows: object) -> None:
    model, seed = network(), torch.initial_seed()
    before = torch.random.get_rng_state()
    with exact():
        first = rate_range(model, rows, LABELS, TRAIN, SPEC, RECIPE, 12, ignore_events)  # type: ignore[arg-type]
        again = rate_range(model, rows, LABELS, TRAIN, SPEC, RECIPE, 12, ignore_events)  # type: ignore[arg-type]
        other = rate_range(model, rows, LABELS, TRAIN, SPEC, replace(RECIPE, seed=1), 12, ignore_events)  # type: ignore[arg-type]
    assert difference(model, network()) == 0
    assert first == again != other
    assert torch.initial_seed() == seed and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_last_stages_bear_less_where_a_step_would_reach_far(
    rows: object, monkeypatch: pytest.MonkeyPatch, slower: float
) -> None:
    """The share is what lowers the rates of a run by its first updates."""
    model = network()
    torch.nn.init.normal_(model.get_classifier().weight)
    seen: list[float] = []
    reach = rates.Weights.reach
    monkeypatch.setattr(rates.Weights, "reach", lambda self: (seen.append(reach(self)), seen[-1])[1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with exact():
        first_restraint(model, rows, LABELS, TRAIN, SPEC, Recipe())  # type: ignore[arg-type]
        monkeypatch.setattr(schedule, "MAX_REACH", float(np.mean(seen)) / slower)
        share = first_restraint(model, rows, LABELS, TRAIN, SPEC, Recipe())  # type: ignore[arg-type]
    assert len(seen) == 4 and seen[:2] == seen[2:] and min(seen) > 0  # 36 photos are two batches
    assert share == pytest.approx(min(1.0, 1 / slower))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("reach", [float("inf"), float("nan")])
def test_a_gradient_that_is_no_number_lowers_no_rate(
    rows: object, monkeypatch: pytest.MonkeyPatch, reach: float
) -> None:
    monkeypatch.setattr(rates.Weights, "reach", lambda self: reach)
    with exact():
        assert first_restraint(network(), rows, LABELS, TRAIN, SPEC, Recipe()) == 1.0  # type: ignore[arg-type]


def test_the_first_updates_are_those_of_the_runs_own_batches(rows: object, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    gradient = rates.Worker.gradient
    monkeypatch.setattr(
        rates.Worker,
        "gradient",
        lambda self, wanted, seed: (sizes.append(len(wanted)), gradient(self, wanted, seed))[1],
    )
    with exact():
        first_restraint(network(), rows, LABELS, TRAIN, SPEC, Recipe(batch_size=4))  # type: ignore[arg-type]
    assert sizes == [4, 4]


def test_the_last_stages_alone_are_trained_where_the_run_does_so(rows: object) -> None:
    with exact():
        recipe = replace(RECIPE, last_views=2, augment="photo")
        found = rate_range(network(), rows, LABELS, TRAIN, SPEC, recipe, 12, ignore_events)  # type: ignore[arg-type]
    assert 10 <= len(found.rates) <= 12 and np.isfinite(found.losses).all()
    assert found.losses[0] == pytest.approx(np.log(4), abs=0.05)


def test_the_suggestion_is_a_tenth_of_the_highest_rate_with_a_low_loss() -> None:
    rates = np.geomspace(1e-6, 1, 61).tolist()
    falls = [0.5 + max(0.0, -2 - np.log10(rate)) + 50 * max(0.0, rate - 0.01) for rate in rates]
    assert suggest_rate(rates, falls) == pytest.approx(1e-3)
    # A loss that is low from the start, as after a probe: where it is lowest is noise.
    flat = [0.8 + 0.01 * np.sin(i) + 50 * max(0.0, rate - 0.01) for i, rate in enumerate(rates)]
    assert suggest_rate(rates, flat) == pytest.approx(1e-3)
    # The first averages are of few steps and may be low by chance.
    assert suggest_rate(rates, [0.1, *flat[1:]]) == pytest.approx(1e-3)
