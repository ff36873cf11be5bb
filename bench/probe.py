"""The speed and memory of heeler's first path, row by row: ``python bench/probe.py --bench PHOTOS``.

Each figure is the median of repeated runs. Cold means an empty cache of heeler's; the system's own cache of files may
be warm, so disks are not measured. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from large_photos import make_large_photos, make_middle_photos
from processes import Measured, cold_cache, machine, pin_to_cores, run_step, warn_if_busy

N_LARGE_PHOTOS = 240
N_CLASSES, N_MIDDLE_PHOTOS = 6, 2527
N_HELP_RUNS = 11
# The linear head on frozen features alone, however many minutes there are.
PROBE = ("--epochs", "0")


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        row: what ``--only`` calls it.
        work: what was done, for people.
        unit: of the values.
        values: one for each repeat.
        goal: what it should reach; None where nothing was promised.
        more_is_better: whether the goal is a least value or a greatest one.
        note: what else the runs said.
    """

    row: str
    work: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        """Whether the median meets the goal."""
        return self.goal is None or (self.median >= self.goal if self.more_is_better else self.median <= self.goal)


@dataclass(frozen=True)
class Settings:
    """Where the photos are, how often to repeat, which engines to run."""

    photos: Path
    repeats: int
    engines: tuple[str, ...]
    n_cores: int

    @property
    def woof(self) -> Path:
        """9,025 photos of ten dog breeds."""
        return self.photos / "imagewoof" / "train"


def measure_decode(settings: Settings) -> list[Figure]:
    """First and second reading of 9,025 small JPEGs."""
    first, second, n = [], [], 0
    for _ in range(settings.repeats):
        with cold_cache() as cache:
            cold = run_step("core", "decode", settings.woof, cache=cache).answer
            warm = run_step("core", "decode", settings.woof, cache=cache).answer
        n = cold["n"]
        first.append(cold["n_decoded"] / cold["seconds"])
        second.append(warm["seconds"])
        _require(warm["n_decoded"] == 0, f"the second run decoded {warm['n_decoded']} photos again")
    work = f"decode, resize and keep {n:,} photos"
    return [
        Figure("decode", f"{work}, first run", "photos/s", tuple(first), 1250, True),
        Figure("decode", f"{work}, second run", "s", tuple(second), 2),
    ]


def measure_large(settings: Settings) -> list[Figure]:
    """First reading of 12-megapixel JPEGs."""
    rates = []
    with cold_cache() as folder:
        sources = sorted((settings.photos / "imagewoof").rglob("*.jpg"))[::80]
        megabytes = make_large_photos(sources, folder / "large", N_LARGE_PHOTOS, settings.n_cores)
        for _ in range(settings.repeats):
            with cold_cache() as cache:
                answer = run_step("core", "decode", folder / "large", cache=cache).answer
            rates.append(answer["n_decoded"] / answer["seconds"])
    work = f"the same for {N_LARGE_PHOTOS} JPEGs of 12 megapixels"
    return [Figure("decode-12mp", work, "photos/s", tuple(rates), 70, True, f"{megabytes:.1f} MB a file")]


def measure_features(settings: Settings) -> list[Figure]:
    """The frozen network over 9,025 photos whose pixels are cached."""
    figures = []
    goals = {"core": 185, "openvino": 330}
    for engine in settings.engines:
        rates, answer = [], {}
        with cold_cache() as cache:
            run_step(engine, "decode", settings.woof, cache=cache)
            for _ in range(settings.repeats):
                answer = run_step(engine, "features", settings.woof, cache=cache).answer
                shutil.rmtree(cache / "features")
                rates.append(answer["n"] / answer["seconds"])
        note = f"{answer['engine']} {answer['precision']}"
        work = f"features of Lite0 at 224 px, {_installed(engine)}"
        figures.append(Figure("features", work, "photos/s", tuple(rates), goals[engine], True, note))
    return figures


def measure_train(settings: Settings) -> list[Figure]:
    """``heeler train`` on 9,025 photos, cold and again."""
    goals = {"core": 70.0, "openvino": 42.0}
    return _train("train", settings.woof, settings, goals)


def measure_six_classes(settings: Settings) -> list[Figure]:
    """``heeler train`` on 2,527 photos of 512 x 384 px in six classes, made for timing: their error says little."""
    with cold_cache() as folder:
        classes = sorted(settings.woof.iterdir())[:N_CLASSES]
        make_middle_photos(classes, folder / "photos", N_MIDDLE_PHOTOS, settings.n_cores)
        return _train("six-classes", folder / "photos", settings, {"core": 25.0, "openvino": 25.0})


def measure_clothing(settings: Settings) -> list[Figure]:
    """``heeler train`` on 3,781 photos taken by phone, with their own parts."""
    return _train("clothing", settings.photos / "clothing", settings, {})


def measure_demo(settings: Settings) -> list[Figure]:
    """``heeler demo``, cold and again."""
    return _train("demo", None, settings, {"core": 360.0, "openvino": 360.0})


