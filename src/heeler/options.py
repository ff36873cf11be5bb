"""What can be typed after a verb: the name, the range and the help of each option. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from heeler.errors import UsageError
from heeler.limits import LIMITS

Number = TypeVar("Number", int, float, None)


def between(low: float, high: float) -> Callable[[Number], Number]:
    """A callback that refuses numbers outside [low, high], "nan" too, and names the number."""

    def check(value: Number) -> Number:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not between {low:.12g} and {high:.12g}")
        return value

    return check


def parse_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of a colour written as ``#ffffff``.

    Raises:
        UsageError: the text is no such colour.
    """
    found = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    if not found:
        raise UsageError(f"--alpha {text!r} is not a colour", hint='write red, green and blue: --alpha "#ffffff"')
    red, green, blue = (int(pair, 16) for pair in found.groups())
    return red, green, blue


def need(path: Path, what: str) -> None:
    """Refuse a path that is not there.

    Raises:
        UsageError: nothing is at ``path``.
    """
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a folder above may not be entered
        raise UsageError(f"{path} does not exist", hint=f"give {what}; the name is read from {Path.cwd()}")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (also: HEELER_DEBUG=1).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Tell warnings only while it runs.")]

Source = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder, CSV, TSV, zip or tar of labelled photos.")]
Run = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder to write. [default: runs/<name>-<n>]")]
Labels = Annotated[Path | None, typer.Option(metavar="CSV", help="Table that renames, merges or drops classes.")]
Fixes = Annotated[
    Path | None, typer.Option(metavar="CSV", help="Decisions about photos to apply: the fixes.csv of a run or check.")
]
Nested = Annotated[
    bool, typer.Option("--nested", help="The class is the whole path below FOLDER, not its first level.")
]
Test = Annotated[
    float,
    typer.Option(
        metavar="SHARE", callback=between(*LIMITS["test"]), help="Photos kept for the result: 0 to 0.9 of all."
    ),
]
Valid = Annotated[
    float,
    typer.Option(
        metavar="SHARE", callback=between(*LIMITS["valid"]), help="Photos kept for choices: 0.01 to 0.9 of the rest."
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", callback=between(*LIMITS["seed"]), help="Number that fixes every random choice.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(metavar="REGEX|COLUMN", help="What photos that belong together share; they stay in one part."),
]
Alpha = Annotated[str, typer.Option(metavar="COLOUR", help="Colour that transparent pixels are laid on.")]

DEFAULT_MINUTES = 5.0
Minutes = Annotated[
    float | None,
    typer.Option(metavar="M", callback=between(*LIMITS["minutes"]), help="Time for everything. [default: 5]"),
]
DemoMinutes = Annotated[
    float | None,
    typer.Option(
        metavar="M",
        callback=between(*LIMITS["minutes"]),
        help="Time for everything. [default: the last layer alone, as fast as it goes]",
    ),
]
Backbone = Annotated[
    str | None, typer.Option(metavar="NAME", help="Network to start from, by timm's name. [default: the plan chooses]")
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the backbone, as safetensors.")]
ImagePx = Annotated[
    int | None,
    typer.Option(
        metavar="N", callback=between(*LIMITS["image_px"]), help="Side of the network's input: 32 to 1024 pixels."
    ),
]
ChosenFit = Annotated[
    Literal["crop", "squash", "pad"] | None,
    typer.Option("--fit", help="How a photo becomes a square. [default: the plan chooses]"),
]
Fitting = Annotated[Literal["crop", "squash", "pad"], typer.Option("--fit", help="How a photo becomes a square.")]
Epochs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        callback=between(*LIMITS["epochs"]),
        help="Rounds of fine-tuning in place of --minutes; 0: the probe.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that the same command began.")]
