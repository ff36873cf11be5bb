"""The preprocessing in ONNX is that of training, bit for bit, at every size, shape and fit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import checker
from skimage import data as photos

from heeler.data.square import fit_square
from heeler.records import ByteArray, Preprocessing
from heeler.ship.graph import square_model
from heeler.ship.prove import odd_photos

SPECS = [
    Preprocessing(image_px=px, fit=fit, interpolation=kind, mean=(0.485, 0.456, 0.406))
    for px in (64, 224)
    for fit in ("crop", "squash", "pad")
    for kind in ("bicubic", "bilinear")
]


@lru_cache
def session(spec: Preprocessing) -> Any:
    model = square_model(spec, opset=17, ir_version=8)
    checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def squares(spec: Preprocessing, *same_size: ByteArray) -> ByteArray:
    out: ByteArray = session(spec).run(None, {"photos": np.stack(same_size)})[0]
    return out


def assert_equal(spec: Preprocessing, photo: ByteArray) -> None:
    made, wanted = squares(spec, photo)[0], fit_square(photo, spec)
    assert np.array_equal(made, wanted), photo.shape


def real(height: int, width: int, number: int) -> ByteArray:
    """A piece of a real photo, repeated to any height and width."""
    whole = (photos.astronaut(), photos.coffee(), photos.chelsea())[number % 3]
    repeats = (-(-height // whole.shape[0]), -(-width // whole.shape[1]), 1)
    return np.ascontiguousarray(np.tile(whole, repeats)[:height, :width])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.image_px}-{spec.fit}-{spec.interpolation}")
def test_odd_shapes(spec: Preprocessing) -> None:
    for photo in odd_photos():
        assert_equal(spec, photo)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.image_px}-{spec.fit}-{spec.interpolation}")
def test_real_photos_of_many_sizes(spec: Preprocessing) -> None:
    draw = np.random.default_rng(spec.image_px)
    for number in range(12):
        height, width = (int(2 ** draw.uniform(3, 9.6)) for _ in range(2))
        photo = real(height, width, number)
        assert_equal(spec, photo)


def test_a_photo_that_is_the_square_already_passes_through() -> None:
    spec = Preprocessing(image_px=96, fit="squash")
    photo = real(96, 96, 0)
    assert np.array_equal(squares(spec, photo)[0], photo)


def test_a_phone_s_photo() -> None:
    photo = real(3024, 4032, 1)
    assert np.array_equal(squares(Preprocessing(), photo)[0], fit_square(photo, Preprocessing()))


def test_many_at_once_are_as_each_alone() -> None:
    spec = Preprocessing(image_px=64)
    several = [real(200, 150, number) for number in range(3)]
    together = squares(spec, *several)
    assert together.shape == (3, 64, 64, 3)
    assert all(np.array_equal(one, squares(spec, photo)[0]) for one, photo in zip(together, several, strict=True))


def test_white_and_black_stay_white_and_black() -> None:
    for level in (0, 255):
        flat = np.full((333, 777, 3), level, np.uint8)
        assert np.array_equal(np.unique(squares(Preprocessing(), flat)), [level])
