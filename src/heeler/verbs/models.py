"""Verbs that use a model: predict."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from heeler import options
from heeler.errors import UsageError
from heeler.exits import print_json


def predict(
    model: options.Model,
    paths: options.Paths,
    out: options.Table = None,
    top: options.Top = 3,
    unsure_below: options.UnsureBelow = None,
    sort_into: options.SortInto = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Classify photos with a model. One row for each photo, in the order given.

    \b
    Examples:
      heeler predict runs/photos-1/model new-photos/ --out predictions.csv
      heeler predict runs/photos-1/model photo.jpg --json
      find scans -name '*.jpg' | heeler predict runs/photos-1/model - --sort-into sorted/
    """
    options.need(model, "a model folder")
    if json and out == "-":
        raise UsageError("--json and --out - both want standard output", hint="name a file: --out predictions.csv")
    from heeler.classify import classify
    from heeler.errors import DataError
    from heeler.ship.rows import expand_paths

    # A name may end in a carriage return, which Python would otherwise take for the end of a line.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline="\n")
    files = expand_paths(paths, sys.stdin)
    if not files:
        raise DataError(
            f"no files were found in {', '.join(paths)}", hint="name a photo, or a folder with photos in it"
        )
    target = None if out in (None, "-") else Path(out or "-")
    counts, answer = classify(model, files, top=top, unsure_below=unsure_below, out=target, folder=sort_into, json=json)
    if json:
        print_json(answer)
    written = f", written to {target}" if target else ""
    copied = f", {answer['n_copied']:,} copied into {sort_into}" if sort_into else ""
    unsure = f"{counts['unsure']:,} unsure (below {answer['unsure_below']:.3f}), " if counts["unsure"] else ""
    told = f"{counts['ok']:,} classified, {unsure}{counts['unreadable']:,} unreadable{written}{copied}"
    print(told, file=sys.stderr)
    return 0 if counts["ok"] or counts["unsure"] else DataError.exit_code
