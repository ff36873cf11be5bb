"""Bytes -> pixels: what is read, how it is turned and scaled, and what is refused with which reason."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import images
from heeler.data import claims
from heeler.data import decode as module
from heeler.data.decode import MAX_PIXELS, Decoded, decode, fit_square, open_image, to_rgb
from heeler.errors import UnreadableError
from heeler.records import Preprocessing

SPEC = Preprocessing(image_px=64, fit="squash")
WHITE = (255, 255, 255)


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB"))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def reason_of(data: bytes) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(data, SPEC)
    return str(caught.value)


LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 90}, "WEBP": {"quality": 90}, "GIF": {}, "MPO": {"quality": 95}}


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_keep_every_pixel(format: str) -> None:
    data = images.encode(images.cat(), format, **LOSSLESS[format])
    decoded = decode(data, SPEC)
    assert decoded.format == format
    assert (decoded.width_px, decoded.height_px) == (451, 300)
    assert np.array_equal(decoded.pixels, fit_square(pixels(images.cat()), SPEC))
    assert decoded.pixels.flags.c_contiguous and decoded.pixels.dtype == np.uint8


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_are_close(format: str) -> None:
    decoded = decode(images.encode(images.cat(), format, **LOSSY[format]), SPEC)
    assert decoded.format == format.replace("MPO", "JPEG")
    assert difference(decoded.pixels, fit_square(pixels(images.cat()), SPEC)).mean() < 4


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    decoded = decode(images.encode(images.cat(), "TIFF", compression=compression), SPEC)
    assert np.array_equal(decoded.pixels, fit_square(pixels(images.cat()), SPEC))


def test_heic_with_and_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif")
    data = images.heic(images.cat(), quality=90)
    decoded = decode(data, SPEC)
    assert (decoded.format, decoded.width_px, decoded.height_px) == ("HEIF", 451, 300)
    assert difference(decoded.pixels, fit_square(pixels(images.cat()), SPEC)).mean() < 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert 'pip install "heeler[heic]"' in reason_of(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_orientation_is_applied_once(format: str, orientation: int) -> None:
    stored, exif = images.stored_turned(images.cat(), orientation)
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
        data = images.heic(stored, quality=90, exif=exif.tobytes())
    else:
        data = images.encode(stored, format, exif=exif)
    for fit in ("crop", "squash", "pad"):
        spec = Preprocessing(image_px=64, fit=fit)
        decoded = decode(data, spec)
        assert (decoded.width_px, decoded.height_px) == (451, 300)
        assert difference(decoded.pixels, fit_square(pixels(images.cat()), spec)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_once(orientation: int) -> None:
    stored, exif = images.stored_turned(images.cat(), orientation)
    with Image.open(io.BytesIO(images.encode(stored, "PNG", exif=exif))) as image:
        assert np.array_equal(to_rgb(image, WHITE), pixels(images.cat()))
        assert np.array_equal(to_rgb(image, WHITE), pixels(images.cat()))
    for compression in ("raw", "tiff_lzw"):
        data = images.encode(stored, "TIFF", exif=exif, compression=compression)
        assert np.array_equal(decode(data, SPEC).pixels, fit_square(pixels(images.cat()), SPEC))
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(to_rgb(image, WHITE), pixels(images.cat()))


EXIF = {
    "empty": b"",
    "no directory": b"II*\0",
    "directory outside": b"II*\0\xff\xff\xff\xff",
    "too many entries": b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" + bytes(7),
    "value 9": b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",
    "not TIFF": b"garbage" * 9,
}


@pytest.mark.parametrize("name", EXIF)
def test_malformed_exif_does_not_spoil_a_good_photo(name: str) -> None:
    block = EXIF[name]
    png = images.encode(images.cat(), "PNG")
    expected = fit_square(pixels(images.cat()), SPEC)
    jpeg = images.with_segment(images.encode(images.cat(), quality=95), 0xE1, b"Exif\0\0" + block)
    assert difference(decode(jpeg, SPEC).pixels, expected).mean() < 2
    assert np.array_equal(decode(images.png_with_chunk(png, b"eXIf", block), SPEC).pixels, expected)
    webp = images.encode(images.cat(), "WEBP", lossless=True, exif=b"Exif\0\0" + block)
    assert np.array_equal(decode(webp, SPEC).pixels, expected)


def test_other_malformed_metadata_is_ignored() -> None:
    jpeg = images.encode(images.cat(), quality=95)
    expected = decode(jpeg, SPEC).pixels
    for marker, payload in ((0xE2, b"ICC_PROFILE\0\x01"), (0xE2, b"MPF\0II*\0junk"), (0xED, b"Photoshop 3.0\0x")):
        assert np.array_equal(decode(images.with_segment(jpeg, marker, payload), SPEC).pixels, expected)


def test_grey_ramp_of_16_bits_keeps_256_levels() -> None:
    ramp = np.arange(65536).reshape(256, 256)
    for format in ("PNG", "TIFF"):
        with Image.open(io.BytesIO(images.grey16(ramp, format))) as image:
            grey = to_rgb(image, WHITE)[:, :, 0]
        assert len(np.unique(grey)) == 256
        assert difference(grey, ramp >> 8).max() <= 1
    decoded = decode(images.grey16(ramp), Preprocessing(image_px=256, fit="squash"))
    assert len(np.unique(decoded.pixels)) == 256


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255]], np.uint16), [0, 255]),
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
        (np.array([[0, 4096, 65535]], np.uint16), [0, 16, 255]),
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 1_000_000]], np.int32), [0, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 128.0, 255.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[-1.0, -1.0]], np.float32), [0, 0]),
    ],
)
def test_wide_values_are_scaled_by_what_they_hold(values: np.ndarray, expected: list[int]) -> None:
    rgb = to_rgb(Image.fromarray(values), WHITE)
    assert rgb.shape == (1, len(expected), 3)
    assert difference(rgb[0, :, 0], np.array(expected)).max() <= 1
    assert np.array_equal(rgb[0, :, 0], rgb[0, :, 2])


def test_big_endian_16_bits() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([0x0100, 0xFFFF], ">u2").tobytes())
    assert to_rgb(image, WHITE)[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "RGBa", "RGBX", "LA", "La", "PA", "CMYK", "YCbCr", "HSV"])
def test_modes(mode: str) -> None:
    image = images.cat()
    if mode in ("P", "PA"):
        image = image.quantize(256).convert(mode)
    elif mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert(mode)
    else:
        image = image.convert(mode)
    rgb = to_rgb(image, WHITE)
    assert rgb.shape == (300, 451, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    expected = pixels(images.cat().convert("L" if mode in ("L", "LA", "La") else "RGB"))
    assert difference(rgb, expected).mean() < 4


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert to_rgb(image, WHITE).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_lab() -> None:
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert difference(to_rgb(lab, WHITE), np.full((4, 4, 3), 255)).max() <= 2


def test_cmyk_jpeg_is_not_a_negative() -> None:
    data = images.encode(images.cat().convert("CMYK"), quality=95)
    assert b"Adobe" in data
    assert difference(decode(data, SPEC).pixels, fit_square(pixels(images.cat()), SPEC)).mean() < 3


def transparent(kind: str) -> bytes:
    """Left half red, right half transparent."""
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    half.paste((0, 0, 0, 0), (32, 0, 64, 64))
    if kind == "palette":
        image = Image.new("P", (64, 64), 0)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.paste(1, (32, 0, 64, 64))
        return images.encode(image, "PNG", transparency=1)
    if kind == "key":
        return images.encode(half.convert("RGB"), "PNG", transparency=(0, 0, 0))
    return images.encode(half, kind, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "palette", "key"])
def test_transparency_is_laid_on_the_colour_asked_for(kind: str) -> None:
    for colour in (WHITE, (10, 200, 30)):
        spec = Preprocessing(image_px=64, fit="squash", alpha=colour)
        rgb = decode(transparent(kind), spec).pixels
        assert rgb[10, 50].tolist() == list(colour)
        assert rgb[10, 10].tolist() == [255, 0, 0]


def test_half_transparency_is_mixed() -> None:
    image = Image.new("LA", (4, 4), (0, 128))
    assert difference(to_rgb(image, WHITE), np.full((4, 4, 3), 127)).max() <= 1
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    assert difference(to_rgb(image, (0, 0, 100))[0, 0], np.array([100, 0, 50])).max() <= 1


def test_animated_files_give_their_first_frame() -> None:
    red, blue = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    files = {
        "GIF": images.animated_gif(red, blue),
        "WEBP": images.encode(red, "WEBP", save_all=True, append_images=[blue], lossless=True),
        "PNG": images.encode(red, "PNG", save_all=True, append_images=[blue]),
        "TIFF": images.encode(red, "TIFF", save_all=True, append_images=[blue]),
        "JPEG": images.encode(red, "MPO", save_all=True, append_images=[blue]),
    }
    for format, data in files.items():
        decoded = decode(data, SPEC)
        assert decoded.format == format
        assert difference(decoded.pixels[0, 0], np.array([255, 0, 0])).max() <= 2


def test_format_comes_from_the_content() -> None:
    assert decode(images.encode(images.cat(), "PNG"), SPEC).format == "PNG"
    for format in ("EPS", "ICNS", "TGA", "PCX", "SGI", "DDS"):
        assert "is" in reason_of(images.encode(images.cat(), format))


CUTS = {
    "baseline": lambda: images.encode(images.cat(), quality=90),
    "progressive": lambda: images.encode(images.cat(), progressive=True),
    "restarts": lambda: images.encode(images.cat(), restart_marker_blocks=4),
    "cmyk": lambda: images.encode(images.cat().convert("CMYK")),
    "grey": lambda: images.encode(images.cat().convert("L")),
    "reduced": lambda: images.encode(images.astronaut(), quality=90),
    "PNG": lambda: images.encode(images.cat(), "PNG"),
    "WEBP": lambda: images.encode(images.cat(), "WEBP"),
    "WEBP lossless": lambda: images.encode(images.cat(), "WEBP", lossless=True),
    "GIF": lambda: images.encode(images.cat(), "GIF"),
    "BMP": lambda: images.encode(images.cat(), "BMP"),
    "TIFF": lambda: images.encode(images.cat(), "TIFF"),
    "TIFF deflate": lambda: images.encode(images.cat(), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF JPEG": lambda: images.encode(images.cat(), "TIFF", compression="jpeg"),
    "PPM": lambda: images.encode(images.cat(), "PPM"),
    "JPEG2000": lambda: images.encode(images.cat(), "JPEG2000"),
    "AVIF": lambda: images.encode(images.cat(), "AVIF"),
}


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", CUTS)
def test_a_file_cut_anywhere_is_unreadable(name: str) -> None:
    data = CUTS[name]()
    assert isinstance(decode(data, SPEC), Decoded)
    for percent in range(0, 100, 5):
        reason = reason_of(data[: len(data) * percent // 100])
        assert "\n" not in reason and len(reason) < 100
    if name not in ("TIFF", "TIFF deflate", "TIFF JPEG", "AVIF"):  # these read their end, or a table, first
        assert reason_of(data[: len(data) * 3 // 5]) in ("is cut short", f"is a damaged {name.split()[0]} file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", ["baseline", "restarts", "cmyk", "grey", "reduced"])
def test_a_jpeg_that_ends_early_is_not_filled_with_grey(name: str, share: float) -> None:
    data = CUTS[name]()
    broken = images.jpeg_ended_early(data, share)
    with Image.open(io.BytesIO(broken)) as image:
        image.load()  # Pillow alone accepts it
    assert reason_of(broken) == "is cut short"
    assert reason_of(data[: int(len(data) * share)] + bytes(len(data))) == "is cut short"


def test_a_progressive_jpeg_that_ends_in_its_first_scan_is_cut_short() -> None:
    assert reason_of(images.jpeg_ended_early(CUTS["progressive"](), 0.05)) == "is cut short"


def test_what_follows_a_whole_photo_does_not_matter() -> None:
    data = images.encode(images.cat())
    expected = decode(data, SPEC).pixels
    for tail in (b"\0" * 1000, b"trailing text", data, data[: len(data) // 2], b"\xff\xd9" * 5):
        assert np.array_equal(decode(data + tail, SPEC).pixels, expected)


def test_a_claim_of_400_megapixels_is_refused_at_once() -> None:
    data = images.claiming_jpeg()
    assert 20_000 < len(data) < 35_000
    reason_of(data)
    start = time.perf_counter()
    reason = reason_of(data)
    assert time.perf_counter() - start < 0.01
    assert reason == "claims 20,000 x 20,000 pixels; the limit is 100 megapixels"


@pytest.mark.parametrize("step", [open_image, lambda data: decode(data, SPEC)], ids=["opened", "decoded"])
def test_what_a_refused_photo_took_is_free_at_once(step: Callable[[bytes], object]) -> None:
    data = images.claiming_jpeg()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(UnreadableError) as caught:
            step(data)
        refusal = weakref.ref(caught.value)
        del caught
        assert refusal() is None  # nor any frame of its traceback, nor what these hold
    finally:
        gc.enable()


def test_the_limit_is_ours_and_pillow_never_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(images.claiming_png(20_000, 5_001)).startswith("claims 20,000 x 5,001")
        assert reason_of(images.claiming_png(9_700, 9_700) + bytes(100_000)) == "is cut short"
        assert open_image(images.claiming_png(10_000, 10_000) + bytes(100_000)).width_px == 10_000
        small = images.cat().resize((44, 40))
        files = [images.encode(small, format) for format in ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM")]
        files.append(images.encode(small.convert("P"), "TIFF", compression="tiff_lzw"))
        expected = [decode(file, SPEC).pixels for file in files]
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        for file, wanted in zip(files, expected, strict=True):
            assert np.array_equal(decode(file, SPEC).pixels, wanted)
    monkeypatch.undo()
    assert limit == Image.MAX_IMAGE_PIXELS and MAX_PIXELS == 100_000_000


def test_a_pillow_image_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MAX_PIXELS", 1_000_000)
    with pytest.raises(UnreadableError, match="claims 1,001 x 1,000 pixels"):
        to_rgb(Image.new("L", (1001, 1000)), WHITE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\0" * 5000, "holds nothing but zero bytes"),
        (b"just some notes\n", "is not an image of a kind that heeler reads"),
        (b"<!DOCTYPE html><html>", "is a web page, not an image"),
        (b"%PDF-1.7\n", "is a PDF; save its pages as PNG or JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "is a video, not a photo"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the image; run `git lfs pull`"),
        (b"\xff\xd8\xff", "is cut short"),
        (images.encode(images.cat())[:300], "is cut short"),
        (images.encode(images.cat())[:-2] + b"\xff\xff", "is cut short"),
        (images.claiming_jpeg(0, 300), "claims 0 x 300 pixels"),
        (images.encode(images.cat(), "PNG").replace(b"IHDR", b"IHDX"), "is a damaged PNG file"),
    ],
)
def test_refusals_say_why(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_a_jpeg_of_thousands_of_scans_is_refused_quickly() -> None:
    data = images.encode(images.astronaut(), progressive=True)
    last = data.rindex(b"\xff\xda")
    start = time.perf_counter()
    assert "scans; the limit is 500" in reason_of(data[:-2] + data[last:-2] * 5000 + b"\xff\xd9")
    assert time.perf_counter() - start < 1


def test_keyboard_interrupt_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Image.Image) -> None:
        raise KeyboardInterrupt

    data = images.encode(images.cat(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(data, SPEC)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(451, 300), (300, 451), (64, 64), (20, 31), (1000, 1000), (255, 73), (1, 3), (2, 1)])
def test_resize_equals_pillow_within_one_level(size: tuple[int, int], interpolation: str) -> None:
    image = images.cat().resize(size)
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    side, width, height = 64, *size

    squashed = fit_square(pixels(image), Preprocessing(image_px=side, fit="squash", interpolation=interpolation))
    assert difference(squashed, pixels(image.resize((side, side), method))).max() <= 1

    cropped = fit_square(pixels(image), Preprocessing(image_px=side, fit="crop", interpolation=interpolation))
    short = min(size)
    whole = image.resize((73 * width // short, 73 * height // short), method)
    left, top = round((whole.width - side) / 2), round((whole.height - side) / 2)
    assert difference(cropped, pixels(whole.crop((left, top, left + side, top + side)))).max() <= 1

    spec = Preprocessing(image_px=side, fit="pad", interpolation=interpolation, mean=(0.485, 0.456, 0.406))
    padded = Image.new("RGB", (side, side), (124, 116, 104))
    inner = image.resize(tuple(max(1, round(part * side / max(size))) for part in size), method)
    padded.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    assert difference(fit_square(pixels(image), spec), pixels(padded)).max() <= 1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(451, 60), (60, 451), (900, 7), (7, 901), (3, 500), (1, 400)])
def test_the_crop_of_a_long_strip_equals_the_crop_of_its_resize(size: tuple[int, int], interpolation: str) -> None:
    image = images.cat().resize(size)
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    cropped = fit_square(pixels(image), Preprocessing(image_px=64, interpolation=interpolation))
    whole = image.resize(tuple(73 * part // min(size) for part in size), method)
    left, top = round((whole.width - 64) / 2), round((whole.height - 64) / 2)
    assert difference(cropped, pixels(whole.crop((left, top, left + 64, top + 64)))).max() <= 1


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_thread_of_pixels_costs_no_memory(fit: str) -> None:
    code = (
        "import io, resource, numpy as np, torch\n"
        "from PIL import Image\n"
        "from heeler.data.decode import decode, fit_square\n"
        "from heeler.records import Preprocessing\n"
        f"spec = Preprocessing(fit={fit!r})\n"
        "fit_square(np.zeros((300, 400, 3), np.uint8), spec)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for size in ((1, 30000), (30000, 1), (1, 2000000), (2000000, 1)):\n"
        "    file = io.BytesIO()\n"
        "    Image.new('RGB', size, (9, 9, 9)).save(file, 'PNG')\n"
        "    side = decode(file.getvalue(), spec).pixels\n"
        "    assert side.shape == (224, 224, 3) and (side == 9).any()\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert float(done.stdout) < 250, "MiB beyond what an ordinary photo takes"


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_a_jpeg_decoded_at_reduced_scale_loses_nothing(fit: str, orientation: int) -> None:
    photo = images.astronaut().crop((0, 0, 511, 477))
    stored, exif = images.stored_turned(photo, orientation)
    data = images.encode(stored, quality=90, exif=exif)
    spec = Preprocessing(image_px=64, fit=fit)
    opened = open_image(data)
    assert module._draft(opened, spec) == (opened.height_px / 4, opened.width_px / 4)
    with Image.open(io.BytesIO(data)) as image:
        full = fit_square(to_rgb(image, WHITE), spec)
    decoded = decode(data, spec)
    assert (decoded.width_px, decoded.height_px) == (511, 477)
    assert difference(decoded.pixels, full).mean() < 1.5
    assert np.percentile(difference(decoded.pixels, full), 99) <= 10


def test_threads_agree_with_one_thread() -> None:
    files = [images.encode(images.cat().rotate(angle), quality=90) for angle in range(0, 90, 10)] * 8
    expected = [decode(file, SPEC).pixels for file in files]
    with ThreadPoolExecutor(4) as threads:
        for one, other in zip(threads.map(lambda file: decode(file, SPEC).pixels, files), expected, strict=True):
            assert np.array_equal(one, other)


def test_a_malformed_file_leaves_the_next_one_alone() -> None:
    good = images.encode(images.cat())
    expected = decode(good, SPEC).pixels
    for percent in range(0, 100, 20):
        reason_of(good[: len(good) * percent // 100])
        assert np.array_equal(decode(good, SPEC).pixels, expected)


def small_files() -> list[bytes]:
    cat = images.cat().resize((40, 30))
    stored, exif = images.stored_turned(cat, 6)
    formats = ("PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "AVIF")
    files = [images.encode(cat, format) for format in formats]
    files += [images.encode(cat, "TIFF", compression="tiff_lzw"), images.grey16(np.arange(1200).reshape(30, 40) * 50)]
    files += [images.encode(stored, exif=exif), images.encode(cat, progressive=True), images.encode(cat, "MPO")]
    files.append(images.heic(cat.resize((64, 48))))
    return files


SMALL = small_files()


def never_raises_anything_else(data: bytes) -> None:
    try:
        decoded = decode(data, SPEC)
    except UnreadableError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert decoded.pixels.shape == (64, 64, 3)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from([b"", *(file[:16] for file in SMALL)]), tail=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_read(head: bytes, tail: bytes) -> None:
    never_raises_anything_else(head + tail)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    file=st.sampled_from(SMALL),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
    cut=st.integers(0, 400),
)
def test_mutated_images_are_refused_or_read(file: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(file)
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    never_raises_anything_else(bytes(data[: len(data) - cut]) if cut % 4 == 0 else bytes(data))
