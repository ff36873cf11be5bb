"""Photos before and after augmentation on one sheet: an HTML file without scripts or network, or a PNG."""

from __future__ import annotations

import base64
import io
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from heeler.files import write_bytes, write_text
from heeler.judge.images import jpeg_bytes
from heeler.records import ByteArray

__all__ = ["SUFFIXES", "Sheet", "SheetSection", "is_sheet", "sheet_html", "sheet_png", "write_sheet"]

SUFFIXES = (".html", ".png")
# Every sheet says so at its beginning, in a <meta> or a text chunk, so that a later one may take its place.
MARK = "heeler preview"
MARK_WITHIN_BYTES = 1024

INTRO = (
    "In a frame: the photo as the network sees it. Beside it: what training may make of it. Choose a preset after "
    "which you would still give each photo the same name, and pass its option to heeler train."
)

# Larger squares are shown at this size: a page shows no more, and a sheet should be small enough to mail.
MAX_PAGE_PX = 320
TILE_PX, GAP_PX, MARGIN_PX, MIN_WIDTH_PX = 160, 12, 28, 480
# The frame stands off from its photo, or it would be lost on a dark one.
FRAME_PX, OFF_PX = 2, 4
PAPER, INK, SOFT, RULE = (252, 251, 248), (34, 38, 31), (101, 106, 96), (226, 223, 214)
# Pillow's own font has ASCII alone. These have Latin, Greek and Cyrillic; one of them is on most systems.
FONTS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetSection:
    """What one preset makes of the photos.

    Args:
        name: of the preset.
        text: what it does, for people.
        option: what to pass to ``heeler train`` for it.
        squares: (N, 1 + V, S, S, 3) uint8: a row for each photo, as it is and V times changed; N is 0 where there is
            nothing to show.
    """

    name: str
    text: str
    option: str
    squares: ByteArray


@dataclass(frozen=True)
class Sheet:
    """Everything that a sheet shows.

    Args:
        title: what the photos are, for people.
        facts: how many photos, and how they were prepared.
        labels: the class of each row.
        sections: one for each preset.
    """

    title: str
    facts: str
    labels: tuple[str, ...]
    sections: tuple[SheetSection, ...]


def write_sheet(path: Path, sheet: Sheet) -> None:
    """Write a sheet whole or not at all.

    Args:
        path: a file that ends in one of ``SUFFIXES``, which decides what is written.
        sheet: what it shows.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    if path.suffix.lower() == ".png":
        write_bytes(path, sheet_png(sheet))
    else:
        write_text(path, sheet_html(sheet))


def is_sheet(path: Path) -> bool:
    """Whether a file is a sheet that was written by ``write_sheet``; a file that cannot be read is none."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(MARK_WITHIN_BYTES)
    except OSError:
        return False


def sheet_html(sheet: Sheet) -> str:
    """The sheet as a page; names of classes are escaped and cannot become markup.

    Args:
        sheet: what it shows.

    Returns:
        A whole HTML document without scripts and without a reference to anything outside it.
    """
    sections = [
        (section, [(label, [_data_uri(square) for square in row]) for label, row in _rows(sheet, section)])
        for section in sheet.sections
    ]
    return _template().render(title=_title(sheet), sheet=sheet, sections=sections, intro=INTRO, mark=MARK)


def sheet_png(sheet: Sheet) -> bytes:
    """The sheet as the content of a PNG: one picture, text drawn, sections one below the other.

    Args:
        sheet: what it shows.
    """
    n_columns = max(section.squares.shape[1] for section in sheet.sections)
    width = max(MIN_WIDTH_PX, 2 * OFF_PX + n_columns * (TILE_PX + GAP_PX) - GAP_PX)
    strips = [_text(_title(sheet), 26, INK, width), _text(sheet.facts, 15, SOFT, width), _text(INTRO, 15, INK, width)]
    for section in sheet.sections:
        strips += [_rule(width), _text(section.name, 20, INK, width), _text(section.text, 15, SOFT, width)]
        strips += [_text(section.option, 15, INK, width)]
        strips += [_tiles(row, label, width) for label, row in _rows(sheet, section)]
    height = sum(strip.height for strip in strips)
    whole = Image.new("RGB", (width + 2 * MARGIN_PX, height + 2 * MARGIN_PX), PAPER)
    top = MARGIN_PX
    for strip in strips:
        whole.paste(strip, (MARGIN_PX, top))
        top += strip.height
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", MARK)
    file = io.BytesIO()
    whole.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def _title(sheet: Sheet) -> str:
    return f"{_showable(sheet.title)}: before and after augmentation"


def _rows(sheet: Sheet, section: SheetSection) -> list[tuple[str, ByteArray]]:
    labels = map(_showable, sheet.labels)
    return list(zip(labels, section.squares, strict=True)) if len(section.squares) else []


def _text(text: str, size_px: int, colour: tuple[int, int, int], width: int) -> Image.Image:
    """A strip of text on as many lines as it needs, and the space below it."""
    font = _font(size_px)
    lines = _lines(text, font, width)
    line_px = round(1.4 * size_px)
    strip = Image.new("RGB", (width, line_px * len(lines) + size_px // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        draw.text((0, i * line_px), _shortened(line, font, width), colour, font)
    return strip


def _rule(width: int) -> Image.Image:
    strip = Image.new("RGB", (width, 40), PAPER)
    ImageDraw.Draw(strip).line((0, 20, width, 20), RULE)
    return strip


def _tiles(row: ByteArray, label: str, width: int) -> Image.Image:
    """A strip of one photo in its frame, its variants beside it and its label below."""
    framed_px = TILE_PX + 2 * OFF_PX
    strip = Image.new("RGB", (width, framed_px + 42), PAPER)
    draw, font = ImageDraw.Draw(strip), _font(15)
    draw.rectangle((0, 0, framed_px - 1, framed_px - 1), outline=INK, width=FRAME_PX)
    for column, square in enumerate(row):
        tile = Image.fromarray(square).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
        strip.paste(tile, (OFF_PX + column * (TILE_PX + GAP_PX), OFF_PX))
    draw.text((0, framed_px + 4), _shortened(label, font, width), INK, font)
    return strip


def _lines(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shortened(text: str, font: Font, width: int) -> str:
    """The text, or as much of it as there is room for and an ellipsis."""
    if font.getlength(text) <= width:
        return text
    n = bisect_right(range(len(text)), width, key=lambda n: ceil(font.getlength(text[:n] + "\u2026"))) - 1
    return text[: max(0, n)] + "\u2026"


def _font(size_px: int) -> Font:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return ImageFont.load_default(size_px)


def _data_uri(square: ByteArray) -> str:
    if len(square) > MAX_PAGE_PX:
        small = Image.fromarray(square).resize((MAX_PAGE_PX, MAX_PAGE_PX), Image.Resampling.LANCZOS)
        square = np.asarray(small)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(square)).decode()


def _showable(text: str) -> str:
    """The text without what cannot be shown: line breaks, control characters, bytes that are no text, reversals."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" for each in text
    )


@cache
def _template() -> Template:
    text = files("heeler.judge").joinpath("sheet.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )
