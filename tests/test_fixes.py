"""The table of problems and decisions: what is written is what is read, and a hand that edits it is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from heeler.errors import DataError
from heeler.fixes import Fix, count_actions, decisions, read_fixes, write_fixes

FIXES = [
    Fix("a/1.jpg", "label suspect", "a", "b"),
    Fix('b/with, comma "and" quotes.jpg', "blurred", "b", "", "drop"),
    Fix("b/\udcff.jpg", "label suspect", "b", "Ä", "relabel"),
    Fix("c/3.jpg", "near duplicate of c/4.jpg", "c", "", "keep"),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_fixes(tmp_path / "fixes.csv", FIXES)
    assert read_fixes(tmp_path / "fixes.csv") == FIXES
    assert (tmp_path / "fixes.csv").read_bytes().startswith(b"path,problem,given,suggested,action\n")


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    text = "\ufeffpath,problem,given,suggested,action,note\r\na/1.jpg,label suspect,a, b , Relabel ,mine\r\n"
    (tmp_path / "fixes.csv").write_bytes(text.encode())
    assert read_fixes(tmp_path / "fixes.csv") == [Fix("a/1.jpg", "label suspect", "a", "b", "relabel")]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("path,problem,given,action\n", "line 1 lacks the column suggested"),
        ("path,problem,given,suggested,action\na,b,c,,delete\n", "line 2 has the action 'delete'"),
        ("path,problem,given,suggested,action\na,b,c,,relabel\n", "line 2 relabels 'a' as nothing"),
        ("path,problem,given,suggested,action\na,b,c,,drop\na,d,c,,\na,e,c,,keep\n", "line 4 decides about 'a'"),
        ("path,problem,given,suggested,action\na,b,c,x,relabel\na,d,c,y,relabel\n", "line 3 decides about 'a'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "fixes.csv").write_text(lines)
    with pytest.raises(DataError, match=says):
        read_fixes(tmp_path / "fixes.csv")


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_fixes(tmp_path / "fixes.csv")


def test_decisions_are_what_changes_something() -> None:
    assert {path: fix.action for path, fix in decisions(FIXES).items()} == {
        FIXES[1].path: "drop",
        FIXES[2].path: "relabel",
    }
    assert count_actions(FIXES) == {"": 1, "keep": 1, "relabel": 1, "drop": 1}
