"""Tuning in two parts: one history, the better end, and a first part that is not done twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heeler.data.rows import Rows
from heeler.errors import ResourceError
from heeler.learn import relay
from heeler.learn.contest import Tuned
from heeler.learn.relay import FIRST, tune_in_parts
from heeler.learn.tune import fine_tune
from heeler.learn.weights import plain_state
from heeler.plans import Recipe
from heeler.records import Epoch, Event, Note, Progress, ignore_events
from tiny import LABELS, SPEC, TRAIN, VALID, exact, network, store

TWO = Recipe(budget_s=60, max_epochs=2, lr=1e-2, last_views=2, ema_decay=0.0, batch_size=12, last_s=30)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return store(tmp_path_factory.mktemp("rows"))


@pytest.fixture(autouse=True)
def comparable(fresh_cache: Path) -> Iterator[None]:
    with exact():
        yield


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes of the parts, as they are begun."""
    recipes: list[Recipe] = []

    def spy(*args: Any, **options: Any) -> Tuned:
        recipes.append(args[6])
        return fine_tune(*args, **options)

    monkeypatch.setattr(relay, "fine_tune", spy)
    return recipes


def tune_it(rows: Rows, recipe: Recipe, on_event: Any = ignore_events, **options: Any) -> Tuned:
    return tune_in_parts(network(), rows, LABELS, TRAIN, VALID, SPEC, recipe, on_event, **options)


def same(first: Any, second: Any) -> bool:
    one, two = plain_state(first), plain_state(second)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_last_stages_come_first_and_then_all_layers(rows: Rows, asked: list[Recipe]) -> None:
    told: list[Event] = []
    tuned = tune_it(rows, TWO, told.append)
    first, second = asked
    assert (first.budget_s, first.last_views, first.last_s) == (30, 2, 0)
    assert second.last_views == second.last_s == 0
    assert 30 < second.budget_s < 60  # what the first part left of its time is not lost
    epochs = [event for event in told if isinstance(event, Epoch)]
    assert list(tuned.history) == epochs
    assert [epoch.phase for epoch in epochs] == ["last"] * (len(epochs) // 2) + ["all"] * (len(epochs) // 2)
    numbers = [epoch.epoch for epoch in epochs]
    assert numbers == sorted(set(numbers)) and numbers[-1] == tuned.n_epochs == 4
    assert all(epoch.epoch <= epoch.epochs for epoch in epochs)
    done = [event.done for event in told if isinstance(event, Progress)]
    assert done == sorted(done) and done[-1] == 4 * len(TRAIN)
    assert tuned.best_epoch in (0, *numbers)
    moved = {name for name, value in plain_state(network()).items() if not value.equal(plain_state(tuned.model)[name])}
    assert tuned.best_epoch <= 2 or "conv_stem.weight" in moved


def test_without_a_first_part_it_is_fine_tuning(rows: Rows, asked: list[Recipe]) -> None:
    recipe = Recipe(epochs=1, frozen_epochs=0, batch_size=12)
    tuned = tune_it(rows, recipe)
    assert asked == [recipe]
    assert same(tuned.model, fine_tune(network(), rows, LABELS, TRAIN, VALID, SPEC, recipe, ignore_events).model)


def ends(monkeypatch: pytest.MonkeyPatch, *best_epochs: int) -> list[Tuned]:
    """Each part has two epochs, of which one is the best; 0 is what it began with."""
    results: list[Tuned] = []

    def stub(probe: Any, *args: Any, **options: Any) -> Tuned:
        n = len(results)
        results.append(Tuned(network(n), "raw", (), best_epochs[n], 0.5 - n / 10, 0.25, 100.0, 1.5))
        return results[-1]

    monkeypatch.setattr(relay, "fine_tune", stub)
    return results


@pytest.mark.parametrize(
    ("best_epochs", "winner", "best_epoch"), [((2, 1), 1, 3), ((2, 0), 0, 2), ((0, 0), 0, 0), ((0, 2), 1, 4)]
)
def test_what_is_better_is_kept(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, best_epochs: tuple[int, int], winner: int, best_epoch: int
) -> None:
    results = ends(monkeypatch, *best_epochs)
    tuned = tune_it(rows, TWO)
    assert same(tuned.model, results[winner].model)
    assert (tuned.best_epoch, tuned.best_loss, tuned.n_epochs) == (best_epoch, results[winner].best_loss, 3.0)


def test_who_stops_the_first_part_gets_its_best(rows: Rows, asked: list[Recipe]) -> None:
    tuned = tune_it(rows, TWO, stop=lambda: True)
    assert tuned.stopped and len(asked) == 1


def test_a_first_part_that_took_all_the_time_is_the_result(rows: Rows, asked: list[Recipe]) -> None:
    tune_it(rows, replace(TWO, budget_s=1.0, last_s=1.0))
    assert len(asked) == 1


def test_after_a_kill_the_first_part_is_not_done_again(
    rows: Rows, asked: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = relay.fine_tune

    def killed(*args: Any, **options: Any) -> Tuned:
        if len(asked) == 1:
            raise KeyboardInterrupt
        return spy(*args, **options)

    monkeypatch.setattr(relay, "fine_tune", killed)
    told: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        tune_it(rows, TWO, told.append, folder=tmp_path, resume=True)
    first = [event for event in told if isinstance(event, Epoch)]
    monkeypatch.setattr(relay, "fine_tune", spy)
    tuned = tune_it(rows, TWO, folder=tmp_path, resume=True)
    assert [recipe.last_views for recipe in asked] == [2, 0]
    assert 30 < asked[1].budget_s < 60
    assert list(tuned.history[: len(first)]) == first and tuned.n_epochs == 4
    # Of another start, what is there is no part.
    tune_in_parts(network(1), rows, LABELS, TRAIN, VALID, SPEC, TWO, ignore_events, folder=tmp_path, resume=True)
    assert [recipe.last_views for recipe in asked[2:]] == [2, 0]


def test_a_first_part_that_was_killed_has_used_its_time(rows: Rows, asked: list[Recipe], tmp_path: Path) -> None:
    n_asked = 0

    def soon() -> bool:
        nonlocal n_asked
        n_asked += 1
        return n_asked == 2

    assert tune_it(rows, TWO, folder=tmp_path, stop=soon).stopped
    assert tune_it(rows, TWO, folder=tmp_path, resume=True).n_epochs == 4
    assert asked[-1].budget_s <= 30


def test_a_full_disk_keeps_the_first_part_in_memory(
    rows: Rows, asked: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr(relay, "write_checkpoint", full)
    told: list[Event] = []
    assert tune_it(rows, TWO, told.append, folder=tmp_path).n_epochs == 4
    assert any(isinstance(event, Note) and "the disk is full" in event.text for event in told)
    assert not [path for path in (tmp_path / FIRST).glob("*.json") if "ended" in path.read_text()]
