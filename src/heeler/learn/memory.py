"""What a step takes of the memory; when that runs out, how to tell, and fewer photos at once from then on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from heeler.errors import ResourceError
from heeler.records import ByteArray, FloatArray, Note, OnEvent

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device or of the machine is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def kept_bytes(model: nn.Module, batch: Tensor) -> int:
    """Memory that a forward pass keeps for its backward pass, in bytes; the weights do not count.

    Args:
        model: its parameters learn.
        batch: (B, 3, H, W) float32 on its device.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else another tensor might come to lie in the same place

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(batch)
    return sum(kept.values())


class AtOnce:
    """A forward pass over so many photos at once as memory has room for, by any number of threads.

    Args:
        n_photos: to begin with; halved, for good, where they are too many.
    """

    def __init__(self, n_photos: int) -> None:
        self.n_photos = n_photos
        self._untold: list[Note] = []
        self._lock = threading.Lock()

    def compute(self, forward: Callable[[ByteArray], FloatArray], pixels: ByteArray) -> FloatArray:
        """Outputs (B, D) of pixels (B, S, S, 3) uint8.

        Raises:
            ResourceError: the memory is too small for one photo.
        """
        while True:
            n = min(self.n_photos, len(pixels))
            try:
                outputs = [forward(pixels[start : start + n]) for start in range(0, len(pixels), n)]
                return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Beyond the except block, nothing holds what the attempt had made.
            self._halve(n)

    def tell(self, on_event: OnEvent) -> None:
        """Tell what has not been told: ``compute`` may run in a thread, which should not."""
        while self._untold:
            on_event(self._untold.pop(0))

    def _halve(self, n: int) -> None:
        """Fewer than the ``n`` that were too many, unless another thread has just seen to that."""
        from accelerate.utils.memory import clear_device_cache

        with self._lock:
            if self.n_photos < n:
                return
            if n == 1:
                raise ResourceError(
                    "the memory is too small for a forward pass with one photo at a time",
                    hint="close other programs, or use a smaller --image-px or a smaller --backbone",
                )
            self.n_photos = n // 2
            clear_device_cache(garbage_collection=True)
            self._untold.append(Note(f"out of memory with {n} photos at once, so {n // 2} from now on"))
