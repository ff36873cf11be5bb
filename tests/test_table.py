"""A table of predictions that was cut short: which rows are kept, which are refused, and when it takes its name."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heeler.errors import ResourceError, UsageError
from heeler.records import Prediction
from heeler.ship.rows import stream_rows
from heeler.ship.table import Job, begun_table

JOB = Job("abc", 2, 0.5, "1.0")
NAMES = ("a.jpg", "b, c.jpg", "line\nbreak.jpg", "odd\udcff.jpg", 'a "quoted"\rone', "e.jpg", "f.jpg", "g.jpg")


class KilledError(Exception):
    """Stands for a kill: nothing after it is run."""


def row(name: str) -> Prediction:
    if name == "e.jpg":
        return Prediction(name, "unreadable", "is cut short")
    return Prediction(name, "unsure" if name == "f.jpg" else "ok", ranked=(("a\nb", 0.75), ("c", 0.25)))


def attempt(
    out: Path, names: Sequence[str], *, resume: bool, stop: int | None = None, job: Job = JOB, every: int = 2
) -> dict[str, Any]:
    """Write rows for the names, all or until ``stop`` of them were written in this attempt."""
    told: dict[str, Any] = {}
    with contextlib.suppress(KilledError), begun_table(out, job, iter(names), resume=resume, every=every) as begun:
        told |= {
            "n_kept": begun.n_rows,
            "again": begun.n_copied is not None,
            "engine": begun.engine,
            "counts": dict(begun.counts),
        }
        begun.keep_engine("torch")

        def rows() -> Any:
            for number, name in enumerate(begun.names):
                if number == stop:
                    raise KilledError
                yield row(name)

        told["new"] = stream_rows(begun.file, rows(), job.top)
    return told


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "rows.csv"


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    attempt(tmp_path / "whole.csv", NAMES, resume=False)
    return (tmp_path / "whole.csv").read_bytes()


def part_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def test_a_table_cut_at_any_byte_is_gone_on_with(out: Path, whole: bytes) -> None:
    kept = set()
    ends = {at + more for at, byte in enumerate(whole) if byte == ord("\n") for more in (0, 1, 2, 9)}
    for end in sorted({0, *ends} & set(range(len(whole) + 1))):
        attempt(out, NAMES, resume=False, stop=7)
        part_of(out).write_bytes(whole[:end])
        told = attempt(out, NAMES, resume=True)
        assert out.read_bytes() == whole, end
        assert told["again"] and told["n_kept"] % 2 == 0
        assert told["engine"] == ("torch" if told["n_kept"] else "")
        kept.add(told["n_kept"])
        assert [path.name for path in out.parent.iterdir()] == ["rows.csv"]
        out.unlink()
    assert kept == {0, 2, 4, 6, 8}


def test_counts_go_on_too(out: Path) -> None:
    attempt(out, NAMES, resume=False, stop=7)
    told = attempt(out, NAMES, resume=True)
    assert told["counts"] == {"ok": 5, "unsure": 0, "unreadable": 1}
    assert told["new"] == {"ok": 1, "unsure": 1, "unreadable": 0}


def test_an_earlier_table_stays_until_the_new_one_is_whole(out: Path, whole: bytes) -> None:
    out.parent.mkdir()
    out.write_text("earlier")
    attempt(out, NAMES, resume=False, stop=3)
    assert out.read_text() == "earlier"
    attempt(out, NAMES, resume=True, stop=1)
    assert out.read_text() == "earlier"
    attempt(out, NAMES, resume=True)
    assert out.read_bytes() == whole


def test_without_resume_rows_of_an_earlier_attempt_go(out: Path, whole: bytes) -> None:
    attempt(out, ["other.jpg"] * 6, resume=False, stop=5)
    assert attempt(out, NAMES, resume=False)["again"] is False
    assert out.read_bytes() == whole


def test_with_nothing_to_go_on_with_resume_begins(out: Path, whole: bytes) -> None:
    told = attempt(out, NAMES, resume=True)
    assert (told["n_kept"], told["again"]) == (0, False)
    assert out.read_bytes() == whole
    part_of(out).write_text("a table of which nothing is known")
    attempt(out, NAMES, resume=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.jpg", "x.jpg", *NAMES[2:]), ("row 2 of", "'b, c.jpg'", "'x.jpg'")),
        (NAMES[::-1], ("row 1 of", "'a.jpg'", "'g.jpg'")),
        (NAMES[:3], ("row 4 of", "3 photos")),
    ],
)
def test_rows_of_other_photos_are_refused_and_stay(out: Path, names: Sequence[str], words: Sequence[str]) -> None:
    attempt(out, NAMES, resume=False, stop=6)
    before = part_of(out).read_bytes()
    with pytest.raises(UsageError) as caught:
        attempt(out, names, resume=True)
    for word in words:
        assert word in caught.value.message
    assert "--resume" in caught.value.hint
    assert part_of(out).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "other"}, "another model"),
        ({"top": 3}, "top 2, and this is 3"),
        ({"unsure_below": 0.9}, "unsure below 0.5, and this is 0.9"),
        ({"heeler": "2.0"}, "heeler 1.0, and this is 2.0"),
        ({"sorted_into": "x"}, "sorted into nothing, and this is x"),
    ],
)
def test_rows_of_another_job_are_refused(out: Path, changes: dict[str, Any], word: str) -> None:
    attempt(out, NAMES, resume=False, stop=4)
    with pytest.raises(UsageError, match=word):
        attempt(out, NAMES, resume=True, job=replace(JOB, **changes))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.replace(b"a.jpg,ok", b"a.jpg,odd", 1),
        lambda data: data.replace(b"a.jpg,ok,", b"a.jpg,ok", 1),
        lambda data: data.replace(b"path,", b"name,", 1),
        lambda data: data.replace(b'"b, c.jpg"', b'"b, c.jpg"x', 1),
        lambda data: bytes(len(data)) + data,
    ],
)
def test_rows_that_heeler_did_not_write_are_refused(out: Path, spoil: Any) -> None:
    attempt(out, NAMES, resume=False, stop=6)
    part_of(out).write_bytes(spoil(part_of(out).read_bytes()))
    with pytest.raises(UsageError, match=r"none that heeler wrote|cannot be read"):
        attempt(out, NAMES, resume=True)


def test_two_at_once_are_refused(out: Path) -> None:
    with (
        begun_table(out, JOB, iter(NAMES), resume=False, every=2),
        pytest.raises(ResourceError, match="another heeler"),
    ):
        attempt(out, NAMES, resume=True)


def test_a_folder_is_no_place_for_rows(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        attempt(tmp_path / "answers", NAMES, resume=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "answers"]
