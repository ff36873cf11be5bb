"""What minutes buy: heeler and fastai 2.8 for the same wall time on the same photos: ``python bench/minutes.py``.

For each set, budget and seed, ``heeler train --minutes M`` runs with an empty cache of heeler's; its ``catalogue.csv``
says which photo trains, chooses and judges, and fastai gets exactly these, the same weights and the same minutes. The
seed changes the split too, unless a set has a test part of its own. All of it takes hours: 3 seeds of 1, 5 and 15
minutes on four sets are 252 minutes for each tool. With --json, what the file already holds is not measured again, so
that the table can be made in several sittings.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from beside_fastai import FOLDERS, RECIPE, SETS, write_parts
from heeler.demo import prepare_demo
from processes import cold_cache, machine, pin_to_cores, run_python, run_step, warn_if_busy


@dataclass(frozen=True)
class Run:
    """One tool on one set, one budget, one seed.

    Args:
        seconds: wall time of the whole process; ``own_s`` is the time by the tool's own clock, without imports.
        note: what it did.
        planned: for each stage of heeler's plan, predicted and actual seconds.
        machine: what it ran on, and when.
    """

    tool: str
    name: str
    minutes: float
    seed: int
    n: int
    error: float
    seconds: float
    own_s: float
    note: str
    planned: dict[str, tuple[float, float]]
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def cell(self) -> tuple[str, float, int]:
        """Set, budget and seed, for which the tools ran one after the other."""
        return self.name, self.minutes, self.seed


def prepare(name: str, photos: Path, folder: Path) -> Path:
    """The source of a set; Imagewoof's is a table in which its ``val`` judges."""
    if name == "elpv":
        return prepare_demo(folder)
    if name != "imagewoof":
        return photos / FOLDERS[name]
    table = folder / "imagewoof.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for part, split in (("train", "train"), ("val", "test")):
            for photo in sorted((photos / "imagewoof" / part).rglob("*.jpg")):
                writer.writerow((photo, photo.parent.name, split))
    return table


def run_heeler(name: str, minutes: float, seed: int, engine: str, photos: Path, cache: Path) -> Run:
    """Train with heeler; 0 minutes are the probe alone. The run's folder stays in the cache."""
    source = prepare(name, photos, cache)
    how = ("--minutes", minutes) if minutes else ("--epochs", 0)
    run = cache / "run"
    done = run_step(engine, "heeler", "train", source, *how, "--seed", seed, "--out", run, "--json", cache=cache)
    answer, plan = done.answer, {}
    if minutes:
        kept = json.loads((run / "plan.json").read_text())
        plan = {stage: (seconds, took(answer["seconds"], stage)) for stage, seconds in answer["planned_s"].items()}
        setting = kept["chosen"] or kept["first"]
        what = f"{setting['backbone'].removeprefix('tf_efficientnet_')} {setting['image_px']} {setting['fit']}"
    else:
        what = "probe"
    n = answer["n_test"] if answer["estimate"] == "test" else sum(answer[f"n_{p}"] for p in ("train", "valid", "test"))
    note = f"{what}, {answer['chosen']}"
    return Run("heeler", name, minutes, seed, n, answer["error"], done.seconds, answer["seconds"]["total"], note, plan)


def took(seconds: dict[str, float], stage: str) -> float:
    """What a planned stage took; several stages of a run may be one in the plan."""
    from heeler.records import PLANNED_TOGETHER

    return sum(each for name, each in seconds.items() if PLANNED_TOGETHER.get(name, name) == stage)


def run_fastai(name: str, minutes: float, seed: int, photos: Path, cache: Path) -> Run:
    """Train with fastai on the parts of the heeler run in the same cache."""
    source = prepare(name, photos, cache)
    table = cache / "parts.csv"
    write_parts(cache / "run" / "catalogue.csv", source if source.is_dir() else source.parent, table)
    done = run_python([str(RECIPE), str(table), "0", "224", str(60 * minutes), str(seed)], cache=cache)
    answer = done.answer
    note = f"fine_tune({answer['epochs']}) on {answer['n_train']:,} photos"
    error = answer["n_wrong"] / answer["n"]
    return Run("fastai", name, minutes, seed, answer["n"], error, done.seconds, answer["seconds"], note, {})


