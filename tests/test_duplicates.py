"""The same photo twice: by its bytes, and re-encoded, resized or lit otherwise; and different photos kept apart."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data as photos

from conftest import SCENES, scene
from heeler.data import duplicates as module
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


VARIANTS = {
    "quality 60": lambda image: jpeg(image, 60),
    "70 % of the size": smaller,
    "both": lambda image: jpeg(smaller(image), 60),
    "a little brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L"),
}
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
    pieces = [scene(name, number) for name in SCENES for number in range(12)]
    whole = [Image.fromarray(getattr(photos, name)()).convert("RGB") for name in MORE]
    for image in whole:
        image.thumbnail((400, 400))
    return pieces + whole


@pytest.mark.parametrize("variant", VARIANTS)
def test_near_duplicates_are_found_and_different_photos_are_not(different: list[Image.Image], variant: str) -> None:
    n = len(different)
    found = near_duplicates(miniatures(different + [VARIANTS[variant](image) for image in different]))
    assert found == sorted(set(found)) and all(i < j for i, j in found)
    assert all(j == i + n for i, j in found), "two different photos were taken for one"
    assert len(found) >= 0.95 * n


def test_turned_and_mirrored_photos_are_different(different: list[Image.Image]) -> None:
    image = different[0]
    views = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.transpose(Image.Transpose.ROTATE_180)]
    assert near_duplicates(miniatures(views)) == []


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


def bands_apart(rng: np.random.Generator, n: int) -> np.ndarray:
    """Hashes of which many differ in few bits."""
    centres = rng.integers(0, 1 << 63, 20, dtype=np.uint64)
    hashes = centres[rng.integers(0, 20, n)]
    for _ in range(5):
        flip = np.where(rng.random(n) < 0.8, np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64), np.uint64(0))
        hashes = hashes ^ flip
    return hashes


def test_no_pair_of_close_hashes_is_missed_or_told_twice() -> None:
    hashes = bands_apart(np.random.default_rng(0), 400)
    differ = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    wanted = {(i, j) for i, j in np.argwhere(differ <= module.HASH_RADIUS).tolist() if i < j}
    assert len(wanted) > 500
    found = np.concatenate(list(module._close_hashes(hashes, np.arange(400)))).tolist()
    assert len(found) == len(wanted) and {(i, j) for i, j in found} == wanted


def test_a_camera_that_stands_still_gives_no_more_pairs_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scenes = miniatures([scene("cat", 0), scene("person", 0), scene("coffee", 0)]).astype(int)
    frames = np.clip(scenes[np.arange(1200) % 3] + rng.normal(0, 2, (1200, 32, 32)), 0, 255).astype(np.uint8)
    every = near_duplicates(frames)
    assert len(every) == 3 * 400 * 399 // 2
    monkeypatch.setattr(module, "MANY_PAIRS", 1000)
    monkeypatch.setattr(module, "_HASH_PAIRS", 10_000)
    few = near_duplicates(frames)
    assert len(few) < len(every) / 4 and set(few) < set(every)
    sets = module._components(np.array(few), 1200)
    assert [len(set(sets[start::3].tolist())) for start in range(3)] == [1, 1, 1] and len(set(sets.tolist())) == 3
