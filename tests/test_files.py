"""Files written whole or not at all, and paths that stay where they should."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from heeler import files
from heeler.errors import ResourceError, UnreadableError
from images import cat, encode


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEELER_CACHE", str(tmp_path / "here"))
    assert files.cache_root() == tmp_path / "here"
    monkeypatch.setenv("HEELER_CACHE", "")
    assert files.cache_root().name == "heeler" and files.cache_root().is_absolute()


def test_a_file_is_written_with_its_folders_and_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    before = os.umask(0o027)
    try:
        files.write_bytes(path, b"one")
        assert os.umask(0o027) == 0o027, "the process's own mask changed"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"one" and stat.S_IMODE(path.stat().st_mode) == 0o640
    files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and [entry.name for entry in path.parent.iterdir()] == ["c.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_earlier_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, b"earlier")

    def write(file: IO[bytes]) -> None:
        file.write(b"half of")
        raise error

    with pytest.raises(error):
        files.atomic_write(path, write)
    assert path.read_bytes() == b"earlier" and [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_earlier_file(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=128k", "tmpfs")
    files.write_bytes(disk / "a", b"earlier")
    with pytest.raises(ResourceError, match="the disk is full: could not write") as caught:
        files.write_bytes(disk / "a", bytes(1 << 20))
    assert str(disk / "a") in caught.value.message and "free some space" in caught.value.hint
    assert (disk / "a").read_bytes() == b"earlier" and [entry.name for entry in disk.iterdir()] == ["a"]


def test_a_read_only_disk_is_named(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "ro", "tmpfs")
    with pytest.raises(ResourceError, match="Read-only file system") as caught:
        files.write_text(disk / "new" / "a", "text")
    assert caught.value.exit_code == 1 and "--out" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_errors_of_the_disk_become_one_line(number: int, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught, files.disk_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "x") in caught.value.message and "\n" not in caught.value.message + caught.value.hint
    assert caught.value.hint


def test_other_errors_of_the_system_are_passed_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="elsewhere") as caught, files.disk_errors(tmp_path):
        raise OSError(errno.EIO, "elsewhere")
    assert not isinstance(caught.value, ResourceError)


WRITES = """
import itertools, sys
from pathlib import Path
from heeler.files import write_bytes
for number in itertools.count():
    write_bytes(Path(sys.argv[1]), bytes([number % 256]) * 3_000_000)
    if number == 3:
        print("going", flush=True)
"""


def test_kill_9_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", WRITES, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "going\n"
        process.send_signal(signal.SIGKILL)
    data = path.read_bytes()
    assert len(data) == 3_000_000 and len(set(data)) == 1


def test_json_has_one_spelling(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "é"})
    text = (tmp_path / "a.json").read_bytes()
    assert text == b'{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert json.loads(text) == {"a": "é", "b": [1, 2.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_bytes() == text


def test_a_table_keeps_commas_quotes_newlines_and_names_that_are_not_text(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    rows = [("a,b", 'say "x"'), ("two\nlines", "é"), (odd, "")]
    files.write_csv(tmp_path / "a.csv", ("path", "class"), rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["path", "class"], *map(list, rows)]
    assert b"\r" not in (tmp_path / "a.csv").read_bytes() and b"caf\xe9.jpg," in (tmp_path / "a.csv").read_bytes()


def test_text_with_a_name_that_is_not_text(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", os.fsdecode(b"\xe9") + "é\n")
    assert (tmp_path / "a").read_bytes() == b"\xe9\xc3\xa9\n"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = encode(cat())
    files.write_bytes(tmp_path / "a", data)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert files.read_regular(tmp_path / "a") == files.read_regular(tmp_path / "link", max_bytes=5) == b"12345"


def test_what_is_not_a_photo_of_sane_size_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2 << 30)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    told = {}
    for name in ("pipe", "folder", "huge", "dangling", "missing", "loop", "nul\0"):
        with pytest.raises(UnreadableError) as caught:
            files.read_regular(tmp_path / name)
        told[name] = caught.value.message
    assert told["pipe"] == "is not a regular file" and told["folder"] == "is not a file"
    assert told["huge"] == "has 2,147 MB; more than 1,074 MB are not read"
    assert told["dangling"] == told["missing"] == "does not exist"
    assert told["loop"].startswith("cannot be opened") and told["nul\0"].startswith("cannot be opened")


def test_a_carriage_return_in_a_name_makes_no_second_row(tmp_path: Path) -> None:
    rows = [["Icon\r", "a"], ["b\r.jpg", 'quo"te'], ["c, d.jpg", ""], ["e\nf.jpg", "g"]]
    files.write_csv(tmp_path / "table.csv", ("path", "label"), rows)
    with (tmp_path / "table.csv").open(newline="") as table:
        assert list(csv.reader(table)) == [["path", "label"], *rows]
    assert files.csv_line(["a.jpg", 'b"c', 1, None]) == 'a.jpg,"b""c",1,\n'


def test_a_disk_that_knows_no_locks_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with (tmp_path / "file").open("w") as file:
        files.lock_file(file, "taken")
        monkeypatch.setattr(fcntl, "flock", flock)
        files.lock_file(file, "taken")


def test_links_are_followed_before_a_path_counts_as_inside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert files.is_inside(tmp_path / "link" / "x", tmp_path / "real")
    assert files.is_inside(tmp_path / "real", tmp_path / "real")
    assert not files.is_inside(tmp_path / "realm", tmp_path / "real")
    assert not files.is_inside(tmp_path / "link" / "..", tmp_path / "real")


def test_room_that_is_not_there_is_refused_with_the_figures(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=50m", "tmpfs")
    files.require_space(disk / "not" / "yet" / "made", 40 << 20)
    with pytest.raises(ResourceError, match=r"0\.06 GB are needed in .* and 0\.05 GB are free") as caught:
        files.require_space(disk / "not" / "yet" / "made", 60_000_000)
    assert "--image-px" in caught.value.hint and not (disk / "not").exists()
