"""The one pass over the files: what it makes, what it finds again, and what it survives."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import scene, snapshot
from heeler.data import pixels as module
from heeler.data.catalogue import read_source
from heeler.data.decode import decode
from heeler.data.duplicates import near_duplicates, thumbnails
from heeler.data.pixels import Pixels, read_again, read_photos
from heeler.errors import DataError, ResourceError
from heeler.records import Catalogue, Event, Note, Preprocessing, Progress, ignore_events
from images import encode, jpeg_ended_early

SPEC = Preprocessing(image_px=64)
Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    """Trust the times of files at once, which a run does only for files that are a few seconds old."""
    monkeypatch.setattr(module, "SETTLED_NS", -1_000_000_000)


def read(root: Path, spec: Preprocessing = SPEC) -> tuple[Catalogue, Pixels]:
    return read_photos(read_source(root), spec, ignore_events)


def assert_right(catalogue: Catalogue, pixels: Pixels) -> None:
    """Every row is what decoding its file gives."""
    usable = catalogue.usable
    assert len(pixels.rows) == len(pixels.thumbs) == len(usable) > 0
    made = pixels.rows.take(np.arange(len(usable)))
    for photo, square in zip(usable, made, strict=True):
        data = photo.file.read_bytes()
        assert photo.sha256 == hashlib.sha256(data).hexdigest()
        fresh = decode(data, pixels.spec)
        assert (photo.width_px, photo.height_px, photo.format) == (fresh.width_px, fresh.height_px, fresh.format)
        np.testing.assert_array_equal(square, fresh.pixels)


def forbid_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(Path, "read_bytes", refuse)


def test_one_pass_completes_the_catalogue(photo_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    events: list[Event] = []
    root = photo_folder(cat=5, coffee=5)
    catalogue, pixels = read_photos(read_source(root), SPEC, events.append)
    assert pixels.n_decoded == 10 and pixels.spec == SPEC
    assert {(photo.width_px, photo.height_px, photo.format) for photo in catalogue.usable} == {(160, 160, "JPEG")}
    assert_right(catalogue, pixels)
    assert events == [Progress(done) for done in (0, 4, 8, 10)]


def test_each_photo_has_the_miniature_of_its_square(photo_folder: Folder) -> None:
    _, pixels = read(photo_folder(cat=3))
    np.testing.assert_array_equal(pixels.thumbs, thumbnails(pixels.rows.take([0, 1, 2])))
    assert len(np.unique(pixels.thumbs.reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize("size", [(160, 100), (100, 160), (160, 3), (160, 160)])
def test_a_miniature_shows_the_photo_without_its_padding(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "photos/white").mkdir(parents=True)
    Image.new("RGB", size, "white").save(tmp_path / "photos/white/1.png")
    _, pixels = read(tmp_path / "photos", replace(SPEC, fit="pad"))
    assert pixels.thumbs.shape == (1, 32, 32) and (pixels.thumbs == 255).all()


def test_a_second_run_decodes_nothing_and_opens_nothing(photo_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photo_folder()
    first, before = read(root)
    with monkeypatch.context() as patch:
        forbid_opening(patch)
        second, after = read(root)
    assert (before.n_decoded, after.n_decoded) == (48, 0)
    assert second == first
    np.testing.assert_array_equal(before.thumbs, after.thumbs)
    assert_right(second, after)


def test_a_file_too_fresh_to_trust_is_opened_again_but_not_decoded(
    photo_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_NS", 3_600_000_000_000)
    root = photo_folder(cat=4, coffee=4)
    first, _ = read(root)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="was opened"):
        forbid_opening(patch)
        read(root)
    second, after = read(root)
    assert after.n_decoded == 0 and second == first


def test_a_changed_file_is_read_again(photo_folder: Folder) -> None:
    root = photo_folder(cat=4, coffee=4)
    read(root)
    changed = root / "cat" / "1.jpg"
    times = changed.stat()
    changed.write_bytes(encode(scene("rocket", 0)))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    catalogue, pixels = read(root)
    assert pixels.n_decoded == 1
    assert_right(catalogue, pixels)


def test_a_moved_folder_decodes_nothing(photo_folder: Folder, tmp_path: Path) -> None:
    first, _ = read(photo_folder())
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    second, pixels = read(tmp_path / "elsewhere")
    assert pixels.n_decoded == 0
    assert [photo.sha256 for photo in second.photos] == [photo.sha256 for photo in first.photos]
    assert_right(second, pixels)


def test_another_size_or_fit_is_another_set_of_pixels(photo_folder: Folder) -> None:
    root = photo_folder(cat=3, coffee=3)
    for spec in (SPEC, replace(SPEC, image_px=48), replace(SPEC, fit="squash"), replace(SPEC, fit="pad")):
        catalogue, pixels = read(root, spec)
        assert pixels.n_decoded == 6
        assert_right(catalogue, pixels)
    assert read(root, replace(SPEC, std=(0.2, 0.2, 0.2)))[1].n_decoded == 0


def test_an_unreadable_file_in_each_class_is_left_out_with_its_reason(photo_folder: Folder) -> None:
    root = photo_folder(cat=4, coffee=4)
    (root / "cat" / "notes.jpg").write_text("this is a text file")
    whole = (root / "coffee" / "0.jpg").read_bytes()
    (root / "coffee" / "half.jpg").write_bytes(jpeg_ended_early(whole, 0.5))
    (root / "coffee" / "empty.jpg").write_bytes(b"")
    events: list[Event] = []
    catalogue, pixels = read_photos(read_source(root), SPEC, events.append)
    bad = {photo.path: photo.reason for photo in catalogue.photos if photo.status == "unreadable"}
    assert set(bad) == {"cat/notes.jpg", "coffee/half.jpg", "coffee/empty.jpg"} and all(bad.values())
    assert len(pixels.rows) == pixels.n_decoded == 8
    notes = [event for event in events if isinstance(event, Note)]
    assert [note.level for note in notes] == ["warning"]
    assert notes[0].text.startswith("3 unreadable: cat/notes.jpg") and "and 2 more" in notes[0].text


def test_a_file_that_vanishes_after_the_listing_is_unreadable(photo_folder: Folder) -> None:
    root = photo_folder(cat=3, coffee=3)
    catalogue = read_source(root)
    (root / "cat" / "0.jpg").unlink()
    full, pixels = read_photos(catalogue, SPEC, ignore_events)
    assert [(photo.path, photo.status) for photo in full.photos if photo.status != "ok"] == [
        ("cat/0.jpg", "unreadable")
    ]
    assert "not exist" in next(photo.reason for photo in full.photos if photo.reason)
    assert_right(full, pixels)


def test_copies_are_decoded_once(photo_folder: Folder) -> None:
    root = photo_folder(cat=3, coffee=3)
    for number in range(40):
        shutil.copy(root / "cat" / "0.jpg", root / "cat" / f"copy-{number}.jpg")
    catalogue, pixels = read(root)
    assert Counter(photo.status for photo in catalogue.photos) == {"ok": 6, "duplicate": 40}
    assert pixels.n_decoded == 6
    assert_right(catalogue, pixels)


def test_the_same_photo_in_two_classes_is_left_out_and_told(photo_folder: Folder) -> None:
    root = photo_folder(cat=4, coffee=4)
    shutil.copy(root / "cat" / "0.jpg", root / "coffee" / "cat.jpg")
    events: list[Event] = []
    catalogue, pixels = read_photos(read_source(root), SPEC, events.append)
    out = {photo.path: photo.reason for photo in catalogue.photos if photo.status == "left_out"}
    assert out == {
        "cat/0.jpg": "same bytes, other class: coffee/cat.jpg",
        "coffee/cat.jpg": "same bytes, other class: cat/0.jpg",
    }
    assert len(pixels.rows) == 7
    told = [event.text for event in events if isinstance(event, Note)]
    assert len(told) == 1 and told[0].startswith("2 photos left out because the same photo stands in two classes")


@pytest.mark.parametrize("kind", ["seen", "index", "rows"])
@pytest.mark.parametrize("content", [b"", b"[]", b"7", b'{"x": 3}', b"\xff\xfe garbage"])
def test_a_damaged_cache_is_made_good(photo_folder: Folder, fresh_cache: Path, kind: str, content: bytes) -> None:
    root = photo_folder(cat=4, coffee=4)
    first, _ = read(root)
    pattern = {"seen": "seen/*.json", "index": "pixels/*/*/*.json", "rows": "pixels/*/*/*.rows"}[kind]
    damaged = sorted(fresh_cache.glob(pattern))
    assert damaged
    for path in damaged:
        path.write_bytes(content)
    second, pixels = read(root)
    assert second == first
    assert pixels.n_decoded == (0 if kind == "seen" else 8)
    assert_right(second, pixels)


def test_a_truncated_shard_costs_only_the_rows_it_lost(photo_folder: Folder, fresh_cache: Path) -> None:
    root = photo_folder(cat=4, coffee=4)
    read(root)
    (shard,) = fresh_cache.glob("pixels/*/squares/*.rows")
    os.truncate(shard, 5 * 64 * 64 * 3 + 17)
    catalogue, pixels = read(root)
    assert pixels.n_decoded == 3
    assert_right(catalogue, pixels)


STOPS = """
import sys, time
from pathlib import Path
from heeler.data import pixels, rows
from heeler.data.catalogue import read_source
from heeler.records import Preprocessing, Progress
rows.COMMIT_EVERY_BYTES, pixels.CHUNK = 8 * 64 * 64 * 3, 4
def stop(event):
    if isinstance(event, Progress) and event.done == 20:
        print("twenty", flush=True)
        time.sleep(600)
