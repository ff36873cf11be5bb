"""Small pictures of photos for the review page: made when they are asked for, without metadata, kept within a bound."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from heeler.data.decode import decode, open_image
from heeler.data.square import without_padding
from heeler.errors import UnreadableError
from heeler.files import read_regular
from heeler.machine import n_cores
from heeler.records import Preprocessing

SMALL_PX, LARGE_PX = 320, 1280
MAX_CACHED_BYTES = 64 << 20


class Thumbs:
    """JPEGs of photos by number; safe to call from several threads.

    Args:
        files: one for each number; None where there is no photo.
    """

    def __init__(self, files: Sequence[Path | None]) -> None:
        self._files = files
        self._made: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()
        # A photo of 100 megapixels takes 300 MB while it is decoded; a page asks for dozens at once.
        self._decoding = threading.BoundedSemaphore(min(n_cores(), 4))

    def __len__(self) -> int:
        return len(self._files)

    def begin(self) -> None:
        """Make the first picture; the first one ever waits seconds for the code that resizes it."""
        with contextlib.suppress(UnreadableError):
            self.jpeg(0, SMALL_PX)

    def jpeg(self, number: int, side_px: int) -> bytes:
        """The photo, its longer side ``side_px``, as a JPEG.

        Raises:
            UnreadableError: there is no such photo any more, or the file is no whole photo.
        """
        key = (number, side_px)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        file = self._files[number]
        if file is None:
            raise UnreadableError("is not among the photos any more")
        with self._decoding:
            jpeg = _jpeg_of(read_regular(file), side_px)
        with self._lock:
            if key not in self._made:
                self._made[key] = jpeg
                self._n_bytes += len(jpeg)
            while self._n_bytes > MAX_CACHED_BYTES:
                self._n_bytes -= len(self._made.popitem(last=False)[1])
        return jpeg


def _jpeg_of(data: bytes, side_px: int) -> bytes:
    opened = open_image(data)
    side_px = min(side_px, max(opened.width_px, opened.height_px))
    decoded = decode(data, Preprocessing(image_px=side_px, fit="pad", interpolation="bilinear"))
    file = io.BytesIO()
    photo = without_padding(decoded.pixels, (decoded.width_px, decoded.height_px))
    Image.fromarray(photo).save(file, "JPEG", quality=85)
    return file.getvalue()
