"""Bundles with one byte changed, and hostile ones: ``heeler predict`` must refuse each with exit code 4.

    python bench/hostile_bundles.py [--changes 1600] [--seed 0]

A model is trained on a few photos and exported; then each of its files, and the exported ONNX file, is changed in one
byte at a time: replaced, lost or put in, anywhere and near the beginning. The hostile bundles are those of
``tests/hostile_bundles_cases.py``. Printed are Markdown tables; the exit code is 1 where a bundle was not refused, or
something of it ran. Extra memory is the peak beyond what the process held before (Linux only).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostile_images import MB, forget_peak, memory
from processes import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from conftest import make_photos, run_heeler
from heeler.machine import n_cores
from heeler.ship.bundle import FILES, MANIFEST
from hostile_bundles_cases import PLANTED, cases, with_one_byte_changed
from images import cat, encode

ONNX = "../model.onnx"
REFUSED = 4
# As many changes again are made among the first bytes of a file, where headers are.
HEADER_BYTES = 4096
N_PHOTOS = 12


@dataclass(frozen=True)
class Answer:
    """What ``heeler predict`` said of a bundle.

    Args:
        code: its exit code.
        words: its last words.
        seconds: wall time.
        extra_bytes: most memory at once, beyond what the process held before.
    """

    code: int
    words: str
    seconds: float
    extra_bytes: int


def main() -> int:
    """Print the tables; 1 where a bundle was not refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1600, help="single bytes to change [1600]")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn [0]")
    given = parser.parse_args()
    print(machine(n_cores()))
    with tempfile.TemporaryDirectory(prefix="heeler-hostile-") as name:
        root = Path(name)
        os.environ["HEELER_CACHE"] = str(root / "cache")
        good = make_good(root)
        failed = [*change_bytes(good, given.changes, random.Random(given.seed)), *try_hostile(good)]
    print("\n".join([f"\n{len(failed)} not as they should be", *failed]))
    return 1 if failed else 0


def make_good(root: Path) -> Path:
    """A run's folder with a model, its exported file and a photo."""
    photos, good = make_photos(root / "photos", cat=N_PHOTOS, coffee=N_PHOTOS), root / "good"
    for args in (
        ("train", photos, "--epochs", "0", "--image-px", "64", "--out", root / "run", "--json"),
        ("export", root / "run" / "model", "--json"),
    ):
        done = run_heeler(*args)
        if done.code:
            sys.exit(done.err)
    good.mkdir()
    shutil.copytree(root / "run" / "model", good / "model")
    shutil.copy(root / "run" / "model.onnx", good)
    (good / "photo.jpg").write_bytes(encode(cat()))
    for engine in ("auto", "onnx"):
        if ask(good / "model", engine).code:
            sys.exit("the good bundle was refused")
    return good


def ask(model: Path, engine: str) -> Answer:
    """Let ``heeler predict`` name the photo beside a model."""
    before = memory("VmRSS")
    forget_peak()
    began = time.perf_counter()
    done = run_heeler("predict", model, model.parent / "photo.jpg", "--engine", engine)
    seconds = time.perf_counter() - began
    words = next((line.removeprefix("heeler: ") for line in done.err.splitlines() if line.startswith("heeler: ")), "")
    return Answer(done.code, words, seconds, max(0, memory("VmHWM") - before))


def change_bytes(good: Path, n_changes: int, draw: random.Random) -> Iterator[str]:
    """Print what became of changed bytes, file by file; what was not refused."""
    print("\n| file | bytes | single bytes changed | refused | slowest, s |\n|---|--:|--:|--:|--:|")
    names, n_all = (*FILES, MANIFEST, ONNX), 0
    for name in names:
        file = good / "model" / name
        whole, answers = file.read_bytes(), []
        for number in range(-(-n_changes // len(names))):
            file.write_bytes(with_one_byte_changed(whole, draw, HEADER_BYTES if number % 2 else 0))
            answers.append(ask(good / "model", "onnx" if name == ONNX else "auto"))
            if answers[-1].code != REFUSED:
                yield f"{name}, change {number}: exit {answers[-1].code}"
        file.write_bytes(whole)
        n_refused = sum(answer.code == REFUSED for answer in answers)
        n_all += n_refused
        print(f"| {Path(name).name} | {len(whole):,} | {len(answers):,} | {n_refused:,} "
              f"| {max(answer.seconds for answer in answers):.2f} |")  # fmt: skip
    print(f"\n{n_all:,} changes refused with exit code {REFUSED}")


def try_hostile(good: Path) -> Iterator[str]:
    """Print what became of hostile bundles; what was not refused."""
    print("\n| bundle | exit | seconds | extra MB | said |\n|---|--:|--:|--:|---|")
    answers = []
    for case in cases():
        with tempfile.TemporaryDirectory(dir=good.parent) as name:
            model = Path(shutil.copytree(good, Path(name) / "run")) / "model"
            case.spoil(model)
            answer = ask(model, case.engine)
            answers.append(answer)
            words = answer.words.replace(f"{model.parent.resolve()}/", "").replace(f"{model.parent}/", "")
            words = " ".join(words.replace("|", "/").split())
            print(f"| {case.name} | {answer.code} | {answer.seconds:.2f} | {answer.extra_bytes / MB:.0f} "
                  f"| {words[:100]} |")  # fmt: skip
            if answer.code != REFUSED or (model.parent / PLANTED).exists():
                yield f"{case.name}: exit {answer.code}, {answer.words}"
    print(f"\n{sum(answer.code == REFUSED for answer in answers)} of {len(answers)} refused with exit code {REFUSED}; "
          f"slowest {max(answer.seconds for answer in answers):.1f} s, hungriest "
          f"{max(answer.extra_bytes for answer in answers) / MB:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
