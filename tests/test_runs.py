"""The run folder: new, outside the photos, and gone again where nothing came of it; and what a run tells meanwhile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from heeler.clock import Clock
from heeler.errors import ResourceError, UsageError
from heeler.plans import TrainOptions
from heeler.records import Done, Epoch, Event, Note, Progress, Stage, ignore_events
from heeler.runs import CHECKPOINT, asked_of, claim_run, discard_unfinished, finish_run


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos to run on, from a working folder of the test's own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"a photo")
    return tmp_path / "photos"


def claim(out: Path | None, source: Path, name: str) -> Path:
    """A new run's folder, nothing chosen but its place."""
    return claim_run(TrainOptions(out=out), source, name)


def refused(out: Path | None, source: Path, *words: str) -> None:
    with pytest.raises(UsageError) as caught:
        claim(out, source, "photos")
    assert "--out" in caught.value.hint
    for word in words:
        assert word in caught.value.message


def test_names_are_counted_from_one(source: Path) -> None:
    assert [claim(None, source, "photos") for _ in range(3)] == [Path(f"runs/photos-{n}") for n in (1, 2, 3)]
    (Path("runs/photos-2") / "run.json").unlink()
    Path("runs/photos-2").rmdir()
    assert claim(None, source, "photos") == Path("runs/photos-2")
    Path("runs/photos-4").write_text("a file of the user's")
    Path("runs/photos-5").symlink_to("nowhere")
    assert claim(None, source, "photos") == Path("runs/photos-6")
    assert Path("runs/photos-4").read_text() == "a file of the user's"


def test_runs_that_begin_at_once_do_not_share_a_folder(source: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: claim(None, source, "photos"), range(64)))
    assert len(set(runs)) == 64


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("my photos", "my-photos-1"),
        ("Äcker 2024", "Äcker-2024-1"),
        ("../..", "photos-1"),
        ("a/b", "a-b-1"),
        ("...", "photos-1"),
        ("", "photos-1"),
        ("caf\udce9", "caf-1"),
        ("new\nline", "new-line-1"),
        ("-rf", "rf-1"),
        ("x" * 300, "x" * 80 + "-1"),
    ],
)
def test_any_name_of_photos_becomes_a_folder_s_name(source: Path, name: str, folder: str) -> None:
    assert claim(None, source, name) == Path("runs") / folder
    assert (Path("runs") / folder).is_dir()


def test_the_user_s_choice_is_made_with_all_folders_above(source: Path, tmp_path: Path) -> None:
    assert claim(tmp_path / "a" / "b" / "c", source, "photos") == tmp_path / "a" / "b" / "c"
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty", source, "photos").is_dir()


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_is_not(source: Path, tmp_path: Path) -> None:
    first, resumed = TrainOptions(), TrainOptions(resume=True)
    assert claim_run(resumed, source, "photos") == Path("runs/photos-1")  # nothing to go on with: a new run
    assert claim_run(first, source, "photos") == Path("runs/photos-2")
    assert claim_run(TrainOptions(seed=7), source, "photos") == Path("runs/photos-3")
    assert claim_run(resumed, source, "photos") == Path("runs/photos-2")
    assert claim_run(TrainOptions(seed=7, resume=True), source, "photos") == Path("runs/photos-3")
    assert claim_run(TrainOptions(seed=8, resume=True), source, "photos") == Path("runs/photos-4")
    (Path("runs/photos-2") / "result.json").write_text("{}")
    (Path("runs/photos-2") / CHECKPOINT).mkdir()
    assert claim_run(resumed, source, "photos") == Path("runs/photos-2")  # stopped while it was tuned
    finish_run(Path("runs/photos-2"))
    with pytest.raises(UsageError, match="ended already"):
        claim_run(resumed, source, "photos")
    named = TrainOptions(out=tmp_path / "run", minutes=1)
    assert claim_run(named, source, "photos") == claim_run(replace(named, resume=True), source, "photos")
    with pytest.raises(UsageError) as caught:
        claim_run(named, source, "photos")
    assert "--resume" in caught.value.hint


def test_what_holds_something_is_refused(source: Path, tmp_path: Path) -> None:
    taken = claim(tmp_path / "taken", source, "photos")
    (taken / ".hidden").touch()
    refused(taken, source, str(taken), "already")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", source, "file", "already")


def test_what_cannot_be_a_folder_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "run", source, "file/run", "Not a directory")
    refused(tmp_path / ("x" * 300), source, "too long")
    Path("runs").touch()
    refused(None, source, "runs")


def test_a_place_inside_the_photos_is_refused_however_it_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "way-in").symlink_to(source)
    for out in (source, source / "run", source / "a" / "b", tmp_path / "way-in" / "run", source / "x" / ".." / "run"):
        refused(out, source, "inside the photos")
    refused(source / "run", tmp_path / "way-in", "inside the photos")
    refused(tmp_path / "work" / ".." / "photos" / "run", source, "inside the photos")
    monkeypatch.chdir(source)
    refused(None, Path(), "inside the photos")
    assert [path.name for path in source.iterdir()] == ["1.jpg"]
    assert claim(tmp_path / "photos-run", source, "photos").is_dir()  # beside it, with a name that begins alike


