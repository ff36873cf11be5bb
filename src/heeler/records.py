"""The frozen records that travel between the rooms; no behaviour beyond reading themselves out.

Arrays inside records are numpy arrays that nobody writes to after the record is made. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from heeler.plans import Plan

Fit = Literal["crop", "squash", "pad"]
Part = Literal["train", "valid", "test"]
Status = Literal["ok", "unsure", "unreadable"]
STATUSES: tuple[str, ...] = ("ok", "unsure", "unreadable")
PARTS: tuple[Part, ...] = ("train", "valid", "test")
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """How bytes become the network's input: decode, orient, mode, resize, crop or pad, normalise.

    Args:
        image_px: side of the square input in pixels.
        fit: ``crop`` resizes the short side to ``image_px / crop_pct`` and takes the centre; ``squash`` resizes
            both sides to ``image_px``; ``pad`` resizes the long side to ``image_px`` and fills the rest.
        crop_pct: share of the resized short side that the centre crop keeps, in (0, 1].
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        alpha: colour that transparent pixels are laid on, 8-bit RGB.
    """

    image_px: int = 224
    fit: Fit = "crop"
    crop_pct: float = 0.875
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    alpha: tuple[int, int, int] = (255, 255, 255)

    @property
    def resize_px(self) -> int:
        """Side that the resize aims at, in pixels (rounded as timm does): the short one for ``crop``, else both or the
        long one."""
        return math.floor(self.image_px / self.crop_pct) if self.fit == "crop" else self.image_px

    def pixel_key(self) -> str:
        """Key of everything that decides the uint8 pixels (not std; mean only in padding)."""
        spec = asdict(self)
        del spec["std"]
        if self.fit != "pad":
            del spec["mean"]  # it colours the padding and nothing else
        return short_hash(spec)


@dataclass(frozen=True)
class Photo:
    """One file that was found, and what is known of it.

    ``status`` is ``ok``, ``left_out`` (never opened: hidden, a link out, not a photo's name), ``unreadable`` (opened
    and refused) or ``duplicate`` (same bytes as an earlier photo, counted once). ``path`` is what the user would
    recognise: relative to the source, with forward slashes. ``part`` is set where the source itself says so.
    """

    path: str
    file: Path
    label: str = ""
    part: Part | None = None
    group: str = ""
    sha256: str = ""
    width_px: int = 0
    height_px: int = 0
    format: str = ""
    status: Literal["ok", "left_out", "unreadable", "duplicate"] = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Catalogue:
    """Every file found in a source, in path order, and the source's name for people."""

    source: str
    name: str
    photos: tuple[Photo, ...]

    @property
    def usable(self) -> tuple[Photo, ...]:
        """The photos that training can use, in path order."""
        return tuple(photo for photo in self.photos if photo.status == "ok")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the usable photos, sorted as Python sorts strings."""
        return tuple(sorted({photo.label for photo in self.photos if photo.status == "ok"}))


@dataclass(frozen=True)
class Split:
    """Which usable photo has which job. Indices point into ``Catalogue.usable``.

    ``method`` says where it came from: ``folders`` (or a column of the user's) or ``drawn``.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    method: Literal["folders", "drawn", "mixed"]
    key: str

    def part_of(self) -> list[Part]:
        """The part of each usable photo, in order."""
        parts: list[Part] = ["train"] * (len(self.train) + len(self.valid) + len(self.test))
        held_out: tuple[tuple[Part, IntArray], ...] = (("valid", self.valid), ("test", self.test))
        for part, rows in held_out:
            for row in rows.tolist():
                parts[row] = part
        return parts


@dataclass(frozen=True)
class Head:
    """A linear head: ``logits = features @ weight.T + bias``; weight (K, D) float32, bias (K,) float32."""

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Logits (N, K) float32 of features (N, D) float32."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class Stage:
    """Event: a stage begins. ``total`` is its number of units, ``budget_s`` its seconds; 0 where unknown."""

    name: str
    total: int = 0
    unit: str = "photos"
    budget_s: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Event: ``done`` units of the running stage are finished; losses and errors where the stage has them."""

    done: int
    loss: float | None = None


@dataclass(frozen=True)
class Done:
    """Event: the running stage ended after ``seconds``; ``summary`` is what to tell about it."""

    name: str
    seconds: float
    summary: str = ""


@dataclass(frozen=True)
class Epoch:
    """Event: an epoch of fine-tuning, or what there was time for of one, judged on the validation part.

    Errors are in [0, 1], losses in nats; those of validation after the best temperature. ``epochs`` is an estimate in
    timed runs. ``ema_loss`` and ``ema_error`` are those of the averaged weights, where they are kept; ``best_error`` is
    that of the lowest validation loss so far.
    """

    epoch: int
    epochs: int
    phase: Literal["head", "last", "all"]
    train_loss: float
    valid_loss: float
    valid_error: float
    best_error: float
    seconds: float
    rate_per_s: float
    ema_loss: float | None = None
    ema_error: float | None = None


@dataclass(frozen=True)
class Note:
    """Event: something the user should know; ``level`` is ``info`` or ``warning``."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Planned:
    """Event: what the run will do with its minutes."""

    plan: Plan


Event = Stage | Progress | Done | Epoch | Note | Planned
OnEvent = Callable[[Event], None]


def ignore_events(_: Event) -> None:
    """The listener that nobody gave."""


@dataclass(frozen=True)
class ClassScore:
    """One class, one against the rest. Shares in [0, 1]; support is a count of photos."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class TopLoss:
    """A photo that the model got most wrong: its row in the judged part, given and predicted class, loss in nats."""

    row: int
    path: str
    given: str
    predicted: str
    probability: float
    loss: float


@dataclass(frozen=True)
class Scores:
    """How good a model is on one set of photos.

    Args:
        n: photos judged.
        n_wrong: photos whose most probable class is not the given one.
        error: ``n_wrong / n``, in [0, 1].
        interval: 95 % Wilson interval of the error, (low, high).
        loss: mean negative log-likelihood in nats.
        ece: expected calibration error, 15 bins of equal mass, in [0, 1].
        baseline_error: error of always guessing the largest class.
        per_class: one row for each class, in class order.
        confusion: (K, K) counts, rows given, columns predicted.
        top_losses: the worst photos, worst first.
        estimate: ``test`` (photos kept out of everything) or ``out-of-fold``.

    Example:
        >>> import heeler
        >>> scores = heeler.open_run("runs/photos-1").scores
        >>> scores.n, scores.n_wrong / scores.n == scores.error
        (48, True)
    """

    n: int
    n_wrong: int
    error: float
    interval: tuple[float, float]
    loss: float
    ece: float
    baseline_error: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    top_losses: tuple[TopLoss, ...]
    estimate: Literal["test", "out-of-fold"] = "test"


@dataclass(frozen=True)
class Prediction:
    """What a model says of one photo; one row of ``predictions.csv``.

    Args:
        path: of the photo; empty where it came as bytes, an image or an array.
        status: ``ok``; ``unsure`` where the most probable class is below the model's threshold, which is named all the
            same; or ``unreadable`` for what is no whole photo.
        reason: why it is unreadable.
        ranked: (class, probability), most probable first; probabilities are in [0, 1].
        given: the label that the photo came with, where it had one.

    Example:
        >>> import heeler
        >>> row = heeler.load("runs/photos-1/model").predict("photos/cat/0.jpg")[0]
        >>> row.label, row.probability > 0.5, row.status
        ('cat', True, 'ok')
    """

    path: str
    status: Status
    reason: str = ""
    ranked: tuple[tuple[str, float], ...] = ()
    given: str = ""

    @property
    def label(self) -> str:
        """The most probable class; empty for what is unreadable."""
        return self.ranked[0][0] if self.ranked else ""

    @property
    def probability(self) -> float:
        """That of the most probable class, in [0, 1]; 0 for what is unreadable."""
        return self.ranked[0][1] if self.ranked else 0.0


@dataclass(frozen=True)
class RunResult:
    """What a training run made and how it went; ``seconds`` and ``rates_per_s`` are by stage.

    ``flaws`` counts the problems in ``fixes.csv`` by kind; ``n_test_changed`` the test photos that fixes changed.
    """

    run: Path
    model: Path
    report: Path
    predictions: Path
    chosen: Literal["probe", "tuned"]
    scores: Scores
    n_train: int
    n_valid: int
    n_test: int
    classes: tuple[str, ...]
    temperature: float
    seconds: dict[str, float]
    rates_per_s: dict[str, float]
    notes: tuple[str, ...] = field(default=())
    planned_s: dict[str, float] = field(default_factory=dict)
    flaws: dict[str, int] = field(default_factory=dict)
    n_test_changed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler train --json`` prints."""
        paths = ("model", "report", "predictions", "run")
        plain = ("chosen", "n_train", "n_valid", "n_test", "n_test_changed", "temperature", "flaws")
        return {
            **{name: str(getattr(self, name)) for name in paths},
            **{name: getattr(self, name) for name in plain},
            "fixes": str(self.run / "fixes.csv"),
            "error": self.scores.error,
            "interval": list(self.scores.interval),
            "estimate": self.scores.estimate,
            "classes": list(self.classes),
            "ece": self.scores.ece,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "rates_per_s": {name: round(value, 1) for name, value in self.rates_per_s.items()},
            "planned_s": {name: round(value, 3) for name, value in self.planned_s.items()},
            "notes": list(self.notes),
        }


# Stages of a run that the plan counts as one.
PLANNED_TOGETHER = {
    "list files": "prepare",
    "load backbone": "prepare",
    "calibrate": "prepare",
    "choose engine": "features",
    "time steps": "tune",
    "find flaws": "finish",
    "judge": "finish",
    "predict": "finish",
    "write model": "finish",
    "write report": "finish",
}


def planned_and_actual(result: RunResult) -> dict[str, tuple[float, float]]:
    """Seconds of each planned stage as planned and as it took, and of the whole run."""
    took: dict[str, float] = {}
    for name, seconds in result.seconds.items():
        if name != "total":
            stage = PLANNED_TOGETHER.get(name, name)
            took[stage] = took.get(stage, 0.0) + seconds
    both = {name: (planned, took.get(name, 0.0)) for name, planned in result.planned_s.items()}
    return {**both, "in all": (sum(result.planned_s.values()), result.seconds.get("total", 0.0))}


def short_hash(value: object) -> str:
    """First 16 hex digits of the sha256 of a JSON-able value, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]  # a file's name need not be text
