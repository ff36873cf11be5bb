"""The cleaned copy: what is in it, under which names, and that nothing else was touched."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import assert_clear, run_heeler, scene, snapshot
from heeler import clean_copy as module
from heeler.clean_copy import class_folders, cleaned, photo_name, write_clean
from heeler.data.catalogue import NOT_READ, read_source
from heeler.data.duplicates import mark_duplicates
from heeler.errors import ResourceError, UsageError
from heeler.files import cache_root, sha256_file, write_csv
from heeler.fixes import Fix, decisions
from heeler.records import Catalogue, Photo
from images import HOSTILE_NAMES
from reviewing import make_run

FIXES = [
    Fix("cat/0.jpg", "label suspect", "cat", "coffee", "relabel"),
    Fix("cat/1.jpg", "blurred", "cat", "", "drop"),
    Fix("coffee/0.jpg", "label suspect", "coffee", "cat", "keep"),
    Fix("coffee/1.jpg", "label suspect", "coffee", "cat"),
]


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hashed(catalogue: Catalogue) -> Catalogue:
    """As a run leaves it: contents known, copies marked."""
    photos = [replace(photo, sha256=sha256_file(photo.file)) for photo in catalogue.photos]
    return replace(catalogue, photos=mark_duplicates(photos))


def test_the_copy_holds_the_photos_as_decided(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=3, coffee=2)
    before = snapshot(source)
    made = write_clean(read_source(source), decisions(FIXES), tmp_path / "clean")
    assert below(tmp_path / "clean") == [
        "cat/2.jpg", "coffee/0 (2).jpg", "coffee/0.jpg", "coffee/1.jpg"
    ]  # fmt: skip
    assert (made.n_linked, made.n_copied, made.n_relabelled, made.n_dropped, made.n_left_out) == (4, 0, 1, 1, 0)
    assert (tmp_path / "clean/coffee/0.jpg").samefile(source / "cat/0.jpg")
    assert made.next == f"heeler train {tmp_path / 'clean'}"
    assert snapshot(source) == before
    assert [photo.label for photo in read_source(tmp_path / "clean").usable] == ["cat", "coffee", "coffee", "coffee"]


def test_the_command_writes_it_and_tells_what_is_in_it(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "run", photo_folder(cat=3, coffee=2), FIXES)
    done = run_heeler("fix", run, "--write-clean", tmp_path / "clean")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"4 photos in {tmp_path / 'clean'} (4 as hard links), 1 relabelled; 1 dropped, 0 left out",
        "next:", f"  heeler train {tmp_path / 'clean'}",
    ]  # fmt: skip
    assert run_heeler("fix", run, "--write-clean", tmp_path / "again", "--json").json["n_linked"] == 4
    assert_clear(run_heeler("fix", run, "--write-clean", tmp_path / "clean"), 2, "holds something already")


def test_where_links_are_not_allowed_bytes_are_copied(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=3, coffee=2)

    def refuses(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuses)
    made = write_clean(read_source(source), {}, tmp_path / "clean")
    assert (made.n_linked, made.n_copied) == (0, 5)
    copy, original = tmp_path / "clean/cat/0.jpg", source / "cat/0.jpg"
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)
    assert copy.stat().st_mtime_ns == original.stat().st_mtime_ns


def test_what_an_archive_was_unpacked_to_is_copied(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2, coffee=2)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for photo in sorted(source.rglob("*.jpg")):
            file.write(photo, photo.relative_to(source))
    run = make_run(tmp_path / "run", tmp_path / "photos.zip", FIXES[:1])
    assert run_heeler("fix", run, "--write-clean", tmp_path / "clean").code == 0
    assert below(tmp_path / "clean") == ["cat/1.jpg", "coffee/0 (2).jpg", "coffee/0.jpg", "coffee/1.jpg"]
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "clean").rglob("*.jpg"))
    assert all(path.stat().st_nlink == 1 for path in (cache_root() / "sources").rglob("*.jpg"))


def test_links_inside_the_source_lead_to_the_photo_itself(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2, coffee=2)
    (source / ".store").mkdir()
    (source / "cat/0.jpg").rename(source / ".store/x.jpg")
    (source / "cat/0.jpg").symlink_to("../.store/x.jpg")
    write_clean(read_source(source), {}, tmp_path / "clean")
    assert not (tmp_path / "clean/cat/0.jpg").is_symlink()
    assert (tmp_path / "clean/cat/0.jpg").samefile(source / ".store/x.jpg")


def test_copies_count_once_and_decisions_settle_those_in_two_classes(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    source = photo_folder(cat=3, coffee=2)
    shutil.copy(source / "cat/0.jpg", source / "cat/same.jpg")
    shutil.copy(source / "cat/1.jpg", source / "coffee/other.jpg")
    shutil.copy(source / "cat/2.jpg", source / "coffee/two.jpg")
    catalogue = hashed(read_source(source))
    settled = {"coffee/other.jpg": Fix("coffee/other.jpg", "in two classes", "coffee", "cat", "relabel")}
    assert [photo.path for photo in cleaned(catalogue.photos, {})] == ["cat/0.jpg", "coffee/0.jpg", "coffee/1.jpg"]
    assert [photo.path for photo in cleaned(catalogue.photos, settled)] == [
        "cat/0.jpg", "cat/1.jpg", "coffee/0.jpg", "coffee/1.jpg"
    ]  # fmt: skip
    dropped = {"coffee/two.jpg": Fix("coffee/two.jpg", "in two classes", "coffee", "", "drop")}
    assert "cat/2.jpg" in [photo.path for photo in cleaned(catalogue.photos, dropped)]


def test_what_is_decided_by_now_counts_and_not_what_was_when_it_was_trained() -> None:
    photos = [
        Photo("a/1.jpg", Path("1"), "b", reason="relabelled by fixes.csv, was a"),
        Photo("a/2.jpg", Path("2"), "a", status="left_out", reason="dropped by fixes.csv"),
        Photo("a/3.jpg", Path("3"), "a", status="left_out", reason="dropped by fixes.csv"),
    ]
    fixes = [Fix("a/1.jpg", "label", "a", "b"), Fix("a/2.jpg", "dark", "a", "", "keep")]
    kept = cleaned(photos, {fix.path: fix for fix in fixes})
    assert [(photo.path, photo.label) for photo in kept] == [("a/1.jpg", "a"), ("a/2.jpg", "a")]


def test_what_training_could_not_use_is_not_copied() -> None:
    photos = [
        Photo("a/1.jpg", Path("1"), "a"),
        Photo("a/2.jpg", Path("2"), "a", status="unreadable", reason="is cut short"),
        Photo("b/3.jpg", Path("3"), "b", status="left_out", reason="dropped by labels.csv"),
        Photo("b/4.jpg", Path("4"), "b", status="left_out", reason=NOT_READ),
        Photo("5.jpg", Path("5"), "", status="left_out", reason="beside the class folders, in none of them"),
    ]
    assert [photo.path for photo in cleaned(photos, {})] == ["a/1.jpg", "b/4.jpg"]


def test_parts_that_the_user_made_stay(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for number, place in enumerate(("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")):
        (source / place).mkdir(parents=True)
        scene("cat", number).save(source / place / "1.jpg")
    decided = {"test/cat/1.jpg": Fix("test/cat/1.jpg", "label suspect", "cat", "dog", "relabel")}
    write_clean(read_source(source), decided, tmp_path / "clean")
    assert below(tmp_path / "clean") == [
        "test/dog/1 (2).jpg", "test/dog/1.jpg", "train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg",
        "valid/dog/1.jpg",
    ]  # fmt: skip
    parts = {photo.path: photo.part for photo in read_source(tmp_path / "clean").usable}
    assert parts["test/dog/1.jpg"] == "test" and parts["valid/cat/1.jpg"] == "valid"


def test_groups_and_odd_classes_are_in_a_table_beside_the_folders(tmp_path: Path) -> None:
    labels = [*(name for name in HOSTILE_NAMES if name.isprintable()), "a/b", "../up", "train", ".hidden", "CON"]
    (tmp_path / "old").mkdir()
    for number in range(len(labels)):
        scene("cat", number).save(tmp_path / f"old/{number}.jpg")
    rows = [(f"old/{number}.jpg", label, f"g{number % 2}") for number, label in enumerate(labels)]
    write_csv(tmp_path / "t.csv", ("path", "label", "group"), rows)
    made = write_clean(read_source(tmp_path / "t.csv"), {}, tmp_path / "new/clean")
    assert made.next == f"heeler train {tmp_path / 'new/clean/photos.csv'}"
    again = read_source(tmp_path / "new/clean/photos.csv").usable
    assert sorted((photo.label, photo.group) for photo in again) == sorted((label, group) for _, label, group in rows)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["new", "old"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clean"]


def test_class_folders_are_apart_on_every_disk_and_mean_nothing_else() -> None:
    classes = ("Cat", "cat", "dog", "test", "a/b", "a_b", ".git", "", "nul", "x" * 300, "caf\udce9")
    folders = class_folders(classes)
    assert folders["dog"] == "dog" and folders["a_b"] == "a_b"
    assert len({name.casefold() for name in folders.values()}) == len(classes)
    for label, name in folders.items():
        assert "/" not in name and not name.startswith(".") and len(name.encode()) <= 210, label
    assert not {"Cat", "cat", "test"} & set(folders.values())


def test_no_place_inside_the_photos_and_nothing_that_is_there(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    source = photo_folder(cat=2, coffee=2)
    before = snapshot(tmp_path)
    (tmp_path / "link").symlink_to(source)
    for place in (source, source / "clean", source / "cat", tmp_path / "link/clean", source / "x/../clean"):
        with pytest.raises(UsageError, match="inside the photos"):
            write_clean(read_source(source), {}, place)
    (tmp_path / "link").unlink()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full/folder").mkdir(parents=True)
    for place in (tmp_path / "file", tmp_path / "full"):
        with pytest.raises(UsageError, match="holds something already"):
            write_clean(read_source(source), {}, place)
    assert (tmp_path / "file").read_text() == "mine"
    shutil.rmtree(tmp_path / "full")
    (tmp_path / "file").unlink()
    assert {**snapshot(tmp_path), str(tmp_path): 0} == {**before, str(tmp_path): 0}
    (tmp_path / "empty").mkdir()
    assert write_clean(read_source(source), {}, tmp_path / "empty").n_linked == 4


def test_a_table_s_photos_are_not_copied_among_themselves(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2, coffee=2)
    (tmp_path / "t.csv").write_text("path,label\nphotos/cat/0.jpg,a\nphotos/coffee/0.jpg,b\n")
    with pytest.raises(UsageError, match="inside the photos"):
        write_clean(read_source(tmp_path / "t.csv"), {}, source / "cat/clean")
    assert write_clean(read_source(tmp_path / "t.csv"), {}, tmp_path / "clean").n_linked == 2


def test_a_copy_that_was_stopped_is_known_by_its_name_and_a_failed_one_leaves_nothing(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=2, coffee=2)
    catalogue = read_source(source)
    link, calls = os.link, []

    def stops(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        assert (tmp_path / "clean.partial").is_dir() and not (tmp_path / "clean").exists()
        link(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", stops)
    with pytest.raises(KeyboardInterrupt):
        write_clean(catalogue, {}, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    monkeypatch.setattr(os, "link", link)
    (source / "cat/1.jpg").unlink()
    with pytest.raises(ResourceError, match=r"cat/1\.jpg could not be put"):
        write_clean(catalogue, {}, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    (tmp_path / "clean.partial").mkdir()  # what a kill leaves
    with pytest.raises(UsageError, match="stopped before its end"):
        write_clean(catalogue, {}, tmp_path / "clean")


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=2, coffee=2)

    def refuses(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def full(*_: object) -> None:
        raise ResourceError("0.1 GB are needed and 0.0 GB are free")

    monkeypatch.setattr(os, "link", refuses)
    monkeypatch.setattr(module, "require_space", full)
    with pytest.raises(ResourceError, match="are needed"):
        write_clean(read_source(source), {}, tmp_path / "clean")
    assert not (tmp_path / "clean").exists() and not (tmp_path / "clean.partial").exists()


def test_an_odd_name_keeps_its_ending() -> None:
    assert photo_name("IMG 1.JPG") == "IMG 1.JPG"
    odd = photo_name('1 "q" & <b>.jpg')
    assert odd.startswith("1 _q_ & _b_-") and odd.endswith(".jpg")
    assert photo_name("no ending") == "no ending"
    assert photo_name("con.jpg") != "con.jpg" and photo_name("con.jpg").endswith(".jpg")
    assert "?" not in photo_name("a.j?g")
    assert len({photo_name(f"a{sign}.jpg") for sign in "?:*"}) == 3
