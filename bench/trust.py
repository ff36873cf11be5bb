"""Whether what the report promises holds on real photos: probabilities, answers only where sure, the learning curve.

    python bench/trust.py --bench PHOTOS [--sets clothing imagewoof] [--seeds 8]

PHOTOS has a folder for each set. Only the last layer is trained, on parts drawn anew for each seed: 72 % train, 8 %
choose, 20 % test. The curve is fitted to half of the photos that train, and compared with what all of them came to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from heeler.clock import Clock
from heeler.judge.certainty import coverage, threshold_for
from heeler.judge.prospects import look_ahead, points_of
from heeler.judge.scores import calibration_error, fit_temperature, softmax
from heeler.learn.choose import load_look
from heeler.learn.costs import CURVE_SHARES
from heeler.learn.probe import class_order, fit_probe
from heeler.photos import list_files, read_and_split
from heeler.plans import TrainOptions
from heeler.records import FloatArray, IntArray
from heeler.train import all_features

TARGETS = (0.9, 0.95, 0.98)


def features_of(folder: Path) -> tuple[FloatArray, IntArray]:
    """Features (N, D) and labels (N,) of a set, from the cache where they are there."""
    options, clock = TrainOptions(minutes=None), Clock(lambda _: None)
    look = load_look("tf_efficientnet_lite0", None, "crop", weights=None, alpha=(255, 255, 255))
    photos = read_and_split(list_files(folder, options, clock), look.spec, options, clock)
    return all_features(photos, look, clock)[0], photos.labels


def certainty_line(features: FloatArray, labels: IntArray, seed: int) -> str:
    """Calibration error before and after temperature, and what answers came to where an accuracy was promised."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test, valid, train = np.split(order, [len(order) // 5, len(order) // 5 + round(0.08 * len(order))])
    head = fit_probe(features[train], labels[train], int(labels.max()) + 1, np.arange(len(train)) % 5).head
    on_valid, on_test = head.logits(features[valid]), head.logits(features[test])
    temperature = fit_temperature(on_valid, labels[valid])
    before, after = (calibration_error(softmax(on_test, t), labels[test]) for t in (1.0, temperature))
    words = []
    for target in TARGETS:
        threshold = threshold_for(softmax(on_valid, temperature), labels[valid], target)
        if threshold is None:
            words.append(f"{target:.0%}: not promised")
            continue
        found = coverage(softmax(on_test, temperature), labels[test], [threshold])[0]
        words.append(f"{target:.0%}: {found.accuracy:.1%} of {found.share:.0%}")
    return f"seed {seed}: ECE {before:.4f}, after temperature {after:.4f}; {'; '.join(words)}"


def curve_line(features: FloatArray, labels: IntArray, seed: int) -> str:
    """What half of the photos led to expect of all of them, and what all came to."""
    order, n_classes = class_order(labels, seed), int(labels.max()) + 1
    judged, train = order[::4], np.delete(order, np.s_[::4])
    truth = labels[judged]
    everything = fit_probe(features[train], labels[train], n_classes, np.arange(len(train)) % 5).head
    came = float((everything.logits(features[judged]).argmax(1) != truth).mean())
    half = train[: len(train) // 2]
    probe = fit_probe(features[half], labels[half], n_classes, np.arange(len(half)) % 5, shares=CURVE_SHARES)
    heads = [*probe.smaller, (len(half), probe.head)]
    points = points_of([n for n, _ in heads], [head.logits(features[judged]) for _, head in heads], truth)
    outlook = look_ahead(points)
    if outlook is None:
        return f"seed {seed}: too few points"
    low, high = outlook.interval
    expected = f"expected {outlook.then:.1%} ({low:.1%} to {high:.1%})"
    return f"seed {seed}: {len(half):,} photos {outlook.now:.1%}, twice as many {expected}, came to {came:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["clothing", "imagewoof"])
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    for name in options.sets:
        features, labels = features_of(options.bench / name)
        print(f"{name}, {len(labels):,} photos")
        for seed in range(options.seeds):
            print(certainty_line(features, labels, seed), flush=True)
        for seed in range(options.seeds):
            print(curve_line(features, labels, seed), flush=True)


if __name__ == "__main__":
    main()
