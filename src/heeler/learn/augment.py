"""Random changes to a batch of photos on the training device that leave the label as clear as it was.

All geometry of a photo (flip, rotation, zoom, shear, stretch, tilt) is one homography and one resampling; all its
lighting (brightness, contrast, saturation) and the normalisation are one 3 x 3 matrix and one offset. What happens to
a photo depends on the seed, the epoch, the step and the photo's place in the batch, and on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from heeler.errors import UsageError
from heeler.records import ByteArray

# Columns of the table of draws: one for each thing that chance decides.
N_DRAWS = 12
# Bilinear sampling skips pixels from a reduction of 2 on; this leaves room for what shear and tilt add.
MAX_REDUCTION = 1.25
# Photos that a CPU changes at a time: what lies between the steps stays in its cache (up to twice as fast as 32).
CPU_PIECE = 4
# Share of each colour in what the eye sees as light, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preset:
    """How far photos of one kind may be changed; zero and one mean "not at all".

    Args:
        flip: whether half of the photos are mirrored left to right.
        rotate_deg: largest rotation to either side, in degrees; 180 is any rotation.
        zoom: largest enlargement, >= 1; the place that is enlarged is random too.
        stretch: largest enlargement of one side alone, >= 1.
        shear_deg: largest slant to either side, in degrees.
        tilt: largest perspective along each side, in [0, 0.25): the depth of the scene changes by this share.
        light: largest change of brightness, contrast and saturation, in [0, 1): by up to ``1 - light`` or its inverse.
        geometry_share: share of the photos that each change of geometry (the flip aside) is done to, in (0, 1].
        lighting_share: share of the photos that each change of lighting is done to, in (0, 1].
    """

    flip: bool
    rotate_deg: float
    zoom: float
    stretch: float
    shear_deg: float
    tilt: float
    light: float
    geometry_share: float = 0.75
    lighting_share: float = 0.75


# Overhead: mirrored and turned by any angle is upside down as well. Turned always, or one angle would be favoured.
PRESETS: Mapping[str, Preset | None] = MappingProxyType(
    {
        "photo": Preset(flip=True, rotate_deg=10, zoom=1.3, stretch=1.1, shear_deg=0, tilt=0.06, light=0.2),
        "overhead": Preset(
            flip=True, rotate_deg=180, zoom=1.15, stretch=1.05, shear_deg=0, tilt=0, light=0.2, geometry_share=1
        ),
        "document": Preset(flip=False, rotate_deg=5, zoom=1.1, stretch=1.05, shear_deg=3, tilt=0.03, light=0.2),
        "none": None,
    }
)


def seed_of(seed: int, epoch: int, step: int) -> int:
    """The seed of one training step, in [0, 2**63); the same on every machine and in every version."""
    digest = hashlib.sha256(f"{seed} {epoch} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.no_grad()
def augment(
    pixels: Tensor,
    preset: str,
    *,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    out_px: int,
    first: int = 0,
) -> Tensor:
    """Change the photos of a batch at random and make them the network's input.

    Args:
        pixels: (B, S, S, 3) uint8 on the device that trains.
        preset: a name in ``PRESETS``; ``none`` only resizes and normalises.
        seed: from ``seed_of``.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        out_px: side of the output in pixels.
        first: place of the first photo in its step. A step that is done in several pieces (to save memory, or on
            several devices) gives each piece its own, and changes its photos as it would have in one piece.

    Returns:
        (B, 3, out_px, out_px) float32 on the same device, ``channels_last``; before the normalisation in [0, 1].

    Raises:
        UsageError: there is no such preset.
    """
    limits = preset_of(preset)
    # Under autocast the coordinates would be bf16: whole pixels wrong.
    with torch.autocast(pixels.device.type, enabled=False):
        if limits is None:
            return _normalise(_resize(pixels, out_px), mean, std)
        chance = draws(seed, len(pixels), first)
        matrices, n_piece = homographies(limits, chance), CPU_PIECE if pixels.device.type == "cpu" else len(pixels)
        batch = _empty_batch(len(pixels), out_px, pixels.device)
        for start in range(0, len(pixels), n_piece):
            piece = slice(start, start + n_piece)
            warped = warp(_resize(pixels[piece], out_px, MAX_REDUCTION), matrices[piece], out_px)
            _relight(warped, limits, chance[piece], mean, std, batch[piece])
        return batch


def preset_of(name: str) -> Preset | None:
    """The limits of a preset by its name; None for ``none``.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no augmentation preset {name!r}", hint=f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preview(squares: ByteArray, preset: str, *, seed: int, n_variants: int) -> ByteArray:
    """What a preset makes of some photos, for a sheet that people look at.

    Args:
        squares: (N, S, S, 3) uint8.
        preset: a name in ``PRESETS``.
        seed: of the run; the variants are those of the first steps of epoch 0.
        n_variants: changed copies of each photo.

    Returns:
        (N, 1 + n_variants, S, S, 3) uint8: each photo as it is, then its variants.
    """
    side_px = squares.shape[1]
    columns = [squares]
    for step in range(n_variants):
        columns.append(augment_pixels(squares, preset, seed=seed_of(seed, 0, step), out_px=side_px))
    return np.stack(columns, axis=1)


