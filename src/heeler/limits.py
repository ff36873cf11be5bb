"""The ranges that options may have, on the command line and in Python alike; imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Lowest and highest value, both allowed.
LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "test": (0, 0.9),
        "valid": (0.01, 0.9),
        "seed": (0, 2**32 - 1),
        "minutes": (0.1, 10_080),
        "image_px": (32, 1024),
        "epochs": (0, 10_000),
        "frozen_epochs": (0, 10_000),
        "batch_size": (1, 65_536),
        "lr": (1e-8, 10),
        "unsure_below": (0, 1),
    }
)
