"""Augmentation: repeatable, geometrically right, label-preserving, and shaped for the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos
from torch import nn

from heeler.errors import UsageError
from heeler.learn.augment import (
    LUMA,
    N_DRAWS,
    PRESETS,
    Preset,
    augment,
    colours,
    draws,
    homographies,
    preview,
    seed_of,
    warp,
)
from heeler.learn.backbone import FeatureNet
from heeler.records import Preprocessing
from images import astronaut, cat

RANDOM_PRESETS = ("photo", "overhead", "document")
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def square(image: Image.Image, side_px: int) -> np.ndarray:
    """The centre of a photo as (side_px, side_px, 3) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC, box=box))


def batch_of(*images: Image.Image, side_px: int = 96, copies: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.stack([square(image, side_px) for image in images] * copies))


def limits(name: str) -> Preset:
    preset = PRESETS[name]
    assert preset is not None
    return preset


def test_seeds_are_fixed_for_ever_and_differ() -> None:
    assert seed_of(42, 0, 0) == 1594019611406100324
    keys = [(seed, epoch, step) for seed in range(12) for epoch in range(12) for step in range(12)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in [*keys, (-1, 0, 0), (2**70, 1, 1)])


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_the_same_step_gives_the_same_photos_and_another_does_not(preset: str) -> None:
    pixels = batch_of(cat(), astronaut())

    def at(*key: int) -> torch.Tensor:
        return augment(pixels, preset, seed=seed_of(*key), out_px=96, **UNIT)

    first = at(42, 1, 7)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(first, at(42, 1, 7))
    for other in ((43, 1, 7), (42, 2, 7), (42, 1, 8)):
        assert (first - at(*other)).abs().mean(dim=(1, 2, 3)).min() > 0.005


def test_global_randomness_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augment(batch_of(cat()), "photo", seed=1, out_px=96, **UNIT)
    assert torch.equal(torch.rand(3), expected)


def test_photos_of_one_batch_change_differently() -> None:
    pixels = batch_of(cat(), copies=6)
    changed = augment(pixels, "photo", seed=seed_of(42, 0, 0), out_px=96, **UNIT)
    distances = [(changed[i] - changed[j]).abs().mean().item() for i in range(6) for j in range(i)]
    assert min(distances) > 0.005


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_step_in_pieces_is_the_step_in_one(cut: int) -> None:
    pixels, seed = batch_of(cat(), astronaut(), copies=3), seed_of(42, 3, 9)
    whole = augment(pixels, "photo", seed=seed, out_px=80, **UNIT)
    starts = range(0, 6, cut)
    pieces = [augment(pixels[i : i + cut], "photo", seed=seed, out_px=80, first=i, **UNIT) for i in starts]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)


