"""fastai's tutorial recipe on given photos and parts: ``python bench/fastai_recipe.py PHOTOS.csv EPOCHS PX``.

The table has the columns ``file,label,part``. One JSON object is printed last. Everything is fastai's default but the
network, which is EfficientNet-Lite0 with the weights that heeler starts from, normalised as those weights expect.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives learners their fine_tune
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import FuncSplitter, Normalize
from fastai.metrics import error_rate
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner

from heeler.learn.backbone import DEFAULT_BACKBONE, load_backbone


@dataclass(frozen=True)
class Row:
    """One photo; no tuple, since fastai would take a tuple apart."""

    file: str
    label: str
    part: str


class EpochClock(Callback):
    """Seconds of each epoch, its validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def before_epoch(self) -> None:
        """Start the watch."""
        self._start = time.perf_counter()

    def after_epoch(self) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)


def fine_tune(rows: list[Row], n_epochs: int, image_px: int, folder: Path) -> dict[str, Any]:
    """Train as the tutorial does and judge the test part.

    Args:
        rows: the photos; part ``valid`` picks the best epoch, ``test`` is judged once.
        n_epochs: epochs of all layers, after one of the head alone.
        image_px: side of the square that ``Resize`` cuts.
        folder: for the best epoch's weights.

    Returns:
        ``n`` and ``n_wrong`` of the test part, ``epoch_s``, and ``epochs``.
    """
    set_seed(42, reproducible=True)
    backbone = load_backbone(DEFAULT_BACKBONE)
    stats = Normalize.from_stats(backbone.spec.mean, backbone.spec.std)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=_file,
        get_y=_label,
        splitter=FuncSplitter(_is_valid),
        item_tfms=Resize(image_px),
        batch_tfms=[*aug_transforms(), stats],
    )
    loaders = block.dataloaders([row for row in rows if row.part != "test"], path=folder)
    learner = vision_learner(loaders, DEFAULT_BACKBONE, normalize=False, pretrained=False, metrics=error_rate)
    state = {key: value for key, value in backbone.model.state_dict().items() if not key.startswith("classifier.")}
    learner.model[0].model.load_state_dict(state)
    clock = EpochClock()
    learner.fine_tune(n_epochs, cbs=[SaveModelCallback(monitor="error_rate"), clock])
    probabilities, labels = learner.get_preds(
        dl=loaders.test_dl([row for row in rows if row.part == "test"], with_labels=True)
    )
    n_wrong = int((probabilities.argmax(1) != labels).sum())
    return {"n": len(labels), "n_wrong": n_wrong, "epochs": n_epochs, "epoch_s": clock.seconds}


def _file(row: Row) -> str:
    return row.file


def _label(row: Row) -> str:
    return row.label


def _is_valid(row: Row) -> bool:
    return row.part == "valid"


def main() -> int:
    """Read the table, train, print."""
    table, n_epochs, image_px = sys.argv[1:]
    with Path(table).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [Row(row["file"], row["label"], row["part"]) for row in csv.DictReader(file)]
    with tempfile.TemporaryDirectory() as folder:
        printed, sys.stdout = sys.stdout, sys.stderr  # fastai prints its progress where the answer goes
        answer = fine_tune(rows, int(n_epochs), int(image_px), Path(folder))
        sys.stdout = printed
    answer["threads"] = torch.get_num_threads()
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
