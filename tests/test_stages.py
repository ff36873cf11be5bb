"""A network in two parts: together they are the network, and only the last one is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from heeler.learn import schedule
from heeler.learn.schedule import WARM_TIMED, rate_share
from heeler.learn.stages import FirstStages, Views, first_engine, is_divisible, last_groups, last_stages
from heeler.learn.tune import fine_tune
from heeler.learn.weights import Weights, plain_state
from heeler.plans import Recipe
from heeler.records import Epoch, Event, Note, ignore_events
from tiny import LABELS, SPEC, TRAIN, VALID, exact, network, store


@pytest.mark.parametrize("n_last", [1, 2])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_the_two_parts_are_the_network(name: str, n_last: int) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    first = FirstStages(model, SPEC, n_last).eval()
    with torch.no_grad():
        batch = first.normalise(pixels)
        seen = first.activations(batch)
        torch.testing.assert_close(last_stages(model, seen, n_last), model(batch))
        assert torch.equal(first(pixels), seen.permute(0, 2, 3, 1).reshape(2, -1))
    trained = {id(parameter) for group in last_groups(model, n_last) for parameter in group}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in trained}
    first_trained = len(model.blocks) - n_last
    for part in (f"blocks.{first_trained}.", "conv_head.", "classifier."):
        assert any(name.startswith(part) for name in names)
    assert not any(name.startswith(("conv_stem", "bn1.", f"blocks.{first_trained - 1}.")) for name in names)


def test_an_engine_computes_the_first_stages(fresh_cache: Path, tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    pixels = store(tmp_path / "rows").take(np.arange(9))
    engine, shape = first_engine(model, SPEC, 2, pixels)
    assert shape == (4, 4, 112)
    with torch.no_grad():
        truth = FirstStages(model, SPEC, 2)(torch.from_numpy(pixels)).numpy()
    distance = np.sqrt(np.mean((engine.forward(pixels) - truth) ** 2) / np.mean(truth**2))
    assert distance < (1e-4 if engine.precision == "fp32" else 0.05)


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
    first_trained = len(start.blocks) - Recipe().last_stages
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


@pytest.mark.parametrize(("lr", "is_lowered"), [(None, True), (5e-4, False)])
def test_the_last_stages_start_more_slowly_where_a_step_would_reach_far(
    lr: float | None, is_lowered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that the user gave stays as it is."""
    update, shares, reaches = Weights.update, [], []

    def watched(self: Weights, share: float, n_before: int) -> None:
        shares.append(share / rate_share(n_before / 6, WARM_TIMED))
        gradients = zip((group["params"] for group in self._optimizer.param_groups), self._peaks, strict=True)
        reaches.append(sum(peak * float(one.grad.abs().sum()) for ones, peak in gradients for one in ones))
        update(self, share, n_before)

    monkeypatch.setattr(Weights, "update", watched)
    monkeypatch.setattr(schedule, "MAX_REACH", 1e-5)
    monkeypatch.setattr(schedule, "N_REACHES", 4)
    recipe = Recipe(budget_s=1e4, max_epochs=2, lr=lr, last_views=1, batch_size=12)
    with exact():
        fine_tune(network(), store(tmp_path / "rows"), LABELS, TRAIN, VALID, SPEC, recipe, ignore_events)
    firsts = np.cumsum(reaches[:4]) / np.arange(1, 5)
    assert len(shares) == 6 and firsts.min() > 2e-5  # or there would be nothing to lower
    lowered = [*1e-5 / firsts, *[1e-5 / firsts[3]] * 2]
    assert shares == pytest.approx(lowered if is_lowered else [1] * 6, rel=1e-3)


def test_activations_can_be_mixed_in_pairs(tmp_path: Path, fresh_cache: Path) -> None:
    recipe = Recipe(budget_s=6, max_epochs=1, lr=1e-3, last_views=1, mixup=0.4, batch_size=12)
    tuned = fine_tune(network(), store(tmp_path / "rows"), LABELS, TRAIN, VALID, SPEC, recipe, ignore_events)
    assert tuned.n_epochs == 1


