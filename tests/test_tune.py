"""The loop on real photos: what it changes, keeps and undoes, when it ends, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from heeler.data.rows import Rows
from heeler.errors import HeelerError, ResourceError
from heeler.learn import contest, schedule, tune, weights, worker
from heeler.learn.backbone import load_backbone, with_head
from heeler.learn.checkpoint import read_checkpoint
from heeler.learn.contest import Tuned
from heeler.learn.memory import kept_bytes
from heeler.learn.tune import fine_tune
from heeler.plans import Recipe
from heeler.records import Epoch, Event, Head, Note, Progress, ignore_events
from tiny import LABELS, N_CLASSES, PX, SPEC, TRAIN, VALID, difference, exact, network, store

FIXED = Recipe(epochs=2, frozen_epochs=1, batch_size=12, lr=2e-2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return store(tmp_path_factory.mktemp("rows"))


@pytest.fixture(autouse=True, scope="module")
def comparable() -> Iterator[None]:
    with exact():
        yield


def tune_it(rows: Rows, recipe: Recipe, on_event: Any = ignore_events, probe: Any = None, **options: Any) -> Tuned:
    return fine_tune(probe or network(), rows, LABELS, TRAIN, VALID, SPEC, recipe, on_event, **options)


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def moved(before: Any, after: Any) -> set[str]:
    state = after.state_dict()
    return {key for key, value in before.state_dict().items() if not torch.equal(value, state[key])}


def test_the_real_backbone_learns_and_its_best_is_kept(rows: Rows) -> None:
    backbone = load_backbone("tf_efficientnet_lite0", image_px=PX)
    head = Head(np.zeros((N_CLASSES, backbone.n_features), np.float32), np.zeros(N_CLASSES, np.float32))
    events: list[Event] = []
    recipe = Recipe(epochs=3, frozen_epochs=1, batch_size=8, lr=4e-3)
    tuned = tune_it(rows, recipe, events.append, with_head(backbone, head))
    assert [epoch.phase for epoch in tuned.history] == ["head", "all", "all", "all"]
    assert [(epoch.epoch, epoch.epochs) for epoch in tuned.history] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [event for event in events if isinstance(event, Epoch)] == list(tuned.history)
    best = min(tuned.history, key=lambda epoch: (epoch.valid_loss, epoch.valid_error))
    assert tuned.best_epoch == best.epoch
    assert tuned.history[-1].best_error == best.valid_error <= 0.25  # guessing is wrong three times in four
    assert tuned.rate_per_s > 0
    assert tuned.n_epochs == 4
    assert not tuned.stopped and not tuned.stopped_early
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done) and done[-1] == 4 * len(TRAIN)


def test_the_source_network_is_left_as_it_was(rows: Rows) -> None:
    probe = network()
    tuned = tune_it(rows, FIXED, probe=probe)
    assert not moved(network(), probe)
    assert moved(probe, tuned.model)
    assert not probe.training


def test_the_head_phase_moves_the_head_alone(rows: Rows) -> None:
    tuned = tune_it(rows, replace(FIXED, epochs=0, bn="training"))
    assert tuned.best_epoch == 1
    assert moved(network(), tuned.model) == {"classifier.weight", "classifier.bias"}
    assert all(parameter.requires_grad for parameter in tuned.model.parameters())


def test_batch_statistics_stay_or_are_learnt(rows: Rows) -> None:
    statistics = {key for key in network().state_dict() if "running" in key}
    assert statistics
    kept = tune_it(rows, replace(FIXED, frozen_epochs=0, bn="inference"))
    assert not statistics & moved(network(), kept.model)
    learnt = tune_it(rows, replace(FIXED, frozen_epochs=0, bn="training"))
    assert statistics <= moved(network(), learnt.model)


def test_the_tuned_network_is_plain(rows: Rows) -> None:
    tuned = tune_it(rows, replace(FIXED, epochs=1, frozen_epochs=0))
    assert not tuned.model.training
    assert all(tensor.is_contiguous() for tensor in tuned.model.state_dict().values())
    assert all(tensor.device.type == "cpu" for tensor in tuned.model.state_dict().values())


def test_the_same_seed_gives_the_same_weights_and_leaves_chance_alone(rows: Rows) -> None:
    recipe = replace(FIXED, epochs=1, mixup=0.4, ema_decay=0.5, seed=7)
    torch.manual_seed(1)
    once, again, other = (tune_it(rows, one) for one in (recipe, recipe, replace(recipe, seed=8)))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert [epoch.train_loss for epoch in once.history] == [epoch.train_loss for epoch in again.history]
    assert [epoch.train_loss for epoch in once.history] != [epoch.train_loss for epoch in other.history]
    assert not moved(once.model, again.model)


def test_layers_that_draw_by_chance_draw_by_the_seed(rows: Rows) -> None:
    recipe = replace(FIXED, epochs=1, frozen_epochs=0)
    tuned = []
    for state_of_chance in (1, 2):
        torch.manual_seed(state_of_chance)
        tuned.append(tune_it(rows, recipe, probe=network(drop_rate=0.5)).model)
    assert not moved(*tuned)
    assert moved(tuned[0], tune_it(rows, recipe).model)


def test_a_run_is_adamw_at_the_rates_of_its_schedule(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written once more, as plainly as torch allows."""
    recipe = replace(FIXED, epochs=2, frozen_epochs=0, augment="none", label_smoothing=0.0)
    found = judged(monkeypatch)
    tune_it(rows, recipe)
    model = network()
    groups = schedule.layer_groups(model)
    rates = schedule.layer_rates(recipe.lr / 2, len(groups))  # type: ignore[operator]
    peaks = [rate for group, rate in zip(groups, rates, strict=True) for _ in group]
    parameters = [parameter for group in groups for parameter in group]
    decays = [{"params": [parameter], "weight_decay": 0.01 * (parameter.ndim > 1)} for parameter in parameters]
    adam = torch.optim.AdamW(decays, betas=(0.9, 0.99))
    step = 0
    for epoch in (1, 2):
        order = np.random.default_rng([recipe.seed, epoch]).permutation(TRAIN)
        for start in range(0, len(order), 12):
            wanted = order[start : start + 12]
            batch = torch.from_numpy(rows.take(wanted)).permute(0, 3, 1, 2) / 255 * 2 - 1
            torch.nn.functional.cross_entropy(model(batch), torch.from_numpy(LABELS[wanted])).backward()
            for group, peak in zip(adam.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule.rate_share(step / 6, 0.3)
            adam.step()
            adam.zero_grad()
            step += 1
    last = [state for kind, *_, state in found if kind == "raw"][-1]
    # Adam divides by gradients that are close to nothing: a few weights differ by more than sums in another order do.
    apart = torch.cat([(value - last[key]).abs().flatten() for key, value in model.state_dict().items()])
    assert float(apart.max()) < 2e-3
    assert float((apart < 1e-5).double().mean()) > 0.99


# What is judged.


def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float, dict[str, torch.Tensor]]]:
    """From now on, the kind, epoch, loss and weights of each network that is judged."""
    found = []
    enter = contest.Contest.enter

    def watched(self: Any, model: Any, kind: str, epoch: int) -> tuple[float, float]:
        loss, error = enter(self, model, kind, epoch)  # type: ignore[arg-type]
        found.append((kind, epoch, loss, weights.plain_state(model)))
        return loss, error

    monkeypatch.setattr(contest.Contest, "enter", watched)
    return found