pixels.read_photos(read_source(Path(sys.argv[1])), Preprocessing(image_px=64), stop)
"""


def test_kill_9_in_the_middle_loses_only_what_was_not_committed(photo_folder: Folder) -> None:
    root = photo_folder()
    before = snapshot(root)
    with subprocess.Popen([sys.executable, "-c", STOPS, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "twenty\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    catalogue, pixels = read(root)
    assert pixels.n_decoded == 48 - 16
    assert_right(catalogue, pixels)
    assert snapshot(root) == before


READS = """
import sys
from pathlib import Path
from heeler.data.catalogue import read_source
from heeler.data.pixels import read_photos
from heeler.records import Preprocessing, ignore_events
import torch
print("ready", flush=True)
sys.stdin.readline()
_, pixels = read_photos(read_source(Path(sys.argv[1])), Preprocessing(image_px=64), ignore_events)
print(len(pixels.rows), int(pixels.rows.take(range(len(pixels.rows))).sum()))
"""


def test_two_processes_at_once_both_end_right(photo_folder: Folder) -> None:
    root = photo_folder()
    command = [sys.executable, "-c", READS, str(root)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True),
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    catalogue, pixels = read(root)
    assert pixels.n_decoded == 0
    assert_right(catalogue, pixels)
    assert told == [f"48 {int(pixels.rows.take(range(48)).sum())}\n"] * 2


def test_a_disk_that_fills_up_keeps_what_was_decoded(
    photo_folder: Folder, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(disk))
    monkeypatch.setattr(module, "CHUNK", 2)
    root = photo_folder()
    few = read_source(root)
    few = replace(few, photos=few.photos[:6])
    assert read_photos(few, SPEC, ignore_events)[1].n_decoded == 6

    def fill_up(event: Event) -> None:
        if event == Progress(20):
            with (disk / "filler").open("wb", buffering=0) as file:
                file.write(bytes(1 << 20))

    with pytest.raises(ResourceError, match="the disk is full: could not write"):
        read_photos(read_source(root), SPEC, fill_up)
    (disk / "filler").unlink()
    catalogue, pixels = read(root)
    # Six were there before and most of the next fourteen; the index needed the room of a few.
    assert 48 - 20 <= pixels.n_decoded <= 48 - 6 - 5
    assert_right(catalogue, pixels)


def test_a_disk_too_small_is_refused_before_the_work(
    photo_folder: Folder, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=300k", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(disk))
    root = photo_folder()
    catalogue = read_source(root)
    few = replace(catalogue, photos=catalogue.photos[:6])
    first, before = read_photos(few, SPEC, ignore_events)
    with pytest.raises(ResourceError, match=r"0\.00 GB are needed in .* and 0\.00 GB are free") as caught:
        read_photos(catalogue, SPEC, ignore_events)
    assert "HEELER_CACHE" in caught.value.hint
    second, after = read_photos(few, SPEC, ignore_events)
    assert (before.n_decoded, after.n_decoded) == (6, 0) and second == first


def test_room_is_asked_only_for_what_the_cache_may_lack(
    photo_folder: Folder, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=300k", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(disk))
    read(photo_folder(cat=6, coffee=6))
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere")[1].n_decoded == 0


def test_the_users_folder_is_left_as_it_was(photo_folder: Folder) -> None:
    root = photo_folder(cat=4, coffee=4)
    for path in (*root.rglob("*"), root):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(root)
    assert read(root)[1].n_decoded == 8
    assert snapshot(root) == before


def test_photos_on_a_read_only_disk_are_read(photo_folder: Folder, mount: Callable[..., Path]) -> None:
    source = photo_folder(cat=4, coffee=4)
    root = mount("--bind", str(source))
    if subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], capture_output=True, check=False).returncode:
        pytest.skip("remounting is not allowed here")
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").touch()
    before = snapshot(root)
    catalogue, pixels = read(root)
    assert_right(catalogue, pixels)
    assert snapshot(root) == before


def test_a_folder_whose_name_is_not_text(photo_folder: Folder, tmp_path: Path) -> None:
    root = photo_folder(cat=3, coffee=3)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    try:
        root.rename(odd)
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (Path(odd) / "cat" / "0.jpg").rename(os.fsdecode(os.fsencode(odd) + b"/cat/\xff.jpg"))
    catalogue, pixels = read(Path(odd))
    assert_right(catalogue, pixels)
    assert read(Path(odd))[1].n_decoded == 0


def test_torch_has_its_threads_back_afterwards(photo_folder: Folder) -> None:
    import torch

    root = photo_folder(cat=3, coffee=3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)

    def fail(event: Event) -> None:
        if event == Progress(6):
            raise RuntimeError

    try:
        with pytest.raises(RuntimeError):
            read_photos(read_source(root), SPEC, fail)
        assert torch.get_num_threads() == 3
        read(root)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_photos_of_these_tests_are_distinct(photo_folder: Folder) -> None:
    _, pixels = read(photo_folder(), Preprocessing())
    assert len(pixels.rows) == 48 and near_duplicates(pixels.thumbs) == []


def test_photos_that_changed_meanwhile_are_not_read_as_others(photo_folder: Folder) -> None:
    source = photo_folder(cat=4, coffee=4)
    catalogue, pixels = read(source)
    again = read_again(catalogue, replace(SPEC, fit="squash"), ignore_events)
    assert len(again.rows) == len(pixels.rows)
    (source / "cat" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"cat/2.jpg has changed"):
        read_again(catalogue, replace(SPEC, image_px=32), ignore_events)
    scene("coffee", 5).save(source / "cat" / "2.jpg")
    with pytest.raises(DataError, match=r"cat/2.jpg has changed"):
        read_again(catalogue, replace(SPEC, image_px=48), ignore_events)
