"""Verbs that use a model: predict and export."""

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
    sort_into: options.SortInto = None,
    engine: options.Computed = "auto",
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
    counts, answer = classify(model, files, top, target, sort_into, json, engine)
    if json:
        print_json(answer)
    written = f", written to {target}" if target else ""
    copied = f", {answer['n_copied']:,} copied into {sort_into}" if sort_into else ""
    print(f"{counts['ok']:,} classified, {counts['unreadable']:,} unreadable{written}{copied}", file=sys.stderr)
    return 0 if counts["ok"] else DataError.exit_code


def export(
    model: options.Model,
    to: options.ExportForm = "onnx",
    int8: options.Int8 = False,
    max_loss: options.MaxLoss = 1.0,
    photos: options.ProofPhotos = None,
    out: options.ExportOut = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Write a model for use elsewhere, and prove it.

    ONNX has everything inside, from photos of any size to calibrated probabilities. Each export
    is compared with the model on photos that it did not learn from, and is not written where it
    says something else.

    \b
    Examples:
      heeler export runs/photos-1/model --to onnx
      heeler export runs/photos-1/model --int8 --max-loss 0.5
      heeler export runs/photos-1/model --to hub-folder --out to-upload
    """
    options.need(model, "a model folder")
    if photos is not None:
        options.need(photos, "a folder of photos")
    from heeler.exporting import export as export_model
    from heeler.terminal import listener, printable

    with listener(quiet=quiet) as on_event:
        result = export_model(model, to, int8=int8, max_loss=max_loss, photos=photos, out=out, on_event=on_event)
    if json:
        print_json(result.to_json())
    else:
        print("\n".join(printable(line) for line in result.told.splitlines()))
    return 0
