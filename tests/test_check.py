"""``heeler check``: what is in a folder of photos, what is wrong with it, and nothing written to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import SMALL, assert_clear, run_heeler, scene, snapshot
from heeler.check import CheckResult
from heeler.check import check as check_photos
from heeler.data import pixels
from heeler.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
PhotoFolder = Callable[..., Path]


def encoded_again(photo: Path, target: Path) -> None:
    """The same picture at another size and quality: other bytes, nearly the same look."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as image:
        image.resize((320, 320), Image.Resampling.LANCZOS).save(target, quality=80)


def test_a_clean_folder_can_be_trained_on(photo_folder: PhotoFolder, fresh_cache: Path) -> None:
    source = photo_folder(cat=5, coffee=6)
    done = run_heeler("check", source, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["source"], found["n_found"], found["n_usable"]) == (str(source), 11, 11)
    assert found["classes"] == {"cat": 5, "coffee": 6}
    assert found["size_px"] == {"min": [160, 160], "median": [160, 160], "max": [160, 160]}
    for key in ("left_out", "exact_duplicates", "near_duplicates", "label_conflicts", "across_parts", "problems"):
        assert found[key] == [], key
    assert found["too_small"] == {}
    assert found["seconds"] > 0
    assert found["rates_per_s"]["decode"] > 0


def test_duplicates_of_every_kind_are_found(photo_folder: PhotoFolder) -> None:
    source = photo_folder(cat=6, coffee=6)
    shutil.copy(source / "cat" / "0.jpg", source / "cat" / "same.jpg")
    encoded_again(source / "cat" / "1.jpg", source / "cat" / "smaller.jpg")
    shutil.copy(source / "cat" / "2.jpg", source / "coffee" / "other label.jpg")
    encoded_again(source / "coffee" / "3.jpg", source / "cat" / "looks alike.jpg")
    found = run_heeler("check", source, "--json").json
    assert found["exact_duplicates"] == [["cat/0.jpg", "cat/same.jpg"], ["cat/2.jpg", "coffee/other label.jpg"]]
    assert found["near_duplicates"] == [
        {"path_a": "cat/1.jpg", "path_b": "cat/smaller.jpg"},
        {"path_a": "cat/looks alike.jpg", "path_b": "coffee/3.jpg"},
    ]
    assert found["label_conflicts"] == [
        {"path_a": "cat/2.jpg", "label_a": "cat", "path_b": "coffee/other label.jpg", "label_b": "coffee"},
        {"path_a": "cat/looks alike.jpg", "label_a": "cat", "path_b": "coffee/3.jpg", "label_b": "coffee"},
    ]
    verdicts = {row["path"]: (row["status"], row["reason"]) for row in found["left_out"]}
    assert verdicts == {
        "cat/same.jpg": ("duplicate", "same bytes as cat/0.jpg"),
        "cat/2.jpg": ("left_out", "same bytes, other class: coffee/other label.jpg"),
        "coffee/other label.jpg": ("left_out", "same bytes, other class: cat/2.jpg"),
    }
    assert found["across_parts"] == []  # where the draw decides, a pair stays together
    assert found["n_usable"] == 13


def test_duplicates_across_the_user_s_own_parts_are_found(photo_folder: PhotoFolder) -> None:
    source = photo_folder("parts/train", cat=6, coffee=6).parent
    for label in ("cat", "coffee"):
        (source / "test" / label).mkdir(parents=True)
        shutil.move(source / "train" / label / "5.jpg", source / "test" / label)
    shutil.copy(source / "train" / "cat" / "0.jpg", source / "test" / "cat" / "same.jpg")
    encoded_again(source / "train" / "coffee" / "1.jpg", source / "test" / "coffee" / "alike.jpg")
    done = run_heeler("check", source, "--json")
    assert done.code == 0, done.err
    rows = [tuple(row[key] for key in ("path_a", "part_a", "path_b", "part_b")) for row in done.json["across_parts"]]
    assert sorted(rows) == [
        ("test/cat/same.jpg", "test", "train/cat/0.jpg", "train"),
        ("test/coffee/alike.jpg", "test", "train/coffee/1.jpg", "train"),
    ]
    told = run_heeler("train", source, *SMALL, "--out", source.parent / "run", "--json")
    assert any("1 pairs of near duplicates lie in different parts" in note for note in told.json["notes"])


