"""Kill predictions and resume them: ``python tests/predict_child.py FOLDER MODEL INPUT...``, points as JSON on stdin.

A trial is a run that is killed with SIGKILL at its first point, resumed and killed at its second, and so on, then
resumed and left alone. A point is ``["row", n]``: when n rows are written; ``["torn", n]``: when half of that row is;
``["copy", n]``: when the n-th photo is copied and its row is not written; ``["before", 0]``: before the table takes
its name. Prints one JSON object for each trial.

Everything heavy is imported once, and each run is a fork; the parent must not compute.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401 - here, and not in each fork
import timm  # noqa: F401
import torch

from heeler import classify
from heeler.cli import main

Point = tuple[str, int]


def die() -> None:
    """What a full machine or an impatient person does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """A file that kills its process at a row."""

    def __init__(self, file: Any, point: Point | None) -> None:
        self.file, self.point, self.n_rows = file, point, 0

    def write(self, text: str) -> None:
        """Write a row, or half of it."""
        self.n_rows += 1
        if self.point == ("torn", self.n_rows):
            self.file.write(text[: len(text) // 2])
            self.file.flush()
            die()
        self.file.write(text)

    def flush(self) -> None:
        """Make it last."""
        self.file.flush()
        if self.point == ("row", self.n_rows):
            die()


def run(arguments: list[str], out: Path, point: Point | None) -> int:
    """One command in this process, which dies at the point."""
    torch.set_num_threads(1)
    find_spec = importlib.util.find_spec
    # Of two engines the faster one is taken, and which that is changes from run to run; the digits follow it.
    importlib.util.find_spec = lambda name, *rest: None if name == "openvino" else find_spec(name, *rest)
    stream_rows, sort_into, replace = classify.stream_rows, classify.sort_into, os.replace
    classify.stream_rows = lambda target, rows, top: stream_rows(Deadly(target, point), rows, top)

    def sorts(*args: Any, **options: Any) -> Iterator[Any]:
        for number, row in enumerate(sort_into(*args, **options), start=1):
            if point == ("copy", number):
                die()
            yield row

    def replaces(source: Any, target: Any, **options: Any) -> None:
        if Path(target) == out and point == ("before", 0):
            die()
        replace(source, target, **options)

    classify.sort_into, os.replace = sorts, replaces
    return main(arguments)


def forked(work: Callable[[], int]) -> int:
    """Do something in a process of its own; its exit code, or minus the signal that killed it."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
            code = work()
            print(sys.stderr.getvalue(), file=sys.__stderr__, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def tree(folder: Path) -> list[list[Any]]:
    """Names and sizes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(path.relative_to(folder)), path.stat().st_size] for path in files]


def trial(folder: Path, model: str, inputs: list[str], points: list[Point]) -> dict[str, Any]:
    """Kill and resume; what became of the table and of the copies."""
    out, copies = folder / "rows.csv", folder / "copies"
    command = ["predict", model, *inputs, "--out", str(out), "--sort-into", str(copies)]
    codes = []
    for number, point in enumerate([*points, None]):
        arguments = [*command, *(["--resume"] if number else [])]
        codes.append(forked(lambda arguments=arguments, point=point: run(arguments, out, point)))  # type: ignore[misc]
    left = sorted(path.name for path in folder.iterdir())
    table = out.read_text(encoding="utf-8", errors="backslashreplace") if out.exists() else ""
    return {"points": points, "codes": codes, "left": left, "table": table, "copies": tree(copies)}


def all_trials() -> None:
    """See the top of this file."""
    folder, model, *inputs = sys.argv[1:]
    for number, points in enumerate(json.load(sys.stdin)):
        place = Path(folder) / str(number)
        place.mkdir(parents=True)
        told = trial(place, model, inputs, [(kind, n) for kind, n in points])
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    all_trials()
