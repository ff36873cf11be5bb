"""heeler beside fastai 2.8: the same photos, parts, weights, machine: ``python bench/beside_fastai.py --bench PHOTOS``.

heeler runs first, with an empty cache. Its ``catalogue.csv`` says which photo trains, chooses and judges; fastai gets
exactly these. fastai's recipe is its tutorial's: ``Resize``, ``aug_transforms()``, ``fine_tune(N)``, best epoch kept.
Seconds are wall time of each process from start to end: imports, reading, training, judging.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from heeler.demo import prepare_demo
from heeler.judge.scores import wilson_interval
from processes import Measured, cold_cache, machine, pin_to_cores, run_python, run_step, warn_if_busy

RECIPE = Path(__file__).with_name("fastai_recipe.py")
SETS = ("clothing", "imagewoof", "corn-leaf", "elpv")
FOLDERS = {"clothing": "clothing", "imagewoof": "imagewoof/train", "corn-leaf": "corn-leaf"}


@dataclass(frozen=True)
class Side:
    """One tool's result on a test part."""

    tool: str
    n: int
    n_wrong: int
    seconds: float

    @property
    def text(self) -> str:
        """Error in percent with its 95 % Wilson interval."""
        low, high = wilson_interval(self.n_wrong, self.n)
        return f"{100 * self.n_wrong / self.n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Pair:
    """heeler and fastai on the same set."""

    name: str
    n_photos: int
    heeler: Side
    fastai: Side


def compare(name: str, photos: Path, engine: str, minutes: float, image_px: int) -> list[Pair]:
    """Run both tools on one set.

    Args:
        name: of the set.
        photos: the bench folder.
        engine: ``core`` or ``openvino``, for heeler.
        minutes: wall time to give to fastai; it always gets the least its recipe has, ``fine_tune(1)``.
        image_px: what fastai's ``Resize`` gets.

    Returns:
        heeler beside ``fine_tune(1)`` and, where the minutes allow more epochs, beside ``fine_tune(N)`` too.
    """
    with cold_cache() as cache:
        source = photos / FOLDERS[name] if name in FOLDERS else prepare_demo(cache)
        run = cache / "run"
        done = run_step(engine, "heeler", "train", source, "--epochs", 0, "--out", run, "--json", cache=cache)
        if done.answer["estimate"] != "test":
            sys.exit(f"{name} is too small for a test part that both tools could be judged on")
        n_test = done.answer["n_test"]
        ours = Side(f"heeler ({engine})", n_test, round(done.answer["error"] * n_test), done.seconds)
        table = cache / "parts.csv"
        n_photos = write_parts(run / "catalogue.csv", source if source.is_dir() else source.parent, table)
        first = _fastai(table, 1, image_px, cache)
        pairs = [Pair(name, n_photos, ours, _side(first))]
        n_epochs = affordable(first, minutes)
        if n_epochs > 1:
            pairs.append(Pair(name, n_photos, ours, _side(_fastai(table, n_epochs, image_px, cache))))
    return pairs


def write_parts(catalogue: Path, root: Path, table: Path) -> int:
    """Turn a run's ``catalogue.csv`` into ``file,label,part``.

    Args:
        catalogue: of a heeler run.
        root: what its paths are relative to; absolute ones stay.
        table: CSV to write.

    Returns:
        Number of photos.
    """
    n_photos = 0
    # A file's name may hold bytes that are no text; it must come out as it went in.
    text = catalogue.read_text(encoding="utf-8", errors="surrogateescape")
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("file", "label", "part"))
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if row["status"] == "ok":
                writer.writerow((root / row["path"], row["class"], row["split"]))
                n_photos += 1
    return n_photos


def affordable(first: Measured, minutes: float) -> int:
    """Epochs of all layers that fit into the minutes, judged by a run that had one; at least 1."""
    *_, epoch_s = first.answer["epoch_s"]
    rest_s = first.seconds - epoch_s
    return max(1, int((60 * minutes - rest_s) / epoch_s))


def _fastai(table: Path, n_epochs: int, image_px: int, cache: Path) -> Measured:
    return run_python([str(RECIPE), str(table), str(n_epochs), str(image_px)], cache=cache)


def _side(run: Measured) -> Side:
    return Side(f"fastai fine_tune({run.answer['epochs']})", run.answer["n"], run.answer["n_wrong"], run.seconds)


def markdown(pairs: list[Pair]) -> str:
    """The pairs as a Markdown table; the ratio is fastai's seconds over heeler's."""
    lines = [
        "| set | photos | tested | heeler error [95 %] | s | fastai error [95 %] | s | epochs | times as long |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        ours, theirs = pair.heeler, pair.fastai
        lines.append(
            f"| {pair.name} | {pair.n_photos:,} | {ours.n:,} | {ours.text} | {ours.seconds:.0f} | {theirs.text} "
            f"| {theirs.seconds:.0f} | {theirs.tool.removeprefix('fastai ')} | {theirs.seconds / ours.seconds:.1f} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SETS, help="this set alone; may be repeated")
    parser.add_argument("--minutes", type=float, default=0, help="wall time for fastai; 0: fine_tune(1) alone [0]")
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"), help="folder with the sets")
    parser.add_argument("--engine", choices=("core", "openvino"), default="core", help="heeler's [core]")
    parser.add_argument("--image-px", type=int, default=224, help="what fastai's Resize gets [224]")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (Linux) [2]")
    parser.add_argument("--json", type=Path, help="also write the pairs to this file")
    return parser.parse_args()


def main() -> int:
    """Run the sets that were asked for and print the table."""
    given = _arguments()
    n_cores = pin_to_cores(given.cores)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both on the processor, whatever the machine has
    pairs: list[Pair] = []
    for name in given.only or SETS:
        print(f"running {name} ...", file=sys.stderr)
        warn_if_busy()
        new = compare(name, given.bench.resolve(), given.engine, given.minutes, given.image_px)
        print(markdown(new), file=sys.stderr)
        pairs += new
    facts = machine(n_cores)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    print(markdown(pairs))
    if given.json:
        given.json.write_text(
            json.dumps({"machine": facts, "pairs": [asdict(pair) for pair in pairs]}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
