"""The processes that train one network together, and how they come to know the same.

A launcher (``torchrun``, ``accelerate launch``) starts them with the same command. The first of them, the main process,
decides and writes; see ``follow.py`` for the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from heeler.learn.checkpoint import Checkpoint, from_bytes, to_bytes

# The others wait while the main process reads the photos and computes their features, however long that takes.
PATIENCE = timedelta(days=7)


def n_launched() -> int:
    """How many processes a launcher started; 1 where there was none."""
    told = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return int(os.environ["WORLD_SIZE"]) if told else 1


def leave() -> None:
    """Part from the other processes, where there were any; without a goodbye, the end of one can crash."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Team:
    """All processes of a run; alone, every question is answered at once. Meets the others when it is made."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # Without being told so, accelerate takes processes on processors for strangers.
        options: dict[str, Any] = {"cpu": not torch.cuda.is_available(), "timeout": PATIENCE}
        state = PartialState(**options) if n_launched() > 1 else PartialState()
        self.n: int = state.num_processes
        self.rank: int = state.process_index
        self.is_main: bool = state.is_main_process
        self._device: torch.device = state.device

    def share(self, n_photos: int) -> range:
        """This process's places in a batch; none where there are fewer photos than processes."""
        return range(n_photos * self.rank // self.n, n_photos * (self.rank + 1) // self.n)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.n == 1:
            return list(values)
        total: list[float] = _sum(torch.tensor(values, dtype=torch.float64, device=self._device)).tolist()
        return total

    def first(self, values: Sequence[float]) -> list[float]:
        """The main process's values, in every process."""
        return self.sum([value if self.is_main else 0.0 for value in values])

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors of one dtype over all processes, in one message."""
        if self.n == 1 or not tensors:
            return
        total = _sum(torch.cat([tensor.flatten() for tensor in tensors]))
        parts = torch.split(total, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def first_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """The main process's tensors and facts, in every process: the others may not see its disk."""
        if self.n == 1:
            return checkpoint
        data = to_bytes(checkpoint) if checkpoint and self.is_main else b""
        (n_bytes,) = self.first([len(data)])
        if n_bytes == 0:
            return None
        message = torch.zeros(int(n_bytes), dtype=torch.uint8)
        if self.is_main:
            message = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return from_bytes(_sum(message.to(self._device)).cpu().numpy().tobytes())


def _sum(tensor: Tensor) -> Tensor:
    from accelerate.utils import reduce

    total: Tensor = reduce(tensor, "sum")
    return total
