"""Photos that show too little: blank, dark, blurred, tiny or of an odd shape. Pixels and sizes in, rows out.

A photo is named where a person would see the fault at once, and only where the other photos of the set do not have it
too: solar cells are dark, fabrics are nearly constant, and panoramas are wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heeler.judge.suspects import MAD_TO_STD
from heeler.records import ByteArray, FloatArray, IntArray

__all__ = ["FAULTS", "Fault", "Looks", "find_faults", "measure_looks"]

FaultKind = Literal["blank", "dark", "tiny", "odd shape", "blurred"]
# The worst first: what is blank is not called blurred as well.
FAULTS: tuple[FaultKind, ...] = ("blank", "dark", "tiny", "odd shape", "blurred")

# Rows and columns of pixels that blur is measured on: every fourth says the same as all.
STRIDE = 4
# How far apart two pixels are that would differ by as many single steps if there were no detail.
FAR_PX = 4
# Two values rounded to whole levels differ by errors of this variance: two times a twelfth.
ROUNDING = 1 / 6
# Grey levels between the darkest and the lightest of a miniature's pixels, its extreme hundredths left aside.
BLANK_LEVELS = 8.0
# With fewer, the steps of a faint photo are lost in rounding, and its blur is not known.
FAINT_LEVELS = 40.0
# Light, of 255, that nineteen twentieths of a dark photo's pixels do not reach.
DARK_LEVEL = 40.0
# Shorter side in pixels.
TINY_PX = 64
# Long side through short side.
ODD_ASPECT = 3.0
# How much more than the set's own a shape must differ, as a factor.
ODD_FACTOR = 2.0
# Blur in [0, 1] that good photos do not reach (of 3,666 of clothes and leaves the sharp ones end at 0.74; averaged
# over 2 pixels around each, most are above 0.8); blur that is one whatever is usual; and robust standard deviations
# above the set's median.
BLURRED, SURELY_BLURRED = 0.78, 0.93
BLURRED_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Looks:
    """What the pixels of N photos measure.

    Args:
        light: (N,) float32, light in [0, 255] that 95 % of a photo's pixels do not exceed.
        contrast: (N,) float32, grey levels in [0, 255] between its 1st and its 99th hundredth.
        blur: (N,) float32 in [0, 1]; 1 has no detail left.
    """

    light: FloatArray
    contrast: FloatArray
    blur: FloatArray


@dataclass(frozen=True)
class Fault:
    """One photo and what is wrong with it: its row, the kind, and the figure in words."""

    row: int
    kind: FaultKind
    words: str


def measure_looks(squares: Iterable[ByteArray], thumbs: ByteArray) -> Looks:
    """Measure light, contrast and blur.

    Args:
        squares: blocks (B, S, S, 3) uint8 of N photos in all; one block at a time is in memory.
        thumbs: (N, 32, 32) uint8 grey miniatures of the same.
    """
    flat = np.sort(thumbs.reshape(len(thumbs), thumbs.shape[1] * thumbs.shape[2]), axis=1)
    last = flat.shape[1] - 1
    low, light, high = (flat[:, round(share * last)].astype(np.float32) for share in (0.01, 0.95, 0.99))
    blurs = [blur_of(block) for block in squares]
    return Looks(light, high - low, np.concatenate(blurs) if blurs else np.empty(0, np.float32))


def blur_of(squares: ByteArray) -> FloatArray:
    """How much each photo looks like one that has no detail finer than a few pixels.

    It is the mean squared difference of pixels ``FAR_PX`` apart, over what it would be if the light changed evenly
    between them: the second-order structure function, which grows with the square of the distance where a photo is
    smooth, and slower where there are edges and grain. It does not depend on light or contrast.

    Args:
        squares: (B, S, S, 3) uint8, S above ``FAR_PX``; their green is looked at.

    Returns:
        (B,) float32 in [0, 1]; 1 is all smooth, and 0 one that does not vary at all, which is blank and not blurred.
    """
    green = squares[..., 1]
    rows = green[:, ::STRIDE, :].astype(np.float32)
    columns = green[:, :, ::STRIDE].transpose(0, 2, 1).astype(np.float32)
    near = _squared_steps(rows, 1) + _squared_steps(columns, 1)
    far = _squared_steps(rows, FAR_PX) + _squared_steps(columns, FAR_PX)
    blur: FloatArray = np.where(far > 0, np.minimum(1, far / (FAR_PX**2 * near + 1e-6)), 0).astype(np.float32)
    return blur


def _squared_steps(lines: FloatArray, apart_px: int) -> FloatArray:
    """(B,) mean squared difference of pixels along lines (B, L, P), less what rounding to whole levels adds to it."""
    steps = lines[:, :, apart_px:] - lines[:, :, :-apart_px]
    squared: FloatArray = np.maximum(np.einsum("blp,blp->b", steps, steps) / steps[0].size - ROUNDING, 0)
    return squared


def find_faults(looks: Looks, sizes_px: IntArray) -> list[Fault]:
    """Photos that show too little, by kind as in ``FAULTS`` and the worst of each kind first; each photo once.

    Args:
        looks: of N photos.
        sizes_px: (N, 2) int64, width and height of each in pixels.
    """
    width, height = (sizes_px[:, axis].astype(np.float64) for axis in (0, 1))
    found = (
        _blank(looks.contrast),
        _dark(looks.light),
        _tiny(width, height),
        _odd(width, height),
        _blurred(looks.blur, looks.contrast),
    )
    seen: set[int] = set()
    faults = []
    for kind, (rows, words) in zip(FAULTS, found, strict=True):
        faults += [Fault(row, kind, text) for row, text in zip(rows, words, strict=True) if row not in seen]
        seen.update(rows)
    return faults


def _worst(rows: NDArray[np.bool_], badness: NDArray[np.float64] | FloatArray) -> list[int]:
    found = np.flatnonzero(rows)
    ordered: list[int] = found[np.argsort(-badness[found], kind="stable")].tolist()
    return ordered


def _blank(contrast: FloatArray) -> tuple[list[int], list[str]]:
    if not len(contrast):
        return [], []
    # Where the whole set is of little contrast, only a fifth of what is usual is blank.
    rows = _worst(contrast < min(BLANK_LEVELS, float(np.median(contrast)) / 5), -contrast)
    return rows, ["nearly one colour" for _ in rows]


def _dark(light: FloatArray) -> tuple[list[int], list[str]]:
    if not len(light):
        return [], []
    rows = _worst(light < min(DARK_LEVEL, float(np.median(light)) / 3), -light)
    return rows, [f"95 % of it is darker than {light[row] / 255:.0%} of white".replace("%", " %") for row in rows]


def _tiny(width: NDArray[np.float64], height: NDArray[np.float64]) -> tuple[list[int], list[str]]:
    short = np.minimum(width, height)
    if not len(short):
        return [], []
    rows = _worst(short < min(TINY_PX, float(np.median(short)) / 2), -short)
    return rows, [f"{width[row]:.0f} x {height[row]:.0f} pixels" for row in rows]


def _odd(width: NDArray[np.float64], height: NDArray[np.float64]) -> tuple[list[int], list[str]]:
    if not len(width):
        return [], []
    shape = np.log(np.maximum(width, 1) / np.maximum(height, 1))
    differs = np.abs(shape - np.median(shape)) > math.log(ODD_FACTOR)
    rows = _worst(differs & (np.abs(shape) > math.log(ODD_ASPECT)), np.abs(shape))
    return rows, [f"{width[row]:.0f} x {height[row]:.0f} pixels" for row in rows]


def _blurred(blur: FloatArray, contrast: FloatArray) -> tuple[list[int], list[str]]:
    if not len(blur):
        return [], []
    median = float(np.median(blur))
    spread = MAD_TO_STD * float(np.median(np.abs(blur - median)))
    usual = median + BLURRED_DEVIATIONS * spread
    limit = max(BLURRED, min(usual, SURELY_BLURRED) if median < BLURRED else usual)
    rows = _worst((blur > limit) & (contrast > FAINT_LEVELS), blur)
    return rows, ["hardly any detail" for _ in rows]
