"""Rows on disk: found again by name, whoever wrote them, and however the writer ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from heeler.data import rows as module
from heeler.data.rows import RowStore
from heeler.errors import ResourceError

SHAPE = (16, 16)


def row(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def opened(folder: Path) -> RowStore:
    return RowStore(folder, SHAPE, "uint8")


def fill(folder: Path, numbers: range) -> None:
    with opened(folder).writer() as writer:
        for number in numbers:
            writer.append([str(number)], row(number)[None], [(number, f"fact {number}")])


def test_what_was_written_is_found_again_in_any_order(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(10))
    fill(tmp_path / "a", range(10, 15))
    store = opened(tmp_path / "a")
    assert len(store) == 15 and "14" in store and "15" not in store
    wanted = [14, 3, 3, 0, 12]
    view = store.view(map(str, wanted))
    assert [list(facts) for facts in view.facts] == [[number, f"fact {number}"] for number in wanted]
    assert store.facts("3") == [3, "fact 3"]
    np.testing.assert_array_equal(view.take(np.arange(5)), np.stack([row(number) for number in wanted]))
    np.testing.assert_array_equal(view.take([4, 0]), np.stack([row(12), row(14)]))
    batches = list(view.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), view.take(range(5)))


def test_nothing_is_made_before_the_first_row(tmp_path: Path) -> None:
    with opened(tmp_path / "a").writer():
        pass
    assert not (tmp_path / "a").exists()
    view = opened(tmp_path / "a").view([])
    assert len(view) == 0 and view.take([]).shape == (0, *SHAPE)


def test_floats_keep_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with RowStore(tmp_path, (5,), "float32").writer() as writer:
        for number, value in enumerate(values):
            writer.append([str(number)], value[None])
    np.testing.assert_array_equal(RowStore(tmp_path, (5,), "float32").view("012").take([0, 1, 2]), values)


def test_a_name_the_store_lacks_and_a_row_of_another_shape_are_errors(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(KeyError, match="missing"):
        store.view(["missing"])
    with store.writer() as writer:
        with pytest.raises(ValueError, match="the store holds 1 of uint8"):
            writer.append(["a"], np.zeros((1, 3, 3), np.uint8))
        with pytest.raises(ValueError, match="rows are float32"):
            writer.append(["a"], np.zeros((1, *SHAPE), np.float32))
        with pytest.raises(ValueError, match="the store holds 2 of"):
            writer.append(["a", "b"], row(1)[None])
    assert len(opened(tmp_path)) == 0


def test_rows_are_committed_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_ROWS", 4)
    with opened(tmp_path).writer() as writer:
        told = [writer.append([str(number)], row(number)[None]) for number in range(10)]
        assert told == [False, False, False, True] * 2 + [False, False]
        assert len(opened(tmp_path)) == 8
    assert len(opened(tmp_path)) == 10


def test_several_rows_at_a_time_are_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_ROWS", 4)
    names, rows = [str(number) for number in range(9)], np.stack([row(number) for number in range(9)])
    with opened(tmp_path).writer() as writer:
        told = [writer.append(names[a:b], rows[a:b], [(i,) for i in range(a, b)]) for a, b in ((0, 3), (3, 8))]
        assert told == [False, True]
        assert len(opened(tmp_path)) == 8
        writer.append(names[8:], np.asfortranarray(rows[8:]), [(8,)])
    view = opened(tmp_path).view(names)
    assert [list(facts) for facts in view.facts] == [[number] for number in range(9)]
    np.testing.assert_array_equal(view.take(range(9)), rows)


def test_large_rows_are_committed_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_BYTES", 3 * 256)
    with opened(tmp_path).writer() as writer:
        assert [writer.append([str(number)], row(number)[None]) for number in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_keeps_the_rows_before_it(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), opened(tmp_path).writer() as writer:
        writer.append(["1"], row(1)[None])
        raise error
    np.testing.assert_array_equal(opened(tmp_path).view(["1"]).take([0])[0], row(1))


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from heeler.data import rows
rows.COMMIT_EVERY_ROWS = 8
with rows.RowStore(Path(sys.argv[1]), (16, 16), "uint8").writer() as writer:
    for number in range(20):
        writer.append([str(number)], np.random.default_rng(number).integers(0, 256, (1, 16, 16), dtype=np.uint8))
    print("written", flush=True)
    time.sleep(600)
"""


