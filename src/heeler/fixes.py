"""``fixes.csv``: what was found wrong with photos and labels, and what a person decided about it.

The table is all that travels between a run that finds problems, the page on which they are decided, and the next
training, which applies the decisions; the photos themselves stay as they are.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from heeler.errors import DataError
from heeler.files import write_csv

Action = Literal["", "keep", "relabel", "drop"]
ACTIONS: tuple[str, ...] = get_args(Action)


@dataclass(frozen=True)
class Fix:
    """One problem of one photo.

    Args:
        path: of the photo, as the catalogue names it.
        problem: what was found, in words.
        given: its class in the user's data.
        suggested: the likelier class; "" where there is none to suggest.
        action: what a person decided: "keep" it as it is, "relabel" it as ``suggested``, "drop" it; "" is undecided,
            and changes nothing.
    """

    path: str
    problem: str
    given: str
    suggested: str = ""
    action: Action = ""


# What decides which photos there are, in which classes and parts, and what it is where nobody said.
READ_WITH: Mapping[str, object] = {
    "labels": None, "nested": False, "group_by": None, "test": 0.2, "valid": 0.1, "seed": 42,
}  # fmt: skip
COLUMNS = tuple(field.name for field in fields(Fix))


def write_fixes(file: Path, fixes: Sequence[Fix]) -> None:
    """Write the table whole or not at all.

    Raises:
        ResourceError: the disk is full or the place cannot be written; an earlier table is untouched.
    """
    write_csv(file, COLUMNS, map(astuple, fixes))


def read_fixes(file: Path) -> list[Fix]:
    """Read a table that ``write_fixes`` wrote and a person may have edited.

    Raises:
        DataError: a column is missing, an action is none, nothing to relabel as, or one photo has two decisions;
            names the line.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint="name the fixes.csv of a run") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if missing := set(COLUMNS) - set(reader.fieldnames or ()):
        raise DataError(
            f"{file}: line 1 lacks the column {sorted(missing)[0]}", hint=f"the columns are {','.join(COLUMNS)}"
        )
    fixes: list[Fix] = []
    decided: dict[str, tuple[Action, str]] = {}
    for row in reader:
        fix = _fix_of(file, reader.line_num, row)
        if fix.action:
            decision = (fix.action, fix.suggested if fix.action == "relabel" else "")
            if decided.setdefault(fix.path, decision) != decision:
                raise DataError(
                    f"{file}: line {reader.line_num} decides about {fix.path!r} a second time, and otherwise",
                    hint="keep one action for each photo; leave the others empty",
                )
        fixes.append(fix)
    return fixes


def read_cells(file: Path) -> tuple[list[str], list[list[str]]]:
    """The header of such a table, and the cells of each line that ``read_fixes`` makes a problem of."""
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
    header, *lines = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]
    return header, lines


def _fix_of(file: Path, line: int, row: dict[str, str | None]) -> Fix:
    cells = {name: (row[name] or "").strip() if name != "path" else row[name] or "" for name in COLUMNS}
    action = cells.pop("action").casefold()
    if action not in ACTIONS:
        raise DataError(
            f"{file}: line {line} has the action {action!r}", hint="write keep, relabel or drop, or leave it empty"
        )
    if action == "relabel" and not cells["suggested"]:
        raise DataError(
            f"{file}: line {line} relabels {cells['path']!r} as nothing", hint="name the class in suggested"
        )
    return Fix(**cells, action=action)  # type: ignore[arg-type]


def decisions(fixes: Sequence[Fix]) -> dict[str, Fix]:
    """The decided fixes by path; those that change nothing ("keep", undecided) are left out."""
    return {fix.path: fix for fix in fixes if fix.action in ("relabel", "drop")}


def count_actions(fixes: Sequence[Fix]) -> dict[str, int]:
    """How many fixes have each action; "" counts those that nobody has decided."""
    counts = Counter(fix.action for fix in fixes)
    return {action: counts[action] for action in ACTIONS}  # type: ignore[index]


def words_to_read(asked: Mapping[str, object], labels: Path | None = None) -> list[str]:
    """Words of a command that reads photos as they were read for a table, so that its paths and classes are theirs.

    Args:
        asked: options by name, as ``TrainOptions`` has them; others than those of reading do not matter.
        labels: table of the classes, where they were told as pairs.
    """
    words = []
    for name, default in READ_WITH.items():
        value, option = asked.get(name), f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value not in (None, default):
            words += [option, str(value if isinstance(value, str | int | float | Path) else labels)]
    return words
