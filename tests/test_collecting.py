"""Python's search for cycles: off while libraries are imported, on again whatever happens, left out at the end."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from heeler import collecting


def test_no_search_begins_within_and_all_do_afterwards() -> None:
    with collecting.paused():
        with collecting.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_turns_it_on_again() -> None:
    with pytest.raises(ImportError), collecting.paused():
        raise ImportError
    assert gc.isenabled()


def test_who_has_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with collecting.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_command_that_ends_is_searched_no_more() -> None:
    code = (
        "import gc, sys; sys.argv = ['heeler', '--version']; from heeler.cli import run; code = run();"
        "print(code, gc.get_freeze_count() > 1000, gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 True True"
