"""Training steps with less work than torch makes of them on a CPU, and with the same gradients but for rounding.

Batch normalisation that keeps its statistics is a factor and a shift for each channel. Behind a convolution they are
multiplied into its weights at each step: that saves a pass over all activations, and two in the backward pass, and the
parameters that learn are the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from heeler.errors import HeelerError
from heeler.learn.depthwise import depthwise_conv2d, is_slow

Norm = nn.modules.batchnorm._BatchNorm
# What a tensor is asked for that says nothing of what is in it.
FACTS = (int, torch.Size, torch.dtype, torch.device)


class FastSteps(TorchFunctionMode):
    """Within this context, normalisation is multiplied into convolutions, and slow gradients go another way.

    Args:
        folded: for the ``id`` of a convolution's weight, the normalisation that follows it, from ``norms_of``. All of
            them keep their statistics while the context lasts.
    """

    def __init__(self, folded: Mapping[int, Norm]) -> None:
        super().__init__()
        self._folded = folded
        # What a folded convolution made, kept until its normalisation comes; nothing else is left out.
        self._made: dict[int, tuple[Tensor, Norm]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is torch.conv2d and not kwargs and len(args) == 7:
            norm = self._folded.get(id(args[1]))
            if norm:
                args = (args[0], *_multiplied(args[1], args[2], norm), *args[3:])
            answer = depthwise_conv2d(*args[:5]) if is_slow(*args) else func(*args)
            if norm:
                self._made[id(answer)] = answer, norm
            return answer
        if func is batch_norm and id(args[0]) in self._made:
            answer, norm = self._made.pop(id(args[0]))
            if norm.running_mean is not args[1]:
                raise HeelerError("a network took another way in training than before")
            return answer
        return func(*args, **kwargs)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        """Each folded convolution has met its normalisation by now.

        Raises:
            HeelerError: one has not: the network took another way than where it was followed.
        """
        super().__exit__(kind, *rest)  # type: ignore[no-untyped-call]
        if self._made and kind is None:
            raise HeelerError("a network took another way in training than before")


def norms_of(model: nn.Module, batch: Tensor) -> dict[int, Norm]:
    """Batch normalisations that can be multiplied into the convolution before them.

    Args:
        model: in evaluation mode; it computes once, without gradients.
        batch: (B, 3, H, W) float32 on its device.

    Returns:
        For the ``id`` of a convolution's weight, the normalisation that alone takes what the convolution made. The ids
        hold as long as the model has these parameters.
    """
    norms = {id(one.running_mean): one for one in model.modules() if isinstance(one, Norm) and one.track_running_stats}
    if not norms:
        return {}
    with torch.no_grad(), _Follow() as followed:
        answer = model(batch)
    followed.end(answer)
    lasting = {id(parameter) for parameter in model.parameters()}
    return {weight: norms[norm] for weight, norm in followed.pairs().items() if weight in lasting and norm in norms}


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
        for taken in tree_leaves((args, kwargs)):
            if isinstance(taken, Tensor) and id(taken) in self._outputs:
                weight = self._outputs[id(taken)][0]
                self._takers[weight].append(id(args[1]) if func is batch_norm and taken is args[0] else 0)
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            self._outputs[id(answer)] = (id(args[1]), answer)
            self._takers.setdefault(id(args[1]), [])
        return answer

    def end(self, answer: Any) -> None:
        """The network's own answer is taken too."""
        for taken in tree_leaves(answer):
            if id(taken) in self._outputs:
                self._takers[self._outputs[id(taken)][0]].append(0)

    def pairs(self) -> dict[int, int]:
        """Weights whose outputs one normalisation alone takes, and its mean, by their ids; each used once."""
        weights = Counter(weight for weight, _ in self._outputs.values())
        pairs = {weight: takers[0] for weight, takers in self._takers.items() if len(takers) == 1 and takers[0]}
        return {weight: mean for weight, mean in pairs.items() if weights[weight] == 1}


def _multiplied(weight: Tensor, bias: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that is this one and the normalisation after it."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * factor
    return weight * factor.view(-1, 1, 1, 1), shift + norm.bias if norm.affine else shift
