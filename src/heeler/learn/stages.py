"""A network in two parts: the first stages, computed once for each view of a photo, and the last, which are trained.

What photos have in common with ImageNet's is in the first stages, and what they have not is learnt by the last; on a
CPU a step of these alone takes a third of the time. It works for timm's EfficientNets and their kin.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heeler.errors import ResourceError
from heeler.files import cache_root, disk_errors, require_space
from heeler.records import IntArray

# Photos computed at once.
BATCH = 32
# Stages that are trained: those that see photos at 1/32 of their side, and their first block's step down to it.
N_LAST = 2


def is_divisible(model: Any) -> bool:
    """Whether a timm network consists of a stem, more than ``N_LAST`` stages of blocks, and a head of convolutions."""
    parts = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")  # MobileNets v3 have no last, and pool before the head
    return all(hasattr(model, part) for part in parts) and len(model.blocks) > N_LAST


def first_stages(model: Any, batch: Tensor) -> Tensor:
    """Activations (B, C, h, w) between the stages, of normalised photos (B, 3, H, W)."""
    x = model.bn1(model.conv_stem(batch))
    for stage in model.blocks[:-N_LAST]:
        x = stage(x)
    return x  # type: ignore[no-any-return]


def last_stages(model: Any, activations: Tensor) -> Tensor:
    """Logits (B, K) of activations (B, C, h, w)."""
    x = activations
    for stage in model.blocks[-N_LAST:]:
        x = stage(x)
    logits: Tensor = model.forward_head(model.bn2(model.conv_head(x)))
    return logits


def last_groups(model: Any) -> list[list[nn.Parameter]]:
    """Parameters of the last stages and of the head, in two groups."""
    body = [*model.blocks[-N_LAST:], model.conv_head, model.bn2]
    parameters = [parameter for part in body for parameter in part.parameters()]
    return [parameters, list(model.get_classifier().parameters())]


class Views:
    """Activations of photos in several views, in bf16, in a file that goes with this object.

    Args:
        n_rows: N, of all photos.
        photos: (n,) rows of those whose activations are kept.
        n_most: views of each that there is room for.
    """

    def __init__(self, n_rows: int, photos: IntArray, n_most: int) -> None:
        self.photos, self.n_views = photos, 0
        self._n_most = n_most
        self._place = np.full(n_rows, -1)
        self._place[photos] = np.arange(len(photos))
        self._folder = tempfile.TemporaryDirectory(prefix="views-", dir=_folder())
        self._file: NDArray[np.int16] | None = None

    def add(self, make: Callable[[IntArray], Tensor], n_photos: int | None, until_s: float) -> bool:
        """Compute one more view of the photos, or as many of them as come first.

        Args:
            make: rows (B,) to activations (B, C, h, w).
            n_photos: how many of the photos; None is all.
            until_s: of ``time.perf_counter``, by which it should end.

        Returns:
            Whether it was computed: not where it would end too late, or where the disk has no room for all views.
        """
        photos = self.photos[:n_photos]
        for start in range(0, len(photos), BATCH):
            began_s = time.perf_counter()
            # Channels last, as the convolutions want them.
            made = make(photos[start : start + BATCH]).to(torch.bfloat16).permute(0, 2, 3, 1).contiguous()
            if self._file is None:
                self._file = self._room(made.shape[1:])
            if self._file is None:
                return False
            self._file[self.n_views, start : start + len(made)] = made.cpu().view(torch.int16).numpy()
            # The first batch of all sets up the network's operations.
            now_s = time.perf_counter()
            left_s = (now_s - began_s) * (len(photos) - start - len(made)) / len(made)
            if now_s + left_s > until_s and start == (BATCH if self.n_views == 0 else 0):
                return False
        self.n_views += 1
        return True

    def _room(self, shape: Sequence[int]) -> NDArray[np.int16] | None:
        """A file for all views; None where the disk has no room for it."""
        path = Path(self._folder.name) / "activations"
        shape = (self._n_most, len(self.photos), *shape)
        try:
            require_space(path.parent, 2 * math.prod(shape))
        except ResourceError:
            return None
        with disk_errors(path):
            return np.memmap(path, np.int16, "w+", shape=shape)

    def close(self) -> None:
        """Give the disk its room back."""
        self._file = None
        self._folder.cleanup()

    def take(self, views: NDArray[np.int64], wanted: IntArray) -> Tensor:
        """Activations (B, C, h, w) bf16 of rows (B,), each in its view (B,); ``channels_last``."""
        assert self._file is not None
        activations = torch.from_numpy(self._file[views, self._place[wanted]])
        return activations.view(torch.bfloat16).permute(0, 3, 1, 2)


def _folder() -> Path:
    folder = cache_root() / "activations"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
