"""fastai's tutorial recipe on given photos and parts: ``python bench/fastai_recipe.py PHOTOS.csv EPOCHS PX [S [SEED]]``

With 0 epochs and S seconds, it does the most epochs that fit into the seconds; where not even ``fine_tune(1)`` fits,
that on as many of the training photos as do. What fits is timed on a few batches first, outside the seconds: fastai has
no such dial, so it is not charged for ours. The table has the columns ``file,label,part``. One JSON object is printed
last. Everything is fastai's default but the network, which is EfficientNet-Lite0 with the weights that heeler starts
from, normalised as those weights expect.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives learners their fine_tune
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import FuncSplitter, Normalize
from fastai.metrics import error_rate
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner

from heeler.learn.backbone import DEFAULT_BACKBONE, load_backbone

# Batches that each phase is timed on, after so many that set things up.
N_WARM, N_TIMED = 1, 3


@dataclass(frozen=True)
class Row:
    """One photo; no tuple, since fastai would take a tuple apart."""

    file: str
    label: str
    part: str


class BatchClock(Callback):
    """Seconds from each batch's end to the next one's; a fit ends after so many."""

    def __init__(self, n_batches: int) -> None:
        self.n_batches = n_batches
        self._ends: list[float] = []

    def before_epoch(self) -> None:
        """Start the watch."""
        self._start = time.perf_counter()

    def after_batch(self) -> None:
        """Stop it, and start it again."""
        self._ends.append(time.perf_counter())
        if len(self._ends) >= self.n_batches:
            raise CancelFitException

    @property
    def step_s(self) -> float:
        """Seconds of a batch once things are set up."""
        ends = self._ends[N_WARM - 1 :]
        return statistics.median(end - start for start, end in pairwise(ends))

    @property
    def start_s(self) -> float:
        """Seconds that the first batch takes more than another: the loader's processes start."""
        return max(0.0, self._ends[0] - self._start - self.step_s)


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


@dataclass(frozen=True)
class Job:
    """What to do: ``n_epochs`` of all layers, or, where that is 0, what fits into ``seconds``."""

    n_epochs: int
    image_px: int
    seconds: float
    seed: int


def fine_tune(rows: list[Row], job: Job, folder: Path) -> dict[str, Any]:
    """Train as the tutorial does and judge the test part.

    Args:
        rows: the photos; part ``valid`` picks the best epoch, ``test`` is judged once.
        job: how long, how large, which seed.
        folder: for the best epoch's weights.

    Returns:
        ``n`` and ``n_wrong`` of the test part, ``epoch_s``, ``epochs``, ``n_train``, and ``seconds`` without imports
        and the timing of batches.
    """
    start = time.perf_counter()
    set_seed(job.seed, reproducible=True)
    backbone = load_backbone(DEFAULT_BACKBONE)
    kept = [row for row in rows if row.part != "test"]
    n_epochs = job.n_epochs
    if not n_epochs:
        timing = time.perf_counter()
        n_epochs, kept = affordable(_learner(kept, job, backbone, folder), kept, rows, job)
        start += time.perf_counter() - timing
    learner = _learner(kept, job, backbone, folder)
    clock = EpochClock()
    learner.fine_tune(n_epochs, cbs=[SaveModelCallback(monitor="error_rate"), clock])
    tested = learner.dls.test_dl([row for row in rows if row.part == "test"], with_labels=True)
    probabilities, labels = learner.get_preds(dl=tested)
    n_wrong = int((probabilities.argmax(1) != labels).sum())
    n_train = sum(row.part == "train" for row in kept)
    seconds = time.perf_counter() - start
    return {
        "n": len(labels), "n_wrong": n_wrong, "epochs": n_epochs, "epoch_s": clock.seconds, "n_train": n_train,
        "seconds": seconds,
    }  # fmt: skip


def affordable(learner: Any, kept: list[Row], rows: list[Row], job: Job) -> tuple[int, list[Row]]:
    """Epochs of all layers that fit into the seconds, and the photos to use; timed on a few batches.

    Args:
        learner: on all the photos; it is trained a little and thrown away.
        kept: photos that train and choose.
        rows: all photos.
        job: with the seconds.
    """
    step_s, starts_s = {}, []
    for phase, prepare in (("head", learner.freeze), ("all", learner.unfreeze)):
        prepare()
        clock = BatchClock(N_WARM + N_TIMED)
        learner.fit(1, cbs=[clock])
        step_s[phase] = clock.step_s / learner.dls.bs
        starts_s.append(clock.start_s)
    n = {part: sum(row.part == part for row in rows) for part in ("train", "valid", "test")}
    # A forward pass is about a third of a step of all layers. An epoch starts two loaders, the test part one.
    judge_s, start_s = step_s["all"] / 3, statistics.mean(starts_s)
    left_s = job.seconds - n["test"] * judge_s - start_s
    valid_s = n["valid"] * judge_s + 2 * start_s
    first_s, epoch_s = (n["train"] * step_s[phase] + valid_s for phase in ("head", "all"))
    n_epochs = int((left_s - first_s) / epoch_s)
    if n_epochs >= 1:
        return n_epochs, kept
    share = max(0.0, left_s - 2 * valid_s) / (n["train"] * (step_s["head"] + step_s["all"]))
    train = [row for row in kept if row.part == "train"]
    random.Random(job.seed).shuffle(train)
    n_train = max(learner.dls.bs, int(share * len(train)))
    # Each class needs a photo, or the classes would be others.
    first_of_class = list({row.label: row for row in train}.values())
    some = first_of_class + [row for row in train if row not in first_of_class][: max(0, n_train - len(first_of_class))]
    return 1, [*some, *(row for row in kept if row.part == "valid")]


def _learner(kept: list[Row], job: Job, backbone: Any, folder: Path) -> Any:
    stats = Normalize.from_stats(backbone.spec.mean, backbone.spec.std)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=_file,
        get_y=_label,
        splitter=FuncSplitter(_is_valid),
        item_tfms=Resize(job.image_px),
        batch_tfms=[*aug_transforms(), stats],
    )
    loaders = block.dataloaders(kept, path=folder)
    learner = vision_learner(loaders, DEFAULT_BACKBONE, normalize=False, pretrained=False, metrics=error_rate)
    state = {key: value for key, value in backbone.model.state_dict().items() if not key.startswith("classifier.")}
    learner.model[0].model.load_state_dict(state)
    return learner


def _file(row: Row) -> str:
    return row.file


def _label(row: Row) -> str:
    return row.label


def _is_valid(row: Row) -> bool:
    return row.part == "valid"


def main() -> int:
    """Read the table, train, print."""
    table, n_epochs, image_px, *more = sys.argv[1:]
    seconds, seed = [*more, *("0", "42")[len(more) :]]
    job = Job(int(n_epochs), int(image_px), float(seconds), int(seed))
    with Path(table).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [Row(row["file"], row["label"], row["part"]) for row in csv.DictReader(file)]
    with tempfile.TemporaryDirectory() as folder:
        printed, sys.stdout = sys.stdout, sys.stderr  # fastai prints its progress where the answer goes
        answer = fine_tune(rows, job, Path(folder))
        sys.stdout = printed
    answer["threads"] = torch.get_num_threads()
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
