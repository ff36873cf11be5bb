"""How fast to learn, and when to judge, to save and to stop: functions of how much of a run is done.

A fixed recipe counts steps, a timed one seconds; what follows from the count is the same for both.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from heeler.plans import Recipe
from heeler.records import Epoch

# On 1,000 clothing photos from a probe at 15.2 % error, two epochs of all layers gave 14.3 % at these rates, and 14.8 %
# at 1e-3 and 5e-4, which undo part of what the probe has learnt before they improve on it.
HEAD_LR = 1e-4
ALL_LR = 2e-4
# Of the last stages and the head, where only these train, and of all layers in a timed run: see docs/recipe.md.
LAST_LR = 5e-4
TIMED_LR = 7e-4
# Where the first updates of the last stages, at these rates, would change a batch's loss by more nats than this (were
# it linear), the rates are lowered until they do not: 2.3 to 2.8 on clothing and maize, 3.5 to 7.8 on solar cells.
# Four of them alone are 3.8 to 7.4 on one drawing of these, by which photos come first.
MAX_REACH, N_REACHES = 2.5, 16
# The stem learns this many times more slowly than the head: in few epochs, and in a timed run, which has many.
STEM_DIVISOR = 100.0
TIMED_STEM_DIVISOR = 10.0
# Share of a phase in which the rates rise; a timed run starts from a head that was fitted to the end.
WARM = 0.3
WARM_TIMED = 0.1
# Seconds between checkpoints, and the share of a run's time that saving them may take.
CHECKPOINT_EVERY_S = 30.0
SAVE_SHARE = 0.05
# A timed run is judged on the way where this share of its budget has passed, and where all judging stays below that.
JUDGE_EVERY = 0.1
JUDGE_SHARE = 0.08
# A timed run comes to an early end where so many judgements, this share of its budget and so many epochs have brought
# nothing. It does not break off: the loss falls most while the rates come down, and so they do, in this share of the
# time that is used until then.
PATIENCE = 5
PATIENCE_SHARE = 0.25
PATIENCE_EPOCHS = 10
HURRY_SHARE = 0.2
# Steps remembered: the next one is expected to take as long as the longest of them.
N_STEPS = 5


@dataclass(frozen=True)
class Phase:
    """A part of a run with one rise and fall of the rates.

    Args:
        name: which layers train.
        first: number of its first epoch, counted from 1 through all phases.
        epochs: how many; 0 is as many as there is time for.
        lr: the head's peak rate.
        warm: share of the phase in which the rates rise, in (0, 1).
        stem_divisor: the stem learns this many times more slowly than the head.
    """

    name: Literal["head", "all"]
    first: int
    epochs: int
    lr: float
    warm: float
    stem_divisor: float = STEM_DIVISOR

    def done(self, epoch: int, step: int, n_steps: int) -> float:
        """Share of the phase that is behind a step of an epoch of ``n_steps``; 0 where the phase has no end."""
        return ((epoch - self.first) * n_steps + step) / (self.epochs * n_steps) if self.epochs else 0.0


def is_timed(recipe: Recipe) -> bool:
    """Whether seconds and not epochs say when a run ends."""
    return recipe.budget_s > 0 and recipe.epochs == 0


def phases_of(recipe: Recipe, *, trains_last: bool = False) -> tuple[Phase, ...]:
    """The phases of a recipe in order: one of all layers in a timed run, else the head's and then one of all layers.

    Args:
        recipe: how to train.
        trains_last: whether "all layers" are the last stages, which may learn faster.
    """
    if is_timed(recipe):
        lr, divisor = (LAST_LR, 1.0) if trains_last else (TIMED_LR, TIMED_STEM_DIVISOR)
        return (Phase("all", 1, recipe.max_epochs, recipe.lr or lr, WARM_TIMED, divisor),)
    all_lr = recipe.lr / 2 if recipe.lr else ALL_LR
    phases = (
        Phase("head", 1, recipe.frozen_epochs, recipe.lr or HEAD_LR, WARM),
        Phase("all", 1 + recipe.frozen_epochs, recipe.epochs, all_lr, WARM),
    )
    return tuple(phase for phase in phases if phase.epochs > 0)


def rate_share(done: float, warm: float) -> float:
    """Share of the peak rate: it rises from 4 % over the first ``warm`` of a phase, then falls to almost nothing."""
    if done < warm:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm)) / 2
    return 1e-4 + (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


def layer_rates(lr: float, n_groups: int, divisor: float = STEM_DIVISOR) -> list[float]:
    """Peak rates from stem to head: ``lr`` is the head's; they fall by the same factor from group to group.

    Args:
        lr: the head's.
        n_groups: how many.
        divisor: the stem's rate is this many times lower.
    """
    return [lr * divisor ** -((n_groups - 1 - i) / max(1, n_groups - 1)) for i in range(n_groups)]


def layer_groups(model: Any, n_groups: int = 4) -> list[list[nn.Parameter]]:
    """Parameters in groups from stem to head; the head is the last group, the rest are split by depth."""
    classifier = {id(parameter) for parameter in model.get_classifier().parameters()}
    body = [parameter for parameter in model.parameters() if id(parameter) not in classifier]
    size = max(1, math.ceil(len(body) / (n_groups - 1)))
    groups = [body[start : start + size] for start in range(0, len(body), size)]
    return [*groups, list(model.get_classifier().parameters())]


@dataclass
class Cursor:
    """Where a run is and how it has gone; all that JSON can hold.

    Args:
        epoch: number of the running epoch, counted from 1.
        step: steps of it that are done.
        n_seen: photos learnt from in the epoch of the last step.
        loss_sum: their losses in nats, summed.
        seconds: what learning from them took.
        n_all: photos learnt from by all layers.
        all_s: what that took, in seconds.
        is_judged: whether the weights as they are have been judged.
        n_since_best: judgements since the best.
        best_at_s: seconds of the run that were used when the best was judged.
        n_retreats: how often the run went back.
        reach_sum: of the first updates, what each would change the loss by, in nats; see ``Weights.reach``.
        n_reaches: how many these are.
        history: a record for each judgement.
    """

    epoch: int = 1
    step: int = 0
    n_seen: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    n_all: int = 0
    all_s: float = 0.0
    is_judged: bool = True
    n_since_best: int = 0
    best_at_s: float = 0.0
    n_retreats: int = 0
    reach_sum: float = 0.0
    n_reaches: int = 0
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Cursor:
        """The cursor that ``dataclasses.asdict`` made a mapping of."""
        return cls(**{**facts, "history": [Epoch(**record) for record in facts["history"]]})

    def step_ended(self, n_photos: int, loss: float, seconds: float, *, all_layers: bool) -> None:
        """Count a step: its photos, their mean loss in nats, and what it took."""
        if self.step == 0:
            self.n_seen, self.loss_sum, self.seconds = 0, 0.0, 0.0
        self.step, self.is_judged = self.step + 1, False
        self.n_seen += n_photos
        self.loss_sum += loss * n_photos
        self.seconds += seconds
        if all_layers:
            self.n_all += n_photos
            self.all_s += seconds

    def epoch_ended(self) -> None:
        """Turn to the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0

    def restraint(self, reach: Callable[[], float]) -> float:
        """Share of the peak rates, in (0, 1], at which the first updates do not reach too far.

        Args:
            reach: of the update that is due, in nats; asked for while it is one of the first ``N_REACHES``.
        """
        if self.n_reaches < N_REACHES:
            self.reach_sum, self.n_reaches = self.reach_sum + reach(), self.n_reaches + 1
        mean = self.reach_sum / self.n_reaches
        return MAX_REACH / mean if mean > MAX_REACH else 1.0

    def n_epochs(self, n_photos: int) -> float:
        """Passes over ``n_photos`` until now."""
        return self.epoch - 1 + (self.n_seen / n_photos if self.step else 0)


