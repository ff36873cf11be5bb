"""Seconds on the user's own photos and machine: how fast it decodes, computes features, fits a head and trains."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from heeler.data.pixels import count_known, decoding_per_s, read_photos
from heeler.learn.augment import augment_pixels
from heeler.learn.backbone import Backbone
from heeler.learn.engines import Engine, has_fast_bf16
from heeler.learn.fast_steps import FastSteps, norms_of
from heeler.learn.features import feature_engine
from heeler.learn.memory import is_out_of_memory
from heeler.learn.stages import FirstStages, is_divisible, last_stages
from heeler.learn.team import n_launched
from heeler.learn.worker import GPU_BATCH_SIZE, in_training
from heeler.plans import Rates, Recipe, Setting
from heeler.records import Catalogue, Preprocessing, ignore_events

# Photos decoded to time the reading: a few first, so that large ones do not take long; more where those were quick.
FEW, MORE, MANY = 16, 96, 384
QUICK_S = 0.25
# Photos looked up, unopened, to tell what an earlier run has read.
N_LOOKED_UP = 400
# One product of the size that the head's fit is made of, and how much of its speed the fits of the probe reach: the
# choice of the penalty, and once more with the photos that choose.
FIT_SHAPE = (2048, 1280, 50)
N_PRODUCTS = 19
FIT_EFFICIENCY = 0.55
# Reading is never taken to be faster than this.
MOST_PER_S = 5000.0
UNTIMED_PER_S = 100.0
# How many times as fast the features' engine is in bf16 as the one that judges in fp32: Lite0, 714 and 396 photos/s.
BF16_GAIN = 1.8
# Steps that are timed, the fastest of them counts, and photos of each on a CPU: few, and where these were quick, more.
# On a GPU it is as many as training takes.
N_STEPS, N_TRIED, N_STEPPED = 2, 2, 16


def calibrate(catalogue: Catalogue, backbone: Backbone, spec: Preprocessing) -> tuple[Rates, Engine | None]:
    """Time this machine on some of the photos of a run.

    Args:
        catalogue: as listed; photos spread over all of it are read.
        backbone: whose features are timed.
        spec: how its photos are prepared.

    Returns:
        The rates, and the engine that was picked on the way; None where no photo of the sample can be read.
    """
    usable = catalogue.usable
    looked_up = _some(catalogue, min(len(usable), N_LOOKED_UP), 1)
    known = count_known(looked_up, spec) / len(looked_up.usable)
    decode_per_s, rows = 0.0, None
    decoding_per_s(_some(catalogue, min(len(usable), 1), 0), spec)  # sets up what decodes: half a second, at times
    for n_photos in (FEW, MORE, MANY):
        start = time.perf_counter()
        _, pixels = read_photos(_some(catalogue, min(len(usable), n_photos), 0), spec, ignore_events)
        seconds = time.perf_counter() - start
        rows = pixels.rows
        if pixels.n_decoded >= FEW // 2:
            decode_per_s = pixels.n_decoded / seconds
        if seconds > QUICK_S:
            break
    if not decode_per_s:  # an earlier run read these photos: other pixels of them would still be decoded
        decode_per_s = decoding_per_s(_some(catalogue, min(len(usable), FEW), 0), spec)
    known += (1 - known) * min(1.0, n_photos / len(usable))  # the sample is kept
    start = time.perf_counter()
    engine = feature_engine(backbone, spec, rows) if rows is not None and len(rows) else None
    engine_s = time.perf_counter() - start
    forward_per_s = engine.rate_per_s if engine else UNTIMED_PER_S
    base = Setting(backbone.name, spec.image_px, spec.fit)
    view_per_s, step_per_s = tuning_rates(backbone.model, spec, forward_per_s, Recipe().last_stages)
    rates = Rates(
        base=base,
        decode_per_s=min(decode_per_s, MOST_PER_S),
        known=known,
        forward_per_s=forward_per_s,
        view_per_s=view_per_s,
        step_per_s=step_per_s,
        fit_per_s=_fit_per_s(),
        engine_s=engine_s,
        exact_work=1.0 if engine is None or engine.precision == "fp32" else BF16_GAIN,
    )
    return rates, engine


def _some(catalogue: Catalogue, n_photos: int, seed: int) -> Catalogue:
    """A catalogue of some of the photos, drawn from all of it."""
    usable = catalogue.usable
    drawn = np.random.default_rng(seed).permutation(len(usable))[:n_photos]
    return replace(catalogue, photos=tuple(usable[i] for i in sorted(drawn.tolist())))


def _fit_per_s() -> float:
    """Floating-point operations a second of the head's fit, all cores."""
    n, d, k = FIT_SHAPE
    features, weights = torch.ones(n, d), torch.ones(d, k)
    seconds = []
    for _ in range(N_PRODUCTS):
        start = time.perf_counter()
        features @ weights
        seconds.append(time.perf_counter() - start)
    # The first ones wake the other cores up: six in a row gave 23 to 80 billion on the same machine.
    return FIT_EFFICIENCY * 2 * n * d * k / statistics.median(seconds)


