"""Features: computed once for each photo, found again under its name, in the order asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from conftest import scene
from heeler.data.rows import Rows, RowStore
from heeler.data.square import fit_square
from heeler.learn.backbone import Backbone, FeatureNet, load_backbone
from heeler.learn.engines import BATCH, MAX_RELATIVE_ERROR, Engine, relative_error, torch_engine
from heeler.learn.features import compute_features, feature_engine, feature_key
from heeler.records import ByteArray, Event, FloatArray, Progress, ignore_events

N_PHOTOS = BATCH + 9


def random_backbone(folder: Path, seed: int) -> Backbone:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / f"{seed}.safetensors")
    return load_backbone("test_efficientnet", weights=folder / f"{seed}.safetensors")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return random_backbone(tmp_path_factory.mktemp("weights"), 0)


@pytest.fixture(scope="module")
def stored(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[RowStore, list[str]]:
    """Real photos as the decoding leaves them, and their names."""
    side = backbone.spec.image_px
    store, names = RowStore(tmp_path_factory.mktemp("pixels"), (side, side, 3), "uint8"), []
    with store.writer() as writer:
        for number in range(N_PHOTOS):
            pixels = fit_square(np.array(scene(("cat", "coffee", "rocket")[number % 3], number)), backbone.spec)
            names.append(hashlib.sha256(pixels.tobytes()).hexdigest())
            writer.append(names[-1:], pixels[None])
    return store, names


@pytest.fixture(scope="module")
def engine(backbone: Backbone) -> Engine:
    return torch_engine(FeatureNet(backbone.model, backbone.spec).eval(), "cpu", "fp32")


@pytest.fixture(scope="module")
def truth(engine: Engine, stored: tuple[RowStore, list[str]]) -> FloatArray:
    store, names = stored
    return next(engine.run([store.view(names).take(range(N_PHOTOS))]))


def counted(engine: Engine) -> tuple[Engine, list[int]]:
    """The engine, and how many photos each call gave it."""
    calls: list[int] = []

    def forward(pixels: ByteArray) -> FloatArray:
        calls.append(len(pixels))
        return engine.forward(pixels)

    return replace(engine, forward=forward), calls


Compute = Callable[..., tuple[FloatArray, int]]


@pytest.fixture
def compute(backbone: Backbone, stored: tuple[RowStore, list[str]], fresh_cache: Path) -> Compute:
    """``compute(engine, order)`` of these photos, in a cache that begins empty."""
    store, names = stored

    def of(engine: Engine, order: list[int], *, backbone: Backbone = backbone) -> tuple[FloatArray, int]:
        wanted = [names[i] for i in order]
        return compute_features(backbone, backbone.spec, store.view(wanted), wanted, engine, ignore_events)

    return of


def test_features_are_the_networks(compute: Compute, engine: Engine, truth: FloatArray) -> None:
    found, n_computed = compute(engine, list(range(N_PHOTOS)))
    assert found.dtype == np.float32
    assert n_computed == N_PHOTOS
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_the_second_time_the_engine_does_not_run(compute: Compute, engine: Engine) -> None:
    first, _ = compute(engine, list(range(N_PHOTOS)))
    counting, calls = counted(engine)
    second, n_computed = compute(counting, list(range(N_PHOTOS)))
    assert (calls, n_computed) == ([], 0)
    np.testing.assert_array_equal(second, first)


def test_order_follows_the_names_and_only_new_photos_are_computed(
    compute: Compute, engine: Engine, truth: FloatArray
) -> None:
    compute(engine, [5, 3, 11])
    counting, calls = counted(engine)
    order = np.random.default_rng(0).permutation(N_PHOTOS).tolist()
    found, n_computed = compute(counting, order)
    assert sum(calls) == n_computed == N_PHOTOS - 3
    np.testing.assert_allclose(found, truth[order], atol=1e-5)


def test_a_photo_named_twice_has_two_equal_rows(compute: Compute, engine: Engine, truth: FloatArray) -> None:
    found, _ = compute(engine, [4, 8, 4])
    np.testing.assert_allclose(found, truth[[4, 8, 4]], atol=1e-5)


def test_what_was_computed_before_a_failure_is_kept(compute: Compute, engine: Engine, truth: FloatArray) -> None:
    def fails_on_the_second_batch(pixels: ByteArray) -> FloatArray:
        if len(pixels) < BATCH:
            raise KeyboardInterrupt
        return engine.forward(pixels)

    with pytest.raises(KeyboardInterrupt):
        compute(replace(engine, forward=fails_on_the_second_batch), list(range(N_PHOTOS)))
    found, n_computed = compute(engine, list(range(N_PHOTOS)))
    assert n_computed == N_PHOTOS - BATCH
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_precisions_and_weights_have_caches_of_their_own(compute: Compute, engine: Engine, tmp_path: Path) -> None:
    some = [0, 1, 2]
    compute(engine, some)
    assert compute(replace(engine, precision="bf16"), some)[1] == 3
    assert compute(engine, some, backbone=random_backbone(tmp_path, 1))[1] == 3
    assert compute(engine, some)[1] == 0


def test_feature_key_names_all_that_features_depend_on(backbone: Backbone) -> None:
    spec = backbone.spec
    specs = [
        spec,
        replace(spec, mean=(0.1, 0.2, 0.3)),
        replace(spec, std=(0.1, 0.2, 0.3)),
        replace(spec, fit="pad"),
        replace(spec, image_px=96),
        replace(spec, crop_pct=0.5),
        replace(spec, interpolation="bilinear"),
    ]
    keys = {feature_key(backbone, one) for one in specs} | {feature_key(replace(backbone, key="other"), spec)}
    assert len(keys) == len(specs) + 1


def test_progress_counts_cached_photos_as_done(
    backbone: Backbone, stored: tuple[RowStore, list[str]], engine: Engine, fresh_cache: Path
) -> None:
    store, names = stored
    compute_features(backbone, backbone.spec, store.view(names[:4]), names[:4], engine, ignore_events)
    events: list[Event] = []
    compute_features(backbone, backbone.spec, store.view(names), names, engine, events.append)
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == [4, 4 + BATCH, N_PHOTOS]


@pytest.mark.parametrize("n", [1, N_PHOTOS])
def test_feature_engine_is_timed_on_the_photos_there_are(
    n: int, backbone: Backbone, stored: tuple[RowStore, list[str]], engine: Engine
) -> None:
    store, names = stored
    rows: Rows = store.view(names[:n])
    picked = feature_engine(backbone, backbone.spec, rows)
    assert picked.rate_per_s > 0
    assert relative_error(picked, engine, rows.take(range(n))) <= MAX_RELATIVE_ERROR
