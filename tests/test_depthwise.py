"""Gradients of depthwise convolutions are those of torch, and only the slow ones are computed in another way."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from heeler.learn import depthwise
from heeler.learn.fast_steps import FastSteps

# Channels, side, kernel, stride, padding.
SLOW = [(24, 9, 5, 1, 2), (16, 12, 3, 2, 1), (16, 11, 5, 2, 0), (16, 12, 5, 2, 2), (8, 14, 7, 1, 3), (8, 14, 4, 2, 1)]


def gradients(batch: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of what was given, under bf16 autocast."""
    leaves = [tensor.clone().requires_grad_(True) for tensor in (batch, weight, bias) if tensor is not None]
    with torch.autocast("cpu", torch.bfloat16):
        args = (options["stride"], options["padding"], (1, 1), options["groups"])
        out = conv2d(leaves[0], leaves[1], leaves[2] if bias is not None else None, *args)
    chance = torch.Generator().manual_seed(2)
    out.backward(torch.randn(out.shape, generator=chance).to(out.dtype))
    return out, [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("channels", "side", "kernel", "stride", "padding"), SLOW)
def test_gradients_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    piece_bytes: int,
    with_bias: bool,
    channels: int,
    side: int,
    kernel: int,
    stride: int,
    padding: int,
) -> None:
    monkeypatch.setattr(depthwise, "PIECE_BYTES", piece_bytes)
    chance = torch.Generator().manual_seed(1)
    batch = torch.randn(5, channels, side, side, generator=chance).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, generator=chance) / kernel
    bias = torch.randn(channels, generator=chance) if with_bias else None
    options = {"stride": (stride, stride), "padding": (padding, padding), "groups": channels}
    plain_out, plain = gradients(batch, weight, bias, **options)
    with FastSteps({}):
        out, fast = gradients(batch, weight, bias, **options)
    assert "_Depthwise" in str(out.grad_fn)
    assert out.dtype == plain_out.dtype == torch.bfloat16
    torch.testing.assert_close(out, plain_out, rtol=1e-2, atol=2e-2)
    assert len(fast) == len(plain) == 2 + with_bias
    for one, other in zip(fast, plain, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 5e-3  # bf16 has eight bits


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 5), (1, 2), (1, 2)), ((5, 3), (2, 1), (2, 0)), ((6, 6), (1, 1), (2, 3)), ((7, 4), (1, 1), (0, 1))],
)
def test_sides_are_not_mixed_up(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(1)
    batch = torch.randn(3, 8, 12, 15, generator=chance).to(memory_format=torch.channels_last)
    weight = torch.randn(8, 1, *kernel, generator=chance) / kernel[0]
    plain_out, plain = gradients(batch, weight, None, stride=stride, padding=padding, groups=8)
    with FastSteps({}):
        out, fast = gradients(batch, weight, None, stride=stride, padding=padding, groups=8)
    assert "_Depthwise" in str(out.grad_fn)
    torch.testing.assert_close(out, plain_out, rtol=1e-2, atol=2e-2)
    for one, other in zip(fast, plain, strict=True):
        assert float((one - other).norm() / other.norm()) < 5e-3


def names(out: Tensor) -> set[str]:
    """Every kind of node in a graph."""
    found, waiting, seen = set(), [out.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(type(node).__name__)
            waiting += [before for before, _ in node.next_functions]
    return found


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "test_convnext"])
def test_whole_networks_have_the_same_gradients(name: str) -> None:
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=3).eval()
    batch = torch.randn(4, 3, 64, 64)

    def gradient(fast: bool) -> tuple[set[str], Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if fast:
                with FastSteps({}):
                    out = model(batch)
            else:
                out = model(batch)
        out.float().square().mean().backward()
        return names(out), torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    (plain_nodes, plain), (fast_nodes, fast) = gradient(False), gradient(True)
    assert "_DepthwiseBackward" in fast_nodes - plain_nodes
    assert len(plain) == len(fast)
    assert float((fast - plain).norm() / plain.norm()) < 2e-2


@pytest.mark.parametrize("case", ["fp32", "no gradient", "small", "not depthwise", "dilated", "same"])
def test_everything_else_is_left_to_torch(case: str) -> None:
    batch = torch.randn(2, 8, 12, 12)
    weight = torch.randn(8, 8 if case == "not depthwise" else 1, *((3, 3) if case == "small" else (5, 5)))
    weight.requires_grad_(case != "no gradient")
    padding: Any = "same" if case == "same" else (2, 2)
    args = ((1, 1), padding, (2, 2) if case == "dilated" else (1, 1), 1 if case == "not depthwise" else 8)
    with FastSteps({}), torch.autocast("cpu", torch.bfloat16, enabled=case != "fp32"):
        out = conv2d(batch, weight, None, *args)
    assert "_Depthwise" not in str(out.grad_fn)
    torch.testing.assert_close(out.float(), conv2d(batch, weight, None, *args), rtol=5e-2, atol=0.3)
