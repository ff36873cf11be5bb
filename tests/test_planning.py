"""``heeler train --minutes`` and ``heeler plan`` on real photos: what is tried, on which photos, and what is told."""

from __future__ import annotations

import csv
import importlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import SCENES, TrainedRun, assert_clear, make_photos, run_heeler
from heeler import planning
from heeler.clock import Clock
from heeler.data import pixels
from heeler.data.catalogue import read_source
from heeler.data.decode import Decoded
from heeler.evidence import read_history
from heeler.learn import calibrate as calibrating
from heeler.learn import plan as planner
from heeler.learn import relay
from heeler.learn.calibrate import calibrate, tuning_rates
from heeler.learn.depth import DEPTHS
from heeler.learn.engines import Engine
from heeler.learn.plan import MIN_OF_CLASS
from heeler.learn.tune import fine_tune
from heeler.machine import n_cores
from heeler.photos import read_and_split
from heeler.plans import Recipe, TrainOptions
from heeler.records import Event, Note, Planned, Preprocessing
from heeler.ship.bundle import open_bundle

TINY = ("--image-px", "64")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cache: Path, one_thread: None) -> Path:
    """96 photos in four classes."""
    return make_photos(tmp_path_factory.mktemp("planning") / "photos", **dict.fromkeys(SCENES, 24))


@pytest.fixture(scope="module")
def minutes_run(source: Path) -> TrainedRun:
    """``heeler train --minutes 0.3`` of them; read it only."""
    run = source.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "CHOICE_SHARES", (0.15,))  # on a busy machine it may be better to try nothing
        done = run_heeler("train", source, *TINY, "--minutes", 0.3, "--out", run, "--json")
    assert done.code == 0, done.err
    return TrainedRun(source, run, done)


def test_a_run_by_minutes_tells_its_plan_and_keeps_to_its_stages(minutes_run: TrainedRun) -> None:
    answer = minutes_run.done.json
    assert list(answer["planned_s"])[:4] == ["prepare", "decode", "split", "choose"]
    assert {"features", "probe", "tune", "finish"} < set(answer["planned_s"])
    assert {"calibrate", "choose", "features", "probe", "judge", "total"} < set(answer["seconds"])
    assert "plan for 18 s" in minutes_run.done.err and "stage" in minutes_run.done.err
    events = [json.loads(line) for line in (minutes_run.run / "history.jsonl").read_text().splitlines()]
    plans = [event["plan"] for event in events if event["event"] == "planned"]
    assert len(plans) == 1 and plans[0]["n_read"] == 96
    kept = json.loads((minutes_run.run / "plan.json").read_text())
    tune_s = kept["tune_s"]
    assert 0 < kept["rates"]["restraint"] <= 1
    assert any(event["event"] == "epoch" for event in events) == (tune_s > 0)  # a slow machine has no time for it
    assert open_bundle(minutes_run.model).classes == tuple(sorted(SCENES))
    assert not (minutes_run.run / "checkpoint").exists()


def test_the_choice_is_told_and_is_what_the_model_does(minutes_run: TrainedRun) -> None:
    note = next(note for note in minutes_run.done.json["notes"] if note.startswith("chosen: "))
    spec = open_bundle(minutes_run.model).spec
    assert f"64 px, {spec.fit}" in note
    assert json.loads((minutes_run.run / "plan.json").read_text())["chosen"]["fit"] == spec.fit
    settings = json.loads((minutes_run.run / "model" / "heeler.json").read_text())["settings"]
    assert float(settings["minutes"]) > 0 and settings["augment"] == "photo" and "epochs" not in settings