def table_of(runs: list[Run]) -> str:
    """Medians over seeds as a Markdown table, a line for each set and budget."""
    lines = ["| set | minutes | tool | error, median (all) | s without imports | notes |", "|---|---|---|---|---|---|"]
    cells = sorted({(run.name, run.minutes, run.tool != "heeler", run.tool) for run in runs})
    for name, minutes, _, tool in cells:
        same = [run for run in runs if (run.name, run.minutes, run.tool) == (name, minutes, tool)]
        errors = ", ".join(f"{100 * run.error:.1f}" for run in same)
        median = 100 * statistics.median(run.error for run in same)
        seconds = statistics.median(run.own_s for run in same)
        notes = "; ".join(dict.fromkeys(run.note for run in same))
        lines.append(f"| {name} | {minutes:g} | {tool} | {median:.1f} % ({errors}) | {seconds:.0f} | {notes} |")
    return "\n".join(lines)


def stages_of(runs: list[Run]) -> str:
    """Predicted beside actual seconds of each run by minutes."""
    lines = ["| set | minutes | seed | stages: planned / took, in s |", "|---|---|---|---|"]
    for run in runs:
        if run.planned:
            stages = ", ".join(f"{name} {plan:.1f} / {actual:.1f}" for name, (plan, actual) in run.planned.items())
            lines.append(f"| {run.name} | {run.minutes:g} | {run.seed} | {stages} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SETS, help="this set alone; may be repeated")
    parser.add_argument("--minutes", action="append", type=float, help="budgets; 0 is heeler's probe [0, 1, 5, 15]")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each [3]")
    parser.add_argument("--tools", choices=("both", "heeler", "fastai"), default="both", help="which [both]")
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"), help="folder with the sets")
    parser.add_argument("--engine", choices=("core", "openvino"), default="core", help="heeler's [core]")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (Linux) [2]")
    parser.add_argument("--json", type=Path, help="keep all runs in this file, and measure what it lacks")
    return parser.parse_args()


def measure(name: str, minutes: float, seed: int, tools: str, engine: str, photos: Path, n_cores: int) -> list[Run]:
    """Run the tools one after the other on the same parts of a set."""
    warn_if_busy()
    with cold_cache() as cache:
        new = [run_heeler(name, minutes, seed, engine, photos, cache)]
        if minutes and tools != "heeler":
            new.append(run_fastai(name, minutes, seed, photos, cache))
    return [replace(run, machine=machine(n_cores)) for run in new]


def is_measured(runs: list[Run], cell: tuple[str, float, int], tools: str) -> bool:
    """Whether some runs hold those of a cell."""
    wanted = {"heeler"} if tools == "heeler" or not cell[1] else {"heeler", "fastai"}
    return wanted <= {run.tool for run in runs if run.cell == cell}


def main() -> int:
    """Run what was asked for and print the tables."""
    given = _arguments()
    n_cores = pin_to_cores(given.cores)
    runs: list[Run] = []
    if given.json and given.json.exists():
        runs = [Run(**run) for run in json.loads(given.json.read_text())["runs"]]
    names, budgets = given.only or SETS, given.minutes or (0, 1, 5, 15)
    for cell in ((name, minutes, seed) for name in names for minutes in budgets for seed in range(given.seeds)):
        if is_measured(runs, cell, given.tools):
            continue
        new = measure(*cell, given.tools, given.engine, given.bench.resolve(), n_cores)
        runs = [run for run in runs if run.cell != cell] + new
        print(table_of(new).splitlines()[2:], file=sys.stderr, flush=True)
        if given.json:
            given.json.write_text(json.dumps({"runs": [asdict(run) for run in runs]}, indent=2) + "\n")
    for facts in dict.fromkeys(tuple(run.machine.items()) for run in runs):
        print(", ".join(f"{name} {value}" for name, value in facts))
    print("", table_of(runs), stages_of(runs), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
