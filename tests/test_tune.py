"""The loop on real photos and the real backbone at 64 px: what it changes, what it keeps, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SCENES, scene
from heeler.data.rows import Rows, RowStore
from heeler.learn.backbone import Backbone, load_backbone, with_head
from heeler.learn.tune import Tuned, fine_tune, layer_groups
from heeler.records import Epoch, Event, Head, Note, Recipe, ignore_events

PX = 64
N_EACH = 12


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tf_efficientnet_lite0", image_px=PX)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Twelve pieces of each of four photos, class after class."""
    return _store(tmp_path_factory.mktemp("rows"))


def _store(folder: Path) -> Rows:
    store = RowStore(folder, (PX, PX, 3), "uint8")
    names = []
    with store.writer() as writer:
        for label in SCENES:
            for number in range(N_EACH):
                names.append(f"{label}{number}")
                writer.append(names[-1], np.asarray(scene(label, number).resize((PX, PX)).convert("RGB")))
    return store.view(names)


LABELS = np.repeat(np.arange(len(SCENES)), N_EACH)
VALID = np.arange(0, len(LABELS), 4)
TRAIN = np.setdiff1d(np.arange(len(LABELS)), VALID)


def _start(backbone: Backbone) -> torch.nn.Module:
    """A head that knows nothing: every class gets the same logit."""
    head = Head(np.zeros((len(SCENES), backbone.n_features), np.float32), np.zeros(len(SCENES), np.float32))
    return with_head(backbone, head)


def _tune(backbone: Backbone, rows: Rows, recipe: Recipe, on_event=ignore_events) -> tuple[Tuned, torch.nn.Module]:
    probe = _start(backbone)
    return fine_tune(probe, rows, LABELS, TRAIN, VALID, replace(backbone.spec, image_px=PX), recipe, on_event), probe


def test_it_learns_and_keeps_the_best_epoch(backbone: Backbone, rows: Rows) -> None:
    events: list[Event] = []
    recipe = Recipe(epochs=3, frozen_epochs=1, batch_size=8, lr=4e-3, augment="photo")
    tuned, _ = _tune(backbone, rows, recipe, events.append)
    assert [epoch.phase for epoch in tuned.history] == ["head", "all", "all", "all"]
    assert [event for event in events if isinstance(event, Epoch)] == list(tuned.history)
    best = tuned.history[tuned.best_epoch - 1]
    assert best.valid_error == min(epoch.valid_error for epoch in tuned.history) == tuned.history[-1].best_error
    assert best.valid_error <= 0.25  # guessing is wrong three times in four
    assert tuned.rate_per_s > 0


def test_the_source_network_is_left_as_it_was(backbone: Backbone, rows: Rows) -> None:
    tuned, probe = _tune(backbone, rows, Recipe(epochs=1, frozen_epochs=0, batch_size=16))
    fresh = _start(backbone).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in probe.state_dict().items())
    assert any(not torch.equal(value, fresh[key]) for key, value in tuned.model.state_dict().items())


def test_the_head_phase_moves_the_head_alone(backbone: Backbone, rows: Rows) -> None:
    tuned, probe = _tune(backbone, rows, Recipe(epochs=0, frozen_epochs=1, batch_size=8))
    before, after = probe.state_dict(), tuned.model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert tuned.best_epoch == 1
    assert moved == {"classifier.weight", "classifier.bias"}


def test_batch_statistics_stay(backbone: Backbone, rows: Rows) -> None:
    tuned, probe = _tune(backbone, rows, Recipe(epochs=1, frozen_epochs=0, batch_size=16))
    before = {key: value for key, value in probe.state_dict().items() if "running" in key}
    after = tuned.model.state_dict()
    assert before
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_loss_that_is_not_finite_keeps_what_was_best(backbone: Backbone, rows: Rows) -> None:
    events: list[Event] = []
    tuned, probe = _tune(backbone, rows, Recipe(epochs=3, frozen_epochs=0, batch_size=8, lr=1e30), events.append)
    assert tuned.best_epoch == 0
    start, end = probe.state_dict(), tuned.model.state_dict()
    assert all(torch.equal(value, end[key]) for key, value in start.items())
    notes = [event for event in events if isinstance(event, Note)]
    assert len(notes) == 1
    assert "not finite" in notes[0].text


def test_the_same_seed_gives_the_same_weights(backbone: Backbone, rows: Rows) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        recipe = Recipe(epochs=1, frozen_epochs=0, batch_size=16, seed=7)
        once, again, other = (_tune(backbone, rows, one)[0] for one in (recipe, recipe, replace(recipe, seed=8)))
    finally:
        torch.set_num_threads(n_threads)
    assert [epoch.train_loss for epoch in once.history] == [epoch.train_loss for epoch in again.history]
    assert [epoch.train_loss for epoch in once.history] != [epoch.train_loss for epoch in other.history]
    first, second = once.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_layer_groups_hold_each_parameter_once_and_end_with_the_head(backbone: Backbone) -> None:
    groups = layer_groups(backbone.model)
    flat = [id(parameter) for group in groups for parameter in group]
    assert sorted(flat) == sorted(id(parameter) for parameter in backbone.model.parameters())
    assert [id(one) for one in groups[-1]] == [id(one) for one in backbone.model.get_classifier().parameters()]
    assert id(backbone.model.conv_stem.weight) in {id(one) for one in groups[0]}


def test_the_tuned_network_is_plain(backbone: Backbone, rows: Rows) -> None:
    tuned, _ = _tune(backbone, rows, Recipe(epochs=0, frozen_epochs=1, batch_size=8))
    assert not tuned.model.training
    assert all(tensor.is_contiguous() for tensor in tuned.model.state_dict().values())
    assert all(tensor.device.type == "cpu" for tensor in tuned.model.state_dict().values())
