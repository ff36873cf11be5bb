"""The bytes of one photo -> a square of RGB pixels, or one plain reason why not.

The order is: limits from the header, format from the content, decoding, orientation once, 8-bit RGB, resize, and
crop, squash or pad. Any number of threads may decode at once: decoders and torch leave the interpreter lock while they
work, and large photos wait for one another, so that memory does not depend on luck. ICC profiles are ignored: numbers
are taken to be sRGB, as nearly all photos are and as pretrained networks were trained.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from heeler.data.claims import CUT, MAX_PIXELS, require_plausible, require_size, require_whole
from heeler.data.jpeg import decode_ordinary, exif_orientation, read_jpeg
from heeler.data.room import Room
from heeler.data.square import MAX_ASPECT, fit_square, fit_stored, upright
from heeler.errors import UnreadableError
from heeler.files import MAX_FILE_BYTES
from heeler.machine import memory_bytes, n_cores
from heeler.records import ByteArray, Preprocessing

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "Decoded", "Opened", "decode", "file_of", "fit_square", "open_image", "to_rgb"]

_DRAFT_MARGIN = (
    1.4  # then pixels differ from a full decode's by 0.8 of 255 levels on average, less than the JPEG's own loss
)
_ORIENTATION = 0x0112
# Bytes that a pixel takes while it is decoded: 4 in Pillow and 3 in the array made of it where nothing else is made on
# the way; else up to three times as many (``bench/hostile_images.py``). Each core has room for a phone photo.
_PLAIN_BYTES, _MOST_BYTES = 7, 21
_PLAIN_FORMATS, _PLAIN_MODES = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "HEIF"), ("RGB", "L", "1")
_ROOM = Room(max(200_000_000, min(n_cores() * 100_000_000, memory_bytes() // 8)))
# What reading a header may take: text and numbers that are packed there. A HEIC photo is decoded then, whatever it is;
# a JPEG is opened without its metadata.
_OPENING_BYTES = 50_000_000

# Pillow's classes themselves, not Image.open: no other format's code ever runs on hostile bytes, and the size limit is
# ours alone (Image.open warns from 89 megapixels on).
_PLUGINS: Mapping[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_JPEG = re.compile(rb"\xff\xd8\xff")
_MAGIC = (
    (_JPEG, "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"P[1-6][\s#]"), "PPM"),
    (re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"), "JPEG2000"),
)
_NOT_IMAGES = (
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), "is a web page, not an image"),
    (re.compile(rb"\s*(<\?xml.{0,200})?<svg", re.IGNORECASE | re.DOTALL), "is an SVG drawing; save it as PNG"),
    (re.compile(rb"version https://git-lfs"), "is a Git LFS pointer, not the image; run `git lfs pull`"),
    (re.compile(rb"%PDF"), "is a PDF; save its pages as PNG or JPEG"),
    (re.compile(rb"%!PS"), "is PostScript, not a photo; save it as PNG"),
    (re.compile(rb"8BPS"), "is a Photoshop document; save it as PNG or JPEG"),
    (re.compile(rb"PK\x03\x04"), "is a zip archive, not an image"),
)


@dataclass(frozen=True)
class Decoded:
    """A photo as the network sees it, and its size as a person sees it.

    Args:
        pixels: (S, S, 3) uint8 RGB, C-contiguous.
        width_px: width of the whole photo, upright, before any resize.
        height_px: height of the whole photo, upright, before any resize.
        format: what the content is: ``JPEG``, ``PNG``, ``WEBP``, ``GIF``, ``BMP``, ``TIFF``, ``PPM``, ``JPEG2000``,
            ``AVIF`` or ``HEIF``.
    """

    pixels: ByteArray
    width_px: int
    height_px: int
    format: str


@dataclass(frozen=True)
class Opened:
    """A photo whose header was accepted: the image still to be decoded, its format and its EXIF orientation.

    ``orientation`` is 0 where the image itself has to be asked, after it was decoded.
    """

    image: Image.Image
    format: str
    width_px: int
    height_px: int
    orientation: int = 0


def decode(data: bytes, spec: Preprocessing) -> Decoded:
    """Turn a file's content into the square of pixels that ``spec`` describes.

    The format is told from the content. Animated files give their first frame. A JPEG is decoded at 1/2, 1/4 or 1/8
    of its size where that still leaves 1.4 times the width and height that the resize asks for.

    Args:
        data: content of one image file.
        spec: side, fit, interpolation and the colour behind transparent pixels.

    Returns:
        The pixels, the upright size of the whole photo, and the format.

    Raises:
        UnreadableError: the content is not a whole image within ``MAX_PIXELS``; the message is the reason.
    """
    return _decode_ordinary(data, spec) or _decode_by_pillow(data, spec)


def _decode_ordinary(data: bytes, spec: Preprocessing) -> Decoded | None:
    """``decode`` of a JPEG as most are; None for anything else."""
    if not _JPEG.match(data):
        return None
    jpeg = read_jpeg(data)
    require_plausible(jpeg.width_px, jpeg.height_px, len(data))
    if not jpeg.is_ordinary:
        return None
    scale = _scale(jpeg.width_px, jpeg.height_px, spec)
    height, width = math.ceil(jpeg.height_px / scale), math.ceil(jpeg.width_px / scale)
    with _ROOM.take(height * width * _PLAIN_BYTES):
        rgb = decode_ordinary(data, height, width)
        if rgb is None:
            return None
        pixels = fit_stored(rgb, spec, jpeg.orientation, (jpeg.height_px / scale, jpeg.width_px / scale))
        del rgb
    return _decoded(pixels, jpeg.width_px, jpeg.height_px, jpeg.orientation, "JPEG")


def _decode_by_pillow(data: bytes, spec: Preprocessing) -> Decoded:
    with _ROOM.take(0 if _JPEG.match(data) else _OPENING_BYTES):
        opened = open_image(data)
    image = opened.image
    try:
        extent_px = _draft(opened, spec)
    except Exception as error:
        _refuse(error, opened.format)
    with _ROOM.take(_bytes_of(opened)):
        try:
            image.load()
            exif = image.info.get("exif")
            orientation = opened.orientation
            if not orientation:
                orientation = exif_orientation(exif) if isinstance(exif, bytes) else _orientation(image)
            rgb = _rgb8(image, spec.alpha)
            image.close()
        except Exception as error:
            image.close()
            _refuse(error, opened.format)
        pixels = fit_stored(rgb, spec, orientation, extent_px or (rgb.shape[0], rgb.shape[1]))
        del rgb
    return _decoded(pixels, opened.width_px, opened.height_px, orientation, opened.format)


def _decoded(pixels: ByteArray, width_px: int, height_px: int, orientation: int, kind: str) -> Decoded:
    width, height = (height_px, width_px) if orientation > 4 else (width_px, height_px)
    return Decoded(pixels, width, height, kind)


def open_image(data: bytes) -> Opened:
    """Read a file's header and accept or refuse what it claims; no pixel is decoded.

    Args:
        data: content of one image file.

    Returns:
        The image, ready to be loaded.

    Raises:
        UnreadableError: not an image, a format that is not read here, or larger than ``MAX_PIXELS``.
    """
    kind = _kind(data)
    require_whole(data, kind)
    orientation, n_bytes = 0, len(data)
    try:
        if kind == "JPEG":
            jpeg = read_jpeg(data)
            data, orientation = jpeg.plain(), jpeg.orientation
        image = _open_heif(io.BytesIO(data)) if kind == "HEIF" else _PLUGINS[kind](io.BytesIO(data))
        width, height = image.size
        require_size(width, height)
        require_plausible(width, height, n_bytes)
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            image.decodermaxblock = len(data)  # in one piece, without a copy
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            orientation = 1  # this plugin gives the upright size and turns the pixels itself
            if width * height > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
                # Pillow warns of a bomb when it makes the pixels itself; these were just found to be few enough.
                image.im = Image.new(image.mode, (image.tag_v2[256], image.tag_v2[257]), None).im
    except Exception as error:
        _refuse(error, kind)
    return Opened(image, kind, width, height, orientation)


def file_of(image: Image.Image) -> bytes | None:
    """Content of the file that a Pillow image was opened from, if nothing was done with it since.

    ``decode`` of it is what the file's path gives: whole or refused, a large JPEG at reduced scale.

    Args:
        image: any Pillow image.

    Returns:
        None where the pixels were loaded, and so may have been changed; where the file is closed; where another frame
        than the first was asked for; and for formats that heeler does not read.
    """
    is_loaded = getattr(image, "_im", image) is not None
    if not isinstance(image, ImageFile.ImageFile) or is_loaded or image.format not in (*_PLUGINS, "MPO"):
        return None
    file = image.fp
    try:
        if image.tell() or file is None:
            return None
        at = file.tell()
        file.seek(0)
        data = file.read(MAX_FILE_BYTES)
        file.seek(at)
    except (OSError, ValueError):
        return None
    return data


def to_rgb(image: Image.Image, alpha: tuple[int, int, int]) -> ByteArray:
    """8-bit RGB pixels of a Pillow image of any mode, upright.

    Palettes are resolved, transparent pixels laid on ``alpha``, and CMYK, YCbCr, LAB, HSV and greyscale converted.
    Values wider than 8 bits are scaled by the narrowest of 8, 12 and 16 bits that holds the brightest one, because
    12-bit cameras store their values in 16 bits; floats in [0, 1] are taken as shares of white. What fits none of
    these (negative or larger values) is stretched from its darkest to its brightest value.

    Args:
        image: any Pillow image; its EXIF orientation is applied, so it must not have been applied before without
            being removed (``ImageOps.exif_transpose`` removes it).
        alpha: colour behind transparent pixels, 8-bit RGB.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        UnreadableError: the image cannot be loaded, or has more than ``MAX_PIXELS`` pixels.
    """
    try:
        require_size(*image.size)
        image.load()
        return upright(_rgb8(image, alpha), _orientation(image))
    except Exception as error:
        _refuse(error, image.format or "image")


def _kind(data: bytes) -> str:
    if not data:
        raise UnreadableError("is empty (0 bytes)")
    for magic, kind in _MAGIC:
        if magic.match(data):
            return kind
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), 256), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "HEIF"
        raise UnreadableError("is a video, not a photo")
    if not data.strip(b"\0"):
        raise UnreadableError("holds nothing but zero bytes")
    for magic, reason in _NOT_IMAGES:
        if magic.match(data[:512]):
            raise UnreadableError(reason)
    raise UnreadableError("is not an image of a kind that heeler reads")


def _open_heif(file: io.BytesIO) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise UnreadableError('is a HEIC photo; to read these: pip install "heeler[heic]"') from None
    opened = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    require_size(*opened.size)
    image: Image.Image = opened.to_pillow()
    return image


def _refuse(error: Exception, kind: str) -> NoReturn:
    if isinstance(error, UnreadableError):
        try:
            raise error
        finally:
            del error  # through its traceback it would hold this frame, and so itself, and what the photo took
    text = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):
        reason = f"claims more than {MAX_PIXELS // 1_000_000} megapixels, the limit"
    elif isinstance(error, MemoryError):
        reason = "needs more memory than there is"
    elif any(word in text for word in ("truncated", "unexpected end", "not enough")):
        reason = CUT
    elif any(word in text for word in ("unknown pixel mode", "cannot handle", "unsupported", "not supported")):
        reason = f"is a {kind} of a rare kind; save it as an 8-bit JPEG or PNG"
    else:
        reason = f"is a damaged {kind} file"
    raise UnreadableError(reason) from error


def _bytes_of(opened: Opened) -> int:
    """Most memory that decoding takes, in bytes."""
    image = opened.image
    is_plain = opened.format in _PLAIN_FORMATS and image.mode in _PLAIN_MODES and "transparency" not in image.info
    return math.prod(image.size) * (_PLAIN_BYTES if is_plain else _MOST_BYTES)


def _draft(opened: Opened, spec: Preprocessing) -> tuple[float, float] | None:
    """Have Pillow decode a JPEG at reduced scale; the height and width of the photo in the pixels to come."""
    if not isinstance(opened.image, JpegImagePlugin.JpegImageFile):
        return None
    width, height = opened.image.size
    scale = _scale(width, height, spec)
    drafted = opened.image.draft(None, (width // scale, height // scale))
    return (drafted[1][3], drafted[1][2]) if drafted else None


def _scale(width_px: int, height_px: int, spec: Preprocessing) -> int:
    """1, 2, 4 or 8: a JPEG is decoded at one part in so many of its width and height."""
    target = math.ceil(_DRAFT_MARGIN * spec.resize_px)
    short, long = sorted((width_px, height_px))
    if spec.fit != "pad" and long > MAX_ASPECT * short:
        return 1
    most = min(long // target, short) if spec.fit == "pad" else short // target
    return next((scale for scale in (8, 4, 2) if scale <= most), 1)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever is wrong with the metadata, the pixels are good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb8(image: Image.Image, alpha: tuple[int, int, int]) -> ByteArray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_grey8(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, alpha)
        image.paste(layer, mask=layer)
        del layer  # not beside the copy that is made next
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey8(values: NDArray[Any]) -> ByteArray:
    whites: tuple[int, ...] = (255, 4095, 65535)
    if values.dtype.kind == "f":
        whites = (1, *whites)
        values = np.where(np.isfinite(values), values, np.float32(0))
    darkest, brightest = float(values.min()), float(values.max())
    white = next((white for white in whites if brightest <= white), None)
    if white is None or darkest < 0:
        offset, scale = darkest, 255 / max(brightest - darkest, 1e-12)
    else:
        offset, scale = 0.0, 255 / white
    grey: NDArray[np.float64] = values.astype(np.float64)
    grey -= offset
    grey *= scale
    return np.rint(grey, out=grey).astype(np.uint8)
