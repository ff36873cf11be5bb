"""What an exported file says beside what the model says, on the same photos: how near, and how often the same class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heeler.data.decode import fit_square, open_image, to_rgb
from heeler.errors import UnreadableError
from heeler.files import read_regular
from heeler.learn.engines import torch_engine
from heeler.learn.network import LogitNet
from heeler.records import ByteArray, FloatArray, IntArray, OnEvent, Preprocessing, Progress, ignore_events
from heeler.ship.bundle import Bundle

# Photos of odd shapes, height and width in pixels, that each export is tried on besides: one pixel, threads, strips on
# either side of where a crop's resize changes its way, smaller and larger than the network's input.
ODD_SHAPES = ((1, 1), (1, 40), (40, 1), (7, 300), (300, 7), (100, 400), (100, 401), (401, 100), (33, 47), (900, 1201))
UNKNOWN = -1


@dataclass(frozen=True)
class Labelled:
    """A photo's file and the number of its class, ``UNKNOWN`` where nobody has said it."""

    file: Path
    label: int = UNKNOWN


@dataclass(frozen=True)
class Beside:
    """Two sets of probabilities of the same photos.

    Args:
        truth: (N, K) float32 of the model in torch, fp32.
        exported: (N, K) float32 of the exported file.
        labels: (N,) class numbers, ``UNKNOWN`` where not known.
    """

    truth: FloatArray
    exported: FloatArray
    labels: IntArray

    @property
    def max_dp(self) -> float:
        """Largest difference of a probability, in [0, 1]."""
        return float(np.abs(self.truth - self.exported).max()) if self.truth.size else 0.0

    @property
    def agreement(self) -> float:
        """Share of the photos that get the same class, in [0, 1]."""
        return float(np.mean(self.truth.argmax(1) == self.exported.argmax(1))) if len(self.truth) else 1.0


def read_rgb(file: Path, spec: Preprocessing) -> ByteArray:
    """A whole photo (H, W, 3) uint8, upright, decoded at its full size.

    Raises:
        UnreadableError: it is not a whole photo.
    """
    return to_rgb(open_image(read_regular(file)).image, spec.alpha)


def odd_photos() -> list[ByteArray]:
    """Made photos of ``ODD_SHAPES``: noise over a slope, the same each time."""
    draw = np.random.default_rng(0)
    photos = []
    for height, width in ODD_SHAPES:
        slope = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
        photos.append((slope + draw.integers(0, 56, slope.shape)).astype(np.uint8))
    return photos


def beside(
    bundle: Bundle,
    probabilities: Callable[[Sequence[ByteArray]], FloatArray],
    photos: Sequence[Labelled],
    made: Sequence[ByteArray] = (),
    on_event: OnEvent = ignore_events,
) -> Beside:
    """Ask the model in torch and an exported file about the same decoded photos.

    Args:
        bundle: the model.
        probabilities: of the exported file, for photos (H, W, 3) uint8.
        photos: files; one that cannot be read any more is passed over.
        made: photos without a file, which come first.
        on_event: told of progress, one unit a photo.
    """
    engine = torch_engine(LogitNet(bundle.model, bundle.spec), "cpu", "fp32")
    truth, exported, labels = [], [], []
    sources: list[ByteArray | Labelled] = [*made, *photos]
    for number, each in enumerate(sources, 1):  # one at a time: whole photos may have a hundred megapixels
        if (pair := _opened(each, bundle.spec)) is not None:
            rgb, label = pair
            logits = engine.forward(fit_square(rgb, bundle.spec)[None])
            truth.append(softmax(logits / bundle.temperature))
            exported.append(probabilities([rgb]))
            labels.append(label)
        on_event(Progress(number))
    empty = np.zeros((0, len(bundle.classes)), np.float32)
    return Beside(np.concatenate([empty, *truth]), np.concatenate([empty, *exported]), np.array(labels, np.int64))


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities (N, K) float32 of logits (N, K)."""
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: FloatArray = (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def squares_of_files(photos: Sequence[Labelled], spec: Preprocessing) -> ByteArray:
    """Squares (N, S, S, 3) uint8 of those photos that can be read."""
    squares = [fit_square(pair[0], spec) for each in photos if (pair := _opened(each, spec)) is not None]
    return np.stack(squares) if squares else np.zeros((0, spec.image_px, spec.image_px, 3), np.uint8)


def _opened(source: ByteArray | Labelled, spec: Preprocessing) -> tuple[ByteArray, int] | None:
    if isinstance(source, np.ndarray):
        return source, UNKNOWN
    try:
        return read_rgb(source.file, spec), source.label
    except UnreadableError:
        return None
