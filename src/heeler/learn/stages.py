"""A network in two parts: the first stages, computed once for each view of a photo, and the last, which are trained.

What photos have in common with ImageNet's is in the first stages, and what they have not is learnt by the last; on a
CPU a step of these alone takes a quarter of the time. It works for timm's EfficientNets and their kin.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heeler.errors import ResourceError
from heeler.files import cache_root, disk_errors, require_space
from heeler.learn.backbone import Normalise, weights_key
from heeler.learn.engines import BATCH, Engine, pick_engine
from heeler.records import ByteArray, FloatArray, IntArray, Preprocessing, short_hash

# Of the disk that is free, what views may take.
MOST_OF_DISK = 0.8
# The first batches of the first view set things up; after so many, it is known how long a view takes.
N_WARM, N_TIMED = 2, 6


def is_divisible(model: Any) -> bool:
    """Whether a timm network consists of a stem, several stages of blocks, and a head of convolutions."""
    parts = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")  # MobileNets v3 have no last, and pool before the head
    return all(hasattr(model, part) for part in parts) and len(model.blocks) > 2


class FirstStages(nn.Module):
    """Pixels (B, S, S, 3) uint8 to what the last stages take: (B, h * w * C) float32, normalisation included.

    Args:
        model: timm network whose modules are shared.
        spec: the preprocessing that makes the pixels.
        n_last: stages that are left to train.
    """

    def __init__(self, model: Any, spec: Preprocessing, n_last: int) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.stages = nn.Sequential(model.conv_stem, model.bn1, *model.blocks[:-n_last])

    def activations(self, batch: Tensor) -> Tensor:
        """Activations (B, C, h, w) of normalised photos (B, 3, H, W)."""
        seen: Tensor = self.stages(batch)
        return seen

    def forward(self, pixels: Tensor) -> Tensor:
        """Activations (B, h * w * C) of pixels (B, S, S, 3) uint8; channels last, as the convolutions want them."""
        return self.activations(self.normalise(pixels)).permute(0, 2, 3, 1).flatten(1)


def last_stages(model: Any, activations: Tensor, n_last: int) -> Tensor:
    """Logits (B, K) of activations (B, C, h, w)."""
    x = activations
    for stage in model.blocks[-n_last:]:
        x = stage(x)
    logits: Tensor = model.forward_head(model.bn2(model.conv_head(x)))
    return logits


def last_groups(model: Any, n_last: int) -> list[list[nn.Parameter]]:
    """Parameters of the last stages and of the head, in two groups."""
    body = [*model.blocks[-n_last:], model.conv_head, model.bn2]
    parameters = [parameter for part in body for parameter in part.parameters()]
    return [parameters, list(model.get_classifier().parameters())]


def first_engine(model: Any, spec: Preprocessing, n_last: int, sample: ByteArray) -> tuple[Engine, tuple[int, ...]]:
    """The fastest engine of this machine for the first stages.

    Args:
        model: timm network on the CPU, in evaluation mode.
        spec: the preprocessing that made the sample.
        n_last: stages that are left to train.
        sample: (B, S, S, 3) uint8 photos to time on.

    Returns:
        The engine, whose outputs are (B, h * w * C), and the shape (h, w, C).
    """
    net = FirstStages(model, spec, n_last).eval()
    with torch.inference_mode():
        _, *shape = net.activations(net.normalise(torch.from_numpy(sample[:1]))).permute(0, 2, 3, 1).shape
    key = short_hash([weights_key("first stages", net.stages.state_dict()), spec.mean, spec.std])
    return pick_engine(net, key, sample[np.arange(BATCH) % len(sample)]), tuple(shape)


class Views:
    """Activations of photos in several views, in bf16, in a file without a name: it goes with the process.

    Args:
        n_rows: N, of all photos.
        photos: (n,) rows of those whose activations are kept.
        shape: (h, w, C) of one photo's.
        n_most: views of each that are wanted; fewer where the disk has no room for them, but one at least.
    """

    def __init__(self, n_rows: int, photos: IntArray, shape: tuple[int, ...], n_most: int) -> None:
        self.photos, self.n_views = photos, 0
        self._shape = shape
        self._place = np.full(n_rows, -1)
        self._place[photos] = np.arange(len(photos))
        self._seconds_each = 0.0
        self._folder = cache_root() / "activations"
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed by close
        self._kept: NDArray[np.int16] | None = None
        view_bytes = 2 * len(photos) * math.prod(shape)
        room = MOST_OF_DISK * shutil.disk_usage(self._folder).free
        self.n_most = max(1, min(n_most, math.floor(room / view_bytes)))

    def add(self, outputs: Iterable[FloatArray], n_photos: int, until_s: float) -> bool:
        """Keep one more view of the photos, or of as many of them as come first.

        Args:
            outputs: of their first stages, computed as they are asked for: batches (B, h * w * C), in order.
            n_photos: how many photos they are.
            until_s: of ``time.perf_counter``, by which it should end.

        Returns:
            Whether it is kept: not where it would end too late, or where the disk has no room.
        """
        if time.perf_counter() + self._seconds_each * n_photos > until_s:
            return False
        n_done, began_s, n_warm = 0, time.perf_counter(), 0
        last_s = 2 * until_s - began_s  # foreseen once; beyond this it is given up, however far it has come
        for number, batch in enumerate(outputs):
            try:
                self._write(batch, self.n_views * len(self.photos) + n_done)
            except ResourceError:
                return False
            n_done, now_s = n_done + len(batch), time.perf_counter()
            if number == N_WARM - 1:
                began_s, n_warm = now_s, n_done
            self._seconds_each = (now_s - began_s) / max(1, n_done - n_warm)
            left_s = (n_photos - n_done) * self._seconds_each
            is_first_look = self.n_views == 0 and number == N_TIMED - 1
            if number >= N_TIMED - 1 and now_s + left_s > (until_s if is_first_look else last_s):
                return False
        n_kept = self.n_views * len(self.photos) + n_done
        self.n_views += 1
        self._kept = np.memmap(self._file, np.int16, "r", shape=(n_kept, *self._shape))
        return True

    def _write(self, batch: FloatArray, first: int) -> None:
        """Put activations (B, h * w * C) where they belong.

        Raises:
            ResourceError: the disk has no room for them, or before the first, none for a whole view.
        """
        data = torch.from_numpy(batch).to(torch.bfloat16).view(torch.int16).numpy().data.cast("B")
        n_bytes = 2 * batch.shape[1]
        if first == 0:
            require_space(self._folder, n_bytes * len(self.photos))
        with disk_errors(self._folder):
            self._file.seek(first * n_bytes)
            while data:
                data = data[self._file.write(data) :]

    def close(self) -> None:
        """Give the disk its room back."""
        self._kept = None
        self._file.close()

    def take(self, views: NDArray[np.int64], wanted: IntArray) -> Tensor:
        """Activations (B, C, h, w) bf16 of rows (B,), each in its view (B,); ``channels_last``."""
        assert self._kept is not None
        activations = torch.from_numpy(self._kept[views * len(self.photos) + self._place[wanted]])
        return activations.view(torch.bfloat16).permute(0, 3, 1, 2)
