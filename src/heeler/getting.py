"""What ``heeler get`` tells: the public sets that there are, and where one has been put."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from heeler.data.fetch import Fetched
    from heeler.data.sets import PublicSet


def print_sets(sets: Sequence[PublicSet], *, console: Console | None = None) -> None:
    """Print each public set with its size, photos, classes and licence, on standard output."""
    console = console or Console(highlight=False)
    table = Table(box=box.SIMPLE, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("name", no_wrap=True)
    for title in ("download", "photos", "classes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("licence", overflow="fold")
    for each in sets:
        size = f"{each.size_bytes / 1e6:,.0f} MB"
        table.add_row(each.name, size, f"{each.n_photos:,}", str(len(each.classes)), each.about, each.licence)
    console.print(table)


def print_fetched(wanted: PublicSet, fetched: Fetched, *, console: Console | None = None) -> None:
    """Print where a set is, what its photos may be used for, and how to train on it, on standard output."""
    console = console or Console(highlight=False)
    state = "is there already" if fetched.already else "is there now"
    lines = [f"{wanted.name} {state}: {fetched.n_photos:,} photos in {len(wanted.classes)} classes"]
    lines.append(f"photos       {fetched.folder}")
    command = ["heeler", "train", os.fspath(fetched.folder)]
    if fetched.labels:
        lines.append(f"class names  {fetched.labels}")
        command += ["--labels", os.fspath(fetched.labels)]
    lines += [f"licence      {wanted.licence}", "", "train on it with:", f"  {shlex.join(command)}"]
    for line in lines:
        # As one line each: what was wrapped could not be copied.
        console.print(Text(line), soft_wrap=True)
