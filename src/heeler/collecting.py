"""Python's search for objects that hold only each other: put off while libraries are imported, left out at the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Within this context no search begins: importing torch makes 300,000 objects to stay, and took a sixth longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leave_out() -> None:
    """Let no search find what there is by now: a process that ends would look through all of it, for half a second."""
    gc.freeze()
