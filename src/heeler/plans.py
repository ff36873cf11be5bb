"""What a run is asked to do, and what it means to do with its minutes: frozen records that travel between the rooms."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from heeler.records import Fit, short_hash

Augment = Literal["photo", "overhead", "document", "none"]


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune: ``epochs`` of all layers, or, where there are none, for ``budget_s``.

    Args:
        epochs: passes over the photos with all layers training; more than 0 is the fixed recipe.
        frozen_epochs: passes before them with the head alone; the fixed recipe only.
        batch_size: photos of one step; None lets the device choose.
        lr: the head's peak rate; None lets the recipe choose.
        augment: a preset of ``learn.augment``.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).
        seed: of all that chance decides.
        budget_s: seconds of the whole tuning, judging included; 0 is no timed run.
        max_epochs: a timed run ends after so many passes, if its time has not; 0 is no limit.
        train_px: side of the photos in training, in pixels; 0 is the side that they are judged at.
        bn: whether batch normalisation keeps its statistics (``inference``) or learns them anew (``training``).
        ema_decay: of the running average of the weights, in [0, 1); 0 is off, None is 0.99 in timed runs, else off.
        mixup: photos are mixed in pairs, by shares drawn from Beta(mixup, mixup); 0 is off.
        last_views: the first stages are computed once for so many views of each photo, and only the last ones train;
            0 trains all layers.
        last_stages: how many stages of the network the last ones are.
        last_s: seconds of ``budget_s`` for these, after which all layers train; 0 is all of them.
    """

    epochs: int = 0
    frozen_epochs: int = 1
    batch_size: int | None = None
    lr: float | None = None
    augment: Augment = "photo"
    label_smoothing: float = 0.1
    seed: int = 42
    budget_s: float = 0.0
    max_epochs: int = 0
    train_px: int = 0
    bn: Literal["inference", "training"] = "inference"
    ema_decay: float | None = None
    mixup: float = 0.0
    last_views: int = 0
    last_stages: int = 2
    last_s: float = 0.0


# CSV of folder and class, or the pairs themselves; an empty class drops the folder.
LabelMap = Path | tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose; every field has the default of ``heeler train``.

    Args:
        out: run folder to make; ``runs/<source's name>-<n>`` where None.
        labels: CSV, or (folder, class) pairs, that rename, merge or drop class folders.
        fixes: ``fixes.csv`` of an earlier run or check, whose decisions are applied.
        nested: the class is the whole path below the source, not its first level.
        test: share of the photos to keep for the headline figure, in [0, 1).
        valid: share of the rest to keep for choosing, in (0, 1).
        seed: of the split and of training.
        group_by: a column of the CSV, or a regex on the path; photos of one group stay in one part.
        minutes: how long the run may take; None where the recipe's epochs decide.
        backbone: timm's name of the network; None lets the plan choose among the embedded ones.
        weights: safetensors file with its pretrained weights, in place of the embedded or the hub's.
        image_px: side of the network's input in pixels; None lets the plan choose, or the backbone.
        fit: how a photo becomes a square; None lets the plan choose.
        alpha: colour behind transparent pixels, 8-bit RGB.
        recipe: fine-tuning. Epochs make it a fixed recipe, whatever the minutes; 0 of them without minutes leave the
            probe.
        resume: go on with the run that the same command began.
        command: the words of the command line, for the report.
    """

    out: Path | None = None
    labels: LabelMap | None = None
    fixes: Path | None = None
    nested: bool = False
    test: float = 0.2
    valid: float = 0.1
    seed: int = 42
    group_by: str | None = None
    minutes: float | None = 5.0
    backbone: str | None = None
    weights: Path | None = None
    image_px: int | None = None
    fit: Fit | None = None
    alpha: tuple[int, int, int] = (255, 255, 255)
    recipe: Recipe = field(default_factory=Recipe)
    resume: bool = False
    command: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names what decides the result: a run goes on only under the same."""
        return short_hash(
            {
                **asdict(replace(self, out=None, resume=False, command=())),
                "weights": str(self.weights),
                "labels": str(self.labels),
                "fixes": str(self.fixes),
            }
        )

    @property
    def budget_s(self) -> float:
        """Seconds that the run may take; 0 where a fixed recipe decides."""
        return 0.0 if self.minutes is None or self.recipe.epochs else 60 * self.minutes

    def from_anywhere(self) -> TrainOptions:
        """The same with files named absolutely, so that they are found from another folder too."""
        files: dict[str, Any] = {
            name: value.absolute() for name, value in vars(self).items() if isinstance(value, Path)
        }
        return replace(self, **files)

    def to_json(self) -> dict[str, Any]:
        """What ``options_from_json`` reads back equal, but for ``out``, ``resume`` and ``command``."""
        plain = asdict(replace(self, out=None, resume=False, command=()))
        return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}


