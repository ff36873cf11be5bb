"""What the tests of the tuning share: a network of a second, photos for it, and arithmetic that can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate.state import AcceleratorState

from conftest import SCENES, scene
from heeler.data.rows import Rows, RowStore
from heeler.learn import worker
from heeler.records import Preprocessing

PX = 64
SPEC = Preprocessing(image_px=PX)
N_EACH = 12
N_CLASSES = len(SCENES)
LABELS = np.repeat(np.arange(N_CLASSES), N_EACH)
VALID = np.arange(0, len(LABELS), 4)
TRAIN = np.setdiff1d(np.arange(len(LABELS)), VALID)


def store(folder: Path) -> Rows:
    """Twelve pieces of each of four real photos, class after class; made once for each folder."""
    rows = RowStore(folder, (PX, PX, 3), "uint8")
    names = [f"{label}{number}" for label in SCENES for number in range(N_EACH)]
    if names[0] not in rows:
        with rows.writer() as writer:
            for label in SCENES:
                for number in range(N_EACH):
                    photo = scene(label, number).resize((PX, PX)).convert("RGB")
                    writer.append([f"{label}{number}"], np.asarray(photo)[None])
    return rows.view(names)


def network(seed: int = 0, **options: Any) -> Any:
    """A small EfficientNet with batch normalisation and random weights; its head gives every class the same logit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("test_efficientnet", num_classes=N_CLASSES, **options).eval()
    torch.nn.init.zeros_(model.get_classifier().weight)
    torch.nn.init.zeros_(model.get_classifier().bias)
    return model


@contextmanager
def exact() -> Iterator[None]:
    """A machine without fast bf16 and one thread: sums differ by their order alone."""
    n_threads = torch.get_num_threads()
    AcceleratorState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "has_fast_bf16", lambda: False)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            AcceleratorState._reset_state()


def difference(one: Any, other: Any) -> float:
    """The largest difference of two networks' weights and statistics."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return max(float((value.double() - second[key].double()).abs().max()) for key, value in first.items())
