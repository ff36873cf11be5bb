"""A whole network, head included, as engines take it: pixels in, logits out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heeler.data.rows import Rows
from heeler.learn.backbone import FeatureNet, Normalise, head_of, weights_key
from heeler.learn.engines import BATCH, Engine, pick_engine, torch_engine
from heeler.records import ByteArray, FloatArray, IntArray, OnEvent, Preprocessing, Progress, short_hash

# Photos whose last feature maps are computed at once, and how far the mean of a map may be off its logit.
MAPS_BATCH = 8
MAPS_TOLERANCE = 1e-3


class LogitNet(nn.Module):
    """Pixels to logits: (B, S, S, 3) uint8 -> (B, K) float32, normalisation included."""

    def __init__(self, model: Any, spec: Preprocessing) -> None:
        super().__init__()
        self.features = FeatureNet(model, spec)
        self.head: nn.Module = model.get_classifier()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of pixels (B, S, S, 3) uint8."""
        logits: Tensor = self.head(self.features(pixels))
        return logits


class ProbabilityNet(nn.Module):
    """Pixels to calibrated probabilities: (B, S, S, 3) uint8 -> (B, K) float32, normalisation included.

    Args:
        model: timm network with its head.
        spec: the preprocessing before it.
        temperature: that the logits are divided by, > 0.
    """

    def __init__(self, model: Any, spec: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = LogitNet(model, spec), float(temperature)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (B, K) of pixels (B, S, S, 3) uint8."""
        return torch.softmax(self.net(pixels) / self.temperature, dim=1)


def logit_engine(model: Any, spec: Preprocessing, sample: ByteArray, *, few: bool = False, name: str = "") -> Engine:
    """An engine for a network's logits whose answers are the same on every path.

    Args:
        model: timm network with its head, in evaluation mode.
        spec: the preprocessing before it.
        sample: (B, S, S, 3) uint8 photos to time on.
        few: a handful of photos will be asked for: exporting and timing, or starting a GPU, would cost more than it
            saves.
        name: the one engine that may compute, whatever its speed; any where empty.
    """
    net = LogitNet(model, spec).eval()
    if (few and not name) or (name == "torch" and not torch.cuda.is_available()):
        return torch_engine(net, "cpu", "fp32")
    key = short_hash(
        [weights_key(model.pretrained_cfg["architecture"], model.state_dict()), spec.pixel_key(), spec.mean, spec.std]
    )
    return pick_engine(net, key, sample[np.arange(BATCH) % len(sample)], exact=True, name=name)


def network_logits(model: Any, spec: Preprocessing, rows: Rows, wanted: IntArray, on_event: OnEvent) -> FloatArray:
    """Logits of some photos.

    Args:
        model: timm network with its head, in evaluation mode.
        spec: the preprocessing that made the rows.
        rows: squares (S, S, 3) uint8 of all photos.
        wanted: (n,) which of them.
        on_event: told of progress, one unit a photo.

    Returns:
        (n, K) float32.
    """
    engine = logit_engine(model, spec, rows.take(wanted[:BATCH]))
    batches = [wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)]
    outputs: list[FloatArray] = []
    for logits in engine.run((rows.take(batch) for batch in batches), on_event):
        outputs.append(logits)
        on_event(Progress(min(len(wanted), len(outputs) * BATCH)))
    return np.concatenate(outputs)


@torch.inference_mode()
def last_maps(model: Any, spec: Preprocessing, squares: ByteArray) -> FloatArray | None:
    """The last feature map of some photos, where the head is a mean over its places and one linear layer.

    Args:
        model: timm network with its head, in evaluation mode.
        spec: the preprocessing before it.
        squares: (N, S, S, 3) uint8.

    Returns:
        (N, D, h, w) float32; None where the network does otherwise between the map and its head, so that no place
        has a share of the logit to its name: attention, more layers, another pooling.
    """
    normalise, head = Normalise(spec), head_of(model)
    device = next(model.parameters()).device
    found: list[FloatArray] = []
    for start in range(0, len(squares), MAPS_BATCH):
        batch = normalise(torch.from_numpy(squares[start : start + MAPS_BATCH])).to(device)
        features: Tensor = model.forward_features(batch)
        if features.ndim != 4:
            return None
        maps = features
        if maps.shape[1] != head.weight.shape[1]:
            maps = maps.permute(0, 3, 1, 2)  # channels last, as some transformers have them
        if maps.shape[1] != head.weight.shape[1]:
            return None
        arrays = maps.float().cpu().numpy()
        if start == 0:
            logits = model.forward_head(features).float().cpu().numpy()
            off = np.abs(head.logits(arrays.mean((2, 3))) - logits).max()
            if off > MAPS_TOLERANCE * max(1.0, float(np.abs(logits).max())):
                return None
        found.append(arrays)
    return np.concatenate(found) if found else None
