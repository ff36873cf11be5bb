"""Fine-tuning: from the probe's head through all layers, for so many epochs or so many seconds; the best is kept.

Rates fall from the head towards the stem. The weights, their running average, and at the end averages of the start and
the best are judged by their loss on the validation photos; a timed run prefers its end. All randomness is a function of
(seed, epoch, step): to go on after a kill, a run needs its weights, the optimiser's moments and where it was, and
nothing else.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heeler.data.rows import Rows
from heeler.errors import HeelerError, ResourceError
from heeler.learn.augment import seed_of
from heeler.learn.checkpoint import Checkpoint, discard_checkpoints, key_of, read_checkpoint, write_checkpoint
from heeler.learn.contest import Best, Contest, Tuned
from heeler.learn.depth import MIN_TUNING_S, VIEWS_SHARE
from heeler.learn.schedule import Cursor, Pace, Phase, is_timed, layer_groups, layer_rates, phases_of, rate_share
from heeler.learn.stages import last_groups
from heeler.learn.team import Team
from heeler.learn.weights import State, Weights, average, plain_state
from heeler.learn.worker import EVALUATE_BATCH, Worker, accelerator_of_machine, in_training
from heeler.plans import Recipe
from heeler.records import Epoch, IntArray, Note, OnEvent, Preprocessing, Progress, ignore_events

# Of timed runs that name none.
EMA_DECAY = 0.99
# Shares of the best weights in an average with the start's. Where batch normalisation learns, the average of two sets
# of statistics fits neither, and one try is enough.
ALPHAS = (0.5, 0.25, 0.75)
MAX_RETREATS = 2
# In a checkpoint: the best weights' losses, photo by photo.
BEST_LOSSES = "best losses"


def fine_tune(
    probe: Any,
    rows: Rows,
    labels: IntArray,
    train: IntArray,
    valid: IntArray,
    spec: Preprocessing,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    folder: Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Train a copy of a network.

    Args:
        probe: timm network with the head to start from; not changed.
        rows: squares (S, S, 3) uint8 of all photos.
        labels: (N,) class numbers.
        train: rows to learn from.
        valid: rows to choose the best weights on.
        spec: the preprocessing that made the rows.
        recipe: how to train, and for how long.
        on_event: told of ``Epoch``, ``Note`` and ``Progress``, one unit a photo; in the main process only.
        folder: for the checkpoints of this run alone; None keeps none on disk.
        resume: go on from the checkpoint in ``folder``, where there is one of this run.
        stop: asked after each step. Once it says yes, the run saves a checkpoint and ends with the best so far.

    Raises:
        ResourceError: the memory is too small for one photo at a time.
        HeelerError: the answers of the network to start from are not finite numbers.
    """
    began_s = time.perf_counter()
    team, accelerator = Team(), accelerator_of_machine()
    tell = on_event if team.is_main else ignore_events
    model = copy.deepcopy(probe).to(accelerator.device, memory_format=torch.channels_last)
    worker = Worker(accelerator, team, model, rows, torch.from_numpy(labels), spec, recipe, tell)
    run = _Run(worker, plain_state(probe), train, valid, recipe, folder, tell, began_s)
    with in_training(accelerator.device):
        run.begin(resume)
        while run.goes_on():
            run.step()
            if run.is_told(stop):
                break
            if run.is_epoch_over():
                run.end_epoch()
            else:
                run.keep()
        return run.end()


