"""Which files a command line names, in which order, and that none of them waits in memory."""

from __future__ import annotations

import io
import itertools
import os
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pytest

from heeler.ship import names as names_module
from heeler.ship.names import in_order, stream_names


def _touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def listed(args: Sequence[str], stdin: TextIO | None = None, skip: Path | None = None) -> list[str]:
    return list(stream_names(args, stdin or io.StringIO(), skip=skip))


def test_names_stay_in_the_order_of_the_command_line(tmp_path: Path) -> None:
    last, first = _touch(tmp_path / "z.jpg"), _touch(tmp_path / "a.jpg")
    missing = str(tmp_path / "missing.jpg")
    assert listed([str(last), missing, str(first), str(last)]) == [
        str(last), missing, str(first), str(last),
    ]  # fmt: skip


def test_a_folder_gives_every_file_below_it_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "notes.txt", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/1.jpg", "__MACOSX/1"):
        _touch(tmp_path / name)
    found = listed([str(tmp_path)])
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == ["a/1.jpg", "b/2.jpg", "notes.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_in_a_folder_is_not_opened_and_a_dangling_link_has_its_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert listed([str(tmp_path)]) == [str(tmp_path / "gone.jpg")]


def test_patterns_expand_sorted_and_stay_as_they_are_without_a_match(tmp_path: Path) -> None:
    for name in ("2.png", "1.png", "1.jpg", ".hidden.png", "deep/3.png"):
        _touch(tmp_path / name)
    assert listed([f"{tmp_path}/*.png"]) == [f"{tmp_path}/1.png", f"{tmp_path}/2.png"]
    assert listed([f"{tmp_path}/**/3.png"]) == [f"{tmp_path}/deep/3.png"]
    assert listed([f"{tmp_path}/*.gif"]) == [f"{tmp_path}/*.gif"]


def test_a_pattern_that_meets_folders_and_their_files_names_each_file_once(tmp_path: Path) -> None:
    _touch(tmp_path / "deep/3.png")
    assert listed([f"{tmp_path}/**"]) == [f"{tmp_path}/deep/3.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd = _touch(tmp_path / "scan[1].jpg")
    _touch(tmp_path / "scan1.jpg")
    assert listed([str(odd)]) == [str(odd)]


def test_a_dash_reads_names_as_they_are() -> None:
    text = io.StringIO("b c.jpg\n\n*.jpg\nwindows.jpg\r\n odd\udcff.jpg\n", newline="\n")
    assert listed(["x.jpg", "-"], text) == ["x.jpg", "b c.jpg", "*.jpg", "windows.jpg", " odd\udcff.jpg"]


def test_a_dash_reads_names_with_line_breaks_when_they_end_in_nul() -> None:
    assert listed(["-"], io.StringIO("a\nb.jpg\0c.jpg\0")) == ["a\nb.jpg", "c.jpg"]


def test_a_name_that_really_ends_in_a_carriage_return_is_kept(tmp_path: Path) -> None:
    odd = _touch(tmp_path / "odd.jpg\r")
    assert listed(["-"], io.StringIO(f"{odd}\n", newline="\n")) == [str(odd)]


def test_names_sort_as_whole_paths_do_and_links_to_folders_are_not_gone_into(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a-b/1.jpg", "a.jpg", "a/b/c/2.jpg", "a0.jpg", "a/b.jpg", "Z/\udcff.jpg"):
        _touch(tmp_path / name)
    (tmp_path / "a/round").symlink_to(tmp_path)
    found = listed([str(tmp_path)])
    assert found == sorted(found)
    assert len(found) == 7


def test_a_folder_that_cannot_be_opened_has_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "shut/1.jpg")
    _touch(tmp_path / "open/1.jpg")
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert listed([str(tmp_path)]) == [f"{tmp_path}/open/1.jpg", f"{tmp_path}/shut/"]


def test_the_folder_that_photos_are_sorted_into_is_not_gone_into(tmp_path: Path) -> None:
    _touch(tmp_path / "1.jpg")
    _touch(tmp_path / "sorted/cat/1.jpg")
    assert listed([str(tmp_path)], skip=tmp_path / "x" / ".." / "sorted") == [f"{tmp_path}/1.jpg"]
    assert listed([f"{tmp_path}/*"], skip=tmp_path / "sorted" / "cat") == [f"{tmp_path}/1.jpg"]


def test_more_names_than_memory_is_given_for_come_sorted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sorted(
        f"{draw:x}\n\udc80{number}" for number, draw in enumerate(random.Random(0).choices(range(999), k=500))
    )
    shuffled = expected[::3] + expected[1::3] + expected[2::3]
    for most in (1, 7, 499, 500, 501):
        assert list(in_order(iter(shuffled), most)) == expected
    assert list(in_order([], 3)) == []
    for number in range(30):
        _touch(tmp_path / f"{number:02d}.jpg")
    monkeypatch.setattr(names_module, "MOST_IN_MEMORY", 7)
    assert [Path(name).name for name in listed([str(tmp_path)])] == [f"{number:02d}.jpg" for number in range(30)]


def test_memory_does_not_grow_with_the_names() -> None:
    def peak_bytes(n: int, most: int) -> int:
        made = (f"{(number * 7919) % n:09d}.jpg" for number in range(n))
        tracemalloc.start()
        assert sum(1 for _ in in_order(made, most)) == n
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(2_000, 100)
    assert peak_bytes(40_000, 4_000) < 0.5 * peak_bytes(40_000, 100_000)


def test_a_list_is_read_as_it_is_written(tmp_path: Path) -> None:
    photo = str(_touch(tmp_path / "1.jpg"))
    read_fd, write_fd = os.pipe()
    with (
        os.fdopen(read_fd, encoding="utf-8", newline="\n") as stdin,
        os.fdopen(write_fd, "w", encoding="utf-8") as list_,
    ):
        names = stream_names(["-"], stdin)
        for name in (photo, "gone.jpg", photo):  # each is there before the next is written
            list_.write(f"{name}\n")
            list_.flush()
            assert next(names) == name


def test_a_list_without_an_end_is_no_burden() -> None:
    class Endless(io.StringIO):
        def readline(self, *_: object) -> str:
            return "gone.jpg\n"

    assert list(itertools.islice(stream_names(["-"], Endless()), 2000)) == ["gone.jpg"] * 2000


def test_names_that_end_in_nul_come_before_the_list_has_ended() -> None:
    class Endless(io.StringIO):
        def readline(self, size: int = -1) -> str:
            assert size > 0, "a list without line breaks was asked for whole"
            return self.read(size)

        def read(self, size: int | None = -1) -> str:
            assert size is not None and size > 0
            return ("gone.jpg\0" * size)[:size]

    names = list(itertools.islice(stream_names(["-"], Endless()), 2000))
    assert names[:3] == ["gone.jpg"] * 3 and len(names) == 2000


def test_a_line_longer_than_any_name_is_one_name() -> None:
    long = "x" * 100_000
    assert listed(["-"], io.StringIO(f"{long}\nb.jpg\n")) == [long, "b.jpg"]
    assert listed([long]) == [long]