def test_sizes_are_by_area_and_as_seen(photo_folder: PhotoFolder) -> None:
    source = photo_folder(cat=3, coffee=3)
    scene("rocket", 0).resize((40, 30)).save(source / "cat" / "small.png")
    tall = scene("rocket", 1).resize((400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(source / "coffee" / "tall.jpg", exif=exif)
    found = check_photos(source)
    assert found.size_px == ((40, 30), (160, 160), (300, 400))


@pytest.mark.parametrize("json_too", [False, True])
def test_what_stops_a_training_is_told_and_exit_code_3(
    photo_folder: PhotoFolder, tmp_path: Path, json_too: bool
) -> None:
    source = photo_folder(cat=4, coffee=2)
    (source / "rocket").mkdir()
    (source / "rocket" / "0.jpg").write_text("no photo")
    done = run_heeler("check", source, *(["--json"] * json_too))
    assert done.code == 3
    problems = ["class 'rocket': none of its 1 files can be used", "class 'coffee' has 2 photos"]
    if json_too:
        assert [told[: len(text)] for told, text in zip(done.json["problems"], problems, strict=True)] == problems
        assert done.json["too_small"] == {"coffee": 2}
        assert done.json["left_out"][0] == {
            "path": "rocket/0.jpg", "status": "unreadable", "reason": "is not an image of a kind that heeler reads",
        }  # fmt: skip
    else:
        assert all(text in done.out for text in problems)
        assert "training cannot start" in done.out
    # A training of the same photos stops for the first of these reasons, and leaves nothing behind.
    assert_clear(run_heeler("train", source, *SMALL, "--out", tmp_path / "run"), 3, problems[0])
    assert not (tmp_path / "run").exists()


def test_a_folder_of_which_nothing_can_be_read_is_told_like_any_other(tmp_path: Path) -> None:
    for label in ("cat", "coffee"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "0.jpg").write_text("no photo")
    done = run_heeler("check", tmp_path / "photos", "--json")
    assert done.code == 3
    assert (done.json["n_found"], done.json["n_usable"], done.json["size_px"]) == (2, 0, None)
    assert len(done.json["problems"]) == 1
    assert "no usable photo" in done.json["problems"][0]
    assert "cat/0.jpg" in done.json["problems"][0]


def test_a_training_after_a_check_decodes_nothing(
    photo_folder: PhotoFolder, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=4, coffee=4)
    before = snapshot(source)
    assert run_heeler("check", source).code == 0
    assert any((fresh_cache / "pixels").iterdir())

    def no_decode(*args: Any) -> None:
        raise AssertionError("a photo was decoded again")

    monkeypatch.setattr(pixels, "decode", no_decode)
    again = run_heeler("check", source, "--json")
    assert again.json["rates_per_s"]["decode"] == 0
    # At the size that is checked.
    trained = run_heeler("train", source, "--epochs", 0, "--out", source.parent / "run", "--json")
    assert trained.code == 0, trained.err
    assert trained.json["rates_per_s"]["decode"] == 0
    assert snapshot(source) == before


def test_options_mean_what_they_mean_to_a_training(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=3, coffee=3, rocket=3)
    labels = tmp_path / "labels.csv"
    labels.write_text("folder,class\ncat,animal\ncoffee,thing\nrocket,thing\n")
    assert check_photos(source, labels=labels).classes == (("animal", 3), ("thing", 6))
    (source / "cat" / "young").mkdir()
    for number in range(3):
        shutil.move(source / "cat" / f"{number}.jpg", source / "cat" / "young")
    assert [name for name, _ in check_photos(source, nested=True).classes] == ["cat/young", "coffee", "rocket"]
    with pytest.raises(UsageError, match="matches no photo"):
        check_photos(source, group_by="(tea)")
    with pytest.raises(UsageError, match="not a regular expression"):
        check_photos(source, group_by="(")


def test_the_record_s_json_is_the_command_s(photo_folder: PhotoFolder) -> None:
    source = photo_folder(cat=3, coffee=3)
    result = check_photos(source)
    assert isinstance(result, CheckResult)
    told = run_heeler("check", source, "--json").json
    timings = ("seconds", "rates_per_s")
    assert {key: value for key, value in result.to_json().items() if key not in timings} == {
        key: value for key, value in told.items() if key not in timings
    }
