"""The same photo twice: by its bytes, and re-encoded, resized or lit otherwise; and different photos kept apart."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage
from skimage import data as photos

from conftest import SCENES, scene
from heeler.data import duplicates as module
from heeler.data.crops import cosines, low_frequencies
from heeler.data.decode import decode
from heeler.data.duplicates import mark_duplicates, near_duplicates, perceptual_hashes, thumbnails
from heeler.records import ByteArray, Part, Photo, Preprocessing
from images import encode

SPEC = Preprocessing()


def photo(path: str, label: str, content: str, part: Part | None = None, **more: str) -> Photo:
    return Photo(path, Path(path), label=label, sha256=content, part=part, **more)  # type: ignore[arg-type]


def verdicts(*given: Photo) -> list[tuple[str, str]]:
    return [(marked.status, marked.reason) for marked in mark_duplicates(given)]


def test_the_first_copy_stays() -> None:
    assert verdicts(photo("a", "cat", "1"), photo("b", "cat", "2"), photo("c", "cat", "1")) == [
        ("ok", ""),
        ("ok", ""),
        ("duplicate", "same bytes as a"),
    ]


@pytest.mark.parametrize("order", [*itertools.permutations(["train", "valid", "test", None])])
def test_the_copy_in_test_wins_then_the_one_in_valid(order: tuple[Part | None, ...]) -> None:
    copies = [photo(f"{number}", "cat", "1", part) for number, part in enumerate(order)]
    for best in ("test", "valid", None):
        kept = [marked.part for marked in mark_duplicates(copies) if marked.status == "ok"]
        assert kept == [best]
        copies = [copy for copy in copies if copy.part != best]


def test_copies_in_two_classes_are_all_left_out() -> None:
    given = photo("a", "cat", "1", "test"), photo("b", "cat", "1"), photo("c", "dog", "1", "train")
    assert verdicts(*given) == [
        ("left_out", "same bytes, other class: c"),
        ("left_out", "same bytes, other class: c"),
        ("left_out", "same bytes, other class: a"),
    ]


def test_only_photos_that_can_be_used_count_as_copies() -> None:
    given = (
        photo("a", "cat", "1", status="unreadable", reason="torn"),
        photo("b", "cat", "1"),
        photo("c", "cat", "", status="left_out", reason="hidden"),
        photo("d", "cat", ""),
        photo("e", "dog", ""),
    )
    assert mark_duplicates(given) == given


def miniatures(images: list[Image.Image]) -> ByteArray:
    return thumbnails(np.stack([decode(encode(image, "PNG"), SPEC).pixels for image in images]))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, quality=quality)))


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * 0.7), round(image.height * 0.7)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image) -> Image.Image:
    """95 % of each side, from a corner or from the middle."""
    width, height = round(0.95 * image.width), round(0.95 * image.height)
    red, green, _ = image.convert("RGB").getpixel((9, 9))
    left, top = (image.width - width) * (red % 3) // 2, (image.height - height) * (green % 3) // 2
    return image.crop((left, top, left + width, top + height))


VARIANTS = {
    "quality 60": lambda image: jpeg(image, 60),
    "70 % of the size": smaller,
    "both": lambda image: jpeg(smaller(image), 60),
    "a little brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L"),
    "mirrored": lambda image: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 80),
    "cropped": lambda image: jpeg(cropped(image), 80),
}
# Textures such as gravel and grass have no detail that a miniature would keep.
LEAST_FOUND = {"cropped": 0.8}
MORE = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
)


@pytest.fixture(scope="module")
def different() -> list[Image.Image]:
    """Photos and pieces of photos, each another picture."""
    # Coffee 11 is a part of coffee 6.
    pieces = [scene(name, number) for name in SCENES for number in range(12) if (name, number) != ("coffee", 11)]
    whole = [Image.fromarray(getattr(photos, name)()).convert("RGB") for name in MORE]
    for image in whole:
        image.thumbnail((400, 400))
    return pieces + whole


@pytest.fixture(scope="module")
def miniatures_of_different(different: list[Image.Image]) -> ByteArray:
    return miniatures(different)


@pytest.mark.parametrize("variant", VARIANTS)
def test_near_duplicates_are_found_and_different_photos_are_not(
    different: list[Image.Image], miniatures_of_different: ByteArray, variant: str
) -> None:
    n = len(different)
    varied = miniatures([VARIANTS[variant](image) for image in different])
    found = near_duplicates(np.concatenate([miniatures_of_different, varied]))
    assert found == sorted(set(found)) and all(i < j for i, j in found)
    assert all(j == i + n for i, j in found), "two different photos were taken for one"
    assert len(found) >= LEAST_FOUND.get(variant, 0.95) * n


def test_turned_photos_are_different(different: list[Image.Image]) -> None:
    image = different[0]
    views = [image, image.transpose(Image.Transpose.ROTATE_90), image.transpose(Image.Transpose.ROTATE_180)]
    assert near_duplicates(miniatures(views)) == []


@pytest.mark.parametrize("share", [1.0, 0.97, 0.95])
def test_crops_are_found_in_either_order_and_the_move_is_right(different: list[Image.Image], share: float) -> None:
    whole = different[13]
    side = round(share * 160)
    part = whole.crop((160 - side, 0, 160, side))
    for views in ([whole, part], [part, whole]):
        assert near_duplicates(miniatures([*different[:3], *views])) == [(3, 4)]


def test_a_small_part_and_a_shifted_view_are_no_crops(different: list[Image.Image]) -> None:
    whole = different[13]
    for box in ((40, 40, 120, 120), (0, 0, 110, 110)):
        assert near_duplicates(miniatures([whole, whole.crop(box)])) == []
    shifted = [whole.crop((0, 0, 150, 150)), whole.crop((10, 0, 160, 150))]
    assert near_duplicates(miniatures(shifted)) == []


def test_things_that_look_alike_but_for_detail_are_not_crops(different: list[Image.Image]) -> None:
    rng = np.random.default_rng(0)
    smooth = miniatures([different[0].filter(ImageFilter.GaussianBlur(12))]).astype(float)
    detail = ndimage.gaussian_filter(rng.normal(0, 60, (300, 32, 32)), (0, 0.8, 0.8))
    cells = np.clip(smooth + detail, 0, 255).astype(np.uint8)
    assert near_duplicates(cells) == []


def test_blank_photos_are_not_near_duplicates_of_anything() -> None:
    blank = [Image.new("RGB", (80, 60), colour) for colour in ("black", "white", "red")]
    assert near_duplicates(miniatures([*blank, scene("cat", 0)])) == []


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_photos_have_no_pair(n: int) -> None:
    assert near_duplicates(np.zeros((n, 32, 32), np.uint8)) == []


def test_a_miniature_is_grey_small_and_antialiased() -> None:
    photo = scene("coffee", 1)
    thumb = thumbnails(np.asarray(photo)[None])
    assert thumb.shape == (1, 32, 32) and thumb.dtype == np.uint8
    small = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    assert np.abs(thumb[0] - small @ (0.299, 0.587, 0.114)).max() <= 1.5
    red = np.zeros((1, 64, 64, 3), np.uint8)
    red[:, :, :, 0] = 255
    assert (thumbnails(red) == round(0.299 * 255)).all()


def test_hashes_have_as_many_ones_as_zeros() -> None:
    bits = np.bitwise_count(perceptual_hashes(miniatures([scene("cat", number) for number in range(12)])))
    assert set(bits.tolist()) == {32}


def test_no_pair_that_is_alike_is_passed_over_or_told_twice(
    miniatures_of_different: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = miniatures_of_different.astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    images /= np.linalg.norm(images, axis=(1, 2), keepdims=True)
    basis = cosines(32)
    low = low_frequencies(images, basis, basis)
    low /= np.linalg.norm(low, axis=1, keepdims=True)
    mirrored = low_frequencies(np.ascontiguousarray(images[:, :, ::-1]), basis, basis)
    mirrored /= np.linalg.norm(mirrored, axis=1, keepdims=True)
    monkeypatch.setattr(module, "MIN_SIMILAR", 0.5)
    monkeypatch.setattr(module, "MIN_MIRRORED", 0.5)
    for n_products in (1, 100, 1 << 21):
        monkeypatch.setattr(module, "_PRODUCTS", n_products)
        parts = list(module._similar(images))
        for which, second in ((0, low), (1, mirrored)):
            wanted = {(i, j) for i, j in np.argwhere(low @ second.T >= 0.5).tolist() if i < j}
            found = np.concatenate([part[which] for part in parts]).tolist()
            assert len(wanted) > 10 and len(found) == len(wanted) and {(i, j) for i, j in found} == wanted


def test_a_camera_that_stands_still_gives_no_more_pairs_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scenes = miniatures([scene("cat", 0), scene("person", 0), scene("coffee", 0)]).astype(int)
    frames = np.clip(scenes[np.arange(1200) % 3] + rng.normal(0, 2, (1200, 32, 32)), 0, 255).astype(np.uint8)
    every = near_duplicates(frames)
    assert len(every) == 3 * 400 * 399 // 2
    monkeypatch.setattr(module, "MANY_PAIRS", 1000)
    monkeypatch.setattr(module, "_PRODUCTS", 10_000)
    few = near_duplicates(frames)
    assert len(few) < len(every) / 4 and set(few) < set(every)
    sets = module._components(np.array(few), 1200)
    assert [len(set(sets[start::3].tolist())) for start in range(3)] == [1, 1, 1] and len(set(sets.tolist())) == 3