@pytest.mark.parametrize("bn", ["inference", "training"])
def test_the_winner_has_the_lowest_loss_of_all_that_were_judged(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, bn: Any
) -> None:
    found = judged(monkeypatch)
    tuned = tune_it(rows, replace(FIXED, ema_decay=0.9, bn=bn))
    kinds = [kind for kind, *_ in found]
    assert kinds == ["raw", *["raw", "ema"] * 3, *["average"] * (3 if bn == "inference" else 1)]
    kind, epoch, loss, state = min(found, key=lambda one: one[2])
    assert (tuned.kind, tuned.best_epoch, tuned.best_loss) == (kind, epoch, loss)
    assert all(torch.equal(value, state[key]) for key, value in tuned.model.state_dict().items())
    assert [epoch.ema_loss for epoch in tuned.history] == [loss for kind, _, loss, _ in found if kind == "ema"]


def test_averages_lie_between_the_start_and_the_best(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch)
    tune_it(rows, FIXED)
    start = network().state_dict()
    best = min((one for one in found if one[0] == "raw"), key=lambda one: one[2])[3]
    averages = [state for kind, *_, state in found if kind == "average"]
    for alpha, state in zip((0.5, 0.25, 0.75), averages, strict=True):
        for key, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, (1 - alpha) * start[key] + alpha * best[key], rtol=1e-4, atol=1e-6)


def test_the_running_average_follows_weights_and_statistics(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[dict[str, torch.Tensor]] = []
    update = weights.Weights.update

    def watched(self: Any, share: float, n_before: int) -> None:
        update(self, share, n_before)
        steps.append(weights.plain_state(self.model))

    monkeypatch.setattr(weights.Weights, "update", watched)
    found = judged(monkeypatch)
    tune_it(rows, replace(FIXED, frozen_epochs=0, ema_decay=0.3, bn="training"))
    expected = {key: value.double() for key, value in network().state_dict().items()}
    for n, state in enumerate(steps):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = {key: decay * value + (1 - decay) * state[key].double() for key, value in expected.items()}
    last = [state for kind, *_, state in found if kind == "ema"][-1]
    statistics = 0
    for key, value in last.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)
            statistics += "running" in key
    assert statistics