def measure_head(settings: Settings) -> list[Figure]:
    """The linear head alone."""
    with cold_cache() as cache:
        answers = [run_step("core", "head", settings.woof, cache=cache).answer for _ in range(settings.repeats)]
    last = answers[-1]
    size = f"{last['n']:,} x {last['n_features']:,}, {last['n_classes']} classes"
    note = f"out-of-fold error {100 * last['error']:.1f} %"
    seconds = tuple(answer["seconds"] for answer in answers)
    return [Figure("head", f"the head, its penalty, out-of-fold probabilities: {size}", "s", seconds, 6, note=note)]


def measure_help(_: Settings) -> list[Figure]:
    """``heeler --help``; short, so repeated more often than the rest."""
    with cold_cache() as cache:
        seconds = tuple(run_step("core", "heeler", "--help", cache=cache).seconds for _ in range(N_HELP_RUNS))
    return [Figure("help", "heeler --help", "s", seconds, 0.3)]


def measure_memory(settings: Settings) -> list[Figure]:
    """Peak memory of ``heeler train`` on 9,025 photos, cold, without the pages of the cache's memory maps."""
    figures = []
    for engine in settings.engines:
        peaks = []
        for _ in range(settings.repeats):
            with cold_cache() as cache:
                args = ("train", settings.woof, *PROBE, "--out", cache / "run", "--json")
                run = run_step(engine, "heeler", *args, cache=cache, watch_memory=True)
            peaks.append(run.peak_bytes / 1e9)
        work = f"peak memory beyond the memory map, 9,025 photos, {_installed(engine)}"
        figures.append(Figure("memory", work, "GB", tuple(peaks), 2))
    return figures


MEASURES: dict[str, Callable[[Settings], list[Figure]]] = {
    "decode": measure_decode,
    "decode-12mp": measure_large,
    "features": measure_features,
    "train": measure_train,
    "six-classes": measure_six_classes,
    "clothing": measure_clothing,
    "demo": measure_demo,
    "head": measure_head,
    "help": measure_help,
    "memory": measure_memory,
}


def _train(row: str, source: Path | None, settings: Settings, goals: dict[str, float]) -> list[Figure]:
    figures = []
    verb = ("train", str(source), *PROBE) if source else ("demo",)
    for engine in settings.engines:
        cold: list[Measured] = []
        warm: list[Measured] = []
        for _ in range(settings.repeats):
            with cold_cache() as cache:
                for name, runs in (("first", cold), ("second", warm)):
                    args = (*verb, "--out", cache / name, "--json")
                    runs.append(run_step(engine, "heeler", *args, cache=cache))
        answer = cold[-1].answer
        n_photos = answer["n_train"] + answer["n_valid"] + answer["n_test"]
        work = f"heeler {verb[0]}, {n_photos:,} photos, {_installed(engine)}"
        seconds = tuple(run.seconds for run in cold)
        again = tuple(run.seconds for run in warm)
        figures.append(Figure(row, f"{work}, cold", "s", seconds, goals.get(engine), note=_told(answer)))
        figures.append(Figure(row, f"{work}, second run", "s", again))
    return figures


def _told(answer: dict[str, Any]) -> str:
    low, high = answer["interval"]
    error = f"error {100 * answer['error']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] on {answer['n_test']:,}"
    stages = {name: value for name, value in answer["seconds"].items() if name != "total" and value >= 0.1}
    return f"{error}; " + ", ".join(f"{name} {value:.1f} s" for name, value in stages.items())


def _installed(engine: str) -> str:
    return "core install" if engine == "core" else "with openvino"


def _require(fact: bool, otherwise: str) -> None:
    if not fact:
        sys.exit(otherwise)


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| work | goal | median | lowest to highest | notes |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_line, figures)])


def _line(figure: Figure) -> str:
    sign = "at least" if figure.more_is_better else "at most"
    goal = "" if figure.goal is None else f"{sign} {figure.goal:,g} {figure.unit}"
    median = f"{_short(figure.median)} {figure.unit}" + ("" if figure.reached else " **(missed)**")
    spread = f"{_short(min(figure.values))} to {_short(max(figure.values))}"
    return f"| {figure.work} | {goal} | {median} | {spread} | {figure.note} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this row alone; may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each figure [3]")
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"), help="folder with imagewoof/train")
    parser.add_argument("--engine", choices=("core", "openvino"), help="this engine alone [both]")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (Linux) [2]")
    parser.add_argument("--json", type=Path, help="also write all values to this file")
    return parser.parse_args()


def main() -> int:
    """Measure what was asked for and print the table; 1 where a goal was missed."""
    given = _arguments()
    n_cores = pin_to_cores(given.cores)
    engines: tuple[str, ...] = (given.engine,) if given.engine else ("core", "openvino")
    if importlib.util.find_spec("openvino") is None:
        print("openvino is not installed: its rows are left out", file=sys.stderr)
        engines = tuple(engine for engine in engines if engine != "openvino")
    settings = Settings(given.bench.resolve(), given.repeats, engines, n_cores)
    figures: list[Figure] = []
    for name in given.only or MEASURES:
        print(f"measuring {name} ...", file=sys.stderr)
        warn_if_busy()
        new = MEASURES[name](settings)
        print("\n".join(_line(figure) for figure in new), file=sys.stderr)
        figures += new
    facts = machine(n_cores)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    print(table(figures))
    if given.json:
        rows = [asdict(figure) | {"median": figure.median, "reached": figure.reached} for figure in figures]
        given.json.write_text(json.dumps({"machine": facts, "figures": rows}, indent=2) + "\n")
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
