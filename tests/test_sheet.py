"""The sheet of photos before and after: whole, inert, readable, and known again."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heeler.judge.sheet import (
    GAP_PX,
    MARGIN_PX,
    MAX_PAGE_PX,
    OFF_PX,
    PAPER,
    TILE_PX,
    Sheet,
    SheetSection,
    is_sheet,
    sheet_html,
    sheet_png,
    write_sheet,
)
from images import HOSTILE_NAMES, astronaut, cat
from test_report import HOSTILE, Page

LONG = "a class with a name that no tile is wide enough for, " * 8


def squares_of(n_photos: int, n_variants: int, side_px: int = TILE_PX) -> np.ndarray:
    """Real photos, darker in each column and turned in each row, (N, 1 + V, S, S, 3)."""
    photo = np.asarray(cat().resize((side_px, side_px)))
    columns = [(photo * (1 - column / (n_variants + 2))).astype(np.uint8) for column in range(1 + n_variants)]
    return np.stack([np.stack([np.rot90(square, row) for square in columns]) for row in range(n_photos)])


def sheet_of(*labels: str, n_variants: int = 2, side_px: int = TILE_PX, title: str = "pets") -> Sheet:
    squares = squares_of(len(labels), n_variants, side_px)
    sections = (
        SheetSection("photo", "For photos with an up.", "--augment photo", squares),
        SheetSection("overhead", "For photos without one.", "--augment overhead", np.ascontiguousarray(squares[::-1])),
        SheetSection("none", "Nothing is changed.", "--augment none", squares[:0, :1]),
    )
    return Sheet(title, f"{len(labels)} of 77 photos", labels, sections)


def images_of(html: str) -> list[np.ndarray]:
    sources = [value for tag, name, value in Page(html).attributes if (tag, name) == ("img", "src")]
    found = []
    for source in sources:
        assert source.startswith("data:image/jpeg;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            found.append(np.asarray(image))
    return found


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def places_of(whole: np.ndarray, square: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners where a square stands in a picture."""
    start = np.lib.stride_tricks.sliding_window_view(whole, (1, 8, 3))[:, :, 0, 0]
    found = np.argwhere((start == square[0, :8]).all(axis=(2, 3)))
    height, width = square.shape[:2]
    return [(int(y), int(x)) for y, x in found if np.array_equal(whole[y : y + height, x : x + width], square)]


def test_a_page_has_a_row_for_each_photo_its_label_and_the_option_for_train() -> None:
    html = sheet_html(sheet_of("cat", "dog", "emu"))
    page = Page(html)
    assert page.open == []
    assert [tag for tag in page.tags if tag in ("section", "figure", "img", "figcaption")] == [
        *(["section"] + ["figure", "img", "img", "img", "figcaption"] * 3) * 2,
        "section",
    ]
    assert [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value] == [
        "cat", "dog", "emu", "cat", "dog", "emu",
    ]  # fmt: skip
    for text in (
        "pets",
        "3 of 77 photos",
        "--augment photo",
        "--augment overhead",
        "--augment none",
        "pass its option",
    ):
        assert text in page.text
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links == ["#photo", "#overhead", "#none"]
    assert {value for _, name, value in page.attributes if name == "id"} == {"photo", "overhead", "none"}


def test_the_page_s_images_are_the_squares() -> None:
    sheet = sheet_of("cat", "dog")
    shown = images_of(sheet_html(sheet))
    wanted = [square for section in sheet.sections for row in section.squares for square in row]
    assert len(shown) == len(wanted) == 12
    for image, square in zip(shown, wanted, strict=True):
        assert np.abs(image.astype(int) - square).mean() < 4


def test_large_squares_are_made_smaller_for_the_page_and_small_ones_are_not() -> None:
    large, small = (images_of(sheet_html(sheet_of("cat", side_px=side_px))) for side_px in (MAX_PAGE_PX + 80, 48))
    assert {image.shape for image in large} == {(MAX_PAGE_PX, MAX_PAGE_PX, 3)}
    assert {image.shape for image in small} == {(48, 48, 3)}


