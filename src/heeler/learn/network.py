"""A whole network, head included, as engines take it: pixels in, logits out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heeler.data.rows import Rows
from heeler.learn.backbone import FeatureNet, weights_key
from heeler.learn.engines import BATCH, Engine, pick_engine, torch_engine
from heeler.records import ByteArray, FloatArray, IntArray, OnEvent, Preprocessing, Progress, short_hash


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


def logit_engine(model: Any, spec: Preprocessing, sample: ByteArray, *, few: bool = False) -> Engine:
    """An engine for a network's logits whose answers are the same on every path.

    Args:
        model: timm network with its head, in evaluation mode.
        spec: the preprocessing before it.
        sample: (B, S, S, 3) uint8 photos to time on.
        few: a handful of photos will be asked for: exporting and timing would cost more than they save.
    """
    net = LogitNet(model, spec).eval()
    if few and not torch.cuda.is_available():
        return torch_engine(net, "cpu", "fp32")
    key = short_hash(
        [weights_key(model.pretrained_cfg["architecture"], model.state_dict()), spec.pixel_key(), spec.mean, spec.std]
    )
    return pick_engine(net, key, sample[np.arange(BATCH) % len(sample)], exact=True)


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
