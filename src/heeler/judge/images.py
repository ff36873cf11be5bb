"""Squares of pixels as small image files for pages and sheets, without metadata."""

from __future__ import annotations

import base64
import io

from PIL import Image

from heeler.records import ByteArray

__all__ = ["data_uri", "jpeg_bytes", "png_bytes", "webp_bytes"]


def jpeg_bytes(square: ByteArray, quality: int = 80) -> bytes:
    """A JPEG file's content.

    Args:
        square: (S, S, 3) uint8 RGB.
        quality: of the JPEG, 1 to 95.
    """
    file = io.BytesIO()
    Image.fromarray(square).save(file, "JPEG", quality=quality)
    return file.getvalue()


def png_bytes(square: ByteArray) -> bytes:
    """A PNG file's content; of (S, S, 3) uint8 RGB."""
    file = io.BytesIO()
    Image.fromarray(square).save(file, "PNG")
    return file.getvalue()


def webp_bytes(square: ByteArray, side_px: int, quality: int, effort: int = 2) -> bytes:
    """A WebP file's content: half of a JPEG of the same look where pictures are small.

    Args:
        square: (S, S, 3) uint8 RGB.
        side_px: side of the picture, at most; a smaller square stays as it is.
        quality: of the WebP, 1 to 100.
        effort: 0 to 6; more takes longer and makes it smaller.
    """
    image = Image.fromarray(square)
    if image.width > side_px:
        image = image.resize((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=effort)
    return file.getvalue()


def data_uri(image: bytes) -> str:
    """A picture as an address that needs no file; JPEG or WebP, as its first bytes say."""
    kind = "webp" if image[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
