"""The table of predictions, and photos sorted into folders."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from heeler.errors import ResourceError, UsageError
from heeler.records import Prediction
from heeler.ship.rows import begin_rows, class_folder, row_to_json, sort_into, stream_rows, write_predictions


def _touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _row(path: object, *ranked: tuple[str, float]) -> Prediction:
    return Prediction(str(path), "ok", ranked=ranked)


def test_the_table_has_one_row_per_prediction_and_the_counts(tmp_path: Path) -> None:
    rows = [
        _row("a,b.jpg", ("cat", 0.7), ("dog", 0.2), ("fox", 0.1)),
        Prediction("bad\udcff.jpg", "unreadable", "not a photo"),
        _row("c.jpg", ("dog", 1.0)),
    ]
    table = tmp_path / "new" / "predictions.csv"
    write_predictions(table, iter(rows), 2)
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

    begin_rows(stream, 1)
    assert stream_rows(stream, rows(), 1) == {"ok": 2, "unsure": 0, "unreadable": 0}
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
    rows = [_row(first, ("cat", 0.9)), bad, _row(second, ("cat", 0.8))]
    assert list(sort_into(tmp_path / "out", rows)) == rows
    assert {path.name: path.read_text() for path in (tmp_path / "out/cat").iterdir()} == {
        "1.jpg": "first", "1 (2).jpg": "mine", "1 (3).jpg": "second",
    }  # fmt: skip
    assert kept.read_text() == "mine"
    assert first.read_text() == "first"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cat"]


def test_a_copy_keeps_the_photo_s_date(tmp_path: Path) -> None:
    photo = _touch(tmp_path / "1.jpg")
    os.utime(photo, (1_000_000_000, 1_000_000_000))
    list(sort_into(tmp_path / "out", [_row(photo, ("cat", 1.0))]))
    assert (tmp_path / "out/cat/1.jpg").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize(
    "label", ["..", ".", "", "../up", "/etc", "a\\b", "con", "x:y", "end.", "nul\0", "ö" * 300, ".git"]
)
def test_no_class_name_leads_out_of_the_folder_or_names_a_device(tmp_path: Path, label: str) -> None:
    home = tmp_path / "out"
    photo = _touch(tmp_path / "1.jpg")
    list(sort_into(home, [_row(photo, (label, 1.0))]))
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
        list(sort_into(_touch(tmp_path / "taken.txt"), []))


def test_a_photo_that_has_gone_since_it_was_classified_is_named(tmp_path: Path) -> None:
    rows = [_row(_touch(tmp_path / "1.jpg"), ("cat", 1.0)), _row(tmp_path / "gone.jpg", ("cat", 1.0))]
    with pytest.raises(ResourceError, match=r"gone\.jpg could not be copied") as caught:
        list(sort_into(tmp_path / "out", rows))
    assert "1 rows were sorted" in caught.value.hint
    assert [path.name for path in (tmp_path / "out/cat").iterdir()] == ["1.jpg"]


def test_after_a_kill_each_photo_has_one_copy(tmp_path: Path) -> None:
    rows = [_row(_touch(tmp_path / f"in/{number}/1.jpg", "same"), ("cat", 0.9)) for number in range(4)]
    out = tmp_path / "out"

    def names() -> set[str]:
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        return {path.name for path in (out / "cat").iterdir()}

    killed = sort_into(out, rows)
    for _ in range(3):
        next(killed)
    half = out / ".2.part"
    assert half.stat().st_nlink == 2
    kept = half.read_bytes()
    del killed  # a kill leaves it where it is; the end of a generator does not
    # The third photo was copied, and its row not written.
    assert list(sort_into(out, rows[1:], start=1, n_copied=2)) == rows[1:]
    assert names() == {"1.jpg", "1 (2).jpg", "1 (3).jpg", "1 (4).jpg"}
    assert kept == b"same"


def test_a_half_copy_of_another_job_is_no_copy(tmp_path: Path) -> None:
    rows = [_row(_touch(tmp_path / "in/1.jpg", "content"), ("cat", 0.9))]
    _touch(tmp_path / "out/.0.part", "half")
    (tmp_path / "out/linked").hardlink_to(tmp_path / "out/.0.part")
    list(sort_into(tmp_path / "out", rows))
    assert (tmp_path / "out/cat/1.jpg").read_text() == "content"
    assert (tmp_path / "out/linked").read_text() == "half"
    assert not (tmp_path / "out/.0.part").exists()


def test_copies_are_whole_where_the_disk_knows_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    photo = _touch(tmp_path / "1.jpg", "content")
    list(sort_into(tmp_path / "out", [_row(photo, ("cat", 1.0))] * 2))
    assert {path.name: path.read_text() for path in (tmp_path / "out/cat").iterdir()} == {
        "1.jpg": "content", "1 (2).jpg": "content",
    }  # fmt: skip