def tuning_rates(model: Any, spec: Preprocessing, forward_per_s: float, n_last: int) -> tuple[float, float]:
    """Photos a second that tuning takes: for the first stages of a view, and for a step of what is trained.

    Args:
        model: timm network with a head, on the CPU or about to be tuned on a graphics card.
        spec: the preprocessing before it.
        forward_per_s: photos a second of the whole network in the engine that will compute its first stages.
        n_last: stages that train where the network is divided.

    Returns:
        The two rates; the first is 0 where all layers train.
    """
    cuda = torch.cuda.is_available()
    net = (
        copy.deepcopy(model)
        .to("cuda" if cuda else "cpu", memory_format=torch.channels_last)
        .eval()
        .requires_grad_(True)
    )
    divided = not cuda and n_launched() == 1 and is_divisible(net)
    view_per_s = 0.0
    if divided:
        view_per_s = 1 / (1 / forward_per_s + _augment_s(spec) / N_STEPPED)
    n_trained = n_last if divided else 0
    step_per_s = _steps_per_s(net, spec, GPU_BATCH_SIZE if cuda else N_TRIED, n_trained)
    if not cuda and step_per_s * QUICK_S > N_TRIED:
        step_per_s = _steps_per_s(net, spec, N_STEPPED, n_trained)
    return view_per_s, n_launched() * step_per_s  # where the network is divided, there is one process


def _augment_s(spec: Preprocessing) -> float:
    """Seconds to change ``N_STEPPED`` photos."""
    squares, best_s = np.zeros((N_STEPPED, spec.image_px, spec.image_px, 3), np.uint8), math.inf
    for _ in range(1 + N_STEPS):  # the first sets up the operations
        start = time.perf_counter()
        augment_pixels(squares, "photo", seed=0, out_px=spec.image_px)
        best_s = min(best_s, time.perf_counter() - start)
    return best_s


def _steps_per_s(net: Any, spec: Preprocessing, n_photos: int, n_last: int) -> float:
    """Photos a second in steps of so many, or of as many as memory has room for; all layers where ``n_last`` is 0."""
    while True:
        try:
            return n_photos / _step_s(net, spec, n_photos, n_last)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or n_photos == 1:
                raise
        n_photos //= 2


def _step_s(net: Any, spec: Preprocessing, n_photos: int, n_last: int) -> float:
    """Seconds of a step."""
    device = next(net.parameters()).device
    seen = torch.zeros(n_photos, 3, spec.image_px, spec.image_px, device=device).to(memory_format=torch.channels_last)
    folded = {} if device.type == "cuda" else norms_of(net, seen[:1])
    if n_last:
        with torch.no_grad():
            seen = FirstStages(net, spec, n_last).activations(seen)
    fast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or has_fast_bf16())

    def step() -> None:
        with fast, FastSteps(folded):
            logits = last_stages(net, seen, n_last) if n_last else net(seen)
        logits.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step_s = math.inf
    with in_training(device):
        step()  # sets up the operations
        for _ in range(N_STEPS):
            start = time.perf_counter()
            step()
            step_s = min(step_s, time.perf_counter() - start)
    return step_s