def test_a_table_s_folder_may_hold_the_run(source: Path) -> None:
    table = source / "labels.csv"
    table.write_text("path,label\n1.jpg,a\n")
    assert claim(source / "run", table, "labels") == source / "run"


def test_a_place_that_may_not_be_written_is_named(source: Path, mount: Callable[..., Path], tmp_path: Path) -> None:
    read_only = mount("--bind", "-o", "ro", str(tmp_path))
    with pytest.raises(ResourceError, match="Read-only"):
        claim(read_only / "run", source, "photos")


def test_an_unfinished_run_is_cleared_away_and_a_finished_one_stays(source: Path, tmp_path: Path) -> None:
    run = claim(tmp_path / "run", source, "photos")
    (run / "history.jsonl").touch()
    (run / "catalogue.csv").touch()
    (run / "model").mkdir()
    discard_unfinished(run)
    assert sorted(path.name for path in run.iterdir()) == ["catalogue.csv", "history.jsonl", "model", "run.json"]
    (run / "model").rmdir()
    (run / "notes of the user's.txt").touch()
    discard_unfinished(run)
    assert [path.name for path in run.iterdir()] == ["notes of the user's.txt"]
    (run / "notes of the user's.txt").unlink()
    (run / CHECKPOINT).mkdir()  # tuning was about to begin
    discard_unfinished(run)
    assert not run.exists()
    discard_unfinished(run)


def test_stages_are_timed_and_forwarded() -> None:
    told: list[Event] = []
    clock = Clock(told.append)
    with clock.stage("decode", total=10) as tell:
        tell(Progress(5))
        clock.count("decode", 10)
        time.sleep(0.05)
    with clock.stage("decode", total=10):
        clock.count("decode", 0)
    with clock.stage("judge", unit=""):
        clock.tell(Note("look", "warning"))
    first, progress, ended, _, again, judge, note, _ = told
    assert (first, progress, judge) == (Stage("decode", 10), Progress(5), Stage("judge", 0, ""))
    assert isinstance(ended, Done) and isinstance(again, Done)
    assert ended.summary.startswith("10 photos, ")
    assert again.summary == "all of them already known"
    assert note == Note("look", "warning")
    assert clock.notes == ["look"]
    assert clock.rates_per_s == {"decode": 0.0}
    assert clock.seconds["decode"] == pytest.approx(ended.seconds + again.seconds)
    assert 0.05 <= clock.seconds["decode"] < clock.totals()["total"]


def test_the_rate_is_photos_by_seconds() -> None:
    clock = Clock(ignore_events)
    with clock.stage("features"):
        clock.count("features", 30)
        time.sleep(0.1)
    assert clock.rates_per_s["features"] == pytest.approx(30 / clock.seconds["features"])
    assert 0 < clock.rates_per_s["features"] <= 300


def test_a_stage_that_fails_does_not_say_that_it_is_done() -> None:
    told: list[Event] = []
    with pytest.raises(ZeroDivisionError), Clock(told.append).stage("probe"):
        raise ZeroDivisionError
    assert told == [Stage("probe")]


def test_the_log_has_what_came_before_it_and_grows_at_once(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    clock = Clock(ignore_events)
    clock.tell(Note("früh \udce9"))
    with clock.stage("list files") as tell:
        tell(Progress(1))
    assert not log.exists()
    clock.log_to(log)
    clock.tell(Epoch(1, 2, "head", 0.5, 0.25, 0.125, 0.125, 1.0, 32.0))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["note", "done", "epoch"]
    assert events[0] == {"event": "note", "text": "früh \udce9", "level": "info"}
    assert events[2]["valid_error"] == 0.125
    clock.tell(Note("late"))
    assert json.loads(log.read_text().splitlines()[-1])["text"] == "late"


def test_a_disk_that_fills_up_ends_no_run_and_loses_no_line(mount: Callable[..., Path]) -> None:
    folder = mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    told: list[Event] = []
    clock = Clock(told.append)
    clock.log_to(folder / "history.jsonl")
    clock.tell(Note("first"))
    with pytest.raises(OSError, match="No space"), (folder / "film").open("wb", buffering=0) as film:
        while True:
            film.write(bytes(1 << 12))
    notes = [Note(f"{n} " + 1000 * "x") for n in range(10)]
    for note in notes:
        clock.tell(note)
    assert told == [Note("first"), *notes]
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert len(lines) < 11 and all(json.loads(line) for line in lines)
    (folder / "film").unlink()
    clock.tell(Note("last"))
    texts = [json.loads(line)["text"].split()[0] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert texts == ["first", *map(str, range(10)), "last"]


def test_a_run_remembers_its_files_from_any_folder(source: Path, tmp_path: Path) -> None:
    Path("names.csv").write_text("folder,class\na,b\n")
    options = TrainOptions(labels=Path("names.csv"), fixes=None, weights=Path("weights.safetensors"))
    run = claim_run(options, source, "photos").absolute()
    asked = asked_of(run)[1]
    assert asked.labels == Path("names.csv").absolute() and asked.weights == Path("weights.safetensors").absolute()
    assert claim_run(replace(options, resume=True), source, "photos").absolute() == run


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_a_clear_error() -> None:
    clock = Clock(ignore_events)
    clock.tell(Note("x"))
    with pytest.raises(ResourceError, match="disk is full"):
        clock.log_to(Path(os.devnull).with_name("full"))
