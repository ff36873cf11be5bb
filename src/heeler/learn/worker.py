"""One process of a training run: its share of each batch, in pieces that fit into memory.

A batch is the same however many processes and pieces it is divided into: the same photos, changed in the same way, and
the gradient of their mean loss. Gradients are summed after the backward pass and not within it, so that a process that
runs out of memory leaves no other waiting, and all of them begin the same step again with smaller pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad

from heeler import allocator
from heeler.data.rows import Rows
from heeler.errors import ResourceError
from heeler.learn.augment import augment, augment_pixels, seed_of
from heeler.learn.engines import BATCH, has_fast_bf16, spread
from heeler.learn.fast_steps import FastSteps, Norm, norms_of
from heeler.learn.memory import is_out_of_memory, kept_bytes
from heeler.learn.stages import Views, first_engine, is_divisible, last_stages
from heeler.learn.team import Team
from heeler.machine import memory_bytes
from heeler.plans import Recipe
from heeler.records import ByteArray, IntArray, Note, OnEvent, Preprocessing

BATCH_SIZE = 32
GPU_BATCH_SIZE = 64
EVALUATE_BATCH = 64
# Pixels of one backward pass through all layers on a CPU: a process then holds 2 GB with EfficientNet-Lite0, and 3.5 GB
# with twice as many, which is not faster at 288 px and a sixth faster at 224 (docs/recipe.md).
PIECE_PIXELS = 16 * 288**2
# Most of a machine's memory that a step may take on a CPU, and what a step takes at its height of what it keeps.
MEMORY_SHARE, STEP_PER_KEPT = 0.25, 1.5
# Activations that are read at random should stay in memory.
VIEWS_BYTES = 3_000_000_000

Job = Literal["training", "judging"]


class Worker:
    """Gradients and logits of any number of photos.

    Args:
        accelerator: accelerate's: device and precision.
        team: the processes that share each batch.
        model: timm network with its head, on the device; trained in place.
        rows: squares (S, S, 3) uint8 of all photos.
        labels: (N,) int64 class numbers.
        spec: the preprocessing that made the rows.
        recipe: batch size, augmentation, mixing, label smoothing.
        tell: told of notes.
    """

    def __init__(
        self,
        accelerator: Any,
        team: Team,
        model: Any,
        rows: Rows,
        labels: Tensor,
        spec: Preprocessing,
        recipe: Recipe,
        tell: OnEvent,
    ) -> None:
        self.accelerator, self.team, self.model = accelerator, team, model
        self.device: torch.device = accelerator.device
        self.batch_size = recipe.batch_size or (BATCH_SIZE if self.device.type == "cpu" else GPU_BATCH_SIZE)
        self._train_px = recipe.train_px or spec.image_px
        # Photos computed at once.
        self.pieces: dict[Job, int] = {"training": self._most_at_once(), "judging": EVALUATE_BATCH}
        self.labels, self.spec = labels, spec
        self._rows, self._recipe, self._tell = rows, recipe, tell
        self._norms = [one for one in model.modules() if isinstance(one, Norm)]
        self._learns_norms = False
        self._folded = self._norms_to_fold()
        self._views: Views | None = None
        if self.device.type == "cpu" and recipe.bn == "inference":  # else it learns from all of them
            n_piece = piece_photos(self._train_px, self._step_bytes(), memory_bytes() // team.n)
            self.pieces["training"] = min(self._most_at_once(), n_piece)

    @property
    def is_divided(self) -> bool:
        """Whether the first stages were computed once, so that steps are of the last ones alone."""
        return self._views is not None

    def _most_at_once(self) -> int:
        """Photos of a batch that are this process's."""
        return -(-self.batch_size // self.team.n)

    def _norms_to_fold(self) -> dict[int, Norm]:
        if self.device.type != "cpu":
            return {}
        photo = torch.zeros(1, 3, self.spec.image_px, self.spec.image_px)
        return norms_of(self.model.eval(), photo.contiguous(memory_format=torch.channels_last))

    def _step_bytes(self) -> int:
        """Memory that one photo takes in a step of all layers."""
        self.model.requires_grad_(True)
        photo = torch.zeros(1, 3, self._train_px, self._train_px).contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast(), FastSteps(self._folded):
            return int(STEP_PER_KEPT * kept_bytes(self.model, photo))

    def can_divide(self) -> bool:
        """Whether the first stages can be computed once: by one process, on the processor, for such a network."""
        return self.team.n == 1 and self.device.type == "cpu" and is_divisible(self.model)

    def divide(self, train: IntArray, valid: IntArray, until_s: float) -> None:
        """Compute the first stages of photos once, as they are and in other views; nothing where time is too short.

        Args:
            train: rows to train on.
            valid: rows to judge on; they are seen as they are alone.
            until_s: of ``time.perf_counter``; no view is begun that is expected to end later, or that the disk has no
                room for.

        Raises:
            ResourceError: the cache cannot be written at all.
        """
        photos, recipe = np.concatenate([train, valid]), self._recipe
        sample = self._rows.take(photos[spread(len(photos))])
        engine, shape = first_engine(self.model.eval(), self.spec, recipe.last_stages, sample)
        wanted = recipe.last_views if recipe.augment != "none" else 1
        n_most = min(wanted, max(2, VIEWS_BYTES // (2 * len(photos) * math.prod(shape))))
        views = Views(len(self.labels), photos, shape, n_most)

        def seen(view: int, n_photos: int) -> Iterator[ByteArray]:
            for start in range(0, n_photos, BATCH):
                squares = self._rows.take(photos[start : min(start + BATCH, n_photos)])
                preset, seed = recipe.augment if view else "none", seed_of(recipe.seed, -1 - view, start)
                yield augment_pixels(squares, preset, seed=seed, out_px=self.spec.image_px)

        while views.n_views < views.n_most:
            n_photos = len(train) if views.n_views else len(photos)
            if not views.add(engine.run(seen(views.n_views, n_photos)), n_photos, until_s):
                break
            self._views = views
        if not views.n_views:
            views.close()
            text = "too little time or disk to compute the first stages beforehand: the last ones train without, slowly"
            self._tell(Note(text, "warning"))
        if self.is_divided:
            self.pieces["training"] = self._most_at_once()  # activations are small

    def close(self) -> None:
        """Remove what was computed for this run alone."""
        if self._views is not None:
            self._views.close()

    def begin(self, groups: Sequence[Sequence[nn.Parameter]], *, learns_norms: bool) -> None:
        """From now on train these parameters alone; the statistics of batch normalisation too where asked for."""
        self.model.requires_grad_(False)
        for parameter in (one for group in groups for one in group):
            parameter.requires_grad_(True)
        self._learns_norms = learns_norms
        self.model.eval()

    def gradient(self, wanted: IntArray, seed: int) -> float:
        """Leave the gradient of a batch's mean loss in the parameters.

        Args:
            wanted: (B,) rows of the batch, the same in every process.
            seed: of this step, from ``seed_of``.

        Returns:
            The mean loss in nats, the same in every process; it may not be finite.

        Raises:
            ResourceError: the memory is too small for one photo.
        """
        if not self.model.training:
            self.model.train()
            self._set_norms(self._learns_norms)
        mine = self.team.share(len(wanted))
        statistics = [buffer for norm in self._norms for buffer in norm.buffers()] if self._learns_norms else []
        before = [buffer.clone() for buffer in statistics]

        def attempt(n_piece: int) -> float:
            self.model.zero_grad(set_to_none=True)
            for buffer, old in zip(statistics, before, strict=True):
                buffer.copy_(old)
            torch.manual_seed(seed)
            total = torch.zeros((), device=self.device)
            for piece in _cut(mine, n_piece):
                loss = self._loss(wanted, piece, seed) / len(wanted)
                self.accelerator.backward(loss)
                total += loss.detach()
            return float(total)

        loss = self._fit("training", attempt)
        self._sum_gradients(statistics, len(mine) / len(wanted))
        return loss

    def logits(self, model: Any, wanted: IntArray) -> Tensor:
        """Answers of a network to photos as prediction will see them: (n, K) float32 on the CPU, in every process.

        Raises:
            ResourceError: the memory is too small for one photo.
        """
        model.eval()
        mine = self.team.share(len(wanted))
        logits = torch.zeros(len(wanted), model.num_classes, device=self.device)

        def attempt(n_piece: int) -> float:
            with torch.inference_mode(), self.accelerator.autocast():
                for piece in _cut(mine, n_piece):
                    photos = self._input(wanted, piece, "none", 0, self.spec.image_px)
                    logits[piece.start : piece.stop] = self._answers(model, photos, "judging").float()
            return 0.0

        self._fit("judging", attempt)
        self.team.sum_in_place([logits])
        return logits.cpu()

    def _loss(self, wanted: IntArray, piece: range, seed: int) -> Tensor:
        """Sum of the losses of some places of a batch."""
        recipe = self._recipe
        if self._learns_norms:
            self._set_norms(len(piece) > 1)  # one photo has no statistics to learn from
        photos = self._input(wanted, piece, recipe.augment, seed, self._train_px)
        targets = self._targets(wanted, piece)
        if recipe.mixup > 0:
            photos, targets = self._mix(photos, targets, wanted, piece, seed)
        fast = FastSteps({} if self._learns_norms else self._folded) if self.device.type == "cpu" else nullcontext()
        with self.accelerator.autocast(), fast:
            logits = self._answers(self.model, photos, "training")
        return cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing, reduction="sum")

    def _mix(self, photos: Tensor, targets: Tensor, wanted: IntArray, piece: range, seed: int) -> tuple[Tensor, Tensor]:
        """Mixup (Zhang et al. 2018): the first photo of a batch with the last, the second with the last but one.

        Batches are in random order, so partners are random; and the partners of a piece are a piece.
        """
        n, recipe = len(wanted), self._recipe
        partners = range(n - piece.stop, n - piece.start)
        others = photos if partners == piece else self._input(wanted, partners, recipe.augment, seed, self._train_px)
        shares = np.random.default_rng([seed, 1]).beta(recipe.mixup, recipe.mixup, n).astype(np.float32)
        own = torch.from_numpy(shares[piece.start : piece.stop]).to(self.device)
        mixed = torch.lerp(others.flip(0), photos, own.to(photos.dtype).view(-1, 1, 1, 1))
        both = [one_hot(each, self.model.num_classes).float() for each in (self._targets(wanted, partners), targets)]
        return mixed.contiguous(memory_format=torch.channels_last), torch.lerp(both[0].flip(0), both[1], own[:, None])

    def _answers(self, model: Any, batch: Tensor, job: Job) -> Tensor:
        if self.is_divided:
            return last_stages(model, batch, self._recipe.last_stages)
        n = len(batch)
        if self.device.type != "cpu" and not (job == "training" and self._learns_norms):
            # Each new size takes seconds, until cuDNN has planned all convolutions for it.
            batch = pad(batch, [0, 0] * 3 + [0, max(0, self.pieces[job] - n)])
        logits: Tensor = model(batch)
        return logits[:n]

    def _input(self, wanted: IntArray, piece: range, preset: str, seed: int, out_px: int) -> Tensor:
        """Some places of a batch as what is trained takes them: photos, or the activations of their first stages."""
        if self._views is None:
            return self._photos(wanted, piece, preset, seed, out_px)
        chance = np.random.default_rng([seed, 2]).integers(self._views.n_views, size=len(wanted))
        views = np.zeros_like(chance) if preset == "none" else chance
        seen = self._views.take(views[piece.start : piece.stop], wanted[piece.start : piece.stop]).to(self.device)
        return seen if self.accelerator.mixed_precision == "bf16" else seen.float()

    def _photos(self, wanted: IntArray, piece: range, preset: str, seed: int, out_px: int) -> Tensor:
        """Some places of a batch as the network's input, changed as the preset says."""
        pixels = torch.from_numpy(self._rows.take(wanted[piece.start : piece.stop])).to(self.device, non_blocking=True)
        mean, std = self.spec.mean, self.spec.std
        return augment(pixels, preset, seed=seed, mean=mean, std=std, out_px=out_px, first=piece.start)

    def _targets(self, wanted: IntArray, piece: range) -> Tensor:
        return self.labels[wanted[piece.start : piece.stop]].to(self.device)

    def _set_norms(self, learn: bool) -> None:
        for norm in self._norms:
            norm.train(learn)

    def _sum_gradients(self, statistics: Sequence[Tensor], share: float) -> None:
        """Make the gradients, and the mean of what batch normalisation learnt, those of the whole batch."""
        if self.team.n == 1:
            return
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # no photo of this batch was for this process
                parameter.grad = torch.zeros_like(parameter)
        floats = [buffer for buffer in statistics if buffer.is_floating_point()]
        for buffer in floats:
            buffer.mul_(share)
        self.team.sum_in_place([*(parameter.grad for parameter in trained if parameter.grad is not None), *floats])

    def _fit(self, job: Job, attempt: Callable[[int], float]) -> float:
        """Do a job with as many photos at once as memory has room for, in all processes; the sum of what it returns."""
        while True:
            short, value = False, 0.0
            try:
                value = attempt(self.pieces[job])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                short = True
            # Beyond the except block, nothing holds what the attempt had made.
            n_short, total = self.team.sum([short, value])
            if not n_short:
                return total
            self._halve(job)

    def _halve(self, job: Job) -> None:
        from accelerate.utils.memory import clear_device_cache

        n_before, self.pieces[job] = self.pieces[job], self.pieces[job] // 2
        if n_before == 1:
            raise ResourceError(
                f"the memory of {self.device} is too small for {job} with one photo at a time",
                hint="close other programs, or use a smaller --image-px or a smaller --backbone",
            )
        self.model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        kept = f"; a step is still {self.batch_size} photos" if job == "training" else ""
        self._tell(Note(f"{job}: out of memory with {n_before} photos at once, so {n_before // 2} from now on{kept}"))


def accelerator_of_machine() -> Any:
    """accelerate's, on GPUs of CUDA or ROCm or else on the processor: no other device has been seen to train well."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision=training_precision(), cpu=not torch.cuda.is_available())


def training_precision() -> str:
    """What accelerate is to multiply in when training on this machine: ``bf16``, ``fp16`` or ``no``, which is fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if has_fast_bf16() else "no"


@contextmanager
def in_training(device: torch.device) -> Iterator[None]:
    """Within this context freed memory stays, the caller's chances too, and a GPU sums in the same order each time."""
    devices = [device] if device.type == "cuda" else []
    same_order = torch.backends.cudnn.flags(enabled=True, deterministic=True)
    with allocator.kept(), torch.random.fork_rng(devices), same_order:
        yield


def piece_photos(image_px: int, photo_bytes: int, memory_bytes: int) -> int:
    """Photos of one backward pass on a CPU; a power of two.

    Args:
        image_px: side of a photo.
        photo_bytes: memory that one of them takes.
        memory_bytes: that this process may use in all. Where there is too little, a system ends a process without
            asking, so a step takes a share of it at most.
    """
    n_photos = max(1, min(PIECE_PIXELS // image_px**2, int(MEMORY_SHARE * memory_bytes) // max(1, photo_bytes)))
    return 1 << (n_photos.bit_length() - 1)


def _cut(places: range, n_piece: int) -> Iterator[range]:
    """A range in pieces of at most so many."""
    for start in range(places.start, places.stop, n_piece):
        yield range(start, min(start + n_piece, places.stop))
