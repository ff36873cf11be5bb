"""A network in two parts: together they are the network, and only the last one is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from heeler.learn.stages import N_LAST, Views, first_stages, is_divisible, last_groups, last_stages
from heeler.learn.tune import fine_tune
from heeler.learn.weights import plain_state
from heeler.records import Epoch, Event, Recipe, ignore_events
from tiny import LABELS, SPEC, TRAIN, VALID, exact, network, store


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_the_two_parts_are_the_network(name: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    batch = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(last_stages(model, first_stages(model, batch)), model(batch))
    trained = {id(parameter) for group in last_groups(model) for parameter in group}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in trained}
    first_trained = len(model.blocks) - N_LAST
    for part in (f"blocks.{first_trained}.", "conv_head.", "classifier."):
        assert any(name.startswith(part) for name in names)
    assert not any(name.startswith(("conv_stem", "bn1.", f"blocks.{first_trained - 1}.")) for name in names)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_other_networks_are_not_divided(name: str) -> None:
    assert not is_divisible(timm.create_model(name, num_classes=3))


def test_only_the_last_stages_learn_and_the_result_is_the_whole_network(tmp_path: Path, fresh_cache: Path) -> None:
    told: list[Event] = []
    rows, start = store(tmp_path / "rows"), network()
    with exact():
        recipe = Recipe(budget_s=6, max_epochs=12, lr=1e-2, last_views=3, ema_decay=0.0, batch_size=12)
        tuned = fine_tune(start, rows, LABELS, TRAIN, VALID, SPEC, recipe, told.append)
    before, after = plain_state(start), plain_state(tuned.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    first_trained = len(start.blocks) - N_LAST
    assert {f"blocks.{first_trained}.0.conv_pw.weight", "classifier.weight"} <= moved
    assert all(name.startswith(("blocks", "conv_head", "bn2", "classifier")) for name in moved)
    assert all(int(name.split(".")[1]) >= first_trained for name in moved if name.startswith("blocks"))
    epochs = [event for event in told if isinstance(event, Epoch)]
    assert epochs[-1].train_loss < 1.2 < np.log(4)  # where the start's head, which knows nothing, begins
    # What was judged on activations is what the whole network says of the photos.
    best = min(epochs, key=lambda epoch: epoch.valid_loss)
    pixels = torch.from_numpy(rows.take(VALID)).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)
    with torch.no_grad():
        error = (tuned.model((pixels / 255 - mean) / std).argmax(1).numpy() != LABELS[VALID]).mean()
    assert tuned.kind != "raw" or error == pytest.approx(best.valid_error, abs=1.5 / len(VALID))
    assert not list((fresh_cache / "activations").iterdir())


def test_without_time_for_one_view_all_layers_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heeler.learn.tune.VIEWS_SHARE", -1.0)
    start = network()
    with exact():
        recipe = Recipe(budget_s=6, max_epochs=3, lr=1e-2, last_views=3, ema_decay=0.0)
        tuned = fine_tune(start, store(tmp_path / "rows"), LABELS, TRAIN, VALID, SPEC, recipe, ignore_events)
    assert not torch.equal(start.conv_stem.weight, tuned.model.conv_stem.weight) or tuned.best_epoch == 0


def make(wanted: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(wanted).float().view(-1, 1, 1, 1).expand(-1, 4, 2, 2)


def test_each_photo_has_its_own_activations_in_each_view(fresh_cache: Path) -> None:
    photos = np.array([7, 3, 90, 12])
    views = Views(100, photos, 2)
    far = time.perf_counter() + 60
    assert views.add(make, None, far) and views.add(lambda wanted: -make(wanted), 3, far)
    assert views.n_views == 2
    taken = views.take(np.array([0, 1, 0]), np.array([90, 3, 12]))
    assert taken.shape == (3, 4, 2, 2) and taken.dtype is torch.bfloat16
    assert taken.is_contiguous(memory_format=torch.channels_last)
    views.close()
    assert not list((fresh_cache / "activations").iterdir())
    assert taken[:, 0, 0, 0].tolist() == [90, -3, 12]


def test_a_disk_without_room_keeps_no_views(mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEELER_CACHE", str(mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")))
    views = Views(1000, np.arange(1000), 6)
    large = lambda wanted: torch.zeros(len(wanted), 64, 14, 14)  # noqa: E731
    assert not views.add(large, None, time.perf_counter() + 60)
    assert views.n_views == 0
    views.close()