def test_hostile_names_are_inert_on_the_page_and_drawn_in_the_picture() -> None:
    names = (*HOSTILE, *HOSTILE_NAMES)
    for name in names:
        sheet = sheet_of(*names, title=name, side_px=32)
        html = sheet_html(sheet)
        html.encode("utf-8")
        page = Page(html)
        assert page.open == []
        assert not {"script", "svg", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
        assert not [attribute for _, attribute, _ in page.attributes if attribute.startswith("on")]
        assert page.tags.count("img") == len(names) * 6
        assert "\u202e" not in html
    assert "<script>alert(1)</script>" in page.text
    assert "two lines and a tab" in page.text
    assert "bad byte \ufffd and a half pair \ufffd" in page.text
    assert "ünïcödé 日本" in page.text
    assert "1337" not in page.text
    assert pixels_of(sheet_png(sheet)).size


def test_the_page_forbids_itself_everything_but_its_own_style_and_images() -> None:
    html = sheet_html(sheet_of("cat"))
    policy = [value for _, name, value in Page(html).attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html


def test_the_picture_has_each_square_in_its_row_and_column() -> None:
    sheet = sheet_of("cat", "dog", n_variants=3)
    whole = pixels_of(sheet_png(sheet))
    first, second = (section.squares for section in sheet.sections[:2])
    places = [[places_of(whole, square) for square in row] for row in first]
    for row in places:
        for column, found in enumerate(row):
            assert [left for _, left in found] == [MARGIN_PX + OFF_PX + column * (TILE_PX + GAP_PX)] * 2
            assert found[0][0] == row[0][0][0]
    tops = [[top for top, _ in row[0]] for row in places]
    assert tops[0][0] < tops[1][0] < tops[1][1] < tops[0][1]  # the second section has the rows in reverse
    assert np.array_equal(first[0], second[1])


def test_squares_of_any_size_fill_their_tiles() -> None:
    heights = {pixels_of(sheet_png(sheet_of("cat", side_px=side_px))).shape for side_px in (32, 160, 400)}
    assert len(heights) == 1


@pytest.mark.parametrize("n_variants", [0, 1, 5])
def test_no_text_is_cut_off_at_the_edge(n_variants: int) -> None:
    names = (LONG, "x" * 3000, "W" * 40, "cat")
    usual, long = (
        pixels_of(sheet_png(sheet_of(*names, n_variants=n_variants, title=title))) for title in ("pets", LONG)
    )
    assert len(long) > len(usual)  # a title of several lines
    for whole in (usual, long):
        assert (whole[:, -MARGIN_PX:] == PAPER).all()
        assert (whole[:, :MARGIN_PX] == PAPER).all()
        assert (whole[-MARGIN_PX:] == PAPER).all()


def test_labels_are_drawn_below_their_photo() -> None:
    squares = np.full((2, 2, TILE_PX, TILE_PX, 3), 128, np.uint8)
    wordless = Sheet("t", "f", ("", ""), (SheetSection("photo", "text", "--augment photo", squares),))
    labelled = Sheet("t", "f", ("cat", ""), wordless.sections)
    before, after = (pixels_of(sheet_png(sheet)) for sheet in (wordless, labelled))
    rows, columns = np.nonzero((before != after).any(axis=2))
    tops = np.flatnonzero((before[:, MARGIN_PX + OFF_PX] == 128).all(axis=1))
    first_end, second_start = tops[TILE_PX - 1], tops[TILE_PX]
    assert len(tops) == 2 * TILE_PX
    assert first_end < rows.min() < rows.max() < second_start
    assert rows.max() - rows.min() >= 8  # large enough to read
    assert MARGIN_PX <= columns.min() < columns.max() < MARGIN_PX + TILE_PX


@pytest.mark.parametrize("name", ["sheet.html", "sheet.png", "SHEET.PNG"])
def test_a_sheet_is_written_and_known_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / name
    write_sheet(path, sheet_of("cat"))
    assert path.read_bytes().startswith(b"\x89PNG" if name.lower().endswith("png") else b"<!doctype html>")
    assert is_sheet(path)


def test_other_files_are_no_sheets(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><title>my page</title>" + " " * 5000 + "heeler preview")
    astronaut().save(tmp_path / "photo.png")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "nothing")
    for path in (*tmp_path.iterdir(), tmp_path / "missing.html"):
        assert not is_sheet(path), path
