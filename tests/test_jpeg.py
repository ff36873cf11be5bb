"""Ordinary JPEGs take a shorter way than Pillow's: it gives the same pixels, and the same verdict on damaged ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import images
from heeler.data import decode as module
from heeler.data import jpeg
from heeler.data.decode import decode
from heeler.data.jpeg import decode_ordinary, read_jpeg
from heeler.errors import UnreadableError
from heeler.records import Preprocessing

WAYS_TO_WRITE = {
    "4:2:0": {"quality": 80},
    "4:4:4": {"quality": 70, "subsampling": 0},
    "4:2:2 with restarts": {"quality": 75, "subsampling": 1, "restart_marker_blocks": 4},
    "progressive": {"quality": 90, "progressive": True},
    "progressive 4:4:4": {"quality": 90, "progressive": True, "subsampling": 0},
}
SPECS = [Preprocessing(image_px=px, fit=fit) for px, fit in product((48, 96, 224), ("crop", "squash", "pad"))]


def by_pillow(data: bytes, spec: Preprocessing) -> module.Decoded:
    return module._decode_by_pillow(data, spec)


def written(mode: str, way: str, size_px: tuple[int, int] = (301, 203)) -> bytes:
    return images.encode(images.cat().resize(size_px).convert(mode), **WAYS_TO_WRITE[way])


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows_to_the_bit(mode: str, way: str) -> None:
    for size_px in ((451, 300), (1283, 1411), (1410, 350), (7, 300), (2, 1700), (1, 1)):
        data = written(mode, way, size_px)
        for spec in SPECS:
            ordinary, pillows = module._decode_ordinary(data, spec), by_pillow(data, spec)
            assert ordinary is not None
            assert np.array_equal(ordinary.pixels, pillows.pixels), (size_px, spec.image_px, spec.fit)
            assert (ordinary.width_px, ordinary.height_px) == (pillows.width_px, pillows.height_px) == size_px


@pytest.mark.parametrize("orientation", range(1, 9))
def test_lying_photos_are_turned_likewise(orientation: int) -> None:
    stored, exif = images.stored_turned(images.cat().resize((1201, 701)), orientation)
    data = images.encode(stored, quality=90, exif=exif)
    for spec in SPECS:
        ordinary, pillows = module._decode_ordinary(data, spec), by_pillow(data, spec)
        assert ordinary is not None
        assert np.array_equal(ordinary.pixels, pillows.pixels)
        assert (ordinary.width_px, ordinary.height_px) == (pillows.width_px, pillows.height_px) == (1201, 701)


def test_rare_ones_are_left_to_pillow() -> None:
    cmyk = written("CMYK", "4:2:0")
    assert not read_jpeg(cmyk).is_ordinary
    assert module._decode_ordinary(cmyk, SPECS[0]) is None
    assert np.array_equal(decode(cmyk, SPECS[0]).pixels, by_pillow(cmyk, SPECS[0]).pixels)


def test_whatever_the_decoder_warns_of_is_left_to_pillow() -> None:
    whole = written("RGB", "4:2:0")
    assert decode_ordinary(whole, 203, 301) is not None
    half = whole[: len(whole) // 2] + b"\xff\xd9"
    assert decode_ordinary(half, 203, 301) is None  # libjpeg fills up with grey, and warns
    with pytest.raises(UnreadableError, match="cut short"):
        decode(half, SPECS[0])


def test_a_photo_that_is_another_size_than_its_header_said_is_left_to_pillow() -> None:
    assert decode_ordinary(written("RGB", "4:2:0"), 100, 100) is None


def test_where_memory_is_short_pillow_has_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", fails)
    data = written("RGB", "4:2:0")
    assert np.array_equal(decode(data, SPECS[0]).pixels, by_pillow(data, SPECS[0]).pixels)
    monkeypatch.setattr(module.JpegImagePlugin.JpegImageFile, "load", fails)
    with pytest.raises(UnreadableError, match="needs more memory than there is"):
        decode(data, SPECS[0])


def test_damaged_files_get_the_same_verdict() -> None:
    draw = random.Random(5)
    files = [written(mode, way) for mode, way in product(("RGB", "L", "CMYK"), WAYS_TO_WRITE)]
    seen: Counter[tuple[bool, bool]] = Counter()
    for number in range(600):
        data, spec = damaged(draw.choice(files), draw), draw.choice(SPECS)
        pillows, ours = verdict(by_pillow, data, spec), verdict(decode, data, spec)
        assert ours == pillows, number
        seen[isinstance(ours, str), is_taken(data, spec)] += 1
    assert seen[False, True] > 50, "good photos that took the short way"
    assert seen[False, False] > 50, "good photos that did not"
    assert seen[True, False] > 50, "refused ones"
    assert not seen[True, True]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The file cut, with bits turned, or with bytes taken out, put in or made a marker; its first bytes stay."""
    at, kind = draw.randrange(3, len(data)), draw.choice(("cut", "ended", "turned", "without", "with", "marked"))
    if kind == "cut":
        return data[:at]
    if kind == "ended":
        return data[:at] + b"\xff\xd9"
    if kind == "turned":
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if kind == "without":
        return data[:at] + data[at + draw.choice((1, 2, 100)) :]
    if kind == "with":
        return data[:at] + draw.randbytes(draw.choice((1, 2, 40))) + data[at:]
    return data[:at] + bytes([0xFF, draw.choice((0xD9, 0xDA, 0xC0, 0xD0, 0xFE, 0xC4, 0xDB, 0))]) + data[at + 2 :]


def verdict(
    way: Callable[[bytes, Preprocessing], module.Decoded], data: bytes, spec: Preprocessing
) -> str | tuple[int, int, bytes]:
    try:
        decoded = way(data, spec)
    except UnreadableError as error:
        return error.message
    return decoded.width_px, decoded.height_px, decoded.pixels.tobytes()


def is_taken(data: bytes, spec: Preprocessing) -> bool:
    try:
        return module._decode_ordinary(data, spec) is not None
    except UnreadableError:
        return False