def test_without_time_for_one_view_the_last_stages_train_without(
    tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heeler.learn.tune.VIEWS_SHARE", -1.0)
    start, events = network(), list[Event]()
    with exact():
        recipe = Recipe(budget_s=6, max_epochs=3, lr=1e-2, last_views=3, ema_decay=0.0)
        tuned = fine_tune(start, store(tmp_path / "rows"), LABELS, TRAIN, VALID, SPEC, recipe, events.append)
    assert torch.equal(start.conv_stem.weight, tuned.model.conv_stem.weight)
    assert any(isinstance(event, Note) and "too little time or disk" in event.text for event in events)


def outputs(photos: np.ndarray, sign: int = 1) -> Iterator[np.ndarray]:
    for start in range(0, len(photos), 3):
        yield sign * np.repeat(photos[start : start + 3, None], 16, axis=1).astype(np.float32)


def test_each_photo_has_its_own_activations_in_each_view(fresh_cache: Path) -> None:
    photos = np.array([7, 3, 90, 12])
    views = Views(100, photos, (2, 2, 4), 2)
    far = time.perf_counter() + 60
    assert views.add(outputs(photos), 4, far) and views.add(outputs(photos[:3], -1), 3, far)
    assert views.n_views == 2
    taken = views.take(np.array([0, 1, 0]), np.array([90, 3, 12]))
    assert taken.shape == (3, 4, 2, 2) and taken.dtype is torch.bfloat16
    assert taken.is_contiguous(memory_format=torch.channels_last)
    assert not list((fresh_cache / "activations").iterdir())  # the file has no name
    views.close()
    assert taken[:, 0, 0, 0].tolist() == [90, -3, 12]


def test_a_view_that_would_end_too_late_is_not_kept(fresh_cache: Path) -> None:
    photos = np.arange(300)

    def slow(n_asked: list[int]) -> Iterator[np.ndarray]:
        for batch in outputs(photos):
            time.sleep(0.02)
            n_asked.append(len(batch))
            yield batch

    asked: list[int] = []
    views = Views(300, photos, (2, 2, 4), 2)
    assert not views.add(slow(asked), 300, time.perf_counter() + 0.5)
    assert views.n_views == 0 and sum(asked) < 30
    assert views.add(slow(asked), 300, time.perf_counter() + 60)
    begun: list[int] = []
    assert not views.add(slow(begun), 300, time.perf_counter() + 0.5)
    assert views.n_views == 1 and not begun
    assert views.take(np.zeros(1, int), np.array([299])).max() == torch.tensor(299.0).bfloat16()
    views.close()


def test_a_view_that_gets_slow_on_the_way_is_given_up(fresh_cache: Path) -> None:
    photos = np.arange(300)

    def slower(n_asked: list[int]) -> Iterator[np.ndarray]:
        for number, batch in enumerate(outputs(photos)):
            time.sleep(0.001 if number < 10 else 0.2)
            n_asked.append(len(batch))
            yield batch

    for n_views in (0, 1):
        asked: list[int] = []
        views = Views(300, photos, (2, 2, 4), 2)
        if n_views:
            assert views.add(outputs(photos), 300, time.perf_counter() + 60)
        assert not views.add(slower(asked), 300, time.perf_counter() + 1)
        assert views.n_views == n_views and 30 < sum(asked) < 200
        views.close()


@pytest.mark.parametrize("is_full", [True, False])
def test_a_disk_has_as_many_views_as_it_has_room_for(
    is_full: bool, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(folder))
    photos = np.arange(1000)
    views = Views(1000, photos, (14, 14, 2), 100)
    assert views.n_most == 2  # of 0.8 MB each
    if is_full:
        (folder / "other").write_bytes(bytes(1_600_000))
        monkeypatch.setattr("heeler.learn.stages.require_space", lambda *_: None)  # it was free a moment ago
    for _ in range(2):
        batches = (np.zeros((50, 392), np.float32) for _ in range(20))
        assert views.add(batches, 1000, time.perf_counter() + 60) is not is_full
    assert views.n_views == (0 if is_full else 2)
    views.close()
    other = Views(1000, photos, (14, 14, 2), 100)
    assert other.n_most == (1 if is_full else 2)
    other.close()
