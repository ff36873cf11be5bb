"""Squares of pixels as small image files for pages and sheets, without metadata."""

from __future__ import annotations

import io

from PIL import Image

from heeler.records import ByteArray


def jpeg_bytes(square: ByteArray, quality: int = 80) -> bytes:
    """A JPEG file's content.

    Args:
        square: (S, S, 3) uint8 RGB.
        quality: of the JPEG, 1 to 95.
    """
    file = io.BytesIO()
    Image.fromarray(square).save(file, "JPEG", quality=quality)
    return file.getvalue()
