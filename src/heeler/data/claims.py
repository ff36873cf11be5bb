"""What a file's header may claim, and whether the bytes that it promises are all there; no pixel is decoded.

Decoders differ in what they make of a file that lost its end: some fill up with grey, some stop at the last whole row.
So the end mark of each format is looked for here, or its length, whichever it has; JPEG has a module of its own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import count

from heeler.errors import UnreadableError

MAX_PIXELS = 100_000_000
"""Most pixels that a header may claim; decoded, that is 0.3 GB of RGB."""

CUT = "is cut short"
# Below, even the hungriest decoder stays within 0.3 GB, whatever the header claims.
FREE_PIXELS = 8_000_000
# Pixels that one byte of file can stand for in a photo. Scans of line drawings reach 700; photos stay below 50.
MAX_PIXELS_PER_BYTE = 1000
# Decoders step through these one by one. A PNG of 100 MB in pieces of 8 kB has 12,500.
MAX_PIECES = 200_000
# Real TIFFs have a page or some hundred; the check walks all of them.
MAX_PAGES = 10_000
# Pillow steps through the boxes in it, which may have 8 bytes each; a colour profile has 3 MB at most.
MAX_HEADER_BOX_BYTES = 4 << 20
# Pillow reads numbers that are written out, and run lengths, in Python: 4 MB in a second, and 2 MB.
MAX_TEXT_BYTES, MAX_RUNS_BYTES = 4 << 20, 1 << 20
# It joined the comments of a GIF piece by piece, before 13.0: 4 MB in 0.6 s, 10 MB in 4.5 s.
MAX_COMMENT_BYTES = 1 << 20
# And the spaces and comments in front of the last number of a PPM's header, one byte at a time.
MAX_PPM_HEADER_BYTES = 64 << 10
_PPM_HEADER = re.compile(rb"P(?:[14](?:(?:\s|#[^\r\n]*+)++\d++){2}|[2356](?:(?:\s|#[^\r\n]*+)++\d++){3})")
_KNOWN_BOXES = (b"ftyp", b"meta", b"moov", b"mdat", b"free", b"skip", b"idat", b"uuid", b"jp2h", b"jp2c")
_FIELD_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def require_size(width: int, height: int) -> None:
    """Refuse a picture of no pixels or of too many.

    Raises:
        UnreadableError: so it is.
    """
    if width < 1 or height < 1:
        raise UnreadableError(f"claims {width:,} x {height:,} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableError(
            f"claims {width:,} x {height:,} pixels; the limit is {MAX_PIXELS // 1_000_000} megapixels"
        )


def require_plausible(width: int, height: int, n_bytes: int) -> None:
    """Refuse a large picture in a file so small that it can only be a bomb: decoders would ask for memory first.

    Raises:
        UnreadableError: so it is.
    """
    if width * height > max(FREE_PIXELS, MAX_PIXELS_PER_BYTE * n_bytes):
        raise UnreadableError(f"claims {width:,} x {height:,} pixels in {n_bytes:,} bytes, which no photo is packed in")


def require_whole(data: bytes, kind: str) -> None:
    """Refuse a file that lacks its end, or that is in more pieces than a decoder can step through in time.

    Args:
        data: content of the file.
        kind: ``PNG``, ``GIF``, ``WEBP``, ``BMP``, ``TIFF``, ``PPM``, ``JPEG2000``, ``AVIF`` or ``HEIF``; of others
            nothing is said.

    Raises:
        UnreadableError: it is cut short; or the number and the limit.
    """
    checks = {
        "PNG": _png,
        "GIF": _gif,
        "WEBP": _webp,
        "BMP": _bmp,
        "TIFF": _tiff,
        "PPM": _ppm,
        "JPEG2000": _jpeg2000,
        "AVIF": _boxes,
        "HEIF": _boxes,
    }
    try:
        is_whole = kind not in checks or checks[kind](data)
    except (struct.error, IndexError):  # a number stands across the end
        is_whole = False
    if not is_whole:
        raise UnreadableError(CUT)


def _pieces() -> Iterator[None]:
    for number in count():
        _require_few(number)
        yield


def _require_few(n_pieces: int) -> None:
    if n_pieces > MAX_PIECES:
        raise UnreadableError(f"is in more than {MAX_PIECES:,} pieces, the limit")


def _png(data: bytes) -> bool:
    at = 8
    for _ in _pieces():
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if name == b"IEND" or at > len(data):
            break
    return at <= len(data)


def _gif(data: bytes) -> bool:
    at, n_comment = 13 + _palette_bytes(data[10]), 0
    for _ in _pieces():
        began, introducer = at, data[at]
        if introducer == 0x3B:
            return True
        if introducer == 0x2C:
            at += 10 + _palette_bytes(data[at + 9]) + 1
        elif introducer == 0x21:
            at += 2
        else:
            at += 1  # some writers leave a zero between blocks, and decoders step over it
            continue
        while data[at]:
            at += 1 + data[at]
        at += 1
        if data[began : began + 2] == b"!\xfe":
            n_comment += at - began
        if n_comment > MAX_COMMENT_BYTES:
            raise UnreadableError(f"has more than {MAX_COMMENT_BYTES:,} bytes of comments")
    return False


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> bool:
    return 8 + int(struct.unpack_from("<I", data, 4)[0]) <= len(data)


def _bmp(data: bytes) -> bool:
    packing = data[30:31]
    if packing in (b"\1", b"\2") and len(data) > MAX_RUNS_BYTES:
        raise UnreadableError(f"is a BMP in {len(data):,} bytes of run lengths; save it as PNG")
    return int(struct.unpack_from("<I", data, 2)[0]) <= len(data)


def _ppm(data: bytes) -> bool:
    if len(data) > MAX_PPM_HEADER_BYTES and not _PPM_HEADER.match(data, 0, MAX_PPM_HEADER_BYTES):
        raise UnreadableError(f"is a PPM without a size in its first {MAX_PPM_HEADER_BYTES:,} bytes")
    if data[1] in b"456":
        return True  # its pixels have a length, which Pillow asks for
    if len(data) > MAX_TEXT_BYTES:
        raise UnreadableError(f"is a PPM in {len(data):,} bytes of text; save it as PNG")
    # A number may have lost its last digit, unless something follows it.
    return data[1:2] == b"1" or data[-1:].isspace()


def _jpeg2000(data: bytes) -> bool:
    """Whether every part of every tile is there, and the mark behind the last one."""
    at = data.find(b"\xff\x4f\xff\x51") + 2
    if at < 2 or not _boxes(data):
        return False
    for _ in _pieces():
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:  # a part of a tile, which says how long it is; 0 is up to the end
            (length,) = struct.unpack_from(">I", data, at + 6)
            at = data.rfind(b"\xff\xd9") if length == 0 else at + length
            if data[at : at + 2] == b"\xff\xd9":
                return True
        else:
            at += 2 + length
    return False


def _boxes(data: bytes) -> bool:
    """Whether each box of an ISO base media file ends within the file."""
    if data.startswith(b"\xff\x4f"):
        return True
    at = 0
    for _ in _pieces():
        if at + 8 > len(data):
            break
        size, name = struct.unpack_from(">I4s", data, at)
        if name not in _KNOWN_BOXES and at:
            break  # what cameras put behind the last box need not be one
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size == 0:
            break  # to the end of the file
        if size < 8:
            return True  # not cut but damaged, which the decoder will say
        if name == b"jp2h" and size > MAX_HEADER_BOX_BYTES:
            raise UnreadableError(f"has a header of {size:,} bytes; the limit is {MAX_HEADER_BOX_BYTES:,}")
        at += size
    return at <= len(data)


def _tiff(data: bytes) -> bool:
    """Whether the pixels of each page lie within the file, and each page that is announced too."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    offset = "Q" if big else "I"
    number, entry, at_next = ("Q", f"{order}HHQ", 8) if big else ("H", f"{order}HHI", 4)
    n_count, n_entry = struct.calcsize(order + number), struct.calcsize(entry) + at_next
    (page,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    seen: set[int] = set()
    n_pieces = 0
    while page and page not in seen and len(seen) < MAX_PAGES:
        seen.add(page)
        (n_entries,) = struct.unpack_from(order + number, data, page)
        start = page + n_count
        if start + n_entries * n_entry + at_next > len(data):
            return False
        n_pieces += n_entries
        _require_few(n_pieces)
        places: dict[int, list[int]] = {}
        n_outside = 0
        for at in range(start, start + n_entries * n_entry, n_entry):
            tag, kind, n_values = struct.unpack_from(entry, data, at)
            n_bytes = _FIELD_BYTES.get(kind, 1) * n_values
            value_at = at + n_entry - at_next
            if n_bytes > at_next:
                (value_at,) = struct.unpack_from(order + offset, data, value_at)
                n_outside += n_bytes
            if value_at + n_bytes > len(data):
                return False
            if tag in (273, 279, 324, 325) and kind in (3, 4, 16):
                n_pieces += n_values
                _require_few(n_pieces)
                letter = {3: "H", 4: "I", 16: "Q"}[kind]
                places[tag] = list(struct.unpack_from(f"{order}{n_values}{letter}", data, value_at))
        if n_outside > 2 * len(data):  # values that lie in one place, of which decoders would make a copy each
            raise UnreadableError("is a damaged TIFF file")
        for starts, sizes in ((273, 279), (324, 325)):
            ends = (a + n for a, n in zip(places.get(starts, []), places.get(sizes, []), strict=False))
            if max(ends, default=0) > len(data):
                return False
        (page,) = struct.unpack_from(order + offset, data, start + n_entries * n_entry)
    return True
