"""The ranges that options may have, on the command line and in Python alike, and what the server takes of a client;
imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ServeLimits:
    """What ``heeler serve`` takes of a client; beyond each there is an error with a code, and nothing else happens.

    ``rows`` is the one table of them, which the docs print. Seconds and counts may be smaller in tests.
    """

    header_bytes: int = 16_384
    body_bytes: int = 20_000_000
    # Of all requests together, read and not yet answered.
    held_bytes: int = 200_000_000
    pixels: int = 25_000_000
    batch_photos: int = 32
    top: int = 1000
    read_s: float = 10
    work_s: float = 10
    queue: int = 32
    connections: int = 512
    # What one decoder may add to the memory it has when it begins. The hungriest of 25 megapixels, a TIFF of 32-bit
    # integers, takes 0.5 GB.
    decoder_bytes: int = 800_000_000

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """What is limited, how far, and the status and code of the answer beyond it."""
        return (
            ("head of a request", f"{self.header_bytes / 1024:.0f} kB", "431 `too-large`"),
            ("body of a request", f"{self.body_bytes / 1e6:.0f} MB", "413 `too-large`"),
            ("one photo", f"{self.pixels / 1e6:.0f} megapixels, by its header", "422 `unreadable`"),
            ("photos of one batch", f"{self.batch_photos}", "400 `bad-request`"),
            ("`top`", f"1 to {self.top:,}", "400 `bad-request`"),
            ("time for sending a request", f"{self.read_s:g} s for its head, {self.read_s:g} s for its body",
             "408 `timeout`"),
            ("time for the work", f"{self.work_s:g} s", "503 `timeout`"),
            ("requests that wait or are worked on", f"{self.queue}", "503 `busy`, with Retry-After"),
            ("bodies in memory, all together", f"{self.held_bytes / 1e6:.0f} MB", "503 `busy`, with Retry-After"),
            ("connections", f"{self.connections}", "503 `busy`, with Retry-After"),
            ("memory of one decoder", f"{self.decoder_bytes / 1e6:.0f} MB more than it began with", "422 `unreadable`"),
        )  # fmt: skip
