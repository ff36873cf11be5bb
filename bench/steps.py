"""What is measured from the inside: ``python bench/steps.py ENGINE STEP ...`` does one thing and prints a JSON object.

ENGINE ``core`` makes OpenVINO look as if it were not installed, as in a plain ``pip install heeler``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

N_HEAD_PHOTOS = 7220
N_FOLDS = 5


def decode(source: str) -> dict[str, Any]:
    """Read, hash, decode, resize and keep every photo of a folder."""
    import torch  # noqa: F401 - its import is no part of the decoding

    from heeler.data.catalogue import read_source
    from heeler.data.pixels import read_photos
    from heeler.learn.backbone import DEFAULT_BACKBONE, load_backbone
    from heeler.records import ignore_events

    spec = load_backbone(DEFAULT_BACKBONE).spec
    start = time.perf_counter()
    _, pixels = read_photos(read_source(Path(source)), spec, ignore_events)
    seconds = time.perf_counter() - start
    return {"n": len(pixels.rows), "n_decoded": pixels.n_decoded, "seconds": seconds}


def features(source: str) -> dict[str, Any]:
    """Compute the features of every photo of a folder; the pixels are in the cache or are put there first."""
    _, _, facts = _features(source)
    return facts


def head(source: str) -> dict[str, Any]:
    """Fit the linear head on the features of 7,220 photos: its penalty, its out-of-fold probabilities, itself."""
    import numpy as np

    from heeler.learn.probe import fit_probe

    values, names, _ = _features(source)
    rows = np.random.default_rng(0).permutation(len(values))[:N_HEAD_PHOTOS]
    classes = sorted(set(names))
    labels = np.array([classes.index(names[row]) for row in rows], dtype=np.int64)
    folds = np.arange(len(rows), dtype=np.int64) % N_FOLDS
    start = time.perf_counter()
    probe = fit_probe(values[rows], labels, len(classes), folds)
    seconds = time.perf_counter() - start
    error = float((probe.logits.argmax(1) != labels).mean())
    return {
        "seconds": seconds,
        "n": len(rows),
        "n_features": values.shape[1],
        "n_classes": len(classes),
        "error": error,
        "penalty": probe.penalty,
    }


def _features(source: str) -> tuple[Any, list[str], dict[str, Any]]:
    from heeler.data.catalogue import read_source
    from heeler.data.pixels import read_photos
    from heeler.learn.backbone import DEFAULT_BACKBONE, load_backbone
    from heeler.learn.features import compute_features, feature_engine
    from heeler.records import ignore_events

    backbone = load_backbone(DEFAULT_BACKBONE)
    catalogue, pixels = read_photos(read_source(Path(source)), backbone.spec, ignore_events)
    engine = feature_engine(backbone, backbone.spec, pixels.rows)
    keys = [photo.sha256 for photo in catalogue.usable]
    start = time.perf_counter()
    values, n_computed = compute_features(backbone, backbone.spec, pixels.rows, keys, engine, ignore_events)
    seconds = time.perf_counter() - start
    facts = {"n": n_computed, "seconds": seconds, "engine": engine.name, "precision": engine.precision}
    return values, [photo.label for photo in catalogue.usable], facts


def main() -> int:
    """Do the step that the command line names."""
    engine, step, *args = sys.argv[1:]
    if engine == "core":
        # None is Python's own mark for "not to be found"; heeler then acts as if it were not installed.
        sys.modules["openvino"] = None  # type: ignore[assignment]
    if step == "heeler":
        from heeler.cli import run

        sys.argv = ["heeler", *args]
        return run()
    steps = {"decode": decode, "features": features, "head": head}
    print(json.dumps(steps[step](*args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