def killed_writer(folder: Path) -> None:
    """Append 20 rows in another process, of which the first 16 are committed, and kill it."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)


def test_kill_9_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    killed_writer(tmp_path)
    store = opened(tmp_path)
    assert sorted(name for name in map(str, range(20)) if name in store) == sorted(map(str, range(16)))
    fill(tmp_path, range(16, 20))
    view = opened(tmp_path).view(map(str, range(20)))
    np.testing.assert_array_equal(view.take(range(20)), np.stack([row(number) for number in range(20)]))


def test_rows_without_an_index_are_removed_once_their_writer_is_long_gone(tmp_path: Path) -> None:
    abandoned, in_use = tmp_path / "abandoned.rows", tmp_path / "in_use.rows"
    for path in (abandoned, in_use):
        path.write_bytes(bytes(2560))
    old = abandoned.stat().st_mtime - 2 * module.ABANDONED_S
    os.utime(abandoned, (old, old))
    fill(tmp_path, range(3))
    shard = next(tmp_path.glob("*.json")).with_suffix(".rows")
    os.utime(shard, (old, old))
    fill(tmp_path, range(3, 6))
    assert not abandoned.exists() and in_use.exists()
    assert len(opened(tmp_path)) == 6


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "null", "5", "[5]", "[[]]", '{"a": 1}', "\0\0\0\0", "[" * 100],
    ids=["empty", "torn", "null", "number", "no-lists", "no-name", "object", "zeros", "brackets"],
)
def test_a_garbage_index_holds_nothing_and_harms_nothing(tmp_path: Path, garbage: str) -> None:
    fill(tmp_path, range(3))
    index = next(tmp_path.glob("*.json"))
    index.write_text(garbage)
    fill(tmp_path, range(5, 7))
    store = opened(tmp_path)
    assert "5" in store and "6" in store and "0" not in store
    np.testing.assert_array_equal(store.view(["6"]).take([0])[0], row(6))


def test_an_index_that_is_not_text_holds_nothing(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    next(tmp_path.glob("*.json")).write_bytes(b"\xff\xfe\x00")
    assert len(opened(tmp_path)) == 0


@pytest.mark.parametrize(("n_bytes", "n_left"), [(2560, 10), (2559, 9), (256, 1), (255, 0), (0, 0)])
def test_a_shard_cut_short_holds_its_whole_rows(tmp_path: Path, n_bytes: int, n_left: int) -> None:
    fill(tmp_path, range(10))
    os.truncate(next(tmp_path.glob("*.rows")), n_bytes)
    store = opened(tmp_path)
    assert len(store) == n_left
    view = store.view(map(str, range(n_left)))
    np.testing.assert_array_equal(
        view.take(range(n_left)), np.array([row(i) for i in range(n_left)]).reshape(-1, 16, 16)
    )


def test_a_shard_whose_rows_are_gone_holds_nothing(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    next(tmp_path.glob("*.rows")).unlink()
    assert len(opened(tmp_path)) == 0


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    threads = [threading.Thread(target=fill, args=(tmp_path, range(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*.json"))) == 4
    view = opened(tmp_path).view(map(str, range(30)))
    np.testing.assert_array_equal(view.take(range(30)), np.stack([row(number) for number in range(30)]))


def test_a_full_disk_keeps_whole_rows_and_gives_the_rest_back(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    fill(disk, range(100))
    with pytest.raises(ResourceError, match="the disk is full: could not write") as caught:
        fill(disk, range(100, 5000))
    assert "\n" not in str(caught.value) and "free some space" in caught.value.hint
    store = opened(disk)
    kept = [number for number in range(5000) if str(number) in store]
    assert kept == list(range(len(kept))) and len(kept) > 400
    np.testing.assert_array_equal(store.view(map(str, kept)).take(kept), np.stack([row(number) for number in kept]))
    indexes = {path.stem: len(json.loads(path.read_text())) for path in disk.glob("*.json")}
    assert {path.stem: path.stat().st_size for path in disk.glob("*.rows")} == {
        stem: n_rows * 256 for stem, n_rows in indexes.items()
    }
    assert not list(disk.glob(".*")), "temporary files stayed"


def test_a_disk_without_room_for_one_row_stays_clean(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    (disk / "filler").write_bytes(bytes(64 << 10))
    with pytest.raises(ResourceError, match="the disk is full"):
        fill(disk, range(5))
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_read_only_place_is_named(mount: Callable[..., Path]) -> None:
    disk = mount("-t", "tmpfs", "-o", "ro,size=64k", "tmpfs")
    with pytest.raises(ResourceError, match="Read-only file system") as caught:
        fill(disk / "store", range(5))
    assert str(disk) in str(caught.value) and "HEELER_CACHE" in caught.value.hint
