"""A slice of ``bench/hostile_images.py``: whatever a file holds, it is read or refused, and never read when cut."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from heeler.data import claims, jpeg
from heeler.data.decode import decode
from heeler.errors import UnreadableError
from heeler.records import Preprocessing
from malformed import CLAIMS, Malformed, bombs, cases, closed, cut, drawn, seeds
from malformed import claims as claiming

SPEC = Preprocessing(image_px=64)
BENCH = Path(__file__).parent.parent / "bench" / "hostile_images.py"


def verdict(case: Malformed) -> str:
    """The reason why a file is refused, "" where it is read; anything else that is raised fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(case.data, SPEC).pixels.shape == (64, 64, 3)
        except UnreadableError as error:
            assert error.message and "\n" not in error.message
            return error.message
    assert not case.is_cut, f"{case.name} is cut and was accepted"
    return ""


def test_the_files_are_the_same_for_the_same_seed() -> None:
    one, same, other = ([case.data for case in islice(drawn(seed, 1), 40)] for seed in (1, 1, 2))
    assert one == same != other


def test_they_are_as_many_as_the_docs_say() -> None:
    told = (BENCH.parent.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    n_of = Counter(case.kind for case in cases())
    assert n_of.total() >= 10_000
    assert f"| {n_of.total():,} tried in each of four ways" in told
    table = told[told.index("| what was done |") :].partition("\n\n")[0]
    counts = [int(line.split(" | ")[1].replace(",", "")) for line in table.splitlines()[2:]]
    assert sorted(counts) == sorted(n_of.values())


@pytest.mark.parametrize("name", seeds())
def test_a_whole_file_is_read_and_none_of_its_cuts(name: str) -> None:
    data = seeds()[name]
    assert verdict(Malformed("whole", name, data)) == ""
    for end in {*range(0, len(data), len(data) // 12), *range(len(data) - 4, len(data))}:
        verdict(cut(name, data, end, f"at {end}"))
    for percent in (40, 95):
        for case in closed(name, data, percent):
            verdict(case)


@pytest.mark.parametrize("name", seeds())
def test_lies_about_the_size_are_refused_or_read(name: str) -> None:
    for case in claiming(name, seeds()[name]):
        refused = verdict(case)
        if f"{CLAIMS[-1][0]}" in case.name and "PPM" not in refused:
            assert refused, case.name  # 4,295 megapixels are above every limit


def test_bombs_are_refused_or_read() -> None:
    reasons = {case.name: verdict(case) for case in bombs()}
    for name, words in {
        "400 megapixels in a JPEG": "claims 20,000 x 20,000 pixels",
        "99 megapixels in a JPEG": "is cut short",
        "scans": f"the limit is {jpeg.MAX_SCANS}",
        "scans of 49 megapixels": "scans of 49,000,000 pixels",
        "comments": "segments",
        "chunks": f"{claims.MAX_PIECES:,} pieces",
        "comments in a GIF": f"{claims.MAX_PIECES:,} pieces",
        "a comment in a GIF": f"{claims.MAX_COMMENT_BYTES:,} bytes of comments",
        "a comment before a GIF's picture": f"{claims.MAX_COMMENT_BYTES:,} bytes of comments",
        "boxes in a JPEG 2000": f"{claims.MAX_PIECES:,} pieces",
        "boxes in a header of a JPEG 2000": f"the limit is {claims.MAX_HEADER_BOX_BYTES:,}",
        "spaces before a PPM's size": f"first {claims.MAX_PPM_HEADER_BYTES:,} bytes",
        "a comment before a PPM's size": f"first {claims.MAX_PPM_HEADER_BYTES:,} bytes",
        "a TIFF of 2,000,000 strips": f"{claims.MAX_PIECES:,} pieces",
        "a TIFF of 5,000 pages of 60,000 entries": f"{claims.MAX_PIECES:,} pieces",
        "a TIFF of values that lie in one place": "is a damaged TIFF file",
        "a GIF of one pixel on a screen of 100 megapixels": "no photo is packed in",
        "numbers": "bytes of text",
        "too many runs in a BMP": "run lengths",
    }.items():
        assert words in reasons[name], (name, reasons[name])
    # Metadata is no reason to lose a photo.
    for name in ("EXIF that leads to itself", "EXIF in EXIF", "ICC, part 1 of 255", "zTXt after zTXt", "eXIf"):
        assert reasons[name] == "", name


def test_a_ppm_may_have_comments_and_spaces_before_each_number() -> None:
    for n_bytes in (1, 70_000):
        head = b"P6 # a\n#\n  1\n#b\n1 #c\r255\n"
        assert verdict(Malformed("whole", "a PPM", head + b"abc" * n_bytes)) == ""


def test_the_bench_counts_what_its_children_say() -> None:
    command = [sys.executable, str(BENCH), "--limit", "50", "--no-commands"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.count("| all | 50 |") == 2, done.stderr
    assert done.stdout.endswith("\n0 promises broken\n"), done.stdout
    assert "claims 20,000 x 20,000 pixels" in done.stdout
