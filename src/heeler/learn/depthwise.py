"""Depthwise convolutions whose backward pass is as fast as it can be on a CPU that computes in bf16.

oneDNN has no good kernels in bf16 for the gradient of the input of a strided depthwise convolution, nor for that of the
weight of a kernel larger than 3 by 3: training steps of mobile networks spend half of their time there. The first is
computed in fp32; the second, a window of 3 by 3 at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# What is fp32 for a moment: a piece of this size stays in the processor's cache.
PIECE_BYTES = 8 << 20
# The largest kernel whose gradient oneDNN is fast at.
FAST_KERNEL = 3


def is_slow(batch: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether a convolution, given as to ``torch.conv2d``, is one whose backward pass is slow in bf16."""
    return (
        groups == len(weight) == batch.shape[-3]
        and groups > 1
        and min(weight.shape[-2:]) >= FAST_KERNEL
        and (max(weight.shape[-2:]) > FAST_KERNEL or max(stride) > 1)
        and tuple(dilation) == (1, 1)
        and not isinstance(padding, str)
        and batch.ndim == 4
        and batch.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and torch.is_grad_enabled()
        and (weight.requires_grad or batch.requires_grad)
    )


def depthwise_conv2d(
    batch: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """``torch.conv2d`` in bf16, for which ``is_slow`` holds.

    Args:
        batch: (B, C, H, W).
        weight: (C, 1, k, l).
        bias: (C,).
        stride: down and across.
        padding: above and below, left and right.

    Returns:
        (B, C, h, w) bf16.
    """
    kept = None if bias is None else bias.bfloat16()
    answer: Tensor = _Depthwise.apply(batch.bfloat16(), weight.bfloat16(), kept, stride, padding)
    return answer


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(batch, weight, bias, stride, padding, (1, 1), len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (outer,), (batch, weight) = gradients, ctx.saved_tensors
        needs_batch, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        of_batch = _of_batch(outer, batch, weight, ctx.stride, ctx.padding) if needs_batch else None
        of_weight = _of_weight(outer, batch, weight, ctx.stride, ctx.padding) if needs_weight else None
        of_bias = outer.sum((0, 2, 3)) if needs_bias else None
        return of_batch, of_weight, of_bias, None, None


def _of_batch(outer: Tensor, batch: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    if max(stride) == 1:
        return _gradient(outer, batch, weight, stride, padding, of_batch=True)
    weight, answer = weight.float(), torch.empty_like(batch)
    # In pieces, what is fp32 for a moment finds the memory of the piece before, and the caches still hold it.
    n_piece = max(1, PIECE_BYTES // (4 * batch[0].numel()))
    for start in range(0, len(batch), n_piece):
        piece = slice(start, start + n_piece)
        tensors = (outer[piece].float(), batch[piece].float(), weight)
        answer[piece] = _gradient(*tensors, stride, padding, of_batch=True)
    return answer


def _of_weight(outer: Tensor, batch: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    height, width = weight.shape[-2:]
    if max(height, width) <= FAST_KERNEL:
        return _gradient(outer, batch, weight, stride, padding, of_batch=False)
    padded, n = pad(batch, (padding[1], padding[1], padding[0], padding[0])), FAST_KERNEL
    answer, window = torch.empty_like(weight), weight[:, :, :n, :n].contiguous()
    rows, columns = ((size - 1) * step + n for size, step in zip(outer.shape[-2:], stride, strict=True))
    for top in _windows(height):
        for left in _windows(width):
            seen = padded[:, :, top : top + rows, left : left + columns]
            seen = seen.contiguous(memory_format=torch.channels_last)
            part = _gradient(outer, seen, window, stride, (0, 0), of_batch=False)
            answer[:, :, top : top + n, left : left + n] = part
    return answer


def _windows(size: int) -> Iterator[int]:
    """Where windows begin that cover a side of a kernel."""
    yield from range(0, size - FAST_KERNEL, FAST_KERNEL)
    yield size - FAST_KERNEL


def _gradient(
    outer: Tensor, batch: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], *, of_batch: bool
) -> Tensor:
    """Gradient of the input or of the weight, by torch."""
    options = (stride, padding, (1, 1), False, (0, 0), len(weight), [of_batch, not of_batch, False])
    found: Tensor = torch.ops.aten.convolution_backward(outer, batch, weight, None, *options)[0 if of_batch else 1]
    return found