def test_all_layers_come_after_the_last_stages_and_the_report_shows_both(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "best_depth", lambda *given: (DEPTHS[-1], 0.3))  # whatever the time
    begun: list[Recipe] = []

    def spy(*args, **options):  # type: ignore[no-untyped-def]
        begun.append(args[6])
        return fine_tune(*args, **options)

    monkeypatch.setattr(relay, "fine_tune", spy)
    run = tmp_path / "run"
    done = run_heeler("train", source, *TINY, "--minutes", 0.6, "--out", run, "--json")
    assert done.code == 0, done.err
    first, second = begun
    assert first.last_views and first.last_stages == 4 and not second.last_views
    assert first.budget_s + second.budget_s >= json.loads((run / "plan.json").read_text())["tune_s"] - 1
    phases = [epoch["phase"] for epoch in read_history(run)]
    assert phases[0] == "last" and phases[-1] == "all" and phases == sorted(phases, reverse=True)
    assert done.json["seconds"]["total"] < 1.1 * 36 + 5
    assert not (run / "checkpoint").exists() and "all layers" in (run / "report.html").read_text()


def test_who_goes_on_has_the_same_parts_and_does_not_tune_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Look-alikes hang on the pixels, and the parts on look-alikes.
    pixels_of: list[str] = []

    def by_fit(photos, look_spec, options, clock):  # type: ignore[no-untyped-def]
        pixels_of.append(look_spec.fit)
        return read_and_split(photos, look_spec, replace(options, seed=len(look_spec.fit)), clock)

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    squashed = lambda trials: next(trial for trial in trials if trial.setting.fit == "squash")  # noqa: E731
    monkeypatch.setattr(planner, "CHOICE_SHARES", (0.15,))
    monkeypatch.setattr(planning, "choose", lambda plan, trials, *rest: squashed(trials))
    module = importlib.import_module("heeler.train")
    monkeypatch.setattr(module, "read_and_split", by_fit)
    run, tune = tmp_path / "run", module.tune
    asked = ("train", source, *TINY, "--minutes", 0.4, "--out", run, "--json")
    monkeypatch.setattr(module, "tune", killed)
    assert run_heeler(*asked).code == 130
    plan, parts = json.loads((run / "plan.json").read_text()), (run / "catalogue.csv").read_text()
    assert plan["chosen"]["fit"] == "squash" and plan["first"]["fit"] == "crop"
    monkeypatch.setattr(module, "tune", tune)
    done = run_heeler(*asked, "--resume")
    assert done.code == 0, done.err
    assert pixels_of == ["crop", "crop"] and (run / "catalogue.csv").read_text() == parts
    assert json.loads((run / "plan.json").read_text())["chosen"] == plan["chosen"]
    assert json.loads((run / "model" / "heeler.json").read_text())["settings"]["image"] == "64 px, squash"