FrozenEpochs = Annotated[
    int,
    typer.Option(
        metavar="N", callback=between(*LIMITS["frozen_epochs"]), help="Rounds before them that train the head alone."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", callback=between(*LIMITS["batch_size"]), help="Photos in each step.")
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", metavar="RATE", callback=between(*LIMITS["lr"]), help="Highest learning rate.")
]
Augment = Annotated[
    Literal["photo", "overhead", "document", "none"], typer.Option(help="How photos are varied while learning.")
]

Deep = Annotated[
    bool, typer.Option("--deep", help="Look at the photos with a network, too: suspicious labels, outliers, flaws.")
]
FixesOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Table that --deep writes. [default: fixes.csv]")
]
SetName = Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the set; --list shows all.")]
SetFolder = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to make. [default: one named like the set]")
]
ListSets = Annotated[
    bool, typer.Option("--list", help="List the sets: size, photos, classes, licence. Fetches nothing.")
]

Sheet = Annotated[Path, typer.Option("--out", metavar="FILE", help="Sheet to write, .html or .png.")]
Preset = Annotated[
    Literal["photo", "overhead", "document", "none"] | None,
    typer.Option("--augment", help="The one preset to show. [default: all]"),
]
SheetPx = Annotated[
    int,
    typer.Option(
        "--image-px",
        metavar="N",
        callback=between(*LIMITS["image_px"]),
        help="Side of the network's input: 32 to 1024 pixels.",
    ),
]
Photos = Annotated[int, typer.Option("--photos", metavar="N", callback=between(1, 64), help="Photos shown: 1 to 64.")]
Variants = Annotated[
    int, typer.Option("--variants", metavar="N", callback=between(1, 12), help="Changed copies of each: 1 to 12.")
]

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder of a run, such as runs/photos-1/model.")]
Paths = Annotated[
    list[str], typer.Argument(metavar="PATHS", help="Photos, folders, patterns such as 'a/*.jpg', or - for a list.")
]
Table = Annotated[str | None, typer.Option("--out", metavar="CSV", help="File to write; standard output without it.")]
Top = Annotated[int, typer.Option(metavar="N", callback=between(1, 1000), help="Classes named for each photo.")]
SortInto = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Copy each photo into a folder of its class; overwrites nothing.")
]
ExportForm = Annotated[
    Literal["onnx", "openvino", "executorch", "hub-folder"], typer.Option("--to", help="Form to write the model in.")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Write it in 8-bit integers: smaller, faster, a little less exact.")]
MaxLoss = Annotated[
    float,
    typer.Option(metavar="POINTS", callback=between(0, 100), help="Accuracy that --int8 may cost: 0 to 100 points."),
]
ProofPhotos = Annotated[
    Path | None,
    typer.Option("--photos", metavar="FOLDER", help="Photos to prove it on. [default: the run's held-out ones]"),
]
ExportOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="File or folder to write. [default: beside MODEL]")
]
ResumeTable = Annotated[bool, typer.Option("--resume", help="Go on with the --out table that a kill cut short.")]
ChosenEngine = Annotated[
    Literal["auto", "onnx", "ray"],
    typer.Option("--engine", help="What computes: the fastest here, the file of heeler export, or a Ray cluster."),
]
Shards = Annotated[
    Literal["parquet", "csv"], typer.Option("--shards", help="With --engine ray: files that --out gets.")
]
ImageColumn = Annotated[
    str,
    typer.Option("--image-column", metavar="NAME", help="With --engine ray: column of Parquet files with the photos."),
]
UnsureBelow = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        callback=between(*LIMITS["unsure_below"]),
        help="Probability below which a photo is unsure; 0 answers always. [default: the model's]",
    ),
]

Reviewed = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a fixes.csv.")]
PhotosNow = Annotated[
    Path | None, typer.Option("--photos", metavar="FOLDER", help="Where the photos are. [default: where RUN had them]")
]
WriteClean = Annotated[
    Path | None, typer.Option(metavar="COPY", help="Write the photos as decided to a new folder; open no page.")
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the page's address; open no browser.")]
Port = Annotated[int, typer.Option(metavar="N", callback=between(0, 65_535), help="Port on loopback; 0: any free one.")]

ServeHost = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Address to listen on; beyond loopback a token is needed.")
]
ServePort = Annotated[int, typer.Option("--port", metavar="N", callback=between(0, 65_535), help="0: any free one.")]
Token = Annotated[str | None, typer.Option("--token", metavar="T", help="What clients must send: Bearer T.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", metavar="F", help="File with the token in it.")]
