"""Malformed images by the thousand, the same for each seed: cut, flipped, lying, nested, zeroed, mixed, and bombs."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageCms

from images import (
    cat,
    claiming_jpeg,
    claiming_png,
    encode,
    grey16,
    heic,
    jpeg_ended_early,
    png_with_chunk,
    with_segment,
)

# Sides that a header may be made to claim: none, one, and as many as memory would have to be asked for.
CLAIMS = (
    *((0, 5), (1, 1), (1, 60_000), (60_000, 1), (300, 3000), (3000, 3000), (7000, 7000)),
    *((9999, 9999), (10_000, 10_000), (16_383, 6000), (20_000, 20_000), (65_535, 65_535)),
)
EXTREMES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
HEADER_BYTES = 96


@dataclass(frozen=True)
class Malformed:
    """One file.

    Args:
        kind: how it was spoilt.
        name: of which file, and where.
        data: its content.
        is_cut: something of the photo is missing, so that it must be refused.
    """

    kind: str
    name: str
    data: bytes
    is_cut: bool = False


@cache
def seeds() -> dict[str, bytes]:
    """A whole file of each format and of each way to pack it that heeler reads."""
    photo = cat().resize((120, 80), Image.Resampling.LANCZOS)
    grey, palette, other = photo.convert("L"), photo.quantize(64), photo.rotate(180)
    see_through = photo.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cat"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0seen"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # it names the second in which it was made
    whole = {
        "baseline.jpg": encode(photo, quality=88, exif=exif, icc_profile=profile),
        "progressive.jpg": encode(photo, progressive=True),
        "restarts.jpg": encode(photo, restart_marker_blocks=4),
        "cmyk.jpg": encode(photo.convert("CMYK")),
        "grey.jpg": encode(grey),
        "two.mpo": encode(photo, "MPO", save_all=True, append_images=[other]),
        "rgb.png": encode(photo, "PNG", exif=exif, icc_profile=profile),
        "palette.png": encode(palette, "PNG", transparency=bytes(range(64))),
        "16.png": grey16(np.asarray(grey).astype(np.uint16) * 257),
        "animated.png": encode(photo, "PNG", save_all=True, append_images=[other]),
        "lossy.webp": encode(photo, "WEBP", exif=exif),
        "lossless.webp": encode(see_through, "WEBP", lossless=True),
        "animated.webp": encode(photo, "WEBP", save_all=True, append_images=[other]),
        "one.gif": encode(palette, "GIF", comment=b"a cat"),
        "animated.gif": encode(palette, "GIF", save_all=True, append_images=[other.quantize(64)], transparency=3),
        "rgb.bmp": encode(photo, "BMP"),
        "runs.bmp": run_length_bmp(grey),
        "P6.ppm": encode(photo, "PPM"),
        "P5.pgm": encode(grey, "PPM"),
        "P3.ppm": plain_ppm(photo.resize((24, 16))),
        "boxed.jp2": encode(photo, "JPEG2000"),
        "bare.j2k": encode(photo, "JPEG2000", no_jp2=True),
        "photo.avif": encode(photo, "AVIF", exif=exif),
        "photo.heic": heic(photo),
        "pages.tif": encode(photo.copy(), "TIFF", save_all=True, append_images=[photo.rotate(180)]).rstrip(
            b"\0"  # Pillow fills up to a multiple of 16
        ),
        "big.tif": encode(photo, "TIFF", big_tiff=True, compression="tiff_lzw"),
    }
    for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"):
        whole[f"{packing}.tif"] = encode(photo, "TIFF", compression=packing)
    whole["group4.tif"] = encode(photo.convert("1"), "TIFF", compression="group4")
    return whole


def plain_ppm(image: Image.Image) -> bytes:
    """A PPM whose numbers are written out."""
    numbers = " ".join(map(str, np.asarray(image).ravel()))
    return f"P3\n# a cat\n{image.width} {image.height}\n255\n{numbers}\n".encode()


def run_length_bmp(image: Image.Image) -> bytes:
    """A greyscale BMP packed by run lengths, which Pillow reads and does not write."""
    body = bytearray()
    for row in np.asarray(image)[::-1]:
        starts = np.flatnonzero(np.diff(row.astype(int), prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            body += bytes((end - start, row[start]))
        body += b"\0\0"
    body += b"\0\1"
    colours = b"".join(bytes((level, level, level, 0)) for level in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, image.width, image.height, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    start = 14 + len(head) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + colours + body


def cases(seed: int = 0, n_each: int = 90) -> Iterator[Malformed]:
    """All of them.

    Args:
        seed: of what is drawn.
        n_each: files that are drawn of each seed file, for flips and for lies each.
    """
    yield from bombs()
    yield from not_images()
    for name, data in seeds().items():
        yield from claims(name, data)
    for percent in range(25, 100, 5):
        for name, data in seeds().items():
            yield from closed(name, data, percent)
    for percent in range(100):
        for name, data in seeds().items():
            yield cut(name, data, len(data) * percent // 100, f"at {percent} %")
    for n_bytes in (1, 2, 3, 4, 8, 12):
        for name, data in seeds().items():
            yield cut(name, data, len(data) - n_bytes, f"{n_bytes} bytes before its end")
    yield from drawn(seed, n_each)


def drawn(seed: int, n_each: int) -> Iterator[Malformed]:
    """Those that chance has a part in; see ``cases``."""
    draw = random.Random(seed)
    for number in range(n_each):
        for name, data in seeds().items():
            yield flipped(name, data, draw, number)
            yield lying(name, data, draw, number)
            if number % 4 == 0:
                yield zeroed(name, data, draw, number)
            if number % 3 == 0:
                yield polyglot(name, data, draw, number)


def cut(name: str, data: bytes, end: int, where: str) -> Malformed:
    """The file without its end. Of two photos in one file the first is what is read, and has an end of its own."""
    whole = data.index(b"\xff\xd9\xff\xd8") + 2 if name.endswith(".mpo") else len(data)
    return Malformed("cut", f"{name} {where}", data[:end], is_cut=end < whole)


def closed(name: str, data: bytes, percent: int) -> Iterator[Malformed]:
    """The file without a part of its pixels, and with the end mark or the length of a whole one."""
    short = data[: len(data) * percent // 100]
    ends = {"png": b"\0\0\0\0IEND\xaeB`\x82", "gif": b"\0;", "j2k": b"\xff\xd9", "jp2": b"\xff\xd9"}
    ending = name[-3:]
    if ending == "jpg" and not name.startswith("progressive"):  # its first scans are a whole photo, if a blurred one
        yield Malformed("cut and closed", f"{name} {percent}", jpeg_ended_early(data, percent / 100), is_cut=True)
    if name in ("animated.png", "animated.gif"):
        return  # its first picture may be whole
    if ending in ends:
        yield Malformed("cut and closed", f"{name} {percent}", short + ends[ending], is_cut=True)
    if name in ("lossy.webp", "lossless.webp", "rgb.bmp", "runs.bmp"):
        at, length = (4, len(short) - 8) if ending == "ebp" else (2, len(short))
        yield Malformed("cut and closed", f"{name} {percent}", _put(short, at, struct.pack("<I", length)), is_cut=True)


def flipped(name: str, data: bytes, draw: random.Random, number: int) -> Malformed:
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16, 64))):
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return Malformed("bits flipped", f"{name} {number}", bytes(spoilt))


def lying(name: str, data: bytes, draw: random.Random, number: int) -> Malformed:
    """Extreme values in the header, which a TIFF may have at its end."""
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(min(HEADER_BYTES, len(spoilt) - 4))
        if name.endswith(".tif") and draw.random() < 0.5:
            place = len(spoilt) - 4 - place
        spoilt[place : place + draw.choice((1, 2, 4))] = bytes([draw.choice(EXTREMES)]) * draw.choice((1, 2, 4))
    return Malformed("header changed", f"{name} {number}", bytes(spoilt))


def zeroed(name: str, data: bytes, draw: random.Random, number: int) -> Malformed:
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice((1, 16, 512, 4096, len(data))))
    return Malformed("zero bytes", f"{name} {number}", data[:start] + bytes(end - start) + data[end:])


def polyglot(name: str, data: bytes, draw: random.Random, number: int) -> Malformed:
    """The head of one file and the rest of another, or one inside the other."""
    other_name = draw.choice(sorted(seeds()))
    other = seeds()[other_name]
    at = draw.choice((4, 16, 64, len(data) // 2, len(data)))
    mixed = draw.choice((data[:at] + other[at:], data[:at] + other + data[at:], data + other))
    return Malformed("polyglot", f"{name} and {other_name} {number}", mixed)


def claims(name: str, data: bytes) -> Iterator[Malformed]:
    """The file with other sides in its header, its pixels left as they are."""
    for width, height in CLAIMS:
        for patch in PATCHES:
            spoilt = patch(data, width, height)
            if spoilt is not None and spoilt != data:
                yield Malformed("size claimed", f"{name} {width} x {height}", spoilt)


def _claim_jpeg(data: bytes, width: int, height: int) -> bytes | None:
    at = next((data.find(bytes((0xFF, marker))) for marker in (0xC0, 0xC2) if bytes((0xFF, marker)) in data), -1)
    return _put(data, at + 5, struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)) if data[:2] == b"\xff\xd8" else None


def _claim_png(data: bytes, width: int, height: int) -> bytes | None:
    if data[12:16] != b"IHDR":
        return None
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return _put(data, 12, head + struct.pack(">I", zlib.crc32(head)))


def _claim_gif(data: bytes, width: int, height: int) -> bytes | None:
    return _put(data, 6, struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)) if data[:3] == b"GIF" else None


def _claim_gif_frame(data: bytes, width: int, height: int) -> bytes | None:
    at = data.find(b",\0\0\0\0") if data[:3] == b"GIF" else -1
    return _put(data, at + 5, struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)) if at > 0 else None


def _claim_webp(data: bytes, width: int, height: int) -> bytes | None:
    if data[12:16] == b"VP8X":
        return _put(data, 24, struct.pack("<I", max(0, width - 1))[:3] + struct.pack("<I", max(0, height - 1))[:3])
    if data[12:16] == b"VP8 ":
        return _put(data, 26, struct.pack("<HH", width & 0x3FFF, height & 0x3FFF))
    return None


def _claim_webp_frame(data: bytes, width: int, height: int) -> bytes | None:
    """The picture itself, with its canvas where there is one."""
    at = data.find(b"VP8L") if data[:4] == b"RIFF" else -1
    if at < 0:
        return None
    bits = (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14 | 1 << 28
    spoilt = _put(data, at + 9, struct.pack("<I", bits))
    return _claim_webp(spoilt, width, height) if data[12:16] == b"VP8X" else spoilt


def _claim_bmp(data: bytes, width: int, height: int) -> bytes | None:
    return _put(data, 18, struct.pack("<ii", width, height)) if data[:2] == b"BM" else None


def _claim_ppm(data: bytes, width: int, height: int) -> bytes | None:
    for old in (b"120 80", b"24 16"):
        if data[:1] == b"P" and old in data[:30]:
            return data.replace(old, b"%d %d" % (width, height), 1)
    return None


def _claim_jpeg2000(data: bytes, width: int, height: int) -> bytes | None:
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return None
    spoilt = _put(data, at + 8, struct.pack(">II", width, height))
    spoilt = _put(spoilt, at + 24, struct.pack(">II", width, height))
    box = spoilt.find(b"ihdr", 0, at)
    return spoilt if box < 0 else _put(spoilt, box + 4, struct.pack(">II", height, width))


def _claim_avif(data: bytes, width: int, height: int) -> bytes | None:
    at = data.find(b"ispe")
    return _put(data, at + 8, struct.pack(">II", width, height)) if at > 0 else None


def _claim_tiff(data: bytes, width: int, height: int) -> bytes | None:
    spoilt = data
    for tag, value in ((256, width), (257, height)):
        for kind in (3, 4):
            at = spoilt.find(struct.pack("<HHI", tag, kind, 1)) if data[:3] == b"II*" else -1
            if at > 0:
                spoilt = _put(spoilt, at + 2, struct.pack("<HII", 4, 1, value))
    return spoilt


PATCHES: tuple[Callable[[bytes, int, int], bytes | None], ...] = (
    *(_claim_jpeg, _claim_png, _claim_gif, _claim_gif_frame, _claim_webp, _claim_webp_frame, _claim_bmp),
    *(_claim_ppm, _claim_jpeg2000, _claim_avif, _claim_tiff),
)


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def not_images() -> Iterator[Malformed]:
    """Text, archives and zeros under the name of a photo."""
    texts = (
        b"",
        b" ",
        b"\n" * 500,
        b"notes",
        b"<!doctype html><p>404",
        b"<svg/>",
        b"%PDF-1.7\n%%EOF",
        b"{}",
        b"GIF89a",
    )
    yield from (Malformed("text", f"{text[:12]!r}", text) for text in texts)
    yield from (Malformed("zero bytes", f"{n:,} bytes", bytes(n)) for n in (1, 12, 4096, 1 << 20))
    magics = (
        *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0", b"MM\0*", b"P6 ", b"P1\n"),
        *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x1cftypavif", b"\0\0\0\x18ftypheic"),
    )
    for magic in magics:
        for tail in (b"", bytes(300), b"\xff" * 300, b"text " * 100):
            yield Malformed("text", f"{magic!r} and {len(tail)} bytes", magic + tail)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../photo.jpg", seeds()["grey.jpg"])
    for name in ("grey.jpg", "one.gif", "rgb.png", "rgb.bmp"):
        yield Malformed("polyglot", f"{name} and a zip", seeds()[name] + archive.getvalue())
        yield Malformed("polyglot", f"a zip and {name}", archive.getvalue() + seeds()[name])
        yield Malformed("polyglot", f"a script and {name}", b"#!/bin/sh\nexit\n" + seeds()[name])


def bombs() -> Iterator[Malformed]:
    """A few kilobytes that ask for gigabytes or minutes."""
    jpeg, png, gif = (seeds()[name] for name in ("baseline.jpg", "rgb.png", "one.gif"))
    yield Malformed("bomb", "400 megapixels in a JPEG", claiming_jpeg())
    yield Malformed("bomb", "99 megapixels in a JPEG", claiming_jpeg(9950, 9950))
    scans = seeds()["progressive.jpg"]
    last = scans.rindex(b"\xff\xda")
    yield Malformed("bomb", "scans", scans[:-2] + scans[last:-2] * 5000 + b"\xff\xd9")
    yield Malformed(
        "bomb", "scans of 49 megapixels", _claim_jpeg(scans, 7000, 7000)[:-2] + scans[last:-2] * 450 + b"\xff\xd9"
    )  # type: ignore[index]
    yield Malformed("bomb", "comments", jpeg[:2] + b"\xff\xfe\0\2" * 1_000_000 + jpeg[2:])
    yield Malformed("bomb", "100 megapixels in a PNG", claiming_png(10_000, 10_000))
    chunk = b"\0\0\0\0prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    yield Malformed("bomb", "chunks", png[:33] + chunk * 1_000_000 + png[33:])
    packed = zlib.compress(bytes(50_000_000), 9)
    yield Malformed("bomb", "zTXt", png_with_chunk(png, b"zTXt", b"note\0\0" + packed))
    yield Malformed("bomb", "iCCP", png_with_chunk(png, b"iCCP", b"profile\0\0" + packed))
    many = png
    for number in range(60):
        many = png_with_chunk(many, b"zTXt", b"note %d\0\0" % number + zlib.compress(bytes(1_000_000), 9))
    yield Malformed("bomb", "zTXt after zTXt", many)
    entries = b"".join(struct.pack("<HHII", 0x9000 + n % 500, 3, 1, 1) for n in range(300_000))
    yield Malformed("bomb", "eXIf", png_with_chunk(png, b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + entries))
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    yield Malformed("metadata", "EXIF that leads to itself", with_segment(jpeg, 0xE1, loop))
    yield Malformed("metadata", "EXIF in EXIF", with_segment(jpeg, 0xE1, b"Exif\0\0" + jpeg[:4000] * 3))
    for number in (1, 255):
        icc = b"ICC_PROFILE\0" + bytes((number, 255)) + b"\xff" * 60_000
        yield Malformed("metadata", f"ICC, part {number} of 255", with_segment(jpeg, 0xE2, icc))
    yield Malformed("bomb", "a comment in a GIF", gif[:-1] + b"!\xfe" + (b"\xff" + bytes(255)) * 40_000 + b"\0;")
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"
    first = 13 + (3 << ((gif[10] & 7) + 1))
    yield Malformed("bomb", "a comment before a GIF's picture", gif[:first] + comment + gif[first:])
    yield Malformed("bomb", "extensions in a GIF", gif[:first] + b"!\xf9\0" * 1_000_000 + gif[first:])
    see_through = b"GIF89a" + struct.pack("<HHBBB", 10_000, 10_000, 0x80, 0, 0) + bytes(6) + b"!\xf9\4\1\0\0\0\0"
    picture = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2L\1\0;"
    yield Malformed("bomb", "a GIF of one pixel on a screen of 100 megapixels", see_through + picture)
    yield Malformed("bomb", "comments in a GIF", gif[:first] + b"!\xfe\0" * 3_000_000 + gif[first:])
    yield Malformed("bomb", "zeros between the blocks of a GIF", gif[:first] + bytes(8_000_000) + gif[first:])
    yield from header_bombs()
    for side in ((16_383, 6100), (3000, 2600)):
        yield Malformed("bomb", f"a blank WebP {side}", encode(Image.new("RGB", side), "WEBP", lossless=True))
    yield Malformed("bomb", "numbers", b"P3 2000 1300 255\n" + b"7 " * 7_800_000)
    yield Malformed("bomb", "numbers, as many as may be", b"P3 1000 690 255\n" + b"7 " * 2_070_000)
    yield Malformed("bomb", "ones", b"P1 9000 9000\n" + b"1" * 4_000_000)
    dots = (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 0, 0)
    )
    yield Malformed("bomb", "runs of one dot in a BMP", dots + b"\1\0" * 520_000)
    yield Malformed("bomb", "runs of none in a BMP", dots + b"\0\2\0\0" * 260_000)
    yield Malformed("bomb", "too many runs in a BMP", dots + b"\1\0" * 1_500_000)


def header_bombs() -> Iterator[Malformed]:
    """Headers that decoders step through in Python, before any pixel."""
    jp2 = seeds()["boxed.jp2"]
    at = jp2.find(b"jp2h")
    boxes = b"\0\0\0\x08free" * 700_000
    header = struct.pack(">I", len(boxes) + 8) + b"jp2h" + boxes
    yield Malformed("bomb", "boxes in a JPEG 2000", jp2[: at - 4] + boxes + jp2[at - 4 :])
    yield Malformed("bomb", "boxes in a header of a JPEG 2000", jp2[: at - 4] + header + jp2[at - 4 :])
    yield Malformed("bomb", "spaces before a PPM's size", b"P6" + b" " * 10_000_000 + b"1 1 255\nabc")
    yield Malformed("bomb", "a comment before a PPM's size", b"P5\n#" + b"a" * 10_000_000 + b"\n1 1 255\na")
    sides = [(256, 4, 1, 100), (257, 4, 1, 100), (258, 3, 1, 8), (262, 3, 1, 1)]
    yield Malformed(
        "bomb",
        "a TIFF of 2,000,000 strips",
        tiff(
            [*sides, (273, 4, 2_000_000, 200), (278, 4, 1, 1), (279, 4, 2_000_000, 200)],
            struct.pack("<I", 100) * 2_000_000,
        ),
    )
    for packing in (1, 5, 7, 8):
        for side in (4096, 60_000):
            tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 200), (325, 4, 1, 1000)]
            name = f"a TIFF of packing {packing} in tiles of {side:,} pixels"
            yield Malformed("bomb", name, tiff([*sides, (259, 3, 1, packing), *tiles], zlib.compress(bytes(9000)) * 90))
    overlapping = [(300 + number, 7, 500_000, 8) for number in range(60_000)]
    strip = [(273, 4, 1, 200), (279, 4, 1, 100)]
    yield Malformed("bomb", "a TIFF of values that lie in one place", tiff([*sides, *strip, *overlapping], bytes(1000)))
    # A count of entries at every 12th byte, and behind each table the address of the next one.
    table = struct.pack("<H", 60_000) + bytes(10)
    links = b"".join(struct.pack("<I", 8 + 12 * number).ljust(12, b"\0") for number in range(1, 5000))
    chain = b"II*\0\x08\0\0\0" + table * 60_000 + bytes(2) + links
    yield Malformed("bomb", "a TIFF of 5,000 pages of 60,000 entries", chain + bytes(800_000))
    yield Malformed("bomb", "a TIFF that leads to itself", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")
    ends_with_loop = seeds()["pages.tif"].replace(b"\0\0\0\0", b"\x08\0\0\0")
    yield Malformed("bomb", "a TIFF whose pages lead back", ends_with_loop)


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    """A TIFF of one page with these entries: tag, type, count, value; the rest begins at byte 200 or behind them."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)
    return head.ljust(200, b"\0") + rest
