"""Bad input gets one clear line, a hint and its exit code; nothing that was there before is lost."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL, Done, TrainedRun, assert_clear, run_heeler, snapshot
from images import claiming_jpeg

pytestmark = pytest.mark.usefixtures("one_thread")
PhotoFolder = Callable[..., Path]


@pytest.fixture
def earlier(trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that holds an earlier run; commands run from there."""
    shutil.copytree(trained_run.run, tmp_path / "runs" / "photos-1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def assert_refused(args: tuple[object, ...], earlier: Path, code: int, *words: str) -> Done:
    """The command fails clearly, and neither the earlier run nor anything beside it has changed."""
    before = snapshot(earlier)
    done = run_heeler(*args)
    assert_clear(done, code, *words)
    after = snapshot(earlier)
    assert {path: facts[2] for path, facts in after.items()} == {path: facts[2] for path, facts in before.items()}
    return done


def test_one_class(photo_folder: PhotoFolder, earlier: Path) -> None:
    assert_refused(("train", photo_folder(cat=5), *SMALL), earlier, 3, "only one class", "'cat'")


def test_a_class_with_one_photo(photo_folder: PhotoFolder, earlier: Path) -> None:
    assert_refused(("train", photo_folder(cat=5, coffee=1), *SMALL), earlier, 3, "'coffee'", "1 photo", "3")


@pytest.mark.parametrize("verb", ["train", "check"])
def test_no_photos(earlier: Path, verb: str) -> None:
    (earlier.parent / "nothing").mkdir()
    assert_refused((verb, earlier.parent / "nothing"), earlier, 3, "no photos", "nothing", "0 files")
    (earlier.parent / "beside").mkdir()
    (earlier.parent / "beside" / "readme.txt").write_text("none here")
    assert_refused((verb, earlier.parent / "beside"), earlier, 3, "beside")


def test_a_class_whose_every_file_is_unreadable(photo_folder: PhotoFolder, earlier: Path) -> None:
    source = photo_folder(cat=5, coffee=5)
    (source / "rocket").mkdir()
    (source / "rocket" / "0.jpg").write_text("no photo")
    assert_refused(("train", source, *SMALL), earlier, 3, "'rocket'", "none of its 1 files")


def test_an_unreadable_file_in_each_class_is_told_and_trained_without(photo_folder: PhotoFolder, earlier: Path) -> None:
    source = photo_folder(cat=5, coffee=5)
    for label in ("cat", "coffee"):
        (source / label / "bad.jpg").write_bytes((source / label / "0.jpg").read_bytes()[:900])
    before = snapshot(earlier / "photos-1")
    done = run_heeler("train", source, *SMALL, "--json")
    assert done.code == 0, done.err
    run = Path(done.json["run"])
    assert run == Path("runs/photos-2")
    (note,) = done.json["notes"]
    assert note in done.err
    assert "2 unreadable: cat/bad.jpg is cut short and 1 more" in note
    assert "coffee/bad.jpg" in (run / "report.html").read_text().replace("<wbr>", "")
    with (run / "catalogue.csv").open(newline="") as file:
        unreadable = [row["path"] for row in csv.DictReader(file) if row["status"] == "unreadable"]
    assert unreadable == ["cat/bad.jpg", "coffee/bad.jpg"]
    assert snapshot(earlier / "photos-1") == before


def test_a_label_map_that_names_a_missing_folder(photo_folder: PhotoFolder, earlier: Path) -> None:
    (earlier.parent / "labels.csv").write_text("folder,class\ncat,animal\nzebra,animal\n")
    args = ("train", photo_folder(cat=5, coffee=5), *SMALL, "--labels", "labels.csv")
    assert_refused(args, earlier, 2, "labels.csv", "zebra")


def test_an_unknown_option(photo_folder: PhotoFolder, earlier: Path) -> None:
    assert_refused(("train", photo_folder(cat=5, coffee=5), "--epoch", "3"), earlier, 2, "--epoch")


def test_an_unknown_backbone(photo_folder: PhotoFolder, earlier: Path) -> None:
    args = ("train", photo_folder(cat=5, coffee=5), "--backbone", "resnet19")
    assert "resnet18" in assert_refused(args, earlier, 2, "resnet19").err


def test_weights_of_another_backbone(photo_folder: PhotoFolder, earlier: Path) -> None:
    weights = earlier / "photos-1" / "model" / "model.safetensors"
    args = ("train", photo_folder(cat=5, coffee=5), "--backbone", "resnet18", "--weights", weights)
    assert_refused(args, earlier, 2, "model.safetensors", "resnet18")


@pytest.mark.parametrize("verb", ["train", "check"])
def test_a_folder_that_is_not_there(earlier: Path, verb: str) -> None:
    assert_refused((verb, "no/such/folder"), earlier, 2, "no/such/folder")


def test_an_archive_that_is_damaged(earlier: Path) -> None:
    (earlier.parent / "photos.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    assert_refused(("train", "photos.zip"), earlier, 3, "photos.zip")


def test_a_table_that_is_none(earlier: Path) -> None:
    (earlier.parent / "labels.csv").write_text("a,b\n1,2\n")
    assert_refused(("train", "labels.csv"), earlier, 3, "labels.csv")


@pytest.mark.parametrize("name", ["heeler.json", "config.json", "classes.csv", "README.md", "model.safetensors"])
def test_a_bundle_with_a_flipped_byte(earlier: Path, trained_run: TrainedRun, name: str) -> None:
    file = earlier / "photos-1" / "model" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    args = ("predict", earlier / "photos-1" / "model", trained_run.source / "cat" / "0.jpg")
    assert_refused(args, earlier, 4, name, "changed")


def test_a_run_in_place_of_its_model(earlier: Path, trained_run: TrainedRun) -> None:
    args = ("predict", earlier / "photos-1", trained_run.source / "cat" / "0.jpg")
    assert f"{earlier / 'photos-1' / 'model'}" in assert_refused(args, earlier, 4, "heeler.json").err


@pytest.mark.parametrize(
    ("content", "reason"), [(b"a text file", "is not an image"), (claiming_jpeg(), "20,000 x 20,000")]
)
def test_a_photo_that_is_none(photo_folder: PhotoFolder, earlier: Path, content: bytes, reason: str) -> None:
    assert 5 < len(claiming_jpeg()) / 1000 < 30
    source = photo_folder(cat=5, coffee=5)
    (source / "cat" / "bad.jpg").write_bytes(content)
    done = run_heeler("predict", earlier / "photos-1" / "model", source / "cat" / "bad.jpg", "--json")
    assert done.code == 3
    assert [row["status"] for row in done.json["predictions"]] == ["unreadable"]
    assert reason in done.json["predictions"][0]["reason"]
    checked = run_heeler("check", source, "--json")
    assert checked.code == 0
    (left_out,) = checked.json["left_out"]
    assert (left_out["path"], left_out["status"]) == ("cat/bad.jpg", "unreadable")
    assert reason in left_out["reason"]
    assert "Traceback" not in done.err + checked.err


def test_a_disk_too_small_for_the_photos(
    photo_folder: PhotoFolder, earlier: Path, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(small))
    done = assert_refused(("train", photo_folder(cat=5, coffee=5), *SMALL), earlier, 1, str(small))
    assert "HEELER_CACHE" in done.err


def test_a_cache_that_fills_up_half_way(
    photo_folder: PhotoFolder, earlier: Path, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = mount("-t", "tmpfs", "-o", "size=3m", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(small))
    # The pixels fit, the exported network does not.
    source = photo_folder(cat=5, coffee=5)
    assert_refused(("train", source, *SMALL), earlier, 1, "disk is full", str(small))
    monkeypatch.undo()
    monkeypatch.chdir(earlier.parent)
    assert run_heeler("train", source, *SMALL).code == 0


def test_a_disk_that_is_full_where_the_run_goes(
    photo_folder: PhotoFolder, earlier: Path, mount: Callable[..., Path]
) -> None:
    small = mount("-t", "tmpfs", "-o", "size=5m", "tmpfs")
    (small / "keep.txt").write_text("of the user's")
    source = photo_folder(cat=5, coffee=5)
    assert_refused(("train", source, *SMALL, "--out", small / "run"), earlier, 1, "disk is full", str(small / "run"))
    assert [path.name for path in small.iterdir()] == ["keep.txt"]


def test_a_disk_that_is_full_where_predictions_go(
    trained_run: TrainedRun, earlier: Path, mount: Callable[..., Path]
) -> None:
    small = mount("-t", "tmpfs", "-o", "size=40k", "tmpfs")
    (small / "predictions.csv").write_text("of an earlier day")
    (small / "filling").write_bytes(bytes(28672))
    photos = [trained_run.source / "cat" / f"{number}.jpg" for number in range(10)] * 8
    args = ("predict", earlier / "photos-1" / "model", *photos, "--out", small / "predictions.csv")
    assert_refused(args, earlier, 1, "disk is full", "predictions.csv")
    assert (small / "predictions.csv").read_text() == "of an earlier day"
    (small / "filling").unlink()
    done = run_heeler(*args, "--resume")  # what was finished has stayed
    assert done.code == 0, done.err
    assert len((small / "predictions.csv").read_text().splitlines()) == 81
    assert [path.name for path in small.iterdir()] == ["predictions.csv"]


def test_a_place_that_cannot_be_written(photo_folder: PhotoFolder, earlier: Path, mount: Callable[..., Path]) -> None:
    read_only = mount("-t", "tmpfs", "-o", "ro", "tmpfs")
    args = ("train", photo_folder(cat=5, coffee=5), *SMALL, "--out", read_only / "run")
    assert "--out" in assert_refused(args, earlier, 1, str(read_only / "run"), "Read-only").err
