"""``heeler check --deep``: mistakes of every kind that were put into a folder are found, named and written down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conftest import Done, assert_clear, make_photos, run_heeler, scene, snapshot
from heeler.fixes import read_fixes, write_fixes
from heeler.flaws import KINDS

pytestmark = pytest.mark.usefixtures("one_thread", "cache_of_module")
PhotoFolder = Callable[..., Path]


def spoil(source: Path) -> None:
    """One mistake of each kind."""
    scene("cat", 90).save(source / "coffee" / "a cat.jpg", quality=92)
    Image.new("RGB", (160, 160), (90, 120, 60)).save(source / "rocket" / "blank.png")
    Image.eval(scene("cat", 91), lambda level: level // 9).save(source / "cat" / "dark.png")
    scene("person", 92).resize((40, 40)).save(source / "person" / "tiny.png")
    scene("rocket", 93).resize((800, 160)).save(source / "rocket" / "wide.jpg", quality=92)
    scene("person", 94).filter(ImageFilter.GaussianBlur(7)).save(source / "person" / "soft.png")
    shutil.copy(source / "person" / "1.jpg", source / "person" / "copy.jpg")
    shutil.copy(source / "cat" / "2.jpg", source / "rocket" / "same.jpg")
    scene("rocket", 3).resize((120, 120)).save(source / "rocket" / "smaller.png")
    scene("coffee", 4).resize((120, 120)).save(source / "cat" / "smaller.png")


@pytest.fixture(scope="module")
def spoilt(
    tmp_path_factory: pytest.TempPathFactory, cache_of_module: Path, one_thread: None
) -> tuple[Path, Path, Done]:
    """A folder with mistakes, the table of its deep check, and what the command told."""
    source = make_photos(tmp_path_factory.mktemp("deep") / "photos")
    spoil(source)
    before = snapshot(source)
    table = source.parent / "found" / "fixes.csv"
    done = run_heeler("check", source, "--deep", "--out", table, "--json")
    assert snapshot(source) == before
    return source, table, done


def test_every_mistake_is_found_under_its_kind(spoilt: tuple[Path, Path, Done]) -> None:
    done = spoilt[2]
    assert done.code == 0, done.err
    found = {(row["kind"], row["path"]): row for row in done.json["found"]}
    expected = {
        ("two classes", "cat/2.jpg"): "rocket",
        ("two classes", "rocket/same.jpg"): "cat",
        ("two classes", "cat/smaller.png"): "coffee",
        ("two classes", "coffee/4.jpg"): "cat",
        ("label", "coffee/a cat.jpg"): "cat",
        ("blank", "rocket/blank.png"): "",
        ("dark", "cat/dark.png"): "",
        ("tiny", "person/tiny.png"): "",
        ("odd shape", "rocket/wide.jpg"): "",
        ("blurred", "person/soft.png"): "",
        ("near duplicate", "rocket/smaller.png"): "",
        ("exact copy", "person/copy.jpg"): "",
    }
    assert {key: found[key]["suggested"] for key in expected} == expected
    # Beside these, a few photos that the network finds hard, and none that is said to be poor.
    others = [key for key in found if key not in expected]
    assert {kind for kind, _ in others} <= {"label", "outlier"} and len(others) <= 4, others
    problem = found["label", "coffee/a cat.jpg"]["problem"]
    assert re.fullmatch(r"label: cat at \d+ %, coffee (at \d+ %|below 1 %)", problem.removesuffix(" (test photo)"))


def test_the_table_holds_what_was_told_the_most_important_first(spoilt: tuple[Path, Path, Done]) -> None:
    _, table, done = spoilt
    fixes, told = read_fixes(table), done.json
    assert [(fix.path, fix.problem, fix.suggested) for fix in fixes] == [
        (row["path"], row["problem"], row["suggested"]) for row in told["found"]
    ]
    assert told["fixes"] == str(table)
    assert not any(fix.action for fix in fixes)
    places = [KINDS.index(row["kind"]) for row in told["found"]]
    assert places == sorted(places)
    assert sum(told["flaws"].values()) == len(fixes)
    assert told["n_usable"] == 48 + 10 - 1 - 2  # what a plain check tells is there too: a copy, and a pair in conflict


def test_a_photo_that_would_be_tested_says_so(tmp_path: Path) -> None:
    parts = make_photos(tmp_path / "parts" / "train", cat=8, coffee=8)
    for label in ("cat", "coffee"):
        (tmp_path / "parts" / "test" / label).mkdir(parents=True)
        for number in (6, 7):
            shutil.move(parts / label / f"{number}.jpg", tmp_path / "parts" / "test" / label)
    scene("cat", 80).save(tmp_path / "parts" / "test" / "coffee" / "a cat.jpg", quality=92)
    scene("cat", 1).resize((120, 120)).save(tmp_path / "parts" / "test" / "cat" / "alike.png")
    scene("coffee", 2).resize((120, 120)).save(tmp_path / "parts" / "test" / "cat" / "other.png")
    shutil.copy(tmp_path / "parts" / "test" / "coffee" / "7.jpg", parts / "coffee" / "same.jpg")
    shutil.copy(parts / "coffee" / "3.jpg", parts / "coffee" / "again.jpg")
    done = run_heeler("check", tmp_path / "parts", "--deep", "--out", tmp_path / "fixes.csv", "--json")
    assert done.code == 0, done.err
    rows = {row["path"]: row for row in done.json["found"]}
    assert rows["test/coffee/a cat.jpg"]["problem"].endswith(" (test photo)")
    assert rows["test/coffee/a cat.jpg"]["suggested"] == "cat"
    first = done.json["found"][:3]
    assert [row["kind"] for row in first] == ["across parts"] * 3
    assert [row["suggested"] for row in first] == ["cat", "", ""]  # two classes for one photo before all others
    assert rows["train/coffee/same.jpg"]["problem"] == "across parts: same file as test/coffee/7.jpg (test)"
    copies = [row for row in done.json["found"] if row["kind"] == "exact copy"]
    assert [Path(row["path"]).name for row in copies] == ["again.jpg"]


def test_people_read_what_was_found_and_what_to_do(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=8, coffee=8)
    scene("cat", 90).save(source / "coffee" / "a cat.jpg", quality=92)
    monkeypatch.chdir(tmp_path)
    done = run_heeler("check", source, "--deep")
    assert done.code == 0, done.err
    assert re.search(r"\n\d+ labels? that may be wrong:\n", done.out)
    assert "coffee/a cat.jpg (coffee): cat at " in done.out
    assert "fixes        fixes.csv (" in done.out
    assert f"heeler fix fixes.csv --photos {source}\n" in done.out
    assert f"heeler train {source} --fixes fixes.csv\n" in done.out
    assert (tmp_path / "fixes.csv").exists()


def test_the_training_that_it_names_reads_the_photos_in_the_same_way(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, names = photo_folder(cat=8, coffee=8), tmp_path / "names.csv"
    names.write_text("folder,class\ncat,Tom\ncoffee,Mocha\n")
    monkeypatch.chdir(tmp_path)
    done = run_heeler("check", source, "--deep", "--labels", names, "--nested", "--seed", "7")
    assert done.code == 0, done.err
    command = f"heeler train {source} --labels {names} --nested --seed 7 --fixes fixes.csv"
    assert f"  {command}\n" in done.out
    assert f"  heeler fix fixes.csv --photos {source} --labels {names} --nested\n" in done.out
    again = run_heeler(*command.split()[1:], "--epochs", "0", "--out", tmp_path / "run", "--quiet")
    assert again.code == 0, again.err


def test_the_table_never_goes_into_the_photos_nor_over_decisions(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=4, coffee=4)
    before = snapshot(source)
    monkeypatch.chdir(source)
    assert_clear(run_heeler("check", ".", "--deep"), 2, "inside the photos")
    assert snapshot(source) == before
    monkeypatch.chdir(tmp_path)
    assert run_heeler("check", source, "--deep").code == 0
    assert run_heeler("check", source, "--deep").code == 0  # nobody decided anything in it
    (tmp_path / "fixes.csv").write_text("path,problem,given,suggested,action\ncat/0.jpg,label,cat,,drop\n")
    decided = (tmp_path / "fixes.csv").read_bytes()
    assert_clear(run_heeler("check", source, "--deep"), 2, "1 of its rows are decided")
    assert (tmp_path / "fixes.csv").read_bytes() == decided
    (tmp_path / "notes.csv").write_text("mine")
    assert_clear(run_heeler("check", source, "--deep", "--out", "notes.csv"), 3, "lacks the column")
    assert_clear(run_heeler("check", source, "--out", "found.csv"), 2, "--out goes with --deep")


def test_photos_that_cannot_be_trained_on_get_a_plain_check(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=4, coffee=2)
    done = run_heeler("check", source, "--deep", "--out", tmp_path / "fixes.csv", "--json")
    assert done.code == 3
    assert done.json["problems"] and done.json["fixes"] is None and done.json["found"] == []
    assert "a deep check needs" in run_heeler("check", source, "--deep", "--out", tmp_path / "fixes.csv").out
    assert not (tmp_path / "fixes.csv").exists()


def test_a_training_that_follows_decodes_nothing_and_computes_no_features(
    photo_folder: PhotoFolder, tmp_path: Path, fresh_cache: Path
) -> None:
    source = photo_folder(cat=6, coffee=6)
    checked = run_heeler("check", source, "--deep", "--out", tmp_path / "fixes.csv", "--json")
    assert checked.json["rates_per_s"]["features"] > 0
    trained = run_heeler("train", source, "--epochs", 0, "--out", tmp_path / "run", "--json")
    assert trained.code == 0, trained.err
    assert (trained.json["rates_per_s"]["decode"], trained.json["rates_per_s"]["features"]) == (0, 0)


def test_thousands_of_look_alikes_make_one_row_each() -> None:
    from heeler.flaws import _look_alikes
    from heeler.records import Photo

    photos = [Photo(f"{i:03}.jpg", Path(), label="a" if i else "b") for i in range(60)]
    pairs = [(i, j) for i in range(60) for j in range(i + 1, 60)]
    found = list(_look_alikes(photos, pairs, ["train"] * 60))
    assert sum(flaw.kind == "near duplicate" for flaw in found) == 58
    assert sum(flaw.kind == "two classes" for flaw in found) == 60
    assert len(found) <= 2 * len(photos)


def test_what_is_written_can_be_read_again_whatever_the_names(tmp_path: Path) -> None:
    odd = make_photos(tmp_path / "photos", cat=6, coffee=6)
    (odd / "cat").rename(odd / 'a "cat", or two')
    scene("coffee", 90).save(odd / 'a "cat", or two' / "c, [red].jpg", quality=92)
    done = run_heeler("check", odd, "--deep", "--out", tmp_path / "fixes.csv", "--json")
    assert done.code == 0, done.err
    fixes = read_fixes(tmp_path / "fixes.csv")
    assert 'a "cat", or two/c, [red].jpg' in {fix.path for fix in fixes}
    write_fixes(tmp_path / "again.csv", fixes)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "fixes.csv").read_bytes()
    assert np.unique([fix.given for fix in fixes]).size
