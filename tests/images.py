"""Makers of odd, broken and hostile images; each returns the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from skimage import data as photos

# Classes that break a table, a page, a CSV or a terminal where they are not taken for mere names.
HOSTILE_NAMES = (
    "a,b",
    'a "quoted" one',
    "line\nbreak",
    "ünïcödé 日本",
    "| pipe | pipe |",
    "**bold** [x](http://a.b)",
    "<script>",
    "# &amp; $x$",
    "back\\",
    "caf\udce9",
)


def cat() -> Image.Image:
    """A real photo, 451 x 300 pixels."""
    return Image.fromarray(photos.chelsea())


def astronaut() -> Image.Image:
    """A real photo, 512 x 512 pixels."""
    return Image.fromarray(photos.astronaut())


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The image as a file of any format that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    """The image as HEIC, written by pillow_heif."""
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


def stored_turned(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Pixels and EXIF that show ``image`` once the orientation is applied."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (image.transpose(undo[orientation]) if orientation in undo else image), exif


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """A JPEG with one more segment right behind its start."""
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def claiming_jpeg(width_px: int = 20_000, height_px: int = 20_000) -> bytes:
    """A real JPEG of about 27 kB whose header claims another size."""
    data = bytearray(encode(cat(), quality=82))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height_px, width_px)
    return bytes(data)


def jpeg_ended_early(jpeg: bytes, share: float) -> bytes:
    """A JPEG that lacks the end of its pixels but has an end marker, which decoders fill up with grey."""
    scan = jpeg.index(b"\xff\xda")
    cut = scan + 14 + int((len(jpeg) - scan - 16) * share)
    return jpeg[:cut].rstrip(b"\xff") + b"\xff\xd9"


def claiming_png(width_px: int, height_px: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(100)))
        + _chunk(b"IEND", b"")
    )


def png_with_chunk(png: bytes, name: bytes, payload: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + _chunk(name, payload) + png[33:]


def grey16(values: np.ndarray, format: str = "PNG") -> bytes:
    """A 16-bit greyscale file of an (H, W) array."""
    return encode(Image.fromarray(values.astype(np.uint16)), format)


def animated_gif(first: Image.Image, second: Image.Image) -> bytes:
    """Two frames."""
    return encode(first, "GIF", save_all=True, append_images=[second], duration=100)


def _chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
