"""The features of every photo, computed once and kept beside the pixels' cache."""

from __future__ import annotations

import numpy as np

from heeler.data.rows import Rows, RowStore
from heeler.files import cache_root, require_space
from heeler.learn.backbone import Backbone, FeatureNet
from heeler.learn.engines import BATCH, Engine, pick_engine, spread
from heeler.records import FloatArray, OnEvent, Preprocessing, Progress, short_hash


def feature_engine(backbone: Backbone, spec: Preprocessing, rows: Rows) -> Engine:
    """The fastest engine for a backbone's features, timed on some of the photos."""
    sample = rows.take(spread(len(rows)))
    key = short_hash([backbone.key, spec.image_px, spec.mean, spec.std])  # however a photo becomes a square
    return pick_engine(FeatureNet(backbone.model, spec).eval(), key, sample)


def feature_key(backbone: Backbone, spec: Preprocessing) -> str:
    """Names a backbone's weights together with the preprocessing before it."""
    return short_hash([backbone.key, spec.pixel_key(), spec.mean, spec.std])


def known_features(backbone: Backbone, spec: Preprocessing, names: list[str]) -> tuple[FloatArray, str] | None:
    """Features that an earlier run computed, and their precision; None unless it did so for every photo.

    Looked for before an engine is timed: two runs on the same photos then use the same numbers, whichever engine the
    noise of the second would favour.
    """
    for precision in ("bf16", "fp32"):
        store = _store(backbone, spec, precision)
        if all(name in store for name in names):
            view = store.view(names)
            return view.take(np.arange(len(view))), precision
    return None


def compute_features(
    backbone: Backbone,
    spec: Preprocessing,
    rows: Rows,
    names: list[str],
    engine: Engine,
    on_event: OnEvent,
) -> tuple[FloatArray, int]:
    """Features of all photos, from the cache where they were computed before.

    Args:
        backbone: whose features.
        spec: the preprocessing that made the rows.
        rows: N squares (S, S, 3) uint8.
        names: the sha256 of each photo.
        engine: as ``feature_engine`` picked it; its precision is part of the cache's key.
        on_event: told of progress, one unit a photo.

    Returns:
        Features (N, D) float32, and how many of them were computed now.
    """
    store = _store(backbone, spec, engine.precision)
    missing = np.array([i for i, name in enumerate(names) if name not in store], dtype=np.int64)
    require_space(store.folder, len(missing) * store.row_bytes)
    done = len(names) - len(missing)
    on_event(Progress(done))
    with store.writer() as writer:
        batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
        squares = (rows.take(batch) for batch in batches)
        for wanted, outputs in zip(batches, engine.run(squares, on_event), strict=True):
            writer.append([names[i] for i in wanted], outputs)
            done += len(wanted)
            on_event(Progress(done))
    view = store.view(names)
    return view.take(np.arange(len(view))), len(missing)


def _store(backbone: Backbone, spec: Preprocessing, precision: str) -> RowStore:
    folder = cache_root() / "features" / f"{feature_key(backbone, spec)}-{precision}"
    return RowStore(folder, (backbone.n_features,), "float32")
