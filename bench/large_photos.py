"""Photos of other sizes made from small ones, for timing alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_PX = (4000, 3000)
MIDDLE_PX, MIDDLE_QUALITY = (512, 384), 90
# 2.6 MB a file: one core reads 7.7 of them a second with plain Pillow and 40 by scaled decoding. That time is Huffman
# decoding, so it grows with a file's bytes: 20 ms for 2.0 MB, 25 for 2.6, 27 for 2.9.
QUALITY = 89
# Variance of a pixel's noise at brightness v (0 to 255): a constant part and one that grows with the light.
READ_VARIANCE, SHOT_VARIANCE_PER_LEVEL = 2.0, 0.2
# Cameras smooth colour far more than brightness.
COLOUR_NOISE = 0.3


def make_large_photos(sources: Sequence[Path], folder: Path, n_photos: int, n_threads: int) -> float:
    """Write 4000 x 3000 JPEGs with a sensor's noise, in two class folders.

    Args:
        sources: photos to enlarge, taken in turn.
        folder: where they are written.
        n_photos: how many.
        n_threads: how many are made at a time.

    Returns:
        Mean size of a file in megabytes.
    """
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)

    def make(i: int) -> int:
        target = folder / "ab"[i % 2] / f"{i:04d}.jpg"
        _enlarge(sources[i % len(sources)], target, np.random.default_rng(i))
        return target.stat().st_size

    with ThreadPoolExecutor(n_threads) as pool:
        sizes = list(pool.map(make, range(n_photos)))
    return sum(sizes) / len(sizes) / 1e6


def make_middle_photos(classes: Sequence[Path], folder: Path, n_photos: int, n_threads: int) -> None:
    """Write 512 x 384 JPEGs, as many of each class.

    Args:
        classes: folders of photos to enlarge; each becomes a class of the same name.
        folder: where the classes are written.
        n_photos: how many in all.
        n_threads: how many are made at a time.
    """
    wanted = []
    for i, source in enumerate(classes):
        (folder / source.name).mkdir(parents=True)
        share = n_photos // len(classes) + (i < n_photos % len(classes))
        wanted += [(photo, folder / source.name / photo.name) for photo in sorted(source.iterdir())[:share]]

    def make(pair: tuple[Path, Path]) -> None:
        with Image.open(pair[0]) as image:
            image.convert("RGB").resize(MIDDLE_PX, Image.Resampling.BICUBIC).save(pair[1], quality=MIDDLE_QUALITY)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(make, wanted))


def _enlarge(source: Path, target: Path, rng: np.random.Generator) -> None:
    width, height = SIZE_PX
    with Image.open(source) as image:
        rgb = np.asarray(image.convert("RGB").resize(SIZE_PX, Image.Resampling.BICUBIC), dtype=np.float32)
    spread = np.sqrt(READ_VARIANCE + SHOT_VARIANCE_PER_LEVEL * rgb.mean(axis=2, keepdims=True))
    noise = rng.standard_normal((height, width, 1), dtype=np.float32)
    noise = noise + COLOUR_NOISE * rng.standard_normal((height, width, 3), dtype=np.float32)
    noisy = np.clip(rgb + spread * noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(target, quality=QUALITY)
