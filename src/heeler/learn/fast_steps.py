"""Training steps on a CPU with less work than torch makes of them, and with the same gradients but for rounding.

Batch normalisation that keeps its statistics is a factor and a shift for each channel. Behind a convolution they are
multiplied into its weights at each step: that saves a pass over all activations, and two in the backward pass, and the
parameters that learn are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from heeler.learn.depthwise import depthwise_conv2d, is_slow

Norm = nn.modules.batchnorm._BatchNorm
# What a tensor is asked for that says nothing of what is in it.
FACTS = (int, torch.Size, torch.dtype, torch.device)


class FastSteps(TorchFunctionMode):
    """Within this context, a network's training steps are as fast as they can be.

    Args:
        folded: for the ``id`` of a convolution's weight, the normalisation that follows it, from ``norms_of``.
    """

    def __init__(self, folded: Mapping[int, Norm]) -> None:
        super().__init__()
        self._folded = folded
        self._done = {id(norm.running_mean) for norm in folded.values()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is torch.conv2d and not kwargs and len(args) == 7:
            if norm := self._folded.get(id(args[1])):
                args = (args[0], *_multiplied(args[1], args[2], norm), *args[3:])
            return depthwise_conv2d(*args[:5]) if is_slow(*args) else func(*args)
        if func is batch_norm and id(args[1]) in self._done:
            return args[0]
        return func(*args, **kwargs)


def norms_of(model: nn.Module, batch: Tensor) -> dict[int, Norm]:
    """Batch normalisations that can be multiplied into the convolution before them.

    Args:
        model: in evaluation mode; it computes once.
        batch: what it takes.

    Returns:
        For the ``id`` of a convolution's weight, the normalisation that alone takes what the convolution made.
    """
    norms = {id(one.running_mean): one for one in model.modules() if isinstance(one, Norm) and one.track_running_stats}
    if not norms:
        return {}
    with torch.no_grad(), _Follow() as followed:
        model(batch)
    return {weight: norms[norm] for weight, norm in followed.pairs().items() if norm in norms}


class _Follow(TorchFunctionMode):
    """What takes the outputs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        # Outputs are kept, or another tensor might come to have the same id.
        self._outputs: dict[int, tuple[int, Tensor]] = {}
        self._takers: dict[int, list[int]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        if isinstance(answer, FACTS):
            return answer
        for taken in (*args, *kwargs.values()):
            if isinstance(taken, Tensor) and id(taken) in self._outputs:
                weight = self._outputs[id(taken)][0]
                self._takers[weight].append(id(args[1]) if func is batch_norm and taken is args[0] else 0)
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            self._outputs[id(answer)] = (id(args[1]), answer)
            self._takers.setdefault(id(args[1]), [])
        return answer

    def pairs(self) -> dict[int, int]:
        """Weights whose outputs one normalisation alone takes, and its mean, by their ids; each used once."""
        weights = [weight for weight, _ in self._outputs.values()]
        pairs = {weight: takers[0] for weight, takers in self._takers.items() if len(takers) == 1 and takers[0]}
        return {weight: mean for weight, mean in pairs.items() if weights.count(weight) == 1}


def _multiplied(weight: Tensor, bias: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that is this one and the normalisation after it."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * factor
    return weight * factor.view(-1, 1, 1, 1), shift + norm.bias if norm.affine else shift