def augment_pixels(squares: ByteArray, preset: str, *, seed: int, out_px: int) -> ByteArray:
    """``augment`` from pixels to pixels: (B, S, S, 3) uint8 to (B, out_px, out_px, 3) uint8."""
    if preset == "none" and squares.shape[1] == out_px:
        return squares
    batch = augment(torch.tensor(squares), preset, seed=seed, mean=(0, 0, 0), std=(1, 1, 1), out_px=out_px)
    return (batch * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def draws(seed: int, n_photos: int, first: int = 0) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (n_photos, N_DRAWS); row i is the same however many photos are asked for."""
    table = np.random.default_rng(seed).random((first + n_photos, N_DRAWS))
    return table[first:]


def homographies(preset: Preset, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each point of the changed photo comes from in the original.

    Args:
        preset: the limits.
        chance: (B, N_DRAWS) in [0, 1), from ``draws``.

    Returns:
        (B, 3, 3): homogeneous coordinates of the output to those of the input, both (x, y, 1) with x and y from -1 at
        the left and top edge to 1 at the right and bottom edge.
    """
    share = preset.geometry_share
    flip, turn, zoom, place_x, place_y, stretch, shear, tilt_x, tilt_y = chance.T[:9]
    scale = 1 / (1 + (preset.zoom - 1) * np.where(zoom < share, zoom / share, 0))
    angle = np.deg2rad(preset.rotate_deg) * _signed(turn, share)
    slant = np.tan(np.deg2rad(preset.shear_deg) * _signed(shear, share))
    # Only one side is stretched and none is shrunk, so nothing beyond the frame comes into view.
    log_stretch = np.log(preset.stretch) * _signed(stretch, share)
    across, down = np.exp(-np.maximum(log_stretch, 0)), np.exp(-np.maximum(-log_stretch, 0))
    across = np.where(flip < 0.5, -across, across) if preset.flip else across
    one, zero = np.ones_like(angle), np.zeros_like(angle)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = _matrices([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])
    slanted = _matrices([[across, slant * down, zero], [zero, down, zero], [zero, zero, one]])
    left, up = (2 * place_x - 1) * (1 - scale), (2 * place_y - 1) * (1 - scale)
    enlarged = _matrices([[scale, zero, left], [zero, scale, up], [zero, zero, one]])
    far_x, far_y = preset.tilt * _signed(tilt_x, share), preset.tilt * _signed(tilt_y, share)
    # The corner that a tilt pushes farthest out is brought back to the edge.
    fit = 1 - np.abs(far_x) - np.abs(far_y)
    tilted = _matrices([[fit, zero, zero], [zero, fit, zero], [far_x, far_y, one]])
    return enlarged @ rotation @ slanted @ tilted


def colours(preset: Preset, chance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How each photo's colours change: ``matrix @ rgb + grey * luma``.

    Contrast pivots on the photo's own mean luma, so it changes how far light and dark are apart and not how bright the
    photo is, in dark photos too. Grey stays grey.

    Args:
        preset: the limits.
        chance: (B, N_DRAWS) in [0, 1), from ``draws``.

    Returns:
        ``matrix`` (B, 3, 3) and ``grey`` (B,), the share of the photo's mean luma to add to each channel.
    """
    spread = -np.log(1 - preset.light)
    brightness, contrast, saturation = np.exp(spread * _signed(chance[:, 9:12], preset.lighting_share)).T
    to_grey = np.broadcast_to(np.asarray(LUMA), (3, 3))
    s = saturation[:, None, None]
    matrix = (brightness * contrast)[:, None, None] * (s * np.eye(3) + (1 - s) * to_grey)
    return matrix, brightness * (1 - contrast)


def warp(pixels: Tensor, matrices: NDArray[np.float64], out_px: int) -> Tensor:
    """Resample each photo through its homography, bilinear; what lies beyond an edge is the photo mirrored there.

    Args:
        pixels: (B, S, S, 3) uint8 or float32.
        matrices: (B, 3, 3) as ``homographies`` returns them.
        out_px: side of the output in pixels.

    Returns:
        (B, 3, out_px, out_px) float32, in the units of ``pixels``.
    """
    device = pixels.device
    h = torch.tensor(matrices, dtype=torch.float32, device=device)
    centres = (torch.arange(out_px, device=device, dtype=torch.float32) + 0.5) * (2 / out_px) - 1
    # A homography is a part of the column plus a part of the row: summing two vectors for each photo is twenty times
    # as fast as multiplying out every pixel's coordinates.
    columns = h[:, :, 0, None] * centres
    rows = h[:, :, 1, None] * centres + h[:, :, 2, None]
    points = columns[:, :, None, :] + rows[:, :, :, None]
    grid = (points[:, :2] / points[:, 2:]).permute(0, 2, 3, 1)
    planes = pixels.permute(0, 3, 1, 2).float()
    return grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _relight(
    warped: Tensor,
    preset: Preset,
    chance: NDArray[np.float64],
    mean: Sequence[float],
    std: Sequence[float],
    into: Tensor,
) -> None:
    """Lighting and normalisation of (B, 3, H, W) values in [0, 255], in one multiplication."""
    device = warped.device
    matrix, grey = colours(preset, chance)
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    luma = warped.mean(dim=(2, 3)) @ torch.tensor(LUMA, device=device)
    gain = torch.tensor(matrix / (255 * stds[:, None]), dtype=torch.float32, device=device)
    pivot = torch.tensor(grey[:, None] / (255 * stds), dtype=torch.float32, device=device)
    black = torch.tensor(-means / stds, dtype=torch.float32, device=device)
    white = torch.tensor((1 - means) / stds, dtype=torch.float32, device=device)
    offset = (pivot * luma[:, None] + black)[:, :, None]
    lit = torch.baddbmm(offset, gain, warped.flatten(2)).view(warped.shape)
    torch.clamp(lit, black.view(1, 3, 1, 1), white.view(1, 3, 1, 1), out=into)


def _empty_batch(n_photos: int, side_px: int, device: torch.device) -> Tensor:
    shape = (n_photos, 3, side_px, side_px)
    return torch.empty(shape, dtype=torch.float32, device=device, memory_format=torch.channels_last)


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, S, S, 3) in [0, 255] to the network's input, to the bit as ``FeatureNet`` does it."""
    means, stds = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    scale, shift = (1 / (255 * stds)).to(pixels.device), (-means / stds).to(pixels.device)
    batch = pixels.permute(0, 3, 1, 2).float() * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
    return batch.contiguous(memory_format=torch.channels_last)


def _resize(pixels: Tensor, out_px: int, tolerance: float = 1.0) -> Tensor:
    """Antialiased bilinear resize of (B, S, S, 3); left alone where S is ``out_px`` to ``tolerance`` times that."""
    side_px = pixels.shape[1]
    if side_px == out_px or (tolerance > 1 and side_px <= tolerance * out_px):
        return pixels
    planes = pixels.permute(0, 3, 1, 2)
    # Antialiasing of whole bytes exists on CPUs only.
    planes = planes if pixels.device.type == "cpu" else planes.float()
    return interpolate(planes, size=(out_px, out_px), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _signed(chance: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Uniform in [-1, 1) for a share of the draws, 0 for the others."""
    return np.where(chance < share, 2 * chance / share - 1, 0)


def _matrices(rows: Sequence[Sequence[NDArray[np.float64]]]) -> NDArray[np.float64]:
    """(B, 3, 3) from nine vectors of length B."""
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