def test_a_start_that_answers_no_numbers_is_refused(rows: Rows) -> None:
    probe = network()
    torch.nn.init.constant_(probe.get_classifier().bias, math.nan)
    with pytest.raises(HeelerError, match="not finite"):
        tune_it(rows, FIXED, probe=probe)


# How a batch is made.


def test_training_sees_its_own_size_and_judging_the_photos(rows: Rows) -> None:
    probe, seen = network(), set()

    def see(module: Any, inputs: Any) -> None:
        if len(inputs[0]) > 1:  # alone is the one that shows what a step takes
            seen.add((module.training, inputs[0].shape[-1]))

    probe.register_forward_pre_hook(see)
    tune_it(rows, replace(FIXED, epochs=1, train_px=48), probe=probe)
    assert seen == {(True, 48), (False, PX)}


@pytest.mark.parametrize("size", [5, 7, len(TRAIN), 100])
def test_no_batch_of_an_epoch_is_small(rows: Rows, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    batches: list[np.ndarray] = []
    gradient = worker.Worker.gradient

    def watched(self: Any, wanted: Any, seed: int) -> float:
        batches.append(wanted)
        return gradient(self, wanted, seed)

    monkeypatch.setattr(worker.Worker, "gradient", watched)
    tune_it(rows, Recipe(epochs=2, frozen_epochs=0, batch_size=size))
    n_steps = -(-len(TRAIN) // size)
    assert len(batches) == 2 * n_steps
    for epoch in (batches[:n_steps], batches[n_steps:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), TRAIN)
        lengths = sorted(map(len, epoch))
        assert lengths[-1] <= size and lengths[-1] - lengths[0] <= 1


def test_mixup_mixes_photos_and_labels_by_the_same_shares(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of one colour each, the class as its brightness: a mixed photo shows how its label must be mixed."""
    shades = np.array([30, 90, 150, 210])

    class Shades:
        def take(self, wanted: Any) -> np.ndarray:
            return np.tile(shades[LABELS[wanted]].astype(np.uint8)[:, None, None, None], (1, PX, PX, 3))

    probe, batches, targets = network(), [], []

    def look(module: Any, inputs: Any) -> None:
        if module.training:
            batches.append(inputs[0].mean((1, 2, 3)) * 0.5 + 0.5)

    probe.register_forward_pre_hook(look)
    loss = worker.cross_entropy

    def watched(logits: Any, target: Any, **options: Any) -> Any:
        targets.append(target)
        return loss(logits, target, **options)

    monkeypatch.setattr(worker, "cross_entropy", watched)
    tune_it(Shades(), Recipe(epochs=1, frozen_epochs=0, batch_size=7, augment="none", mixup=1.0), probe=probe)  # type: ignore[arg-type]
    mixed = 0
    for batch, target in zip(batches, targets, strict=True):
        torch.testing.assert_close(target.sum(1), torch.ones(len(target)))
        torch.testing.assert_close(batch, target @ torch.from_numpy(shades / 255).float(), rtol=0, atol=1e-3)
        mixed += int((target.max(1).values < 0.99).sum())
    assert mixed > len(TRAIN) / 3


# Memory.


def too_large(n_most: int, from_call: int, training: bool, error: Exception) -> tuple[Any, list[int]]:
    """A network that raises for more than ``n_most`` photos from its so-manieth call in this mode on."""
    probe, sizes = network(), []

    def check(module: Any, inputs: Any) -> None:
        if module.training == training:
            sizes.append(len(inputs[0]))
            if len(sizes) >= from_call and len(inputs[0]) > n_most:
                raise error

    probe.register_forward_pre_hook(check)
    return probe, sizes


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("from_call", [1, 5])
def test_too_little_memory_for_a_batch_changes_nothing_but_the_pieces(
    rows: Rows, from_call: int, error: Exception
) -> None:
    recipe = replace(FIXED, mixup=0.3)
    plain = tune_it(rows, recipe)
    probe, sizes = too_large(4, from_call, True, error)
    events: list[Event] = []
    tuned = tune_it(rows, recipe, events.append, probe)
    assert difference(tuned.model, plain.model) < 1e-5
    assert [epoch.train_loss for epoch in tuned.history] == pytest.approx([epoch.train_loss for epoch in plain.history])
    assert sizes[from_call - 1 : from_call + 4] == [12, 6, 3, 3, 3]
    assert len(notes_of(events)) == 2
    assert "12 photos at once, so 6" in notes_of(events)[0] and "still 12 photos" in notes_of(events)[0]


def test_too_little_memory_for_judging(rows: Rows) -> None:
    plain = tune_it(rows, FIXED)
    for from_call in (1, 3):
        probe, sizes = too_large(5, from_call, False, FULL[0])
        events: list[Event] = []
        tuned = tune_it(rows, FIXED, events.append, probe)
        assert difference(tuned.model, plain.model) < 1e-5
        assert [epoch.valid_error for epoch in tuned.history] == [epoch.valid_error for epoch in plain.history]
        assert max(sizes[from_call + 5 :]) == 4
        assert all(text.startswith("judging: out of memory") for text in notes_of(events))


def test_statistics_are_not_learnt_twice_from_a_step_that_is_done_again(rows: Rows) -> None:
    """The first photos of the attempt that failed had been seen."""
    recipe = replace(FIXED, epochs=1, frozen_epochs=0, bn="training")
    halves, _ = too_large(6, 1, True, FULL[0])
    probe, calls = network(), []

    def check(module: Any, inputs: Any) -> None:
        calls.append(len(inputs[0]))
        if module.training and len(inputs[0]) > 6:
            raise FULL[0]

    probe.blocks[-1].register_forward_pre_hook(check)  # by then the first layers have learnt their statistics
    first, second = tune_it(rows, recipe, probe=halves), tune_it(rows, recipe, probe=probe)
    assert calls
    assert difference(first.model, second.model) == 0


def test_memory_that_is_too_small_for_one_photo(rows: Rows) -> None:
    probe, _ = too_large(0, 1, True, FULL[0])
    with pytest.raises(ResourceError, match="too small") as caught:
        tune_it(rows, FIXED, probe=probe)
    assert caught.value.hint


def test_other_errors_are_not_taken_for_a_full_memory(rows: Rows) -> None:
    probe, sizes = too_large(0, 1, True, RuntimeError("expected scalar type Half"))
    with pytest.raises(RuntimeError, match="scalar type"):
        tune_it(rows, FIXED, probe=probe)
    assert len(sizes) == 1


# Numbers that are not finite.


def poisoned(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> list[float]:
    """From now on the losses of these calls, counted from 1, are no numbers; all losses as they come."""
    losses: list[float] = []
    loss = worker.cross_entropy

    def poison(*args: Any, **options: Any) -> Any:
        value = loss(*args, **options)
        losses.append(float(value.detach()))
        return value * math.nan if len(losses) in calls else value

    monkeypatch.setattr(worker, "cross_entropy", poison)
    return losses


def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """From now on the share of the peak rate of each update."""
    shares: list[float] = []
    update = weights.Weights.update
    monkeypatch.setattr(
        weights.Weights,
        "update",
        lambda self, share, n_before: (shares.append(share), update(self, share, n_before))[1],
    )
    return shares


def test_a_loss_that_is_no_number_goes_back_at_half_the_rates(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, events = replace(FIXED, epochs=3, frozen_epochs=0), []
    with monkeypatch.context() as patch:
        plain_losses, plain_shares = poisoned(patch, set()), rates(patch)
        tune_it(rows, recipe)
    losses, shares = poisoned(monkeypatch, {5}), rates(monkeypatch)  # the second step of the second epoch
    tuned = tune_it(rows, recipe, events.append)
    assert losses[:5] == plain_losses[:5]
    assert losses[5] == losses[3]  # the first step of the second epoch again, from the same weights
    assert shares[:4] == plain_shares[:4]
    assert shares[4:] == pytest.approx([share / 2 for share in plain_shares[3:]])
    assert [text for text in notes_of(events) if "not finite" in text and "half the rates" in text]
    assert [epoch.epoch for epoch in tuned.history] == [1, 2, 3]
    assert all(math.isfinite(epoch.train_loss) for epoch in tuned.history)


def test_going_back_twice_is_enough(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    recipe = replace(FIXED, epochs=3, frozen_epochs=0)
    losses = poisoned(monkeypatch, set(range(5, 100)))
    tuned = tune_it(rows, recipe, events.append)
    assert len(losses) == 4 + 3
    assert tuned.best_epoch in (0, 1)
    assert len(notes_of(events)) == 3
    assert "best so far is kept" in notes_of(events)[-1]


@pytest.mark.parametrize("in_folder", [False, True])
def test_an_absurd_rate_keeps_the_start(rows: Rows, tmp_path: Path, in_folder: bool) -> None:
    events: list[Event] = []
    recipe = replace(FIXED, epochs=3, frozen_epochs=0, lr=1e30)
    tuned = tune_it(rows, recipe, events.append, folder=tmp_path if in_folder else None)
    assert (tuned.best_epoch, tuned.kind) == (0, "raw")
    assert not moved(network(), tuned.model)
    assert len(notes_of(events)) == 3
    assert all("not finite" in text for text in notes_of(events))


def test_a_weight_that_is_no_number_is_seen_before_it_is_kept(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of the first epoch breaks a weight; no loss follows that would tell."""
    update, n_updates = weights.Weights.update, []

    def breaks(self: Any, share: float, n_before: int) -> None:
        update(self, share, n_before)
        n_updates.append(n_before)
        if len(n_updates) == 3:
            with torch.no_grad():
                self.model.conv_stem.weight[0, 0, 0, 0] = math.inf

    monkeypatch.setattr(weights.Weights, "update", breaks)
    events: list[Event] = []
    tuned = tune_it(rows, replace(FIXED, epochs=2, frozen_epochs=0), events.append)
    assert n_updates == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert ["a weight is not finite" in text for text in notes_of(events)] == [True]
    assert all(value.isfinite().all() for value in tuned.model.state_dict().values())


def test_a_checkpoint_of_broken_weights_is_not_written(
    rows: Rows, tmp_path: Path, saves_always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, n_updates, written = weights.Weights.update, [], []
    write = tune.write_checkpoint

    def breaks(self: Any, share: float, n_before: int) -> None:
        update(self, share, n_before)
        n_updates.append(n_before)
        if len(n_updates) == 2:
            with torch.no_grad():
                self.model.conv_stem.weight[0, 0, 0, 0] = math.nan

    def watched(folder: Path, checkpoint: Any) -> None:
        written.append(all(tensor.isfinite().all() for tensor in checkpoint.tensors.values()))
        write(folder, checkpoint)

    monkeypatch.setattr(weights.Weights, "update", breaks)
    monkeypatch.setattr(tune, "write_checkpoint", watched)
    tune_it(rows, replace(FIXED, epochs=2, frozen_epochs=0), folder=tmp_path)
    assert n_updates == [0, 1, 1, 2, 3, 4, 5]
    assert len(written) == 6 and all(written)


# Checkpoints and stopping.


@pytest.fixture
def saves_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(schedule, "SAVE_SHARE", math.inf)


def stop_after(n_steps: int) -> Callable[[], bool]:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) >= n_steps

    return stop


FULL_STATE = replace(FIXED, bn="training", ema_decay=0.9, mixup=0.4)


@pytest.mark.parametrize("n_steps", [1, 3, 4, 6, 9])
def test_a_stopped_run_goes_on_to_the_same_bits(rows: Rows, tmp_path: Path, n_steps: int) -> None:
    """Inside the head's epoch, at its end, inside and at the ends of the others."""
    whole = tune_it(rows, FULL_STATE)
    part = tune_it(rows, FULL_STATE, folder=tmp_path, stop=stop_after(n_steps))
    assert part.stopped
    assert part.n_epochs == pytest.approx(n_steps / 3)
    events: list[Event] = []
    tuned = tune_it(rows, FULL_STATE, events.append, folder=tmp_path, resume=True)
    assert difference(tuned.model, whole.model) == 0
    assert not tuned.stopped
    assert (tuned.kind, tuned.best_epoch, tuned.n_epochs) == (whole.kind, whole.best_epoch, whole.n_epochs)
    timeless = [[replace(epoch, seconds=0, rate_per_s=0) for epoch in one.history] for one in (tuned, whole)]
    assert timeless[0] == timeless[1]
    assert "goes on from a checkpoint" in notes_of(events)[0]


def test_a_finished_run_resumes_to_itself(rows: Rows, tmp_path: Path, saves_always: None) -> None:
    once = tune_it(rows, FULL_STATE, folder=tmp_path)
    again = tune_it(rows, FULL_STATE, folder=tmp_path, resume=True)
    assert difference(once.model, again.model) == 0
    assert again.history == once.history


def test_stopping_gives_the_best_so_far(rows: Rows, tmp_path: Path) -> None:
    at_once = tune_it(rows, FIXED, folder=tmp_path, stop=stop_after(1))
    assert (at_once.stopped, at_once.best_epoch, at_once.history) == (True, 0, ())
    assert not moved(network(), at_once.model)
    later = tune_it(rows, FIXED, stop=stop_after(7))
    assert [epoch.epoch for epoch in later.history] == [1, 2]
    assert later.best_epoch in (1, 2)


@pytest.mark.parametrize("change", ["recipe", "photos", "labels", "valid", "weights", "spec"])
def test_a_checkpoint_of_another_run_is_not_used(rows: Rows, tmp_path: Path, change: str) -> None:
    tune_it(rows, FIXED, folder=tmp_path, stop=stop_after(4))
    recipe, labels, train, valid, probe, spec = FIXED, LABELS, TRAIN, VALID, network(), SPEC
    if change == "recipe":
        recipe = replace(FIXED, seed=1)
    elif change == "photos":
        train = TRAIN[:-1]
    elif change == "labels":
        labels = np.roll(LABELS, 1)
    elif change == "valid":
        valid = VALID[1:]
    elif change == "weights":
        probe = network(seed=1)
    else:
        spec = replace(SPEC, mean=(0.4, 0.4, 0.4))
    events: list[Event] = []
    options = {"folder": tmp_path, "resume": True, "stop": stop_after(1)}
    tuned = fine_tune(probe, rows, labels, train, valid, spec, recipe, events.append, **options)  # type: ignore[arg-type]
    assert "starts anew" in notes_of(events)[0]
    assert 0 < tuned.n_epochs < 1


def test_a_run_that_is_not_resumed_forgets_the_one_before(rows: Rows, tmp_path: Path) -> None:
    tune_it(rows, FIXED, folder=tmp_path, stop=stop_after(7))
    tune_it(rows, FIXED, folder=tmp_path, stop=stop_after(2))
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert (found.facts["cursor"]["epoch"], found.facts["cursor"]["step"]) == (1, 2)

    def fail(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # before its first checkpoint
        tune_it(rows, FIXED, fail, folder=tmp_path)
    assert read_checkpoint(tmp_path) is None


def test_a_full_disk_ends_nothing(
    rows: Rows, mount: Callable[..., Path], saves_always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune_it(rows, FULL_STATE)
    folder = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    events: list[Event] = []
    written: list[int] = []
    write = tune.write_checkpoint

    def fills_up(place: Path, checkpoint: Any) -> None:
        if len(written) == 3:
            with pytest.raises(OSError, match="No space"), (folder / "film").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 14))
        write(place, checkpoint)
        written.append(checkpoint.facts["cursor"]["step"])

    monkeypatch.setattr(tune, "write_checkpoint", fills_up)
    tuned = tune_it(rows, FULL_STATE, events.append, folder=folder / "run")
    assert difference(tuned.model, whole.model) == 0
    assert len(written) == 3
    assert ["disk is full" in text for text in notes_of(events)] == [True]
    (folder / "film").unlink()
    monkeypatch.undo()
    resumed = tune_it(rows, FULL_STATE, folder=folder / "run", resume=True)
    assert difference(resumed.model, whole.model) == 0


# Timed runs: the network's own work moves the clock.


class Clock:
    """0.02 s for each photo learnt from, 0.005 s for each photo judged, 0.3 s before anything."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def perf_counter(self) -> float:
        return self.now_s

    def network(self) -> Any:
        probe = network()

        def work(module: Any, inputs: Any) -> None:
            self.now_s += len(inputs[0]) * (0.02 if module.training else 0.005)

        probe.register_forward_pre_hook(work)
        return probe


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tune, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


TIMED = Recipe(batch_size=12, lr=2e-3)


@pytest.mark.parametrize("budget_s", [5.0, 12.3, 20.0])
def test_a_timed_run_ends_on_time(rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch, budget_s: float) -> None:
    shares, found = rates(monkeypatch), judged(monkeypatch)
    begin_s = clock.now_s
    tuned = tune_it(rows, replace(TIMED, budget_s=budget_s), probe=clock.network())
    used_s = clock.now_s - begin_s
    assert budget_s - 0.25 <= used_s <= budget_s  # a step is 0.24 s
    assert shares[-1] < 0.05 and max(shares) > 0.95
    assert np.argmax(shares) / len(shares) == pytest.approx(schedule.WARM_TIMED, abs=0.1)
    assert tuned.history[-1].epoch == math.ceil(tuned.n_epochs)
    assert tuned.history[-1].epochs == tuned.history[-1].epoch
    assert [kind for kind, *_ in found[-4:]].count("average") >= 1
    assert found[1][0] == "raw" and found[2][0] == "ema"
    assert tuned.rate_per_s == pytest.approx(50)


@pytest.mark.parametrize(("recipe", "n_asked"), [(FIXED, 0), (replace(TIMED, budget_s=10.0), 1)])
def test_a_timed_run_prefers_its_end_and_a_fixed_recipe_the_lowest_loss(
    rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, n_asked: int
) -> None:
    prefer, ends = contest.Contest.prefer_last, []

    def watched(self: Any) -> None:
        ends.append([(one.kind, one.epoch) for one in self.last])
        prefer(self)

    monkeypatch.setattr(contest.Contest, "prefer_last", watched)
    tuned = tune_it(rows, recipe, probe=clock.network())
    last = tuned.history[-1].epoch
    assert ends == [[("raw", last), ("ema", last)]] * n_asked


def test_a_run_that_was_killed_after_its_last_judging_ends_as_the_one_that_was_not(
    rows: Rows, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SAVE_SHARE", 1e9)  # each end of an epoch is saved
    recipe = replace(TIMED, budget_s=1000.0, max_epochs=3)
    first = tune_it(rows, recipe, probe=clock.network(), folder=tmp_path)
    steps: list[int] = []
    update = weights.Weights.update

    def counted(self: Any, share: float, n_before: int) -> None:
        steps.append(n_before)
        update(self, share, n_before)

    monkeypatch.setattr(weights.Weights, "update", counted)
    second = tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, resume=True)
    assert steps == []  # nothing was left but to end
    assert (second.kind, second.best_epoch, second.best_loss) == (first.kind, first.best_epoch, first.best_loss)
    assert second.history == first.history
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key])


@pytest.mark.parametrize(("image_px", "n"), [(64, 256), (160, 32), (224, 16), (288, 16), (640, 2), (2000, 1)])
def test_large_photos_are_computed_few_at_once(image_px: int, n: int) -> None:
    assert worker.piece_photos(image_px, 1, 1 << 40) == n


@pytest.mark.parametrize(("memory_gb", "n"), [(64, 16), (8, 16), (4, 8), (2, 4), (0.5, 1), (0.1, 1)])
def test_a_step_takes_no_more_than_its_share_of_the_memory(memory_gb: float, n: int) -> None:
    assert worker.piece_photos(224, 100_000_000, int(memory_gb * 1e9)) == n


def test_a_machine_with_little_memory_takes_fewer_photos_at_once_for_the_same_steps(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    loss_of = worker.Worker._loss

    def spy(self: Any, wanted: Any, piece: range, seed: int) -> Any:
        seen.append(len(piece))
        return loss_of(self, wanted, piece, seed)

    monkeypatch.setattr(worker.Worker, "_loss", spy)
    recipe = Recipe(epochs=1, frozen_epochs=0, batch_size=8)
    roomy = tune_it(rows, recipe)
    assert max(seen) == 8
    seen.clear()
    need = worker.STEP_PER_KEPT * kept_bytes(network(), torch.zeros(1, 3, PX, PX))
    monkeypatch.setattr(worker, "memory_bytes", lambda: int(2.5 * need / worker.MEMORY_SHARE))
    narrow = tune_it(rows, recipe)
    assert max(seen) == 2
    assert narrow.history[-1].train_loss == pytest.approx(roomy.history[-1].train_loss, rel=0.05)


def test_what_a_step_keeps_grows_with_the_photos_and_the_pixels_alone() -> None:
    one, two, large = (kept_bytes(network(), torch.zeros(n, 3, px, px)) for n, px in ((1, 64), (2, 64), (1, 128)))
    assert two == pytest.approx(2 * one, rel=0.01) and large == pytest.approx(4 * one, rel=0.1)
    assert kept_bytes(torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 64, 64)) == 4 * 3 * 64 * 64  # its input


def test_a_timed_run_without_time_gives_the_start(rows: Rows, clock: Clock) -> None:
    tuned = tune_it(rows, replace(TIMED, budget_s=0.1), probe=clock.network())
    assert (tuned.n_epochs, tuned.best_epoch, tuned.rate_per_s) == (0, 0, 0)


def test_epochs_bound_a_timed_run(rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = rates(monkeypatch)
    tuned = tune_it(rows, replace(TIMED, budget_s=1000, max_epochs=3), probe=clock.network())
    assert tuned.n_epochs == 3
    assert len(shares) == 9
    assert shares[-1] < 0.2  # the rates had come down by then
    assert clock.now_s < 100


def test_a_timed_run_ends_early_where_nothing_improves(
    rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    shares = rates(monkeypatch)
    labels = LABELS.copy()
    labels[VALID] = (labels[VALID] + 1) % N_CLASSES  # what is learnt is wrong there
    recipe = replace(TIMED, budget_s=40)
    tuned = fine_tune(clock.network(), rows, labels, TRAIN, VALID, SPEC, recipe, events.append)
    assert tuned.stopped_early
    assert "early end" in notes_of(events)[-1]
    assert len(tuned.history) >= 5
    assert 50 + 5 * 4 <= clock.now_s < 50 + 38
    assert shares[-1] < 0.05  # it was not broken off while the rates were high


def test_the_rates_rise_from_the_first_step_on_however_long_setting_up_took(
    rows: Rows, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run that goes on begins where it was in its schedule."""

    def look(_: Any) -> bool:
        clock.now_s += 4
        return False

    monkeypatch.setattr(worker.Worker, "can_divide", look)
    shares, recipe = rates(monkeypatch), replace(TIMED, budget_s=20, last_views=1)
    tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, stop=stop_after(9))
    tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, resume=True)
    assert 20 - 0.25 <= clock.now_s - 50 <= 20
    assert shares[0] < 0.05 and shares[-1] < 0.05
    assert np.argmax(shares) / len(shares) == pytest.approx(schedule.WARM_TIMED, abs=0.1)
    assert np.abs(np.diff(shares)).max() < 0.35  # a rise over few steps, and no leap after it
    assert np.abs(np.diff(shares[9:])).max() < 0.1


def divided(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """From now on, the seconds that each call may take to compute views; it takes them, and none is kept."""
    asked: list[float] = []

    def divide(_: Any, train: Any, valid: Any, until_s: float) -> None:
        asked.append(until_s - clock.now_s)
        clock.now_s = until_s

    monkeypatch.setattr(worker.Worker, "divide", divide)
    return asked


def test_without_views_the_same_stages_train(rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, probe = divided(monkeypatch, clock), clock.network()
    tuned = tune_it(rows, replace(TIMED, budget_s=20, last_views=1, last_stages=1), probe=probe)
    assert asked == pytest.approx([10.0], abs=0.01)
    assert 20 - 0.25 <= clock.now_s - 50 <= 20
    assert {epoch.phase for epoch in tuned.history} == {"last"}
    last = f"blocks.{len(probe.blocks) - 1}."
    changed = moved(probe, tuned.model)
    assert any(name.startswith(last) for name in changed)
    assert all(name.startswith((last, "conv_head", "bn2", "classifier")) for name in changed)


@pytest.mark.parametrize(("n_steps", "n_asked"), [(15, 2), (29, 1)])
def test_a_run_that_goes_on_computes_views_in_the_time_that_is_left(
    rows: Rows, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int, n_asked: int
) -> None:
    asked, shares = divided(monkeypatch, clock), rates(monkeypatch)
    recipe = replace(TIMED, budget_s=20, last_views=1)
    tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, stop=stop_after(n_steps))
    left_s = 20 - (clock.now_s - 50)
    events: list[Event] = []
    tune_it(rows, recipe, events.append, clock.network(), folder=tmp_path, resume=True)
    assert "goes on from a checkpoint" in notes_of(events)[0]
    assert len(asked) == n_asked and asked[1:] == pytest.approx([left_s / 2] * (n_asked - 1), abs=0.01)
    assert 20 - 0.25 <= clock.now_s - 50 <= 20
    assert len(shares) > n_steps and shares[-1] < 0.1
    assert np.abs(np.diff(shares[n_steps - 1 :])).max() < 0.3  # the schedule goes on where it was


def test_a_run_that_goes_on_with_less_memory_computes_fewer_photos_at_once(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune_it(rows, FIXED)
    tune_it(rows, FIXED, folder=tmp_path, stop=stop_after(3))
    sizes: list[int] = []
    photos = worker.Worker._photos

    def seen(self: Any, wanted: Any, piece: range, *others: Any) -> Any:
        if others[0] != "none":
            sizes.append(len(piece))
        return photos(self, wanted, piece, *others)

    monkeypatch.setattr(worker.Worker, "_photos", seen)
    monkeypatch.setattr(worker, "piece_photos", lambda *_: 5)
    tuned = tune_it(rows, FIXED, folder=tmp_path, resume=True)
    assert max(sizes) == 5
    assert difference(tuned.model, whole.model) < 1e-3


def test_the_time_before_a_stop_counts(rows: Rows, clock: Clock, tmp_path: Path) -> None:
    recipe = replace(TIMED, budget_s=8)
    tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, stop=stop_after(13))
    clock.now_s += 1000
    tuned = tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, resume=True)
    assert 8 - 0.25 <= clock.now_s - 50 - 1000 <= 8
    assert tuned.n_epochs > 20 / 3


def test_a_longer_budget_may_go_on_from_a_shorter_one(rows: Rows, clock: Clock, tmp_path: Path) -> None:
    tune_it(rows, replace(TIMED, budget_s=6), probe=clock.network(), folder=tmp_path, stop=stop_after(13))
    recipe = replace(TIMED, budget_s=10, max_epochs=50)
    tuned = tune_it(rows, recipe, probe=clock.network(), folder=tmp_path, resume=True)
    assert 10 - 0.25 <= clock.now_s - 50 <= 10
    assert tuned.n_epochs > 30 / 3


def test_training_stays_on_the_processor_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import state

    with exact():
        state.PartialState._reset_state()
        monkeypatch.setattr(state, "is_mps_available", lambda *args, **options: True)
        try:
            assert worker.accelerator_of_machine().device == torch.device("cpu")
        finally:
            state.AcceleratorState._reset_state()
            state.PartialState._reset_state()
