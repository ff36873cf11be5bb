"""The report of a finished run of 10,000 photos in 10 classes: seconds and megabytes.

    python bench/report.py [--out report.html] [--judged 2000] [--classes 10]

The run is made up: photos are pieces of scikit-image's, answers are drawn. What is timed is everything from the answers
to the file on disk, but for the network's look at the worst photos, whose maps are given.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from heeler.fixes import Fix
from heeler.judge.gallery import Answers, Pictures
from heeler.judge.images import webp_bytes
from heeler.judge.prospects import CurvePoint
from heeler.judge.report import ReportContext, write_report
from heeler.judge.scores import score, softmax
from heeler.records import ByteArray, RunResult

SCENES = ("chelsea", "coffee", "astronaut", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
PX = 224


def squares_of(paths: Sequence[str]) -> ByteArray:
    """A piece of a real photo for each path, always the same one."""
    wholes = [Image.fromarray(getattr(data, name)()[:, :, :3]) for name in SCENES[:4]]
    squares = []
    for path in paths:
        draw = np.random.default_rng([*path.encode()])
        whole = wholes[int(draw.integers(len(wholes)))]
        side = int(min(whole.size) * draw.uniform(0.35, 0.9))
        left, top = (int(draw.integers(0, room - side + 1)) for room in whole.size)
        squares.append(np.asarray(whole.crop((left, top, left + side, top + side)).resize((PX, PX))))
    return np.stack(squares)


def finished_run(n_judged: int, n_classes: int, error: float = 0.08) -> ReportContext:
    """A run whose answers are drawn, with all that a report can show."""
    rng = np.random.default_rng(0)
    classes = tuple(f"kind {k:02d}" for k in range(n_classes))

    def answers(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, n_classes, n)
        logits = rng.normal(0, 1, (n, n_classes))
        logits[np.arange(n), labels] += np.where(rng.random(n) < error, 1.0, 6.0)
        return softmax(logits.astype(np.float32)), labels

    (probabilities, labels), (valid, valid_labels) = answers(n_judged), answers(n_judged // 3)
    paths = [f"{classes[label]}/IMG_{i:05d}.jpg" for i, label in enumerate(labels)]
    scores = score(probabilities, labels, classes, paths)
    result = RunResult(
        run=Path("run"), model=Path("run/model"), report=Path("run/report.html"), predictions=Path("run/p.csv"),
        chosen="tuned", scores=scores, n_train=7200, n_valid=800, n_test=n_judged, classes=classes, temperature=1.3,
        seconds={"decode": 8.1, "features": 48.0, "probe": 3.2, "tune": 220.0, "write report": 2.0, "total": 300.0},
        rates_per_s={"features": 210.0}, planned_s={"decode": 7.5, "features": 50.0, "probe": 3.0, "tune": 225.0},
    )  # fmt: skip
    sizes = (720, 1440, 2880, 5040, 7200)
    chance = rng.random(n_judged)
    curve = [CurvePoint(n, chance < 0.9 * n**-0.25) for n in sizes]
    history = [
        {"epoch": i, "epochs": 8, "phase": "last", "train_loss": 1.2 - 0.05 * i, "valid_loss": 0.3 - 0.01 * i,
         "valid_error": 0.09 - 0.001 * i, "best_error": 0.09 - 0.001 * i, "seconds": 25.0, "rate_per_s": 180.0}
        for i in range(1, 9)
    ]  # fmt: skip
    worst = [row.path for row in scores.top_losses]
    return ReportContext(
        title="Made up", result=result, n_found=10_040, left_out=[(f"notes {i}.txt", "not a photo") for i in range(40)],
        n_by_class=dict.fromkeys(classes, 10_000 // n_classes),
        answers=Answers(paths, labels, probabilities, valid, valid_labels), pictures=Pictures(squares_of),
        maps=rng.random((len(worst), 7, 7)).astype(np.float32), curve=curve, history=history, n_epochs=8.0,
        sheet=[(webp_bytes(each, 160, 72), classes[i % n_classes]) for i, each in enumerate(squares_of(paths[:12]))],
        fixes=[Fix(path, "label", "kind 00", "kind 01") for path in paths[:60]],
        command="heeler train photos/ --minutes 5",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--judged", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "report.html"
        context = finished_run(options.judged, options.classes)
        squares_of(["first"])  # scikit-image reads its photos
        seconds = []
        for _ in range(2):
            start, work = time.perf_counter(), time.process_time()
            write_report(out, context)
            seconds.append((time.perf_counter() - start, time.process_time() - work))
        (first_s, first_work_s), (again_s, _) = seconds
        size = out.stat().st_size / 1e6
    print(f"{options.judged:,} judged photos, {options.classes} classes: {first_s:.2f} s, {size:.2f} MB")
    print(f"of that, work of all cores together: {first_work_s:.2f} s")
    print(f"once more, its pictures known: {again_s:.2f} s")


if __name__ == "__main__":
    main()
