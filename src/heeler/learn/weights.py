"""The weights of a run: the network's, their running average's, and the optimiser's moments."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.99)

State = dict[str, Tensor]


class Weights:
    """What training changes.

    Args:
        accelerator: accelerate's: it scales losses for optimisers where fp16 needs that.
        model: the network, on its device; trained in place.
        ema_decay: of the running average of the weights, in [0, 1); 0 keeps none.
    """

    def __init__(self, accelerator: Any, model: Any, ema_decay: float) -> None:
        self.model = model
        self.ema = copy.deepcopy(model).eval() if ema_decay else None
        self._pairs = (_floats(self.ema), _floats(model)) if self.ema is not None else None
        self._accelerator, self._ema_decay = accelerator, ema_decay
        self._optimizer: Any = None
        self._peaks: list[float] = []

    def begin(self, groups: list[list[nn.Parameter]], peaks: list[float]) -> None:
        """Set up an optimiser with fresh moments for groups from stem to head, each with its peak rate."""
        settings: list[dict[str, Any]] = []
        for group, peak in zip(groups, peaks, strict=True):
            # Biases and the gains of normalisation are not pulled to zero.
            matrices = [parameter for parameter in group if parameter.ndim > 1]
            vectors = [parameter for parameter in group if parameter.ndim <= 1]
            settings += [
                {"params": matrices, "lr": peak, "weight_decay": WEIGHT_DECAY},
                {"params": vectors, "lr": peak, "weight_decay": 0.0},
            ]
        self._peaks = [setting["lr"] for setting in settings]
        # Fused, an update needs no memory of its own, and with moments made here nor does the first one.
        adam = torch.optim.AdamW(settings, betas=BETAS, fused=True)
        self._optimizer = self._accelerator.prepare(adam)
        for parameter in (one for group in groups for one in group):
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            adam.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    def update(self, share: float, n_before: int) -> None:
        """Move the weights along the gradient in them.

        Args:
            share: of the peak rates, in [0, 1].
            n_before: updates of the run before this one.
        """
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self._optimizer.step()
        if self._pairs is not None:
            # The average is not to remember the start for longer than it has seen the run.
            decay = min(self._ema_decay, (1 + n_before) / (10 + n_before))
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def reach(self) -> float:
        """What an update at the peak rates would change a batch's loss by if that were linear, in nats.

        AdamW moves each weight by about its rate, whatever the size of its gradient, so it is the sum of the
        gradients' absolute values, each times its rate.
        """
        total = 0.0
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            total += peak * sum(float(gradient.abs().sum()) for gradient in gradients)
        return total

    def are_finite(self) -> bool:
        """Whether every weight and every statistic of the network is a number."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in _floats(self.model)]).all())

    def snapshot(self) -> State:
        """A copy of everything that ``restore`` needs."""
        return {name: plain(tensor) for name, tensor in self._named().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put a snapshot back; the optimiser must be one for the same groups."""
        for name, tensor in self._named().items():
            tensor.copy_(state[name])

    def _named(self) -> State:
        """The tensors themselves, by names that do not collide."""
        named = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.ema is not None:
            named |= {f"ema/{name}": tensor for name, tensor in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment, tensor in self._optimizer.state.get(parameter, {}).items():
                named[f"{moment}/{name}"] = tensor
        return named


def plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU, its elements in the order of its dimensions."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def plain_state(model: nn.Module) -> State:
    """A copy of a network's weights and statistics on the CPU."""
    return {name: plain(tensor) for name, tensor in model.state_dict().items()}


def average(start: State, end: State, alpha: float) -> State:
    """``alpha`` of ``end`` and the rest of ``start``; whole numbers are those of ``end``."""
    return {
        name: torch.lerp(start[name], tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def _floats(model: nn.Module) -> list[Tensor]:
    """A network's weights and statistics themselves, without what is counted in whole numbers."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
