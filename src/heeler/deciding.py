"""What a person decides about photos with problems: one decision for each photo, kept in fixes.csv with every click."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from heeler.errors import DataError, HeelerError
from heeler.files import csv_line, write_bytes
from heeler.fixes import ACTIONS, COLUMNS, Action, Fix, read_cells, read_fixes


@dataclass(frozen=True)
class Suspect:
    """One photo with all that was found wrong with it, and what is decided about it now.

    Args:
        path: of the photo, as the catalogue names it.
        problems: in words, at least one.
        given: its class in the user's data.
        suggested: the class that it may be relabelled as; "" where there is none to suggest.
        action: what was decided; "" is undecided.
    """

    path: str
    problems: tuple[str, ...]
    given: str
    suggested: str
    action: Action


class Decisions:
    """The decisions of a fixes.csv; safe to call from several threads.

    Every change is on disk before its call returns: the table is written whole, as it would be by ``write_fixes``. Of
    its lines only the changed one is formatted again; all five thousand would take most of a key's tenth of a second.

    Args:
        file: the fixes.csv, which is there.

    Raises:
        DataError: the table cannot be read, or holds nothing to decide.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._stamp = _stamp(file)
        self._found = read_fixes(file)  # as it was read, so that a suggestion returns when a decision goes
        if not self._found:
            raise DataError(f"{file} lists no problem", hint="there is nothing to decide: train as it is")
        self._fixes = list(self._found)
        self._header, self._cells = read_cells(file)
        self._lines = [self._line(row, fix) for row, fix in enumerate(self._fixes)]
        rows_of: dict[str, list[int]] = {}
        for row, fix in enumerate(self._fixes):
            rows_of.setdefault(fix.path, []).append(row)
        self._rows = list(rows_of.values())
        self._undo: list[tuple[int, list[Fix]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def n_undo(self) -> int:
        """How many steps can be taken back."""
        return len(self._undo)

    def suspect(self, number: int) -> Suspect:
        """Photo ``number``, in the order in which the table first names each."""
        with self._lock:  # what is on disk already must not be told as it was before
            fixes = [self._fixes[row] for row in self._rows[number]]
        decided = next((fix for fix in fixes if fix.action), None)
        suggestion = decided if decided and decided.suggested else next((fix for fix in fixes if fix.suggested), None)
        return Suspect(
            path=fixes[0].path,
            problems=tuple(fix.problem for fix in fixes),
            given=fixes[0].given,
            suggested=suggestion.suggested if suggestion else "",
            action=decided.action if decided else "",
        )

    def decide(self, number: int, action: Action, label: str = "") -> Suspect:
        """Decide about one photo, in place of what was decided before.

        Args:
            number: of the photo.
            action: "" makes it undecided again.
            label: to relabel as; "" takes the suggested class.

        Raises:
            ValueError: there is no class to relabel as, or it has that class already.
            HeelerError: another program has written the table, the disk is full or the place cannot be written; the
                decision is as it was.
        """
        with self._lock:
            rows = self._rows[number]
            before = [self._fixes[row] for row in rows]
            # One line carries the decision, as read_fixes asks for; where there is one, the line that suggests a class.
            bearer = next((row for row in rows if self._found[row].suggested), rows[0])
            after = [replace(self._found[row], action="") for row in rows]
            found = self._found[bearer]
            if action == "relabel":
                label = label or found.suggested
                if not label or label == found.given:
                    raise ValueError("a photo is relabelled as another class than its own")
                found = replace(found, suggested=label)
            after[rows.index(bearer)] = replace(found, action=action)
            self._put(rows, after)
            self._undo.append((number, before))
        return self.suspect(number)

    def undo(self) -> int | None:
        """Take the last step back; returns the photo's number, None where there is no step.

        Raises:
            HeelerError: another program has written the table, the disk is full or the place cannot be written; the
                step stands.
        """
        with self._lock:
            if not self._undo:
                return None
            number, before = self._undo[-1]
            self._put(self._rows[number], before)
            self._undo.pop()
        return number

    def counts(self) -> dict[str, int]:
        """Photos with each action; "" counts those that nobody has decided."""
        counts = Counter(self.suspect(number).action for number in range(len(self)))
        return {action: counts[action] for action in ACTIONS}  # type: ignore[index]

    def _put(self, rows: Sequence[int], fixes: Sequence[Fix]) -> None:
        """Write the table with other lines in place of some; memory follows only when the disk has it."""
        if _stamp(self.file) != self._stamp:
            raise HeelerError(
                f"{self.file} was changed by another program", hint="close that program and start heeler fix again"
            )
        lines = list(self._lines)
        for row, fix in zip(rows, fixes, strict=True):
            lines[row] = self._line(row, fix)
        write_bytes(self.file, _encoded(self._header) + b"".join(lines))
        self._stamp = _stamp(self.file)
        self._lines = lines
        for row, fix in zip(rows, fixes, strict=True):
            self._fixes[row] = fix

    def _line(self, row: int, fix: Fix) -> bytes:
        """A line of the table; columns of the user's own stay as they are."""
        cells = [*self._cells[row], *[""] * (len(self._header) - len(self._cells[row]))]
        for name, cell in zip(COLUMNS, astuple(fix), strict=True):
            cells[self._header.index(name)] = cell
        return _encoded(cells)


def _encoded(cells: Sequence[str]) -> bytes:
    return csv_line(cells).encode("utf-8", "surrogateescape")


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when another program writes the file; empty where it is gone."""
    try:
        stat = file.stat()
    except OSError:
        return ()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)
