"""Which files a command line names, the table of predictions, and photos sorted into folders."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from heeler.errors import ResourceError, UsageError
from heeler.records import Prediction
from heeler.ship.rows import class_folder, expand_paths, row_to_json, sort_into, write_predictions

EMPTY = io.StringIO()


def _touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _row(path: object, *ranked: tuple[str, float]) -> Prediction:
    return Prediction(str(path), "ok", ranked=ranked)


def test_names_stay_in_the_order_of_the_command_line(tmp_path: Path) -> None:
    last, first = _touch(tmp_path / "z.jpg"), _touch(tmp_path / "a.jpg")
    missing = str(tmp_path / "missing.jpg")
    assert expand_paths([str(last), missing, str(first), str(last)], EMPTY) == [
        str(last), missing, str(first), str(last),
    ]  # fmt: skip


def test_a_folder_gives_every_file_below_it_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "notes.txt", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/1.jpg", "__MACOSX/1"):
        _touch(tmp_path / name)
    found = expand_paths([str(tmp_path)], EMPTY)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == ["a/1.jpg", "b/2.jpg", "notes.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_in_a_folder_is_not_opened_and_a_dangling_link_has_its_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert expand_paths([str(tmp_path)], EMPTY) == [str(tmp_path / "gone.jpg")]


def test_patterns_expand_sorted_and_stay_as_they_are_without_a_match(tmp_path: Path) -> None:
    for name in ("2.png", "1.png", "1.jpg", ".hidden.png", "deep/3.png"):
        _touch(tmp_path / name)
    assert expand_paths([f"{tmp_path}/*.png"], EMPTY) == [f"{tmp_path}/1.png", f"{tmp_path}/2.png"]
    assert expand_paths([f"{tmp_path}/**/3.png"], EMPTY) == [f"{tmp_path}/deep/3.png"]
    assert expand_paths([f"{tmp_path}/*.gif"], EMPTY) == [f"{tmp_path}/*.gif"]


def test_a_pattern_that_meets_folders_and_their_files_names_each_file_once(tmp_path: Path) -> None:
    _touch(tmp_path / "deep/3.png")
    assert expand_paths([f"{tmp_path}/**"], EMPTY) == [f"{tmp_path}/deep/3.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd = _touch(tmp_path / "scan[1].jpg")
    _touch(tmp_path / "scan1.jpg")
    assert expand_paths([str(odd)], EMPTY) == [str(odd)]


def test_a_dash_reads_names_as_they_are() -> None:
    listed = io.StringIO("b c.jpg\n\n*.jpg\nwindows.jpg\r\n odd\udcff.jpg\n", newline="\n")
    assert expand_paths(["x.jpg", "-"], listed) == ["x.jpg", "b c.jpg", "*.jpg", "windows.jpg", " odd\udcff.jpg"]


def test_a_dash_reads_names_with_line_breaks_when_they_end_in_nul() -> None:
    assert expand_paths(["-"], io.StringIO("a\nb.jpg\0c.jpg\0")) == ["a\nb.jpg", "c.jpg"]


def test_a_name_that_really_ends_in_a_carriage_return_is_kept(tmp_path: Path) -> None:
    odd = _touch(tmp_path / "odd.jpg\r")
    assert expand_paths(["-"], io.StringIO(f"{odd}\n", newline="\n")) == [str(odd)]


def test_the_table_has_one_row_per_prediction_and_the_counts(tmp_path: Path) -> None:
    rows = [
        _row("a,b.jpg", ("cat", 0.7), ("dog", 0.2), ("fox", 0.1)),
        Prediction("bad\udcff.jpg", "unreadable", "not a photo"),
        _row("c.jpg", ("dog", 1.0)),
    ]
    table = tmp_path / "new" / "predictions.csv"
    assert write_predictions(table, iter(rows), 2) == {"ok": 2, "unsure": 0, "unreadable": 1}
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "status", "reason", "label", "probability", "label_2", "probability_2"],
            ["a,b.jpg", "ok", "", "cat", "0.700000", "dog", "0.200000"],
            ["bad\udcff.jpg", "unreadable", "not a photo", "", "", "", ""],
            ["c.jpg", "ok", "", "dog", "1.000000", "", ""],
        ]


def test_rows_reach_a_stream_as_they_come() -> None:
    stream, seen = io.StringIO(), []

    def rows():  # type: ignore[no-untyped-def]
        for name in ("1.jpg", "2.jpg"):
            seen.append(stream.getvalue().count("\n"))
            yield _row(name, ("cat", 1.0))

    assert write_predictions(stream, rows(), 1) == {"ok": 2, "unsure": 0, "unreadable": 0}
    assert seen == [1, 2]
    assert stream.getvalue().splitlines()[0] == "path,status,reason,label,probability"


def test_a_run_that_fails_half_way_leaves_the_earlier_table(tmp_path: Path) -> None:
    table = _touch(tmp_path / "predictions.csv", "earlier")

    def rows():  # type: ignore[no-untyped-def]
        yield _row("1.jpg", ("cat", 1.0))
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_predictions(table, rows(), 1)
    assert table.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_json_rows_name_at_most_top_classes() -> None:
    row = _row("a.jpg", ("cat", 0.75), ("dog", 0.25))
    assert row_to_json(row, 1)["ranked"] == [{"label": "cat", "probability": 0.75}]


def test_photos_are_copied_by_class_and_nothing_is_overwritten(tmp_path: Path) -> None:
    first, second = _touch(tmp_path / "in/a/1.jpg", "first"), _touch(tmp_path / "in/b/1.jpg", "second")
    kept = _touch(tmp_path / "out/cat/1 (2).jpg", "mine")
    bad = Prediction(str(_touch(tmp_path / "in/bad.jpg")), "unreadable", "not a photo")
    assert sort_into(tmp_path / "out", [_row(first, ("cat", 0.9)), bad, _row(second, ("cat", 0.8))]) == 2
    assert {path.name: path.read_text() for path in (tmp_path / "out/cat").iterdir()} == {
        "1.jpg": "first", "1 (2).jpg": "mine", "1 (3).jpg": "second",
    }  # fmt: skip
    assert kept.read_text() == "mine"
    assert first.read_text() == "first"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cat"]


def test_a_copy_keeps_the_photo_s_date(tmp_path: Path) -> None:
    photo = _touch(tmp_path / "1.jpg")
    os.utime(photo, (1_000_000_000, 1_000_000_000))
    sort_into(tmp_path / "out", [_row(photo, ("cat", 1.0))])
    assert (tmp_path / "out/cat/1.jpg").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize(
    "label", ["..", ".", "", "../up", "/etc", "a\\b", "con", "x:y", "end.", "nul\0", "ö" * 300, ".git"]
)
def test_no_class_name_leads_out_of_the_folder_or_names_a_device(tmp_path: Path, label: str) -> None:
    home = tmp_path / "out"
    photo = _touch(tmp_path / "1.jpg")
    sort_into(home, [_row(photo, (label, 1.0))])
    (copied,) = [path for path in home.rglob("*.jpg") if path.is_file()]
    assert copied.resolve().is_relative_to(home.resolve())
    assert not any(part.startswith(".") for part in copied.relative_to(home).parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jpg", "out"]


def test_plain_class_names_stay_nested_ones_become_folders_and_odd_ones_stay_apart() -> None:
    assert class_folder("Golden retriever") == ("Golden retriever",)
    assert class_folder("dogs/beagle") == ("dogs", "beagle")
    assert class_folder("a:b") != class_folder("a?b")


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"taken\.txt is a file"):
        sort_into(_touch(tmp_path / "taken.txt"), [])


def test_a_photo_that_has_gone_since_it_was_classified_is_named(tmp_path: Path) -> None:
    rows = [_row(_touch(tmp_path / "1.jpg"), ("cat", 1.0)), _row(tmp_path / "gone.jpg", ("cat", 1.0))]
    with pytest.raises(ResourceError, match=r"gone\.jpg could not be copied") as caught:
        sort_into(tmp_path / "out", rows)
    assert "1 photos were copied" in caught.value.hint
    assert [path.name for path in (tmp_path / "out/cat").iterdir()] == ["1.jpg"]
