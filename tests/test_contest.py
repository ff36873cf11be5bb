"""Which weights a run ends with: the lowest loss on the way, and at the end what chance does not explain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heeler.learn.contest import Contest

N = 200
LABELS = torch.arange(N) % 2


class Told(nn.Module):
    """A network whose answers are given: ``margins`` (N,) is by how much the right class leads, in nats."""

    def __init__(self, margins: Tensor) -> None:
        super().__init__()
        self.margins = margins
        self.weight = nn.Parameter(margins.mean())


def margins(mean: float, seed: int, spread: float = 2.0) -> Tensor:
    drawn = np.random.default_rng(seed).normal(mean, spread, N)
    return torch.from_numpy(drawn).float()


@pytest.fixture
def contest() -> Contest:
    def logits(model: Told, rows: Any) -> Tensor:
        sign = 2 * LABELS.float() - 1
        return torch.stack([-model.margins * sign / 2, model.margins * sign / 2], 1)[rows]

    worker = SimpleNamespace(logits=logits, labels=LABELS, team=SimpleNamespace(first=lambda values: values))
    return Contest(worker, np.arange(N), {})  # type: ignore[arg-type]


def test_losses_of_photos_have_the_loss_as_their_mean(contest: Contest) -> None:
    loss, error = contest.enter(Told(margins(2, 0)), "raw", 0)
    assert float(contest.best.losses.mean()) == pytest.approx(loss, abs=1e-6)
    assert error == pytest.approx(float((margins(2, 0) < 0).float().mean()))


def test_on_the_way_the_lowest_loss_is_best(contest: Contest) -> None:
    found = [contest.enter(Told(margins(mean, i)), "raw", i)[0] for i, mean in enumerate((2, 3, 1, 2.5))]
    assert contest.best.epoch == 1
    assert contest.best.loss == min(found)


def test_the_end_is_preferred_to_what_is_better_by_chance(contest: Contest) -> None:
    start = margins(2.0, 1)
    contest.enter(Told(start), "raw", 0)
    before = contest.best
    contest.enter(Told(start + margins(0.15, 2, 1.0)), "raw", 1)
    gap = contest.last[0].losses - before.losses
    assert 0 < float(gap.mean()) < float(gap.std()) / N**0.5  # else this test tests nothing
    contest.prefer_last()
    assert contest.best is contest.last[0]
    assert contest.best.epoch == 1


def test_what_is_better_by_more_than_chance_stays(contest: Contest) -> None:
    start = margins(3.0, 1)
    contest.enter(Told(start), "raw", 0)
    contest.enter(Told(start + margins(-1.0, 2, 1.0)), "raw", 1)
    contest.prefer_last()
    assert contest.best.epoch == 0


def test_of_the_last_epoch_the_better_of_weights_and_average_is_taken(contest: Contest) -> None:
    start = margins(2.0, 1)
    contest.enter(Told(start), "raw", 1)
    contest.enter(Told(start + margins(-1.0, 2, 1.0)), "raw", 2)
    contest.enter(Told(start + margins(0.15, 2, 1.0)), "ema", 2)
    assert [one.epoch for one in contest.last] == [2, 2]
    assert contest.best.epoch == 1
    contest.prefer_last()
    assert (contest.best.epoch, contest.best.kind) == (2, "ema")


def test_with_nothing_judged_the_start_stays(contest: Contest) -> None:
    before = contest.best
    contest.prefer_last()
    assert contest.best is before
