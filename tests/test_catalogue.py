"""Folders of real files -> Catalogue: layouts, what is left out and why, labels, groups, scale, read-only sources."""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from heeler.data.catalogue import read_source, recall_catalogue, thin_catalogue, write_catalogue
from heeler.errors import DataError, UsageError
from heeler.records import Catalogue, Photo


def add(root: Path, *names: str) -> Path:
    """Save a small real photo under each name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.new("RGB", (8, 6), (number % 256, 90, 30)).save(file, "JPEG")
    return root


def told(catalogue: Catalogue) -> dict[str, tuple[str, str]]:
    """Class of each usable photo, and the reason of every other file."""
    return {photo.path: (photo.label if photo.status == "ok" else "-", photo.reason) for photo in catalogue.photos}


def by_path(catalogue: Catalogue) -> dict[str, Photo]:
    return {photo.path: photo for photo in catalogue.photos}


def test_class_folders(tmp_path: Path) -> None:
    root = add(tmp_path / "pets", "dog/b.jpg", "cat/a.JPG", "cat/deep/er/c.png", "cat/no_ending")
    catalogue = read_source(root)
    assert (catalogue.source, catalogue.name) == (str(root), "pets")
    assert [photo.path for photo in catalogue.photos] == [
        "cat/a.JPG",
        "cat/deep/er/c.png",
        "cat/no_ending",
        "dog/b.jpg",
    ]
    assert [photo.label for photo in catalogue.photos] == ["cat", "cat", "cat", "dog"]
    assert all(photo.status == "ok" and photo.part is None and photo.file.is_file() for photo in catalogue.photos)


def test_a_part_of_a_set_is_called_by_the_set_as_well(tmp_path: Path) -> None:
    root = add(tmp_path / "woof" / "train", "dog/b.jpg", "cat/a.jpg")
    assert read_source(root).name == "woof train"


def test_nested_takes_the_whole_path_as_class(tmp_path: Path) -> None:
    root = add(tmp_path, "a/x/1.jpg", "a/y/2.jpg", "a/3.jpg")
    (root / "b" / "empty").mkdir(parents=True)
    catalogue = read_source(root, nested=True)
    assert {photo.label for photo in catalogue.usable} == {"a", "a/x", "a/y"}
    assert told(catalogue)["b/empty"] == ("-", "an empty class: no photo in this folder")
    assert "b" not in told(catalogue)


def test_what_is_left_out_and_why(tmp_path: Path) -> None:
    outside = add(tmp_path / "outside", "secret.jpg")
    root = add(
        tmp_path / "photos",
        *("cat/1.jpg", "cat/.ipynb_checkpoints/1-checkpoint.jpg", "cat/._1.jpg", ".git/x.jpg", "__MACOSX/cat/1.jpg"),
        *("cat/@eaDir/1.jpg", "loose.jpg", "cat/DESKTOP.INI", "cat/Thumbs.db", ".DS_Store"),
    )
    for name in ("notes.txt", "cat/clip.MP4", "cat/labels.csv"):
        (root / name).write_text("words")
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "out.jpg").symlink_to(outside / "secret.jpg")
    (root / "cat" / "gone.jpg").symlink_to("nothing.jpg")
    (root / "cat" / "self.jpg").symlink_to("self.jpg")
    (root / "far").symlink_to(outside)
    (root / "bare").mkdir()
    assert told(read_source(root)) == {
        "cat/1.jpg": ("cat", ""),
        "cat/.ipynb_checkpoints/1-checkpoint.jpg": ("-", "in a hidden folder"),
        "cat/._1.jpg": ("-", "hidden file"),
        ".git/x.jpg": ("-", "in a hidden folder"),
        "__MACOSX/cat/1.jpg": ("-", "in a hidden folder"),
        "cat/@eaDir/1.jpg": ("-", "in a hidden folder"),
        "cat/DESKTOP.INI": ("-", "hidden file"),
        "cat/Thumbs.db": ("-", "hidden file"),
        ".DS_Store": ("-", "hidden file"),
        "loose.jpg": ("-", "beside the class folders, in none of them"),
        "notes.txt": ("-", "not a photo: .txt file"),
        "cat/clip.MP4": ("-", "not a photo: .mp4 file"),
        "cat/labels.csv": ("-", "not a photo: .csv file"),
        "cat/pipe.jpg": ("-", "a pipe, socket or device, not a file"),
        "cat/out.jpg": ("-", "a link that leaves the folder"),
        "cat/gone.jpg": ("-", "a link to nothing"),
        "cat/self.jpg": ("-", "a link to nothing"),
        "far": ("-", "a link that leaves the folder"),
        "bare": ("-", "an empty class: no photo in this folder"),
    }


def test_a_socket_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "cat/1.jpg")
    monkeypatch.chdir(tmp_path / "cat")  # a socket's name may have 108 bytes, fewer than a long tmp_path
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
        assert told(read_source(tmp_path))["cat/s.jpg"] == ("-", "a pipe, socket or device, not a file")


def test_links_inside_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = add(tmp_path, "cat/1.jpg", "cat/2.jpg", ".store/a.jpg", ".store/deep/b.jpg")
    (root / "dog").mkdir()
    (root / "dog" / "loop").symlink_to("..")
    (root / "dog" / "same.jpg").symlink_to("../cat/1.jpg")
    (root / "dog" / "stored.jpg").symlink_to("../.store/a.jpg")
    (root / "elk").symlink_to(".store")
    (root / ".store" / "back").symlink_to("..")
    (root / "fox").symlink_to("cat")
    assert {path: value for path, value in told(read_source(root)).items() if not path.startswith(".store")} == {
        "cat/1.jpg": ("cat", ""),
        "cat/2.jpg": ("cat", ""),
        "dog/loop": ("-", "a link to a folder that is counted already"),
        "dog/same.jpg": ("-", "a link to a photo that is counted already"),
        "dog/stored.jpg": ("dog", ""),
        "elk/a.jpg": ("-", "a link to a photo that is counted already"),
        "elk/back": ("-", "a link to a folder that is counted already"),
        "elk/deep/b.jpg": ("elk", ""),
        "fox": ("-", "a link to a folder that is counted already"),
    }


def test_a_source_that_is_itself_a_link(tmp_path: Path) -> None:
    add(tmp_path / "real", "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "real" / "dog" / "again.jpg").symlink_to("2.jpg")
    (tmp_path / "alias").symlink_to("real")
    catalogue = read_source(tmp_path / "alias")
    assert Counter(photo.status for photo in catalogue.photos) == {"ok": 2, "left_out": 1}


def test_parts(tmp_path: Path) -> None:
    root = add(tmp_path, "Training/cat/1.jpg", "val/dog/2.jpg", "TEST/cat/3.jpg", "TEST/unsorted.jpg")
    (root / "readme.md").write_text("words")
    (root / "val" / "cat").mkdir()
    photos = by_path(read_source(root))
    assert {path: (photo.part, photo.label) for path, photo in photos.items() if photo.status == "ok"} == {
        "Training/cat/1.jpg": ("train", "cat"),
        "val/dog/2.jpg": ("valid", "dog"),
        "TEST/cat/3.jpg": ("test", "cat"),
    }
    assert photos["TEST/unsorted.jpg"].reason == "beside the class folders, in none of them"
    assert photos["val/cat"].reason == "an empty class: no photo in this folder"


def test_nested_parts_and_an_empty_part(tmp_path: Path) -> None:
    root = add(tmp_path, "train/a/x/1.jpg", "valid/a/y/2.jpg")
    (root / "test").mkdir()
    photos = by_path(read_source(root, nested=True))
    assert [(photo.part, photo.label) for photo in photos.values() if photo.status == "ok"] == [
        ("train", "a/x"),
        ("valid", "a/y"),
    ]
    assert photos["test"].reason == "an empty part: no photo in this folder"


@pytest.mark.parametrize(
    "folders", [("test", "rust", "mildew"), ("train", "test", "bus"), ("val", "test"), ("train", "bus")]
)
def test_classes_with_names_of_parts_are_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    catalogue = read_source(add(tmp_path, *(f"{folder}/1.jpg" for folder in folders)))
    assert {photo.label for photo in catalogue.usable} == set(folders)
    assert all(photo.part is None for photo in catalogue.photos)


@pytest.mark.parametrize("name", [b"sp ace.jpg", b"[1] {2}.jpg", b"new\nline.jpg", b"\xff\xfe.jpg", b"back\\slash.jpg"])
def test_odd_names_are_found_and_written_back(tmp_path: Path, name: bytes) -> None:
    add(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / "1.jpg").rename(tmp_path / "cat" / os.fsdecode(name))
    catalogue = read_source(tmp_path)
    (photo,) = catalogue.photos
    with Image.open(photo.file) as image:
        assert image.size == (8, 6)
    write_catalogue(tmp_path / "run" / "catalogue.csv", catalogue)
    with (tmp_path / "run" / "catalogue.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert os.fsencode(next(csv.DictReader(file))["path"]) == b"cat/" + name


def test_labels_rename_merge_and_drop(tmp_path: Path) -> None:
    root = add(tmp_path / "p", "n01/1.jpg", "n02/2.jpg", "n03/3.jpg", "n04/4.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("folder,class\nn01,Beagle\nn02, Beagle\nn03,\n")
    assert told(read_source(root, labels=labels)) == {
        "n01/1.jpg": ("Beagle", ""),
        "n02/2.jpg": ("Beagle", ""),
        "n03/3.jpg": ("-", "dropped by labels.csv"),
        "n04/4.jpg": ("n04", ""),
    }


@pytest.mark.parametrize(("entry", "hint"), [("Begale", "did you mean 'beagle'?"), ("zzz", "'beagle', 'poodle'")])
def test_a_label_map_that_names_a_missing_folder(tmp_path: Path, entry: str, hint: str) -> None:
    root = add(tmp_path / "p", "beagle/1.jpg", "poodle/2.jpg")
    (tmp_path / "labels.csv").write_text(f"{entry},Dog\n")
    with pytest.raises(UsageError, match=f"labels.csv: line 1: there is no folder '{entry}'") as caught:
        read_source(root, labels=tmp_path / "labels.csv")
    assert hint in caught.value.hint


def test_dropping_every_class_leaves_no_photos(tmp_path: Path) -> None:
    root = add(tmp_path / "p", "a/1.jpg", "a/2.jpg")
    (tmp_path / "labels.csv").write_text("a,\n")
    with pytest.raises(DataError, match=r"2 files found \(2 dropped by labels.csv\)"):
        read_source(root, labels=tmp_path / "labels.csv")


def test_groups_from_the_path(tmp_path: Path) -> None:
    root = add(tmp_path, "rust/field12_a.jpg", "rust/field12_b.jpg", "mildew/field7_a.jpg", "mildew/other.jpg")
    groups = {photo.path: photo.group for photo in read_source(root, group_by=r"field(\d+)_").photos}
    assert list(groups.values()) == ["7", "", "12", "12"]
    assert by_path(read_source(root, group_by=r"field\d+"))["rust/field12_a.jpg"].group == "field12"


@pytest.mark.parametrize(
    ("pattern", "words"), [("(", "not a regular expression"), (r"plot\d", "matches no photo's path")]
)
def test_a_group_pattern_that_cannot_work(tmp_path: Path, pattern: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_source(add(tmp_path, "rust/1.jpg"), group_by=pattern)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder or file: .*nowhere"):
        read_source(tmp_path / "nowhere")


def test_an_empty_folder_and_one_without_photos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 files found$"):
        read_source(tmp_path)
    (tmp_path / "cat").mkdir()
    for name in ("a.txt", "b.txt", "c.json"):
        (tmp_path / "cat" / name).write_text("words")
    with pytest.raises(DataError, match=r"3 files found \(2 not a photo: .txt file; 1 not a photo: .json file\)"):
        read_source(tmp_path)


def test_photos_without_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 photos lie in no class folder") as caught:
        read_source(add(tmp_path, "1.jpg", "2.jpg"))
    assert "make a folder for each class" in caught.value.hint


def test_one_photo_or_a_pipe_is_no_source(tmp_path: Path) -> None:
    add(tmp_path, "1.jpg")
    with pytest.raises(DataError, match="not a folder, a table"):
        read_source(tmp_path / "1.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        read_source(tmp_path / "pipe")


def test_the_source_may_be_read_only_and_stays_as_it_was(tmp_path: Path) -> None:
    root = add(tmp_path / "p", "cat/1.jpg", "dog/2.jpg")
    (root / "dog" / "link.jpg").symlink_to("../cat/1.jpg")
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in (root, *root.rglob("*"))}
    for folder in (root / "cat", root / "dog", root):
        folder.chmod(0o555)
    try:
        write_catalogue(tmp_path / "catalogue.csv", read_source(root))
        assert {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in (root, *root.rglob("*"))} == before
    finally:
        for folder in (root, root / "cat", root / "dog"):
            folder.chmod(0o755)


def test_catalogue_csv(tmp_path: Path) -> None:
    root = add(tmp_path / "p", "train/cat/1.jpg", "test/cat/2.jpg", "train/dog/3.jpg", "train/dog/x.txt")
    write_catalogue(tmp_path / "catalogue.csv", read_source(root), {"train/cat/1.jpg": "valid"})
    assert (tmp_path / "catalogue.csv").read_text().splitlines() == [
        "path,class,split,group,sha256,width,height,format,status,reason",
        "test/cat/2.jpg,cat,test,,,,,,ok,",
        "train/cat/1.jpg,cat,valid,,,,,,ok,",
        "train/dog/3.jpg,dog,train,,,,,,ok,",
        "train/dog/x.txt,dog,,,,,,,left_out,not a photo: .txt file",
    ]


def test_listing_opens_and_resolves_no_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight thousand files are listed in 0.07 s so; opening or resolving each would take several times as long."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(200):
            (tmp_path / label / f"{number}.jpg").touch()
    calls: list[str] = []

    def spy(home: Any, name: str) -> None:
        original = getattr(home, name)

        def counted(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*args, **options)

        monkeypatch.setattr(home, name, counted)

    for home, name in ((io, "open"), (os, "open"), (os.path, "realpath"), (Path, "resolve"), (Path, "open")):
        spy(home, name)
    assert len(read_source(tmp_path).usable) == 400
    assert len(calls) < 20, calls


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, heeler.data.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_thin_catalogue_keeps_a_share_of_each_class_and_says_why_the_rest_is_not_read(tmp_path: Path) -> None:
    for label, n in (("cat", 400), ("dog", 100), ("emu", 8)):
        (tmp_path / label).mkdir()
        for number in range(n):
            (tmp_path / label / f"{number}.jpg").touch()
    whole = read_source(tmp_path)
    thin = thin_catalogue(whole, 127, 10, seed=1)
    assert Counter(photo.label for photo in thin.usable) == {"cat": 100, "dog": 25, "emu": 8}
    assert [photo.path for photo in thin.photos] == [photo.path for photo in whole.photos]
    assert {photo.reason for photo in thin.photos if photo.status == "left_out"} == {
        "not read: the minutes were too short for all photos"
    }
    assert thin_catalogue(whole, 127, 10, seed=1) == thin != thin_catalogue(whole, 127, 10, seed=2)


def test_an_earlier_run_s_classes_and_verdicts_are_recalled_of_what_is_still_there(tmp_path: Path) -> None:
    root = add(tmp_path / "pets", "train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "train/dog/4.jpg")
    (root / "train/cat/out.jpg").symlink_to("/etc/hostname")
    (tmp_path / "labels.csv").write_text("folder,class\ncat,Katze\n")
    found = read_source(root, labels=tmp_path / "labels.csv", group_by=r"(\d)\.jpg")
    photos = [replace(photo, sha256=f"{n}", format="JPEG") for n, photo in enumerate(found.photos)]
    photos[-1] = replace(photos[-1], status="unreadable", reason="is cut short")
    write_catalogue(tmp_path / "c.csv", replace(found, photos=tuple(photos)), {"train/cat/1.jpg": "valid"})
    (root / "train/dog/2.jpg").unlink()
    add(root, "train/dog/new.jpg")
    text = (tmp_path / "c.csv").read_text().replace("left_out,a link that leaves the folder", "ok,")
    (tmp_path / "c.csv").write_text(text)
    recalled = by_path(recall_catalogue(root, tmp_path / "c.csv"))
    assert list(recalled) == ["test/cat/3.jpg", "train/cat/1.jpg", "train/cat/out.jpg", "train/dog/4.jpg"]
    first = recalled["train/cat/1.jpg"]
    assert (first.label, first.part, first.group, first.format) == ("Katze", "train", "1", "JPEG")
    assert first.sha256 and first.file == root / "train/cat/1.jpg"
    assert (recalled["train/dog/4.jpg"].status, recalled["train/dog/4.jpg"].reason) == ("unreadable", "is cut short")
    assert recalled["train/cat/out.jpg"].status == "left_out"


@pytest.mark.parametrize("text", ["", "path,label\na,b\n", "path,class,split\n"])
def test_what_is_no_catalogue_of_a_run_is_refused(tmp_path: Path, text: str) -> None:
    root = add(tmp_path / "pets", "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match="is no catalogue of a run"):
        recall_catalogue(root, tmp_path / "c.csv")
    with pytest.raises(DataError, match="cannot be read"):
        recall_catalogue(root, tmp_path / "none.csv")
