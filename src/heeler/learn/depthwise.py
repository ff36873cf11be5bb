"""Depthwise convolutions whose backward pass is as fast as it can be on a CPU that computes in bf16.

oneDNN has no good kernels for the backward pass of large or strided depthwise convolutions in bf16: in fp32 it takes a
third to a ninth of the time, and training steps of mobile networks spend half of theirs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PIECE_BYTES = 8 << 20


class FastDepthwise(TorchFunctionMode):
    """Within this context, convolutions that it is better for go backward in fp32; all go forward as they would."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_slow(*args):
            batch, weight, bias, stride, padding = args[:5]
            out = _Depthwise.apply(batch.bfloat16(), weight.bfloat16(), stride, padding)
            return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1)
        return func(*args, **kwargs)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(batch, weight, None, stride, padding, (1, 1), len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        batch, weight = ctx.saved_tensors
        needs_batch, needs_weight = ctx.needs_input_grad[:2]
        weight = weight.float()
        of_batch = torch.empty_like(batch) if needs_batch else None
        of_weight = torch.zeros_like(weight) if needs_weight else None
        # In pieces, what is fp32 for a moment finds the memory of the piece before, and the caches still hold it.
        n_piece = max(1, PIECE_BYTES // (4 * batch[0].numel()))
        for start in range(0, len(batch), n_piece):
            piece = slice(start, start + n_piece)
            tensors = (gradients[0][piece].float(), batch[piece].float(), weight, None, ctx.stride, ctx.padding, (1, 1))
            wanted = [needs_batch, needs_weight, False]
            parts = torch.ops.aten.convolution_backward(*tensors, False, (0, 0), len(weight), wanted)
            if of_batch is not None:
                of_batch[piece] = parts[0]
            if of_weight is not None:
                of_weight += parts[1]
        return of_batch, of_weight, None, None


def _is_slow(batch: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether a convolution is one whose backward pass is slow in bf16."""
    return (
        groups == len(weight) == batch.shape[-3]
        and groups > 1
        and (weight.shape[-1] > 3 or stride[0] > 1)
        and tuple(dilation) == (1, 1)
        and not isinstance(padding, str)
        and batch.ndim == 4
        and batch.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and torch.is_grad_enabled()
        and (weight.requires_grad or batch.requires_grad)
    )
