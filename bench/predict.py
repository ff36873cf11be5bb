"""Photos a second of ``heeler predict`` beside the bare forward pass, fastai and timm: ``python bench/predict.py``.

5,000 photos whose short side has 320 pixels are made from those of ``--bench``, which are smaller: for timing alone.
The network is EfficientNet-Lite0 at 224 px with ten classes and a head of random weights. Each figure is the median of
repeated runs, each a process of its own, taken in turn so that a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from processes import cold_cache, machine, pin_to_cores, run_python, warn_if_busy

STEPS = Path(__file__).with_name("predict_steps.py")
SHORT_PX, QUALITY = 320, 87
N_CLASSES = 10


def make_photos(sources: Sequence[Path], folder: Path, n: int, n_threads: int) -> float:
    """Write ``n`` JPEGs with a short side of 320 px, in class folders; the mean size of a file in kB."""

    def make(number: int) -> int:
        source = sources[number * len(sources) // n]
        target = folder / source.parent.name / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            share = SHORT_PX / min(image.size)
            size = (round(image.width * share), round(image.height * share))
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(target, quality=QUALITY)
        return target.stat().st_size

    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(make, range(n))) / n / 1000


def make_model(folder: Path) -> None:
    """Write a bundle of Lite0 whose head has random weights."""
    from heeler.learn.backbone import DEFAULT_BACKBONE, load_backbone, with_head
    from heeler.records import Head
    from heeler.ship.bundle import write_bundle

    backbone = load_backbone(DEFAULT_BACKBONE)
    draw = np.random.default_rng(0)
    weight = draw.normal(0, 0.02, (N_CLASSES, backbone.model.num_features)).astype(np.float32)
    model = with_head(backbone, Head(weight, np.zeros(N_CLASSES, np.float32)))
    names = tuple(f"class {number}" for number in range(N_CLASSES))
    write_bundle(folder, model, classes=names, spec=backbone.spec, temperature=1.0, card="", facts={})


def measure(photos: Path, model: Path, repeats: int, cache: Path, only: Sequence[str]) -> dict[str, list[float]]:
    """Photos a second of each way, a value for each repeat."""
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for step in only:
            done = run_python([str(STEPS), step, str(photos), str(model)], cache=cache)
            told = done.answer
            if step == "bare":
                for name, rate in told["rates"].items():
                    rates.setdefault(f"forward pass alone, {name}", []).append(rate)
            elif step == "stream":
                rates.setdefault(f"heeler, rows of files ({told['engine']})", []).append(told["rate"])
                rates.setdefault(f"heeler, from its first row on ({told['engine']})", []).append(told["steady"])
            else:
                way = {"fastai": "fastai, test_dl and get_preds", "timm": "timm, the loop of inference.py"}[step]
                rates.setdefault(way, []).append(told["rate"])
    return rates


def measure_memory(photos: Path, model: Path, sizes: Sequence[int], cache: Path) -> dict[int, tuple[float, float]]:
    """Photos a second of the whole command, its start included, and the most memory it held in MB, by photos."""
    found = {}
    for n in sizes:
        done = run_python([str(STEPS), "command", str(photos), str(model), str(n)], cache=cache, watch_memory=True)
        found[n] = (n / done.seconds, done.peak_bytes / 1e6)
    return found


def markdown(rates: dict[str, list[float]], memory: dict[int, tuple[float, float]]) -> str:
    """Both tables."""
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ours = next((value for name, value in middle.items() if name.startswith("heeler, rows")), 0.0)
    lines = ["| way | photos/s | least, most | heeler's rows are so many times as fast |", "|---|--:|--:|--:|"]
    for name, values in rates.items():
        ratio = f"{ours / middle[name]:.2f}" if middle[name] else ""
        lines.append(f"| {name} | {middle[name]:.0f} | {min(values):.0f}, {max(values):.0f} | {ratio} |")
    lines += [
        "",
        "| photos, by `heeler predict MODEL - --out` | photos/s, start included | most memory |",
        "|--:|--:|--:|",
    ]
    lines += [f"| {n:,} | {rate:.0f} | {peak:,.0f} MB |" for n, (rate, peak) in memory.items()]
    return "\n".join(lines)


def main() -> int:
    """Make photos and a model, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bench", type=Path, default=Path("../shared/bench"), help="folder of photos to make them from"
    )
    parser.add_argument("--photos", type=int, default=5000, help="photos to make [5000]")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way [3]")
    parser.add_argument("--cores", type=int, default=2, help="cores to keep to [2]")
    parser.add_argument("--only", nargs="+", default=["bare", "stream", "fastai", "timm"], help="ways to measure [all]")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[1000, 5000, 20000], help="photos of each look at memory"
    )
    given = parser.parse_args()
    n_cores = pin_to_cores(given.cores)
    sources = sorted((given.bench / "imagewoof" / "train").rglob("*.jpg"))
    if not sources:
        sys.exit(f"{given.bench} holds no imagewoof/train; name the folder with --bench")
    with cold_cache() as cache:
        photos, model = cache / "photos", cache / "model"
        size_kb = make_photos(sources, photos, given.photos, n_cores)
        make_model(model)
        warn_if_busy()
        rates = measure(photos, model, given.repeats, cache, given.only)
        memory = measure_memory(photos, model, given.memory, cache)
    print(", ".join(f"{key} {value}" for key, value in machine(n_cores).items()))
    print(f"{given.photos:,} photos, short side {SHORT_PX} px, {size_kb:.0f} kB a file, enlarged from smaller ones\n")
    print(markdown(rates, memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
