"""JPEGs: what of one a decoder needs, whether its scans are whole, which way is up, and the pixels of ordinary ones."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import simplejpeg

from heeler.data.claims import CUT, require_size
from heeler.errors import UnreadableError
from heeler.records import ByteArray

MAX_SCANS = 500
"""Most scans of a progressive JPEG; real ones have about ten, and each costs a pass over all coefficients."""

MAX_SCAN_PIXELS = 4_000_000_000
"""Most pixels times scans: 40 scans of the largest photo, which is a second of work."""

# Each block of 8 x 8 pixels takes a bit at least: what has fewer is cut, and need not be given memory to find out.
_PIXELS_PER_BYTE = 512
_MAX_SEGMENTS = 20_000  # before the first scan; the longest colour profiles and XMP take some hundred
_ORIENTATION = 0x0112
_HUFFMAN = (0xC0, 0xC1, 0xC2)
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_EOI = b"\xff\xd9"
_SOS = b"\xff\xda"
# Bits that no Huffman code may consist of: enough for the decoder's read-ahead behind the last block of a whole scan,
# too few to stand in for the blocks that a damaged scan lacks.
_READ_AHEAD = b"\xff\x00" * 10


@dataclass(frozen=True)
class Jpeg:
    """What stands before a JPEG's first scan, and its scans; whole as far as can be told without decoding.

    Args:
        width_px: as stored; 0 where no frame says so.
        height_px: as stored; 0 where no frame says so.
        orientation: of EXIF, 1 to 8.
        is_ordinary: 8-bit grey or three colours in Huffman codes, as nearly all photos are.
        pieces: the segments that a decoder needs, and the scans.
    """

    width_px: int
    height_px: int
    orientation: int
    is_ordinary: bool
    pieces: tuple[bytes | memoryview, ...]

    def plain(self) -> bytes:
        """The JPEG without metadata, for Pillow.

        Without metadata no malformed EXIF or colour profile can spoil a good photo, and a photo with a second one
        behind it (MPO) is an ordinary JPEG.
        """
        return b"".join(self.pieces)


@dataclass(frozen=True)
class _Frame:
    """What a start-of-frame segment says; all zero before there is one."""

    marker: int = 0
    precision_bits: int = 0
    n_components: int = 0
    width_px: int = 0
    height_px: int = 0

    @property
    def n_pixels(self) -> int:
        return self.width_px * self.height_px


def read_jpeg(data: bytes) -> Jpeg:
    """Walk through a JPEG's segments up to its first scan.

    Raises:
        UnreadableError: it is cut short or damaged, or claims more pixels or scans than there may be.
    """
    kept: list[bytes | memoryview] = [data[:2]]
    orientation, frame, at = 1, _Frame(), 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found.end() + 2 > len(data):
            raise UnreadableError(CUT)
        marker, at = data[found.end() - 1], found.end()
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if marker in (0xD8, 0xD9) or end < at + 2:
            raise UnreadableError("is a damaged JPEG file")
        if end > len(data):
            raise UnreadableError(CUT)
        if marker == 0xDA:
            kept += _whole_scans(data, found.start(), frame)
            is_ordinary = frame.marker in _HUFFMAN and frame.precision_bits == 8 and frame.n_components in (1, 3)
            return Jpeg(frame.width_px, frame.height_px, orientation, is_ordinary, tuple(kept))
        segment = data[at + 2 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame.marker or len(segment) < 6:
                raise UnreadableError("is a damaged JPEG file")
            width, height = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
            require_size(width, height)
            frame = _Frame(marker, segment[0], segment[5], width, height)
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = exif_orientation(segment)
        # APP0 and APP14 say which colour space the numbers are in; the other APPn and comments are metadata.
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[found.start() : end])
        at = end
    raise UnreadableError(f"has more than {_MAX_SEGMENTS:,} segments before its pixels")


def _whole_scans(data: bytes, scan_at: int, frame: _Frame) -> tuple[bytes | memoryview, ...]:
    """The scans, so that Pillow fails if pixels are missing.

    At an early end marker libjpeg fills what is missing with grey, and Pillow does not pass on its warning. So the only
    scan of a baseline JPEG is given without its end marker: a decoder that still wants data then has to stop.
    """
    scans_end = data.rfind(_EOI, scan_at)
    is_huffman = frame.marker in _HUFFMAN
    if scans_end < 0 or (is_huffman and frame.n_pixels > _PIXELS_PER_BYTE * (scans_end - scan_at)):
        raise UnreadableError(CUT)
    if frame.marker in (0xC0, 0xC1) and data[scan_at + 4] == frame.n_components:
        return memoryview(data)[scan_at:scans_end], _READ_AHEAD
    n_scans = data.count(_SOS, scan_at)
    if n_scans > MAX_SCANS:
        raise UnreadableError(f"has {n_scans:,} scans; the limit is {MAX_SCANS}")
    if n_scans * frame.n_pixels > MAX_SCAN_PIXELS:
        raise UnreadableError(f"has {n_scans:,} scans of {frame.n_pixels:,} pixels; save it as an ordinary JPEG")
    if is_huffman and n_scans < 2:
        raise UnreadableError(CUT)
    return (memoryview(data)[scan_at:],)


def decode_ordinary(data: bytes, height_px: int, width_px: int) -> ByteArray | None:
    """Pixels of a JPEG that libjpeg-turbo does not even warn of: Pillow's, to the bit, in half of its time.

    Args:
        data: of a file whose ``Jpeg`` is ordinary.
        height_px: of the photo, or of it at 1/2, 1/4 or 1/8 of its size, rounded up.
        width_px: likewise.

    Returns:
        (height_px, width_px, 3) uint8 RGB, as stored; None where the decoder warns of anything, such as missing data,
        or finds no memory: Pillow then says what is wrong.
    """
    try:
        rgb: ByteArray = simplejpeg.decode_jpeg(data, min_height=height_px, min_width=width_px, strict=True)
    except (ValueError, RuntimeError, MemoryError):
        return None
    return rgb if rgb.shape == (height_px, width_px, 3) else None


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in a TIFF-structured EXIF block; 1 where there is none that makes sense."""
    block = block.removeprefix(b"Exif\0\0")
    if block[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if block[:2] == b"II" else ">"
    letters = {1: "B", 3: "H", 4: "I"}
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        # Behind its last entry stand values and the thumbnail's directory, which has an orientation of its own.
        (n_entries,) = struct.unpack_from(order + "H", block, directory)
        for at in range(directory + 2, directory + 2 + 12 * n_entries, 12):
            tag, kind = struct.unpack_from(order + "HH", block, at)
            if tag == _ORIENTATION and kind in letters:
                (value,) = struct.unpack_from(order + letters[kind], block, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