class _Run:
    """A run goes forward by steps, and back to its last checkpoint where a number is not finite any more."""

    def __init__(
        self,
        worker: Worker,
        start: State,
        train: IntArray,
        valid: IntArray,
        recipe: Recipe,
        folder: Path | None,
        tell: OnEvent,
        began_s: float,
    ) -> None:
        self.worker, self.start, self.train, self.valid = worker, start, train, valid
        self.recipe, self.folder, self.tell = recipe, folder if worker.team.is_main else None, tell
        # The main process alone writes, and all know when.
        self.is_saved = worker.team.first([folder is not None]) == [1]
        timed = is_timed(recipe)
        ema_decay = (EMA_DECAY if timed else 0.0) if recipe.ema_decay is None else recipe.ema_decay
        self.trains_last = recipe.last_views > 0 and worker.can_divide()
        self.weights = Weights(worker.accelerator, worker.model, ema_decay)
        self.contest = Contest(worker, valid, start)
        self.n_passes = 2 if ema_decay else 1
        (used_s,) = worker.team.first([time.perf_counter() - began_s])
        self.pace = Pace(recipe.budget_s if timed else 0.0, self.n_passes + 1, self._clock, used_s)
        self.n_steps = math.ceil(len(train) / worker.batch_size)
        # Everything that decides a run but how long it may take.
        settings = replace(recipe, batch_size=worker.batch_size, budget_s=float(timed), max_epochs=0)
        photos = (train, worker.labels[train].numpy(), valid, worker.labels[valid].numpy())
        self.key = key_of([asdict(settings), asdict(worker.spec), self.trains_last], photos, start)
        self.phases = phases_of(recipe, trains_last=self.trains_last)
        self.is_restrained = timed and self.trains_last and not recipe.lr
        self.n_planned = sum(phase.epochs for phase in self.phases)
        self._enter(self.phases[0])
        self.cursor = Cursor()
        self.order = (0, train)
        self.stopped = self.given_up = self.disk_is_full = False

    def begin(self, resume: bool) -> None:
        """Judge the start, or go on from the last checkpoint."""
        found = self._find() if self.worker.team.first([resume]) == [1] else None
        if found:
            self._go_back(found)
            self.saved = found
            self.pace.resume(found.facts["pace"])
        elif self.folder:
            discard_checkpoints(self.folder)
        # What is computed once pays only where there is time for steps; without it the same stages train.
        if self.trains_last and self.pace.left_s >= MIN_TUNING_S:
            self.worker.divide(self.train, self.valid, time.perf_counter() + VIEWS_SHARE * self.pace.left_s)
            self.pace.setup_ended()
        if found:
            for job, n_photos in found.facts["pieces"].items():  # of a machine that may have had more memory
                self.worker.pieces[job] = min(n_photos, self.worker.pieces[job])
            self.tell(Note(f"tuning goes on from a checkpoint: {self._n_epochs():.2f} epochs are done"))
        else:
            self._judge_start()

    def _judge_start(self) -> None:
        """Judge the network to start from; the schedule begins after it."""
        if self.pace.budget_s:
            # The first batch, for which the kernels are chosen, says little of what a pass takes.
            self.worker.logits(self.worker.model, self.valid[:EVALUATE_BATCH])
            self.pace.setup_ended()
        loss, _ = self.contest.enter(self.worker.model, "raw", 0)
        self.pace.judging_ended(1)
        self.pace.training_begins()
        if not math.isfinite(loss):
            raise HeelerError("the answers of the network to start from are not finite numbers")
        self.saved = self._checkpoint()

    def goes_on(self) -> bool:
        """Whether there is a step to do, and time for it."""
        is_over = self.given_up or 0 < self.n_planned < self.cursor.epoch
        return not is_over and self.pace.has_time_for_step()

    def step(self) -> None:
        """Learn from the next batch."""
        if self.is_epoch_over():
            return  # so it was when the run was told to stop
        cursor, seed, wanted = self.cursor, self.recipe.seed, self._batch()
        loss = self.worker.gradient(wanted, seed_of(seed, cursor.epoch, cursor.step))
        if not math.isfinite(loss):
            self._retreat("the loss")
            return
        share = rate_share(self._done(), self.phase.warm) * 0.5**cursor.n_retreats
        if self.is_restrained:
            share *= cursor.restraint(self.weights.reach)
        self.weights.update(share, (cursor.epoch - 1) * self.n_steps + cursor.step)
        cursor.step_ended(len(wanted), loss, self.pace.step_ended(), all_layers=self.phase.name == "all")
        self.tell(Progress(round(self._n_epochs() * len(self.train)), loss=cursor.loss_sum / cursor.n_seen))

    def is_told(self, stop: Callable[[], bool]) -> bool:
        """Whether to stop now: where one process is told, all are."""
        self.stopped = self.worker.team.sum([stop()]) != [0]
        return self.stopped

    def is_epoch_over(self) -> bool:
        """Whether every photo of the epoch has been learnt from."""
        return self.cursor.step >= self.n_steps

    def end_epoch(self) -> None:
        """Judge where that is due, and turn to the next epoch."""
        if self.pace.is_judging_due(self.n_passes):
            if not self._judge():
                return
            n = round(self._n_epochs())
            if self.pace.is_patience_over(n, self.cursor.n_since_best, self.cursor.best_at_s):
                self.pace.hurry()
                self.tell(Note(f"tuning comes to an early end: the loss has stopped falling after {n} epochs"))
        self.cursor.epoch_ended()
        self._turn_to_phase()
        self.keep(epoch_ended=True)

    def keep(self, *, epoch_ended: bool = False) -> None:
        """Keep a checkpoint: in memory at the end of an epoch, on disk where that is due."""
        is_due = self.is_saved and self.pace.is_save_due(epoch_ended=epoch_ended)
        if not (is_due or epoch_ended):
            return
        if not self.weights.are_finite():
            self._retreat("a weight")
            return
        self.saved = self._checkpoint()
        if is_due:
            self._save()

    def end(self) -> Tuned:
        """Judge what has not been judged, then the averages; the best of all as a plain network."""
        if self.stopped and self.weights.are_finite():
            self.saved = self._checkpoint()
            self._save()
        elif not (self.stopped or self.given_up):
            if not self.cursor.is_judged:
                self._judge()
            if self.pace.budget_s:
                self._prefer_end()
            self._judge_averages()
        self.worker.close()
        best, cursor, model = self.contest.best, self.cursor, self.worker.model
        model.load_state_dict(best.state)
        return Tuned(
            model=model.cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(True),
            kind=best.kind,
            history=tuple(cursor.history),
            best_epoch=best.epoch,
            best_loss=best.loss,
            best_error=best.error,
            rate_per_s=cursor.n_all / cursor.all_s if cursor.all_s else 0.0,
            n_epochs=self._n_epochs(),
            stopped_early=self.pace.is_hurried,
            stopped=self.stopped,
        )

    def _clock(self) -> float:
        return self.worker.team.first([time.perf_counter()])[0]

    def _batch(self) -> IntArray:
        """Rows of the next step, the same in every process; an epoch has no batch of a few left over."""
        cursor, n_rows = self.cursor, len(self.train)
        if self.order[0] != cursor.epoch:
            self.order = cursor.epoch, np.random.default_rng([self.recipe.seed, cursor.epoch]).permutation(self.train)
        first, end = (step * n_rows // self.n_steps for step in (cursor.step, cursor.step + 1))
        return self.order[1][first:end]

    def _done(self) -> float:
        """Share of the phase that is behind, by steps or by seconds, whichever is more."""
        return max(self.phase.done(self.cursor.epoch, self.cursor.step, self.n_steps), self.pace.done)

    def _n_epochs(self) -> float:
        """Passes over the photos until now."""
        return self.cursor.n_epochs(len(self.train))

    def _turn_to_phase(self) -> None:
        phase = [one for one in self.phases if one.first <= self.cursor.epoch][-1]
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        """Begin a phase: its layers, an optimiser of its own."""
        model = self.worker.model
        groups = last_groups(model, self.recipe.last_stages) if self.trains_last else layer_groups(model)
        groups = groups[-1:] if phase.name == "head" else groups
        self.phase = phase
        self.worker.begin(groups, learns_norms=phase.name == "all" and self.recipe.bn == "training")
        self.weights.begin(groups, layer_rates(phase.lr, len(groups), phase.stem_divisor))

    def _judge(self) -> bool:
        """Judge the weights and their average, and tell; False where the run went back instead."""
        if not self.weights.are_finite():
            self._retreat("a weight")
            return False
        cursor, before, epoch = self.cursor, self.contest.best, math.ceil(self._n_epochs())
        (loss, error), ema = self._enter_weights(epoch)
        if not math.isfinite(loss):
            self._retreat("the validation loss")
            return False
        best = self.contest.best
        cursor.is_judged, cursor.n_since_best = True, cursor.n_since_best + 1
        if best is not before:
            cursor.n_since_best, cursor.best_at_s = 0, self.pace.used_s
        record = Epoch(
            epoch=epoch,
            epochs=max(epoch, round(self._n_epochs() / self._done())) if self.pace.budget_s else self.n_planned,
            phase="last" if self.trains_last else self.phase.name,
            train_loss=cursor.loss_sum / cursor.n_seen,
            valid_loss=loss,
            valid_error=error,
            best_error=best.error,
            seconds=cursor.seconds,
            rate_per_s=cursor.n_seen / cursor.seconds,
            ema_loss=ema[0],
            ema_error=ema[1],
        )
        cursor.history.append(record)
        self.tell(record)
        return True

    def _enter_weights(self, epoch: int) -> tuple[tuple[float, float], tuple[float, float] | tuple[None, None]]:
        """Loss and error of the weights, and of their running average where there is one."""
        raw = self.contest.enter(self.weights.model, "raw", epoch)
        ema = self.contest.enter(self.weights.ema, "ema", epoch) if self.weights.ema is not None else (None, None)
        self.pace.judging_ended(self.n_passes)
        return raw, ema

    def _prefer_end(self) -> None:
        """Let the end of a timed run be its result, where nothing that was before is better by more than chance."""
        if self.given_up or not self.cursor.history:
            return
        if not self.contest.last:
            self._enter_weights(self.cursor.history[-1].epoch)  # they were judged by a process that was killed then
        self.contest.prefer_last()

    def _judge_averages(self) -> None:
        """Judge averages of the start's weights and tuned ones (Wortsman et al. 2022), as many as there is time for.

        The tuned ones are the best of the run or, where nothing was better than the start, the last.
        """
        best, model = self.contest.best, self.worker.model
        epoch = best.epoch or math.ceil(self._n_epochs())
        end = best.state if best.epoch else plain_state(self.weights.ema or model)
        for alpha in ALPHAS if self.recipe.bn == "inference" else ALPHAS[:1]:
            if epoch and self.pace.has_time_for_pass():
                model.load_state_dict(average(self.start, end, alpha))
                self.contest.enter(model, "average", epoch)
                self.pace.judging_ended(1)

    def _retreat(self, what: str) -> None:
        """Go back to the last checkpoint and on from there at half the rates, or give up."""
        where, n = f"epoch {self._n_epochs():.2f}: {what} is not finite any more", self.cursor.n_retreats + 1
        if n > MAX_RETREATS:
            self.given_up = True
            self.tell(Note(f"{where}, at lower rates too; the best so far is kept", "warning"))
            return
        self._go_back(self.saved)
        self.cursor.n_retreats = n
        self.tell(Note(f"{where}; back to epoch {self._n_epochs():.2f}, and on at half the rates", "warning"))

    def _checkpoint(self) -> Checkpoint:
        """Everything that this run needs to go on from here, copied."""
        best = self.contest.best
        tensors = self.weights.snapshot() | {f"best/{name}": tensor for name, tensor in best.state.items()}
        tensors[BEST_LOSSES] = best.losses
        facts = {
            "key": self.key,
            "cursor": asdict(self.cursor),
            "best": {name: getattr(best, name) for name in ("loss", "error", "epoch", "kind")},
            "pace": self.pace.facts(),
            "pieces": dict(self.worker.pieces),
        }
        return Checkpoint(tensors, facts)

    def _go_back(self, checkpoint: Checkpoint) -> None:
        """Be where the run was at a checkpoint; the time that has passed stays passed."""
        tensors = checkpoint.tensors
        self.cursor = Cursor.from_facts(checkpoint.facts["cursor"])
        self._turn_to_phase()
        self.weights.restore(tensors)
        state = {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}
        self.contest.best = Best(**checkpoint.facts["best"], state=state, losses=tensors[BEST_LOSSES])
        self.contest.last = []

    def _save(self) -> None:
        """Put the last checkpoint on disk; a disk that is full ends no run."""
        if self.folder:
            try:
                write_checkpoint(self.folder, self.saved)
            except (ResourceError, OSError) as error:
                if not self.disk_is_full:
                    self.tell(Note(f"tuning goes on, its checkpoint is the one before: {error}", "warning"))
                self.disk_is_full = True
        if self.is_saved:
            self.pace.save_ended()

    def _find(self) -> Checkpoint | None:
        """The last checkpoint of this run, where there is one; the same in every process."""
        found = read_checkpoint(self.folder) if self.folder else None
        found = self.worker.team.first_checkpoint(found)
        if found and found.facts["key"] != self.key:
            self.tell(Note("the checkpoint is of other photos, settings or weights: tuning starts anew", "warning"))
            return None
        return found