class Pace:
    """The clock of a run: how long steps, judgements and saves take, and what there is time for.

    Every second belongs to one of them: each ``..._ended`` takes all that has passed since the one before.

    Args:
        budget_s: seconds of the whole run; 0 is as long as it takes.
        n_final: passes over the validation photos that the end of the run needs.
        clock: seconds since any moment; with several processes, the same answer in each.
        used_s: seconds that were used before the clock was made.
    """

    def __init__(self, budget_s: float, n_final: int, clock: Callable[[], float], used_s: float = 0.0) -> None:
        self.budget_s, self.n_final, self.used_s = budget_s, n_final, used_s
        self.pass_s = 0.0
        self.judging_s = 0.0
        self.judged_at_s = 0.0
        self.save_s = 0.0
        self.saved_at_s = 0.0
        # The schedule's present leg: seconds that were used when it began, and the share that was done then.
        self.leg_at_s, self.leg_done = used_s, 0.0
        self.is_hurried = False
        self._clock, self._last = clock, clock()
        self._steps: deque[float] = deque(maxlen=N_STEPS)

    def facts(self) -> dict[str, float]:
        """What ``resume`` needs to go on from here."""
        names = ("used_s", "pass_s", "judging_s", "judged_at_s", "save_s", "budget_s", "leg_at_s", "leg_done")
        return {name: getattr(self, name) for name in (*names, "is_hurried")}

    def resume(self, facts: Mapping[str, float]) -> None:
        """Go on where another process stopped; the seconds that it used count. A budget may be another than it had."""
        wanted_s, setup_s = self.budget_s, self.used_s
        for name, value in facts.items():
            setattr(self, name, value)
        done = self.done
        self.used_s += setup_s
        self.budget_s = min(self.budget_s, wanted_s) if self.is_hurried else wanted_s
        self._begin_leg(done)
        self.saved_at_s, self._last = self.used_s, self._clock()

    def setup_ended(self) -> None:
        """All since the last call was neither a step nor judging nor a save; the schedule stood still meanwhile."""
        done = self.done
        self._passed()
        self._begin_leg(done)

    def training_begins(self) -> None:
        """What is used until now was for other things: the schedule begins here, and with it the rise of the rates."""
        self._begin_leg(0.0)

    def _begin_leg(self, done: float) -> None:
        self.leg_at_s, self.leg_done = self.used_s, done

    def step_ended(self) -> float:
        """Seconds of the step that ended."""
        seconds = self._passed()
        self._steps.append(seconds)
        return seconds

    def judging_ended(self, n_passes: int) -> None:
        """All since the last call was ``n_passes`` over the validation photos."""
        seconds = self._passed()
        self.pass_s, self.judging_s, self.judged_at_s = seconds / n_passes, self.judging_s + seconds, self.used_s

    def save_ended(self) -> None:
        """All since the last call was a save."""
        self.save_s, self.saved_at_s = self._passed(), self.used_s

    def _passed(self) -> float:
        before, self._last = self._last, self._clock()
        self.used_s += self._last - before
        return self._last - before

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left; infinite in a run without one."""
        return self.budget_s - self.used_s if self.budget_s else math.inf

    @property
    def done(self) -> float:
        """Share of the time for training that is used, in [0, 1]; 0 in a run without a budget."""
        if self.budget_s == 0:
            return 0.0
        leg_s = self.budget_s - self.n_final * self.pass_s - self.leg_at_s
        share = (self.used_s - self.leg_at_s) / leg_s if leg_s > 0 else 1.0
        return min(1.0, self.leg_done + (1 - self.leg_done) * share)

    def hurry(self) -> None:
        """Come to an end early: what is left of the schedule is run through in a part of the time that is used."""
        done, left_s = self.done, HURRY_SHARE * self.used_s + self.n_final * self.pass_s
        self._begin_leg(done)
        self.is_hurried = True
        self.budget_s = min(self.budget_s, self.used_s + left_s)

    def has_time_for_step(self) -> bool:
        """Whether one more step and the judging at the end fit."""
        needs_s = max(self._steps, default=0.0) + self.n_final * self.pass_s
        return self.budget_s == 0 or (self.done < 1 and self.used_s + needs_s <= self.budget_s)

    def has_time_for_pass(self) -> bool:
        """Whether one more pass over the validation photos fits."""
        return self.budget_s == 0 or self.used_s + self.pass_s <= self.budget_s

    def is_judging_due(self, n_passes: int) -> bool:
        """Whether the end of an epoch is worth judging: always without a budget, else not too often."""
        all_s = self.judging_s + (n_passes + self.n_final) * self.pass_s
        since_s = self.used_s - self.judged_at_s
        return self.budget_s == 0 or (since_s >= JUDGE_EVERY * self.budget_s and all_s <= JUDGE_SHARE * self.budget_s)

    def is_save_due(self, *, epoch_ended: bool) -> bool:
        """Whether to save: at the ends of epochs and every ``CHECKPOINT_EVERY_S``, but never for most of the time."""
        since_s = self.used_s - self.saved_at_s
        return since_s >= self.save_s / SAVE_SHARE and (epoch_ended or since_s >= CHECKPOINT_EVERY_S)

    def is_patience_over(self, n_epochs: int, n_since_best: int, best_at_s: float) -> bool:
        """Whether a timed run has gone on for long without a better judgement."""
        since_s = self.used_s - best_at_s
        may_hurry = self.budget_s > 0 and not self.is_hurried and n_epochs >= PATIENCE_EPOCHS
        return may_hurry and n_since_best >= PATIENCE and since_s >= PATIENCE_SHARE * self.budget_s
