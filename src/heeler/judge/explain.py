"""Where a network looked: class activation maps, laid over the photo in colours of even lightness steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heeler.records import ByteArray, FloatArray, IntArray

__all__ = ["class_activation", "colour_scale", "overlay"]

# From dark blue through red to pale yellow, as (lightness, chroma, hue in degrees) of OKLCh: lightness rises evenly.
SCALE_FROM, SCALE_TO = (0.28, 0.13, -85.0), (0.95, 0.13, 105.0)
# Chroma in the middle is larger by this, or the scale would pass through grey.
SCALE_BOW = 0.06
# Share of the colour in the overlay where the class has nothing and where it has most.
FAINT, STRONG = 0.25, 0.65
LUMA = (0.299, 0.587, 0.114)
# B. Ottosson, A perceptual color space for image processing (2020).
OKLAB_TO_LMS = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.291485548),
)
LMS_TO_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.707614701),
)  # fmt: skip


def class_activation(maps: FloatArray, weight: FloatArray, classes: IntArray) -> FloatArray:
    """How much each place of a photo speaks for a class.

    Source: B. Zhou et al., Learning deep features for discriminative localization, CVPR 2016. The mean of a map is the
    class's logit less its bias, where the network averages its last feature map before the head.

    Args:
        maps: (N, D, h, w), the last feature map of each photo.
        weight: (K, D) of the linear head.
        classes: (N,) which class to ask about, for each photo.

    Returns:
        (N, h, w) float32, in units of the logit.
    """
    return np.asarray(np.einsum("ndhw,nd->nhw", maps, weight[classes], optimize=True), dtype=np.float32)


def overlay(square: ByteArray, activation: FloatArray) -> ByteArray:
    """A photo in grey under the colours of an activation map: dark blue where nothing speaks for the class.

    Args:
        square: (S, S, 3) uint8 RGB.
        activation: (h, w) as ``class_activation`` gives it; what is below 0 counts as 0, the largest value as 1.

    Returns:
        (S, S, 3) uint8.
    """
    height, width = square.shape[:2]
    small = np.maximum(activation, 0) / max(float(activation.max()), 1e-9)
    smooth = Image.fromarray(small.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth), 0, 1)
    colours = colour_scale(256)[np.round(255 * share).astype(np.int64)].astype(np.float32)
    grey = (square.astype(np.float32) @ np.array(LUMA, np.float32))[:, :, None]
    strength = (FAINT + (STRONG - FAINT) * share)[:, :, None]
    return np.asarray(np.round((1 - strength) * grey + strength * colours), dtype=np.uint8)


def colour_scale(n: int) -> ByteArray:
    """(n, 3) uint8 sRGB colours whose lightness to the eye rises in equal steps, so that none makes an edge."""
    place = np.linspace(0, 1, n)
    lightness, chroma, hue = (first + (last - first) * place for first, last in zip(SCALE_FROM, SCALE_TO, strict=True))
    chroma = chroma + SCALE_BOW * 4 * place * (1 - place)
    angle = np.deg2rad(hue)
    linear = _linear_rgb(np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=1))
    # Too much chroma for a screen is taken back until it fits, since cutting channels off would change the lightness.
    for _ in range(40):
        outside = ((linear < 0) | (linear > 1)).any(axis=1)
        chroma = np.where(outside, 0.95 * chroma, chroma)
        linear = _linear_rgb(np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=1))
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * curved).astype(np.uint8)


def _linear_rgb(oklab: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((oklab @ np.array(OKLAB_TO_LMS).T) ** 3 @ np.array(LMS_TO_RGB).T)
