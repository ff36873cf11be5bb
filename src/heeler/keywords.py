"""What Python calls may say: keywords checked as the command line checks its options, with one line for each error."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from heeler.errors import UsageError
from heeler.limits import LIMITS
from heeler.plans import LabelMap, TrainOptions
from heeler.records import Fit

__all__ = ["command_line", "label_map", "optional_path", "require_choice", "require_number", "rgb"]

FITS: tuple[str, ...] = get_args(Fit)
# Options of the command line by the fields of ``TrainOptions`` and ``Recipe`` that they set.
RECIPE_WORDS = ("epochs", "frozen_epochs", "batch_size", "lr", "augment")
WORDS = ("test", "valid", "seed", "group_by", "backbone", "weights", "image_px", "fit")


def require_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    optional: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """Refuse what is no number in its range.

    Args:
        name: of the keyword, for the message; its limits are those of the command line's option.
        value: what was given.
        whole: whether it must be a whole number.
        optional: whether None is fine.
        limits: in place of the option's.

    Raises:
        UsageError: it is of another kind, or out of range.
    """
    if value is None and optional:
        return
    low, high = limits or LIMITS[name]
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or (whole and not number.is_integer()):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{name}={value!r} is not {kind} between {low:.12g} and {high:.12g}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of a few words; None is always fine.

    Raises:
        UsageError: it is another word.
    """
    if value is not None and value not in choices:
        raise UsageError(f"{name}={value!r} is not there to choose", hint=f"choose one of {', '.join(choices)}")


def optional_path(name: str, value: object) -> Path | None:
    """A path, where one was given.

    Raises:
        UsageError: it is of another kind.
    """
    if value is None or isinstance(value, Path):
        return value
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise UsageError(f"{name}={value!r} is no path", hint="give a string or a pathlib.Path")


def rgb(colour: object) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255.

    Raises:
        UsageError: it is something else.
    """
    levels = tuple(colour) if isinstance(colour, list | tuple) else ()
    if len(levels) != 3:
        raise UsageError(f"alpha={colour!r} is no colour", hint="give red, green and blue, as in alpha=(255, 255, 255)")
    for level in levels:
        require_number("alpha", level, whole=True, limits=(0, 255))
    red, green, blue = map(int, levels)
    return red, green, blue


def label_map(labels: object) -> LabelMap | None:
    """Which folder is which class, from a mapping or the path of a CSV; None and "" in a mapping drop a folder.

    Raises:
        UsageError: it is of another kind.
    """
    if isinstance(labels, tuple):  # as this function returns them
        labels = dict(labels)
    if not isinstance(labels, Mapping):
        return optional_path("labels", labels)
    pairs = [(folder, "" if name is None else name) for folder, name in labels.items()]
    for folder, name in pairs:
        if not isinstance(folder, str) or not isinstance(name, str):
            raise UsageError(
                f"labels: {folder!r} -> {name!r} are no two names", hint='for example {"n02086240": "Shih-Tzu"}'
            )
    return tuple(sorted(pairs))


def command_line(source: Path, options: TrainOptions) -> tuple[str, ...]:
    """The command that does what a call in Python does, for the report; ``runs.repeat_command`` adds to it."""
    words: list[str] = ["heeler", "train", str(source)]
    usual = TrainOptions()

    def add(name: str, value: Any, default: Any) -> None:
        if value is not None and value != default:
            words.extend((f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)))

    if isinstance(options.labels, Path):
        add("labels", options.labels, None)
    add("fixes", options.fixes, None)
    if options.nested:
        words.append("--nested")
    for name in WORDS:
        add(name, getattr(options, name), getattr(usual, name))
    for name in RECIPE_WORDS:
        add(name, getattr(options.recipe, name), getattr(usual.recipe, name))
    if options.minutes is None and not options.recipe.epochs:
        add("epochs", 0, None)
    add("minutes", options.minutes, usual.minutes)
    if options.alpha != usual.alpha:
        words += ["--alpha", "#" + bytes(options.alpha).hex()]
    add("out", options.out, None)
    return tuple(words)
