"""How fast a training step of EfficientNet-Lite0 is, and what bounds it: ``python bench/train_steps.py --px 192``.

A step is a forward pass and a backward pass, which has two products where the forward pass has one: so a third of the
rate of the forward pass alone is the bound for code that is as good at all three. It is given for torch's own forward
pass and for that of the fastest engine of this machine. Photos are noise: what is in them does not change the time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator

from heeler import allocator
from heeler.data.rows import Rows
from heeler.learn.backbone import Backbone, load_backbone
from heeler.learn.engines import BATCH
from heeler.learn.features import feature_engine
from heeler.learn.schedule import layer_groups
from heeler.learn.stages import last_groups
from heeler.learn.team import Team
from heeler.learn.worker import Worker, training_precision
from heeler.plans import Recipe
from heeler.records import ignore_events
from processes import machine, pin_to_cores, warn_if_busy

N_PHOTOS, N_WARM, N_TIMED = 128, 2, 9
BACKBONE = "tf_efficientnet_lite0"
# All layers, the last four stages, the last two.
DEPTHS = (0, 4, 2)


def rate_of(step: Callable[[int], None], n_photos: int) -> float:
    """Photos a second: the median of repeated steps."""
    seconds = []
    for number in range(N_WARM + N_TIMED):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    return n_photos / statistics.median(seconds[N_WARM:])


def step_rate(backbone: Backbone, rows: Rows, last_stages: int) -> float:
    """Photos a second of training, augmentation included, as ``heeler train --minutes`` does it."""
    recipe = Recipe(last_stages=last_stages or 2, last_views=bool(last_stages))
    accelerator = Accelerator(mixed_precision=training_precision())
    model = copy.deepcopy(backbone.model).to(memory_format=torch.channels_last)
    labels = torch.zeros(N_PHOTOS, dtype=torch.int64)
    worker = Worker(accelerator, Team(), model, rows, labels, backbone.spec, recipe, ignore_events)
    places = np.arange(N_PHOTOS)
    if last_stages:
        worker.divide(places, places[:0], float("inf"))
    worker.begin(last_groups(model, last_stages) if worker.is_divided else layer_groups(model), learns_norms=False)
    n = worker.batch_size
    batches = [places[start : start + n] for start in range(0, N_PHOTOS, n)]

    def learn(number: int) -> None:
        worker.gradient(batches[number % len(batches)], number)

    with allocator.kept():
        rate = rate_of(learn, n)
    worker.close()
    return rate


def forward_rates(backbone: Backbone, rows: Rows) -> tuple[float, float, str]:
    """Photos a second of a forward pass by torch in the precision that trains, and by the fastest engine; its name."""
    model = copy.deepcopy(backbone.model).to(memory_format=torch.channels_last).eval()
    px = backbone.spec.image_px
    batch = torch.zeros(BATCH, 3, px, px).to(memory_format=torch.channels_last)
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=training_precision() == "bf16")

    def forward(_: int) -> None:
        with torch.inference_mode(), bf16:
            model(batch)

    engine = feature_engine(backbone, backbone.spec, rows)
    with allocator.kept():
        plain = rate_of(forward, BATCH)
    return plain, engine.rate_per_s, f"{engine.name} {engine.precision}"


def main() -> int:
    """Time what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, nargs="+", default=[160, 192, 224, 288], help="sides [160 192 224 288]")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (Linux) [2]")
    given = parser.parse_args()
    n_cores = pin_to_cores(given.cores)
    torch.set_num_threads(n_cores)
    warn_if_busy()
    print(", ".join(f"{name} {value}" for name, value in machine(n_cores).items()), end="\n\n")
    print("| px | all layers | last 4 stages | last 2 | a third of torch's forward pass | of the fastest engine's |")
    print("|---|---|---|---|---|---|")
    for px in given.px:
        backbone = load_backbone(BACKBONE, image_px=px)
        noise = np.random.default_rng(0).integers(0, 255, (N_PHOTOS, px, px, 3), np.uint8)
        rows = Rows((noise,), np.zeros(N_PHOTOS, np.int64), np.arange(N_PHOTOS), ())
        steps = " | ".join(f"{step_rate(backbone, rows, depth):.0f}" for depth in DEPTHS)
        plain, fast, engine = forward_rates(backbone, rows)
        print(f"| {px} | {steps} | {plain / 3:.0f} | {fast / 3:.0f} ({engine}) |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
