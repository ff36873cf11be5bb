"""``heeler train`` finds flaws, and ``--fixes`` applies what was decided about them, never to the user's folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, assert_clear, make_photos, run_heeler, scene, snapshot
from heeler.errors import UsageError
from heeler.fixes import Fix, read_fixes, write_fixes
from heeler.flaws import Flaw, keep_flaws
from heeler.keywords import command_line
from heeler.plans import TrainOptions, options_from_json
from heeler.runs import claim_run

pytestmark = pytest.mark.usefixtures("one_thread", "cache_of_module")
PhotoFolder = Callable[..., Path]


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def decided(file: Path, **actions: str) -> Path:
    """A table of decisions: ``decided(file, **{"cat/0.jpg": "drop", "cat/1.jpg": "coffee"})``."""
    rows = [
        Fix(
            path,
            "label",
            path.split("/")[-2],
            "" if action == "drop" else action,
            "drop" if action == "drop" else "relabel",
        )
        for path, action in actions.items()
    ]
    write_fixes(file, rows)
    return file


def train(source: Path, out: Path, *options: object) -> Any:
    done = run_heeler("train", source, *SMALL, "--out", out, "--json", *options)
    assert done.code == 0, done.err
    return done.json


def test_every_training_writes_what_it_found(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder()
    scene("cat", 90).save(source / "coffee" / "a cat.jpg", quality=92)
    shutil.copy(source / "cat" / "0.jpg", source / "cat" / "copy.jpg")
    told = train(source, tmp_path / "a run")
    assert told["fixes"] == str(tmp_path / "a run" / "fixes.csv")
    fixes = read_fixes(tmp_path / "a run" / "fixes.csv")
    assert sum(told["flaws"].values()) == len(fixes)
    assert told["flaws"]["exact copy"] == 1
    assert fixes[-1].path == "cat/copy.jpg" and fixes[-1].problem == "exact copy: same bytes as cat/0.jpg"
    notes = [note for note in told["notes"] if "heeler fix" in note]
    assert len(notes) == 1
    assert "1 exact copy" in notes[0] and f"--fixes '{tmp_path / 'a run' / 'fixes.csv'}'" in notes[0]
    assert json.loads((tmp_path / "a run" / "result.json").read_text())["flaws"] == told["flaws"]


def test_decisions_are_applied_and_the_folder_stays_as_it_was(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=8, coffee=8)
    before = snapshot(source)
    table = decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "drop", "cat/1.jpg": "coffee", "coffee/2.jpg": "coffee"})
    write_fixes(
        table, [*read_fixes(table), Fix("cat/3.jpg", "blurred", "cat", "", "keep"), Fix("cat/4.jpg", "?", "cat")]
    )
    told = train(source, tmp_path / "run", "--fixes", table)
    catalogue = {row["path"]: row for row in rows_of(tmp_path / "run" / "catalogue.csv")}
    dropped, relabelled = catalogue["cat/0.jpg"], catalogue["cat/1.jpg"]
    assert (dropped["status"], dropped["reason"], dropped["split"]) == ("left_out", "dropped by fixes.csv", "")
    assert (relabelled["status"], relabelled["class"]) == ("ok", "coffee")
    assert relabelled["reason"] == "relabelled by fixes.csv, was cat"
    for path in ("coffee/2.jpg", "cat/3.jpg", "cat/4.jpg"):
        assert (catalogue[path]["class"], catalogue[path]["reason"]) == (path.split("/")[0], "")
    assert told["n_train"] + told["n_valid"] + told["n_test"] == 15
    assert "fixes.csv: 1 photo relabelled, 1 dropped" in told["notes"]
    assert snapshot(source) == before


def test_after_fixes_nothing_is_decoded_or_computed_again(
    photo_folder: PhotoFolder, tmp_path: Path, fresh_cache: Path
) -> None:
    source = photo_folder(cat=8, coffee=8)
    first = train(source, tmp_path / "first")
    assert first["rates_per_s"]["decode"] > 0 and first["rates_per_s"]["features"] > 0
    table = decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "drop", "cat/1.jpg": "coffee"})
    second = train(source, tmp_path / "second", "--fixes", table)
    assert (second["rates_per_s"]["decode"], second["rates_per_s"]["features"]) == (0, 0)


def test_a_photo_in_two_classes_is_used_once_one_of_them_is_dropped(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=6, coffee=6)
    shutil.copy(source / "cat" / "0.jpg", source / "coffee" / "same.jpg")
    train(source, tmp_path / "first")
    fixes = read_fixes(tmp_path / "first" / "fixes.csv")
    assert [(fix.path, fix.given, fix.suggested) for fix in fixes[:2]] == [
        ("cat/0.jpg", "cat", "coffee"), ("coffee/same.jpg", "coffee", "cat"),
    ]  # fmt: skip
    train(source, tmp_path / "second", "--fixes", decided(tmp_path / "fixes.csv", **{"coffee/same.jpg": "drop"}))
    statuses = {row["path"]: row["status"] for row in rows_of(tmp_path / "second" / "catalogue.csv")}
    assert (statuses["cat/0.jpg"], statuses["coffee/same.jpg"]) == ("ok", "left_out")


def given_parts(folder: Path) -> Path:
    train_part = make_photos(folder / "train", cat=8, coffee=8)
    for label in ("cat", "coffee"):
        (folder / "test" / label).mkdir(parents=True)
        for number in (5, 6, 7):
            shutil.move(train_part / label / f"{number}.jpg", folder / "test" / label)
    return folder


def test_changed_test_photos_are_counted(tmp_path: Path) -> None:
    source = given_parts(tmp_path / "photos")
    actions = {
        "test/cat/5.jpg": "drop",
        "test/cat/6.jpg": "coffee",
        "train/cat/0.jpg": "drop",
        "train/cat/1.jpg": "coffee",
    }
    told = train(source, tmp_path / "run", "--fixes", decided(tmp_path / "fixes.csv", **actions))
    assert (told["n_test"], told["n_test_changed"]) == (5, 2)
    note = "2 test photos were changed by fixes.csv: the error is not of the same photos and labels as before"
    assert note in told["notes"]
    assert note in unescape((tmp_path / "run" / "report.html").read_text())
    assert train(source, tmp_path / "plain")["n_test_changed"] == 0


def test_dropped_photos_of_a_drawn_test_part_are_counted_too(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=10, coffee=10)
    train(source, tmp_path / "first")
    parts = {row["path"]: row["split"] for row in rows_of(tmp_path / "first" / "catalogue.csv")}
    tested = next(path for path, part in parts.items() if part == "test")
    learnt = next(path for path, part in parts.items() if part == "train")
    for name, path, n in (("tested", tested, 1), ("learnt", learnt, 0)):
        table = decided(tmp_path / f"{name}.csv", **{path: "drop"})
        assert train(source, tmp_path / name, "--fixes", table)["n_test_changed"] == n


def test_decisions_are_carried_over_and_not_asked_about_again(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=8, coffee=8)
    for number in (90, 91, 92):
        scene("cat", number).save(source / "coffee" / f"{number}.jpg", quality=92)
    train(source, tmp_path / "first")
    table = tmp_path / "first" / "fixes.csv"
    first, second, *others = read_fixes(table)
    assert first.suggested and second.suggested
    write_fixes(table, [replace(first, action="relabel"), replace(second, action="keep"), *others])
    told = train(source, tmp_path / "second", "--fixes", table)
    again = read_fixes(tmp_path / "second" / "fixes.csv")
    assert again[-2:] == [replace(first, action="relabel"), replace(second, action="keep")]
    assert not {first.path, second.path} & {fix.path for fix in again[:-2]}
    assert sum(told["flaws"].values()) == len(again) - 2


def test_a_table_in_which_somebody_decided_is_not_written_over(tmp_path: Path) -> None:
    table = tmp_path / "fixes.csv"
    flaws = [Flaw("label", Fix("a/1.jpg", "label: b at 90 %, a at 2 %", "a", "b"))]
    write_fixes(table, [Fix("a/0.jpg", "dark", "a")])
    keep_flaws(table, flaws)
    assert read_fixes(table) == [flaws[0].fix]
    write_fixes(table, [Fix("a/0.jpg", "dark", "a", "", "keep")])
    keep_flaws(table, flaws)
    assert [fix.path for fix in read_fixes(table)] == ["a/0.jpg"]


def test_a_run_does_not_go_on_with_other_decisions(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=3, coffee=3)
    table = decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "drop"})
    options = TrainOptions(out=tmp_path / "run", fixes=table, resume=True)
    assert claim_run(options, source, "photos") == claim_run(options, source, "photos")
    decided(table, **{"cat/1.jpg": "drop"})
    with pytest.raises(UsageError, match="holds something already"):
        claim_run(options, source, "photos")


def test_a_photo_that_is_not_there_is_told_and_changes_nothing(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=5, coffee=5)
    table = decided(tmp_path / "fixes.csv", **{"cat/gone.jpg": "drop", "cat/0.jpg": "drop"})
    done = run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--fixes", table, "--quiet")
    assert done.code == 0, done.err
    assert "warning: fixes.csv decides about 1 photos that are not in " in done.err and "cat/gone.jpg" in done.err


def test_a_class_that_no_photo_has_is_an_error(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=4, coffee=4)
    table = decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "cofee"})
    done = run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--fixes", table)
    assert_clear(done, 3, "fixes.csv", "'cat/0.jpg' as 'cofee'")
    assert "did you mean 'coffee'?" in done.err
    assert not (tmp_path / "run").exists()


def test_tables_that_cannot_be_used(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=4, coffee=4)
    gone = run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--fixes", tmp_path / "none.csv")
    assert_clear(gone, 2, "none.csv does not exist")
    (tmp_path / "other.csv").write_text("path,label\ncat/0.jpg,cat\n")
    other = run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--fixes", tmp_path / "other.csv")
    assert_clear(other, 3, "lacks the column")
    assert_clear(run_heeler("train", source, *SMALL, "--out", tmp_path / "run", "--fixes", source), 3, "cannot be read")


def test_python_takes_the_same_table(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    import heeler

    source = photo_folder(cat=5, coffee=5)
    table = decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "drop", "cat/1.jpg": "coffee"})
    photos = heeler.open_folder(source, fixes=str(table))
    given = {photo.path: (photo.label, photo.status) for photo in photos.catalogue.photos}
    assert (given["cat/0.jpg"][1], given["cat/1.jpg"]) == ("left_out", ("coffee", "ok"))
    assert command_line(source, photos.options)[3:5] == ("--fixes", str(table))
    asked = options_from_json(json.loads(json.dumps(photos.options.to_json())))
    assert asked == photos.options


def test_fixes_go_with_a_table_and_with_renamed_classes(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=5, coffee=5)
    names = tmp_path / "names.csv"
    names.write_text("folder,class\ncat,animal\n")
    fixes = decided(tmp_path / "fixes.csv", **{"coffee/0.jpg": "animal"})
    train(source, tmp_path / "renamed", "--labels", names, "--fixes", fixes)
    classes = {row["path"]: row["class"] for row in rows_of(tmp_path / "renamed" / "catalogue.csv")}
    assert (classes["coffee/0.jpg"], classes["cat/0.jpg"]) == ("animal", "animal")
    lines = [f"{label}/{n}.jpg,{label}" for label in ("cat", "coffee") for n in range(5)]
    (source / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    train(
        source / "labels.csv", tmp_path / "table", "--fixes", decided(tmp_path / "fixes.csv", **{"cat/0.jpg": "drop"})
    )
    reasons = {row["path"]: row["reason"] for row in rows_of(tmp_path / "table" / "catalogue.csv")}
    assert reasons["cat/0.jpg"] == "dropped by fixes.csv"
