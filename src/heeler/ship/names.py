"""Which photos a command line names, one name at a time: folders, patterns and lists of any length, in flat memory."""

from __future__ import annotations

import glob
import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TextIO

from heeler.files import is_hidden

# Names of one folder that are sorted in memory; where there are more, sorted pieces wait on disk.
MOST_IN_MEMORY = 200_000
# Characters of a path on Linux; after so many without a NUL, a list is not one whose names end in NUL.
LONGEST_PATH = 4096


def stream_names(args: Sequence[str], stdin: TextIO, *, skip: Path | None = None) -> Iterator[str]:
    """List the files that a command line names, in its order, each as it is asked for.

    Args:
        args: photos, folders (every file below, sorted; hidden ones are skipped), patterns such as ``scans/*.png``
            (for shells that do not expand them) and ``-``, which stands for the names on ``stdin``.
        stdin: one name on each line, or names that end in NUL; taken as they are.
        skip: a folder that is not gone into; photos that are copied there meanwhile would be met again.

    Returns:
        One entry for each future row. A name that leads nowhere is kept, so that its row can say so, and so is a folder
        that cannot be opened.
    """
    left_out = os.path.abspath(skip) if skip else ""  # noqa: PTH100 - Path.absolute keeps what .. leads out of
    for arg in args:
        if arg == "-":
            yield from _listed(stdin)
        elif os.path.isdir(arg):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
            yield from _below(str(Path(arg)), left_out)
        elif glob.has_magic(arg) and not os.path.lexists(arg):
            yield from _matching(arg, left_out)
        else:
            yield arg


def in_order(names: Iterable[str], most: int = 0) -> Iterator[str]:
    """The names sorted; of more than ``most`` (``MOST_IN_MEMORY`` where 0), sorted pieces wait in temporary files."""
    most = most or MOST_IN_MEMORY
    waiting = iter(names)
    first = sorted(islice(waiting, most))
    if len(first) < most:
        yield from first
        return
    with ExitStack() as files:
        pieces: list[Iterator[str]] = [iter(first)]
        while piece := sorted(islice(waiting, most)):
            file = files.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="")
            )
            file.writelines(f"{name}\0" for name in piece)
            file.seek(0)
            pieces.append(_ended_by_nul(iter(partial(file.read, LONGEST_PATH), "")))
        yield from heapq.merge(*pieces)


def _below(folder: str, left_out: str) -> Iterator[str]:
    """Every file below a folder, in the order of the whole paths."""
    start = "" if folder == "." else folder
    stack = [(start, _entries(start))]
    while stack:
        home, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
        elif entry.endswith("/"):
            inner = os.path.join(home, entry[:-1])  # noqa: PTH118 - a Path for each of a million names costs seconds
            if not left_out or os.path.abspath(inner) != left_out:  # noqa: PTH100
                stack.append((inner, _entries(inner)))
        else:
            yield os.path.join(home, entry)  # noqa: PTH118


def _entries(folder: str) -> Iterator[str]:
    """Names in one folder; those of folders end in a slash, so that they sort as the paths below them do."""
    try:
        listing = os.scandir(folder or ".")
    except OSError:
        yield ""  # the folder's own name: its row tells that it could not be read
        return
    with listing:
        found = in_order(name for entry in listing if (name := _wanted(entry)))
        yield from found


def _wanted(entry: os.DirEntry[str]) -> str:
    if is_hidden(entry.name):
        return ""
    try:
        if entry.is_dir(follow_symlinks=False):
            return f"{entry.name}/"
        if entry.is_dir():
            return ""  # a link to a folder, which may lead round in a circle
        # A FIFO or a device would block whoever opens it; a dangling link still deserves its row.
        wanted = entry.is_file() or not os.path.exists(entry.path)  # noqa: PTH110
    except OSError:
        wanted = True
    return entry.name if wanted else ""


def _matching(pattern: str, left_out: str) -> Iterator[str]:
    """Files that a pattern meets, and those below folders that it meets, each once."""
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    first = next(matches, None)
    if first is None:
        yield pattern
        return
    files = (
        name
        for match in chain([first], matches)
        for name in (_below(match.rstrip("/") or "/", left_out) if os.path.isdir(match) else [match])  # noqa: PTH112
    )
    for name, _ in groupby(in_order(files)):
        yield name


def _listed(stdin: TextIO) -> Iterator[str]:
    lines = iter(stdin.readline, "")
    head: list[str] = []
    for line in iter(partial(stdin.readline, LONGEST_PATH), ""):  # a list with NULs may have no line break at all
        head.append(line)
        if "\0" in line:
            yield from _ended_by_nul(chain(head, iter(partial(stdin.read, LONGEST_PATH), "")))
            return
        if not line.endswith("\n"):
            head[-1] += stdin.readline()
        # A name that ends in NUL may have line breaks in it, so a line is one only where it can be no part of such.
        if sum(map(len, head)) > LONGEST_PATH or os.path.lexists(_without_return(head[-1].removesuffix("\n"))):
            break
    for line in chain(head, lines):
        name = line.removesuffix("\n")
        if name.strip("\r"):
            yield _without_return(name)


def _ended_by_nul(chunks: Iterable[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *names, rest = (rest + chunk).split("\0")
        yield from filter(None, names)
    if rest:
        yield rest


def _without_return(name: str) -> str:
    # Lists made on Windows end in CR LF; a name that really ends in CR exists as it is.
    return name[:-1] if name.endswith("\r") and not os.path.lexists(name) else name