def options_from_json(value: dict[str, Any]) -> TrainOptions:
    """Options that ``TrainOptions.to_json`` wrote."""
    labels, fixes, weights = value["labels"], value["fixes"], value["weights"]
    return TrainOptions(
        **{
            **value,
            "labels": Path(labels) if isinstance(labels, str) else labels and tuple(map(tuple, labels)),
            "fixes": fixes and Path(fixes),
            "weights": weights and Path(weights),
            "alpha": tuple(value["alpha"]),
            "command": (),
            "recipe": Recipe(**value["recipe"]),
        }
    )


@dataclass(frozen=True)
class Setting:
    """What the frozen pass looks at photos with: the network, the side of its input, and how a photo fills it."""

    backbone: str
    image_px: int
    fit: Fit

    def __str__(self) -> str:
        return f"{self.backbone.removeprefix('tf_')}, {self.image_px} px, {self.fit}"


@dataclass(frozen=True)
class Trial:
    """A setting tried on a sample of the photos that train.

    Args:
        setting: what was tried.
        n_photos: size of the sample.
        error: of a linear head on its features, out of fold, in [0, 1].
        loss: the same head's loss in nats after temperature; what settings are compared by.
        rate_per_s: photos whose features are computed in a second.
        by_chance: standard error of the loss's difference to the first trial's, photo by photo; 0 of the first itself.
    """

    setting: Setting
    n_photos: int
    error: float
    loss: float
    rate_per_s: float
    by_chance: float = 0.0


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan: a stage, the seconds it should take, and why it is there."""

    name: str
    seconds: float
    why: str


@dataclass(frozen=True)
class Rates:
    """What this machine does with these photos, as a calibration timed it.

    Args:
        base: the setting that was timed.
        decode_per_s: photos read, decoded and kept in a second.
        known: share of the photos whose pixels at ``base`` are kept, from an earlier run or as they were timed, in
            [0, 1]; they cost nothing.
        forward_per_s: photos whose features are computed in a second at ``base``.
        view_per_s: photos whose first stages are computed in a second at ``base``; 0 where a network is not divided.
        step_per_s: photos learnt from in a second at ``base``, by the layers that tuning trains.
        fit_per_s: floating-point operations a second of the linear head.
        engine_s: seconds that a network takes before its first photo.
        exact_work: work of a photo in fp32, in which tuned networks are judged, against that of its features.
        restraint: share of the usual learning rates that the last stages bear, in (0, 1]; see ``first_restraint``.
    """

    base: Setting
    decode_per_s: float
    known: float
    forward_per_s: float
    view_per_s: float
    step_per_s: float
    fit_per_s: float
    engine_s: float
    exact_work: float
    restraint: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What a run will do with its minutes.

    Args:
        budget_s: seconds that the run may take.
        first: setting that every photo is read at.
        candidates: other settings that are tried on a sample; the best becomes the frozen pass.
        n_found: photos there are.
        n_read: photos that are read: fewer where the budget is too short for all.
        n_sample: photos that each candidate is tried on.
        judged: share of the photos that a tuned network is judged on, in [0, 1].
        rates: what it was computed from.
        stages: what takes how long, in order.
        may_tune: whether there are photos to judge a tuned network by.
        chosen: setting of the frozen pass, once it is known.
        tune_s: seconds for tuning, once they are known.
    """

    budget_s: float
    first: Setting
    candidates: tuple[Setting, ...]
    n_found: int
    n_read: int
    n_sample: int
    judged: float
    rates: Rates
    stages: tuple[PlannedStage, ...]
    may_tune: bool = True
    chosen: Setting | None = None
    tune_s: float | None = None

    def seconds_of(self, name: str) -> float:
        """What the plan gives to a stage."""
        return sum(stage.seconds for stage in self.stages if stage.name == name)

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler plan --json`` prints."""
        return asdict(self)


def plan_from_json(value: dict[str, Any]) -> Plan:
    """A plan that ``Plan.to_json`` wrote."""
    rates = value["rates"]
    return Plan(
        **{
            **value,
            "first": Setting(**value["first"]),
            "candidates": tuple(Setting(**each) for each in value["candidates"]),
            "rates": Rates(**{**rates, "base": Setting(**rates["base"])}),
            "stages": tuple(PlannedStage(**each) for each in value["stages"]),
            "chosen": Setting(**value["chosen"]) if value["chosen"] else None,
        }
    )