def test_a_choice_looks_at_no_photo_that_judges(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    try_settings = planning.try_settings

    def spy(sample, *args):  # type: ignore[no-untyped-def]
        seen.extend(photo.path for photo in sample.usable)
        return try_settings(sample, *args)

    def steady(*args):  # type: ignore[no-untyped-def]
        rates, engine = calibrate(*args)
        fast = replace(rates, decode_per_s=1_000, forward_per_s=500, engine_s=0.5, fit_per_s=1e11)
        return replace(fast, step_per_s=0.1), engine  # and no time to tune, which is not what this is about

    monkeypatch.setattr(planning, "try_settings", spy)
    monkeypatch.setattr(planning, "calibrate", steady)
    done = run_heeler("train", source, *TINY, "--minutes", 1, "--out", tmp_path / "run", "--json", "--quiet")
    assert done.code == 0, done.err
    with (tmp_path / "run" / "catalogue.csv").open(newline="") as file:
        part = {row["path"]: row["split"] for row in csv.DictReader(file)}
    assert seen and {part[path] for path in seen} == {"train"}


def test_heeler_plan_prints_and_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_heeler("plan", source, *TINY, "--minutes", 2)
    assert done.code == 0, done.err
    assert "plan for 2 min 00 s, 96 photos" in done.out
    assert all(f"\n{name} " in done.out for name in ("decode", "choose", "features", "tune", "in all"))
    answer = run_heeler("plan", source, *TINY, "--minutes", 2, "--json").json
    assert answer["budget_s"] == 120 and answer["n_found"] == 96 and answer["first"]["image_px"] == 64
    assert sum(stage["seconds"] for stage in answer["stages"]) == pytest.approx(120)
    assert list(tmp_path.iterdir()) == []


def test_too_few_minutes_read_fewer_photos_and_still_deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    source = make_photos(tmp_path / "photos", cat=60, coffee=40)

    def slow(*args):  # type: ignore[no-untyped-def]
        rates, engine = calibrate(*args)
        return replace(rates, decode_per_s=3.0, known=0.0), engine

    monkeypatch.setattr(planning, "calibrate", slow)
    done = run_heeler("train", source, *TINY, "--minutes", 0.5, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert "too little time for all" in done.err
    with (tmp_path / "run" / "catalogue.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    left = [row for row in rows if row["status"] == "left_out"]
    assert left and {row["reason"] for row in left} == {"not read: the minutes were too short for all photos"}
    counts = {name: sum(row["status"] == "ok" and row["class"] == name for row in rows) for name in ("cat", "coffee")}
    assert min(counts.values()) >= MIN_OF_CLASS
    assert done.json["n_train"] + done.json["n_valid"] + done.json["n_test"] == sum(counts.values())


def test_steps_are_not_timed_again_where_no_time_is_left(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "tuning_s", lambda *given: 1.0)
    done = run_heeler("train", source, *TINY, "--minutes", 0.3, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert "time steps" not in done.json["seconds"] and "tune" not in done.json["seconds"]


def test_what_the_features_took_counts_for_more_than_a_batch_on_a_busy_machine(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def rates_of(model: object, spec: object, forward_per_s: float, n_last: int) -> tuple[float, float]:
        asked.append(forward_per_s)
        return forward_per_s, 100.0

    monkeypatch.setattr(planning, "tuning_rates", rates_of)
    options, clock = TrainOptions(minutes=2, image_px=64), Clock(lambda event: None)
    plan, look = planning.plan_only(source, options), planning.first_look(options)
    plan = replace(plan, rates=replace(plan.rates, forward_per_s=20.0))
    look = replace(look, engine=Engine("torch", "fp32", lambda photos: np.zeros((len(photos), 1)), rate_per_s=3.0))
    photos = read_and_split(read_source(source), look.spec, options, clock)
    monkeypatch.setattr(planning, "first_restraint", lambda *_: 0.4)
    planning._timed_anew(plan, photos, look, look.backbone.model, options, clock)  # as a trial had it
    clock.rates_per_s["features"] = 400.0
    rates = planning._timed_anew(plan, photos, look, look.backbone.model, options, clock).rates
    assert rates.forward_per_s == 400.0 and rates.restraint == 0.4
    assert asked == [pytest.approx(20.0), 400.0]
    # A rate that the user gave stays as it is, and so does what it needs.
    own = replace(options, recipe=replace(options.recipe, lr=1e-4))
    assert planning._timed_anew(plan, photos, look, look.backbone.model, own, clock).rates.restraint == 1.0


def test_a_table_in_which_no_photo_trains_is_refused_in_words(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    photos = sorted(source.rglob("*.jpg"))
    table.write_text("path,label,split\n" + "".join(f"{each},{each.parent.name},test\n" for each in photos))
    done = run_heeler("train", table, "--minutes", 1, "--out", tmp_path / "run", "--quiet")
    assert_clear(done, 3, "train")
    assert not (tmp_path / "run").exists()


def test_several_processes_that_go_on_with_the_plan_of_one_train_all_layers_at_once(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, clock = TrainOptions(minutes=30, image_px=64), Clock(lambda event: None)
    plan, look = planning.plan_only(source, options), planning.first_look(options)
    plan = replace(
        plan,
        tune_s=1500.0,
        rates=replace(plan.rates, forward_per_s=400.0, view_per_s=300.0, step_per_s=200.0, engine_s=1.0),
    )
    photos = read_and_split(read_source(source), look.spec, options, clock)
    monkeypatch.setattr(planning, "best_depth", lambda *_: (DEPTHS[-1], 0.3))
    parts = []
    for n in (1, 2):
        monkeypatch.setattr(planning, "n_launched", lambda n=n: n)
        recipe, _ = planning.tuning_recipe(photos, look, look.backbone.model, plan, options, clock)
        parts.append(recipe.last_s)
    assert parts[0] > 0 and parts[1] == 0


@pytest.mark.parametrize(
    ("photo_s", "most", "sizes"),
    [(0.001, 100, [2, 16]), (1.0, 100, [2]), (0.001, 5, [2, 16, 8, 4]), (0.001, 1, [2, 1, 16, 8, 4, 2, 1])],
)
def test_steps_are_timed_on_few_photos_first(
    monkeypatch: pytest.MonkeyPatch, photo_s: float, most: int, sizes: list[int]
) -> None:
    asked: list[int] = []

    def step_s(net: object, spec: object, n_photos: int, n_last: int) -> float:
        asked.append(n_photos)
        if n_photos > most:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return photo_s * n_photos

    monkeypatch.setattr(calibrating, "_step_s", step_s)
    look = planning.first_look(TrainOptions(image_px=64))
    _, step_per_s = tuning_rates(look.backbone.model, look.spec, 100.0, 2)
    assert asked == sizes and step_per_s == pytest.approx(1 / photo_s)


def test_a_plan_in_python(source: Path) -> None:
    told: list[Event] = []
    plan = planning.plan_only(source, TrainOptions(minutes=2, image_px=64), told.append)
    assert [event.plan for event in told if isinstance(event, Planned)] == [plan]
    assert not [event for event in told if isinstance(event, Note)]
    assert plan.rates.forward_per_s > 0 and np.isfinite(plan.rates.fit_per_s)


def test_a_calibration_reads_few_photos(source: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "QUICK_S", 0.0)  # the first photos are enough
    monkeypatch.setattr(pixels, "SETTLED_NS", 0)  # they were made just now
    look = planning.first_look(TrainOptions(image_px=64))
    rates, engine = calibrate(read_source(source), look.backbone, look.spec)
    n_photos = len(read_source(source).usable)
    share = calibrating.FEW / n_photos
    assert share < 1 and rates.known == pytest.approx(share) and rates.decode_per_s > 0 and engine is not None
    again, _ = calibrate(read_source(source), look.backbone, look.spec)
    assert again.known == pytest.approx(share + (1 - share) * share)  # looked up, and the sample again


def test_photos_that_are_known_are_decoded_to_be_timed(
    source: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SETTLED_NS", 0)
    look, catalogue = planning.first_look(TrainOptions(image_px=64)), read_source(source)
    pixels.read_photos(catalogue, look.spec, lambda event: None)
    decode = pixels.decode

    def slow(data: bytes, spec: Preprocessing) -> Decoded:
        time.sleep(0.05)
        return decode(data, spec)

    monkeypatch.setattr(pixels, "decode", slow)
    rates, _ = calibrate(catalogue, look.backbone, look.spec)
    assert rates.known == 1 and 0 < rates.decode_per_s <= n_cores() / 0.05


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--minutes", "1", "--epochs", "2"), "--minutes and --epochs"),
        (("--minutes", "0"), "0.1"),
        (("--minutes", "nan"), "nan"),
    ],
)
def test_minutes_that_make_no_sense(source: Path, words: tuple[str, ...], said: str) -> None:
    done = run_heeler("train", source, *words)
    assert done.code == 2
    assert said in done.err


def test_a_plan_of_no_photos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run_heeler("plan", tmp_path / "empty").code == 3
