"""A photo of any shape -> the square that the network takes: resize, turn upright, then crop, squash or pad."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from heeler.records import ByteArray, Preprocessing

MAX_ASPECT = 4  # beyond it, a crop's resize would mostly make pixels that the crop throws away
_MAX_WIDENED = 1 << 26  # pixels between the two passes of a resize


def fit_square(rgb: ByteArray, spec: Preprocessing) -> ByteArray:
    """Resize a photo and crop, squash or pad it to a square.

    The resize is torch's antialiased one on uint8, which equals Pillow's to within one level. Sizes and offsets are
    rounded as timm's evaluation transform rounds them. Padding has the colour that normalises to about zero.

    Args:
        rgb: (H, W, 3) uint8, of any size from 1 x 1.
        spec: side, fit, crop share, interpolation and mean.

    Returns:
        (S, S, 3) uint8, C-contiguous, S being ``spec.image_px``.
    """
    return fit_stored(rgb, spec, 1, (rgb.shape[0], rgb.shape[1]))


def fit_stored(rgb: ByteArray, spec: Preprocessing, orientation: int, extent_px: tuple[float, float]) -> ByteArray:
    """``fit_square`` of a photo as its file stores it: perhaps lying on its side, perhaps decoded at reduced scale.

    Turning the small picture is cheaper than turning the large one, and gives the same to the last level.

    Args:
        rgb: (H, W, 3) uint8.
        spec: side, fit, crop share, interpolation and mean.
        orientation: EXIF orientation, 1 to 8.
        extent_px: height and width of the photo in pixels of ``rgb``. A photo 1,411 px wide decoded at 1/8 fills
            176.375 of its 177 columns; taken for 177, its far edge would shift by more than half a pixel.

    Returns:
        (S, S, 3) uint8, upright, C-contiguous.
    """
    side = spec.image_px
    short, long = min(extent_px), max(extent_px)
    if spec.fit == "crop" and long > MAX_ASPECT * short:
        return _crop_strip(upright(rgb, orientation), spec)
    height, width = extent_px
    if spec.fit == "crop":
        size = int(spec.resize_px * height // short), int(spec.resize_px * width // short)
    elif spec.fit == "squash":
        size = side, side
    else:
        size = max(1, round(height * side / long)), max(1, round(width * side / long))
    small = upright(_resize(rgb, size, extent_px, spec.interpolation, orientation > 4), orientation)
    new_height, new_width = small.shape[:2]
    if spec.fit == "squash":
        return small
    if spec.fit == "crop":
        top, left = round((new_height - side) / 2), round((new_width - side) / 2)
        return np.ascontiguousarray(small[top : top + side, left : left + side])
    fill = np.array([round(255 * mean) for mean in spec.mean], np.uint8)
    square = np.tile(fill, (side, side)).reshape(side, side, 3)
    top, left = (side - new_height) // 2, (side - new_width) // 2
    square[top : top + new_height, left : left + new_width] = small
    return square


def without_padding(square: ByteArray, size_px: tuple[int, int]) -> ByteArray:
    """The photo alone, (H, W, 3), in a square that ``pad`` made of it.

    Args:
        square: (S, S, 3) uint8.
        size_px: width and height of the whole photo.
    """
    side, long = len(square), max(size_px)
    width, height = (max(1, round(length * side / long)) for length in size_px)
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width]


def upright(rgb: ByteArray, orientation: int) -> ByteArray:
    """The pixels (H, W, 3) as a person sees them, C-contiguous, after EXIF 2.3's orientation 1 to 8."""
    if orientation in (2, 3, 7, 8):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 6, 7):
        rgb = rgb[::-1]
    if orientation > 4:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb)


def _resize(
    rgb: ByteArray, size: tuple[int, int], extent_px: tuple[float, float], interpolation: str, lies: bool
) -> ByteArray:
    import torch
    from torch.nn.functional import interpolate

    def along(rows: bool, columns: bool) -> torch.Tensor:
        if extent_px == rgb.shape[:2]:
            target = (size[0] if rows else batch.shape[2], size[1] if columns else batch.shape[3])
            return interpolate(batch, size=target, mode=interpolation, antialias=True)
        # With factors, torch maps coordinates by them and cuts down the size; a hair more keeps the last pixel.
        down, across = ((1 + 1e-9) * new / old for new, old in zip(size, extent_px, strict=True))
        factors = (down if rows else 1.0, across if columns else 1.0)
        more = interpolate(batch, scale_factor=factors, mode=interpolation, antialias=True)
        return more[:, :, : size[0] if rows else None, : size[1] if columns else None]

    # Batch first, then channels: only so do the strides tell torch that the pixels are interleaved already.
    batch = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
    # torch widens before it shortens, as Pillow does, and rounds in between. A photo that lies on its side takes the
    # other order, as it would upright; so does a thread of 1 x 100,000,000 pixels, which must not be widened.
    n_widened = rgb.shape[1] * size[0] if lies else rgb.shape[0] * size[1]
    if lies != (n_widened > _MAX_WIDENED):
        batch = along(rows=True, columns=False)
        batch = along(rows=False, columns=True)
    else:
        batch = along(rows=True, columns=True)
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).numpy())


def _crop_strip(rgb: ByteArray, spec: Preprocessing) -> ByteArray:
    """``fit_square`` by crop of a photo far longer than wide, computing the square alone."""
    side, tall = spec.image_px, rgb.shape[0] > rgb.shape[1]
    long, short = (rgb.shape[0], rgb.shape[1]) if tall else (rgb.shape[1], rgb.shape[0])
    new_long = spec.resize_px * long // short
    step, short_step = long / new_long, short / spec.resize_px
    start, short_start = round((new_long - side) / 2) * step, round((spec.resize_px - side) / 2) * short_step
    reach = math.ceil(3 * max(step, 1))  # the widest filter reaches 2 steps to each side
    first = max(0, math.floor(start) - reach)
    last = min(long, math.ceil(start + side * step) + reach)
    strip = np.ascontiguousarray(rgb[first:last] if tall else rgb[:, first:last])
    along = (start - first, min(start - first + side * step, last - first))
    across = (short_start, min(short_start + side * short_step, short))
    box = (across[0], along[0], across[1], along[1]) if tall else (along[0], across[0], along[1], across[1])
    method = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(strip).resize((side, side), method, box=box))
