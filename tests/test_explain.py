"""A map is high where the class is, its mean is the logit, and its colours rise evenly."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from conftest import scene
from heeler.judge.explain import class_activation, colour_scale, overlay
from heeler.learn.backbone import Normalise, head_of
from heeler.learn.network import last_maps
from heeler.records import Preprocessing

PX = 64
SPEC = Preprocessing(image_px=PX)


def squares() -> np.ndarray:
    return np.stack([np.asarray(scene(name, 0).resize((PX, PX)).convert("RGB")) for name in ("cat", "rocket") * 5])


def network(name: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=5).eval()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_the_mean_of_a_map_and_the_bias_are_the_logit(name: str) -> None:
    model, photos = network(name), squares()
    maps = last_maps(model, SPEC, photos)
    assert maps is not None and len(maps) == 10
    head, classes = head_of(model), np.arange(10) % 5
    found = class_activation(maps, head.weight, classes).mean((1, 2)) + head.bias[classes]
    with torch.inference_mode():
        logits = model(Normalise(SPEC)(torch.from_numpy(photos))).numpy()
    assert found == pytest.approx(logits[np.arange(10), classes], abs=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_network_whose_head_is_no_mean_has_no_maps(name: str) -> None:
    options = {"img_size": PX} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=5, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    assert last_maps(model, SPEC, squares()) is None


def test_activation_is_where_the_class_is() -> None:
    maps = np.zeros((2, 3, 4, 4), np.float32)
    maps[0, 1, 0, 3] = 2.0
    maps[1, 2, 3, 0] = -1.0
    weight = np.array([[0, 1, 0], [0, 0, 3]], np.float32)
    found = class_activation(maps, weight, np.array([0, 1]))
    assert found[0, 0, 3] == 2 and found[0].sum() == 2
    assert found[1, 3, 0] == -3 and found.dtype == np.float32
    shown = overlay(np.full((32, 32, 3), 128, np.uint8), found[0])
    assert shown.shape == (32, 32, 3) and shown.dtype == np.uint8
    light = shown.astype(int).sum(2)
    assert light[2, 29] == light.max() and light[30, 2] < light[2, 29] - 150
    nothing = overlay(np.full((32, 32, 3), 128, np.uint8), found[1])
    assert np.ptp(nothing.astype(int), axis=(0, 1)).max() == 0


def test_the_colours_rise_evenly_to_the_eye() -> None:
    rgb = colour_scale(64).astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # CIE lightness, which heeler's scale does not use: the luminance of sRGB, then the cube root.
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert lightness[0] < 25 and lightness[-1] > 88
    assert steps.min() > 0 and steps.max() < 2.5 * steps.mean()