def test_none_is_plain_normalisation_to_the_bit() -> None:
    pixels = batch_of(cat(), astronaut())
    spec = Preprocessing(image_px=96, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    batch = augment(pixels, "none", seed=1, mean=spec.mean, std=spec.std, out_px=96)

    class Pass(nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            return x

    assert torch.equal(batch, FeatureNet(Pass(), spec)(pixels))
    expected = (pixels.numpy() / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("out_px", [40, 64, 150])
def test_none_resizes_as_pillow_does(out_px: int) -> None:
    pixels = batch_of(cat())
    batch = augment(pixels, "none", seed=1, out_px=out_px, **UNIT)
    expected = Image.fromarray(pixels[0].numpy()).resize((out_px, out_px), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(batch[0].permute(1, 2, 0).numpy() * 255, np.array(expected), atol=1.01)


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_a_marked_point_lands_where_the_homography_says(preset: str) -> None:
    side_px, out_px, mark_px = 128, 160, (52, 75)
    pixels = batch_of(Image.fromarray(photos.moon() // 2), side_px=side_px)
    x, y = mark_px
    pixels[0, y - 2 : y + 3, x - 2 : x + 3] = 255
    chance = draws(seed_of(42, 0, 0), 40)
    matrices = homographies(limits(preset), chance)
    warped = warp(pixels.expand(40, -1, -1, -1), matrices, out_px)
    mark = np.array([(x + 0.5) * 2 / side_px - 1, (y + 0.5) * 2 / side_px - 1, 1])
    for matrix, photo in zip(matrices, warped, strict=True):
        expected_x, expected_y, w = np.linalg.inv(matrix) @ mark
        weight = (photo[0] - 140).clamp(min=0).double()
        at = (torch.arange(out_px, dtype=torch.float64) + 0.5) * 2 / out_px - 1
        found_x = ((weight.sum(0) * at).sum() / weight.sum()).item()
        found_y = ((weight.sum(1) * at).sum() / weight.sum()).item()
        np.testing.assert_allclose((found_x, found_y), (expected_x / w, expected_y / w), atol=1.5 / out_px)


def mirrored_share(preset: str) -> float:
    """Share of 300 variants that look more like the mirrored photo than like the photo."""
    pixels = batch_of(astronaut(), side_px=48)
    changed = augment(pixels.expand(300, -1, -1, -1), preset, seed=seed_of(42, 0, 0), out_px=48, **UNIT)
    plain = augment(pixels, "none", seed=0, out_px=48, **UNIT)
    as_is = (changed - plain).square().mean(dim=(1, 2, 3))
    mirrored = (changed - plain.flip(3)).square().mean(dim=(1, 2, 3))
    return (mirrored < as_is).double().mean().item()


def test_photos_are_mirrored_half_of_the_time_and_documents_never() -> None:
    assert mirrored_share("photo") == pytest.approx(0.5, abs=0.08)
    assert mirrored_share("document") == 0


def test_overhead_covers_all_rotations_and_both_sides() -> None:
    preset = dataclasses.replace(limits("overhead"), stretch=1, shear_deg=0)
    matrices = homographies(preset, draws(seed_of(42, 0, 0), 2400))
    mirrored = np.linalg.det(matrices[:, :2, :2]) < 0
    assert mirrored.mean() == pytest.approx(0.5, abs=0.04)
    for side in (mirrored, ~mirrored):
        angle = np.arctan2(matrices[side, 1, 1], matrices[side, 0, 1])
        counts, _ = np.histogram(angle, bins=12, range=(-np.pi, np.pi))
        assert counts.sum() == side.sum()
        np.testing.assert_allclose(counts / counts.sum(), 1 / 12, atol=0.03)


@pytest.mark.parametrize(("preset", "largest_deg"), [("photo", 10), ("document", 5)])
def test_rotation_keeps_to_its_limit_and_uses_it(preset: str, largest_deg: float) -> None:
    only = dataclasses.replace(limits(preset), flip=False, stretch=1, shear_deg=0, tilt=0)
    matrices = homographies(only, draws(seed_of(42, 0, 0), 2000))
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert largest_deg * 0.95 < angle.max() <= largest_deg
    assert largest_deg * 0.95 < -angle.min() <= largest_deg
    assert (angle == 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_nothing_beyond_the_frame_shows_without_rotation_and_slant(preset: str) -> None:
    still = dataclasses.replace(limits(preset), rotate_deg=0, shear_deg=0)
    corners = np.array([[-1, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]]).T
    points = homographies(still, draws(seed_of(42, 0, 0), 2000)) @ corners
    assert points[:, 2].min() > 0
    assert np.abs(points[:, :2] / points[:, 2:]).max() <= 1 + 1e-12


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_corners_are_filled_with_the_photo(preset: str) -> None:
    pixels = batch_of(astronaut(), side_px=48).clamp(min=60)
    matrices = homographies(limits(preset), draws(seed_of(42, 0, 0), 200))
    warped = warp(pixels.expand(200, -1, -1, -1), matrices, 48)
    assert warped.min() >= 60 - 1e-3
    assert warped.max() <= 255 + 1e-3


def test_an_unchanged_photo_passes_the_warp_unchanged() -> None:
    pixels = batch_of(cat())
    same = warp(pixels, np.eye(3)[None], 96)
    torch.testing.assert_close(same, pixels.permute(0, 3, 1, 2).float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_values_stay_in_range_and_normalisation_is_the_models(preset: str) -> None:
    pixels, seed = batch_of(cat(), astronaut(), copies=16), seed_of(42, 0, 0)
    plain = augment(pixels, preset, seed=seed, out_px=96, **UNIT)
    assert plain.min() >= 0
    assert plain.max() <= 1
    assert (plain == 1).any(), "some variant should be bright enough to be clipped"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normal = augment(pixels, preset, seed=seed, mean=mean, std=std, out_px=96)
    expected = (plain - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normal, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("image", [cat(), Image.fromarray(photos.moon() // 4)], ids=["bright", "dark"])
def test_brightness_changes_by_a_fifth_at_most(image: Image.Image) -> None:
    pixels, seed = batch_of(image, copies=100), seed_of(42, 0, 0)
    luma = torch.tensor(LUMA)
    lit = augment(pixels, "photo", seed=seed, out_px=96, **UNIT).mean(dim=(2, 3)) @ luma
    unlit = warp(pixels, homographies(limits("photo"), draws(seed, 100)), 96).mean(dim=(2, 3)) @ luma / 255
    ratio = (lit / unlit).numpy()
    # Clipped highlights and shadows move a mean by a little beyond the gain alone.
    assert ratio.min() > 0.8 - 0.01
    assert ratio.max() < 1.25 + 0.01
    assert ratio.min() < 0.85
    assert ratio.max() > 1.18


def test_contrast_and_saturation_keep_to_their_limits() -> None:
    preset, chance = limits("photo"), draws(seed_of(42, 0, 0), 2000)
    matrix, grey = colours(preset, chance)
    on_grey = matrix @ np.ones(3)
    np.testing.assert_allclose(on_grey, on_grey[:, :1].repeat(3, axis=1))
    brightness = on_grey[:, 0] + grey
    contrast = on_grey[:, 0] / brightness
    saturation = (matrix[:, 0, 0] - matrix[:, 1, 0]) / on_grey[:, 0]
    for change in (brightness, contrast, saturation):
        assert 0.8 - 1e-9 <= change.min() < 0.81
        assert 1.24 < change.max() <= 1.25 + 1e-9
        assert np.isclose(change, 1).mean() == pytest.approx(0.25, abs=0.03)


def test_grey_photos_stay_grey() -> None:
    pixels = batch_of(Image.fromarray(photos.moon()), copies=8)
    changed = augment(pixels, "photo", seed=seed_of(42, 0, 0), out_px=96, **UNIT)
    assert (changed - changed[:, :1]).abs().max() < 1e-5


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(("n", "out_px"), [(1, 96), (3, 96), (5, 64), (2, 30), (1, 131)])
def test_the_output_is_what_a_network_trains_on(preset: str, n: int, out_px: int) -> None:
    pixels = batch_of(cat()).expand(n, -1, -1, -1)
    batch = augment(pixels, preset, seed=1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), out_px=out_px)
    assert batch.shape == (n, 3, out_px, out_px)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert not batch.requires_grad
    layer = nn.Conv2d(3, 2, 3)
    layer(batch).sum().backward()
    assert layer.weight.grad is not None


def test_reducing_a_photo_does_not_alias() -> None:
    stripes = torch.zeros((8, 256, 256, 3), dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    changed = augment(stripes, "photo", seed=seed_of(42, 0, 0), out_px=64, **UNIT)
    assert changed[:, :, 8:-8, 8:-8].std(dim=(2, 3)).max() < 0.02


def test_mixed_precision_leaves_the_geometry_alone() -> None:
    pixels = batch_of(cat(), astronaut())
    expected = augment(pixels, "photo", seed=3, out_px=96, **UNIT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(pixels, "photo", seed=3, out_px=96, **UNIT), expected)


def test_draws_do_not_depend_on_how_many_are_asked_for() -> None:
    table = draws(11, 50)
    assert table.shape == (50, N_DRAWS)
    assert np.array_equal(table[:7], draws(11, 7))
    assert np.array_equal(table[20:30], draws(11, 10, first=20))


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        augment(batch_of(cat()), "phot", seed=1, out_px=96, **UNIT)
    assert "'phot'" in caught.value.message
    assert "photo, overhead, document, none" in caught.value.hint


def test_the_preview_shows_each_photo_and_its_variants() -> None:
    squares = batch_of(cat(), astronaut()).numpy()
    squares.flags.writeable = False
    sheet = preview(squares, "photo", seed=42, n_variants=3)
    assert sheet.shape == (2, 4, 96, 96, 3)
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet[:, 0], squares)
    for variant in (1, 2, 3):
        trained_on = augment(torch.tensor(squares), "photo", seed=seed_of(42, 0, variant - 1), out_px=96, **UNIT)
        shown = torch.tensor(sheet[:, variant]).permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(shown, trained_on, rtol=0, atol=0.51 / 255)
    assert np.array_equal(sheet, preview(squares, "photo", seed=42, n_variants=3))
    still = preview(squares, "none", seed=42, n_variants=2)
    assert all(np.array_equal(still[:, column], squares) for column in range(3))
