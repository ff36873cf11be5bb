"""Verbs that use a model: predict, export, serve."""

from __future__ import annotations

import io
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from heeler import collecting, options
from heeler.errors import UsageError
from heeler.exits import print_json

# Names that are counted before the first photo is read, so that the display can tell how long it will take.
MOST_COUNTED = 20_000


def predict(
    model: options.Model,
    paths: options.Paths,
    out: options.Table = None,
    top: options.Top = 3,
    unsure_below: options.UnsureBelow = None,
    sort_into: options.SortInto = None,
    resume: options.ResumeTable = False,
    engine: options.ChosenEngine = "auto",
    shards: options.Shards = "parquet",
    image_column: options.ImageColumn = "image",
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
    if engine == "ray":
        if resume or sort_into:
            given = "--resume" if resume else "--sort-into"
            raise UsageError(f"{given} does not go with --engine ray", hint="leave one of the two out")
        return _on_cluster(model, paths, out, top, unsure_below, shards, image_column, json)
    target = None if out in (None, "-") else Path(out or "-")
    if resume and target is None:
        raise UsageError("--resume goes on with a table, and there is none", hint="name it: --out predictions.csv")
    with collecting.paused():
        from heeler.classify import Wanted, classify
    from heeler.errors import DataError
    from heeler.ship.names import stream_names

    # A name may end in a carriage return, which Python would otherwise take for the end of a line.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline="\n")
    names = stream_names(paths, sys.stdin, skip=sort_into)
    # Counted ahead only as far as it costs nothing, and never where a list is still being written.
    first = list(islice(names, 1 if "-" in paths else MOST_COUNTED))
    if not first:
        raise DataError(
            f"no files were found in {', '.join(paths)}", hint="name a photo, or a folder with photos in it"
        )
    wanted = Wanted(top, unsure_below, target, resume, sort_into, json, engine)
    n_names = len(first) if len(first) < MOST_COUNTED and "-" not in paths else 0
    counts, answer = classify(model, chain(first, names), wanted, n_names)
    return _ended(counts, answer, target, sort_into, json)


def _ended(
    counts: dict[str, int], answer: dict[str, Any], target: str | Path | None, sort_into: Path | None, json: bool
) -> int:
    from heeler.errors import DataError

    if json:
        print_json(answer)
    written = f", written to {target}" if target else ""
    copied = f", {answer['n_copied']:,} copied into {sort_into}" if sort_into else ""
    unsure = f"{counts['unsure']:,} unsure (below {answer['unsure_below']:.3f}), " if counts["unsure"] else ""
    told = f"{counts['ok']:,} classified, {unsure}{counts['unreadable']:,} unreadable{written}{copied}"
    print(told, file=sys.stderr)
    return 0 if counts["ok"] or counts["unsure"] else DataError.exit_code


def _on_cluster(
    model: Path,
    inputs: list[str],
    out: str | None,
    top: int,
    unsure_below: float | None,
    shards: Literal["parquet", "csv"],
    image_column: str,
    json: bool,
) -> int:
    if out in (None, "-"):
        raise UsageError("--engine ray writes shards, and there is no folder for them", hint="name it: --out answers/")
    from heeler.classify import classify_on_ray
    from heeler.ship.ray_predict import RayJob

    job = RayJob(model, inputs, out or "", top, unsure_below, shards, image_column)
    counts, answer = classify_on_ray(job)
    return _ended(counts, answer, job.out, None, json)


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


def serve(
    model: options.Model,
    host: options.ServeHost = "127.0.0.1",
    port: options.ServePort = 8000,
    token: options.Token = None,
    token_file: options.TokenFile = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Serve a model: a page to try it, and an API over HTTP.

    Only this machine can reach it, unless --host and a token say otherwise. Ctrl-C ends it,
    when the requests that it took are answered. It needs pip install "heeler[serve]".

    \b
    Examples:
      heeler serve runs/photos-1/model
      heeler serve runs/photos-1/model --host 0.0.0.0 --token-file token.txt
    """
    options.need(model, "a model folder")
    from heeler.serving import Serving, require_packages
    from heeler.serving import serve as serve_model
    from heeler.ship.access import access_for, token_from
    from heeler.stopping import stop_requests
    from heeler.terminal import printable

    require_packages()
    access = access_for(host, token_from(token, token_file))

    def on_start(serving: Serving) -> None:
        engine = serving.engine
        if json:
            print_json({"address": serving.address, "engine": engine.name, "classes": list(serving.bundle.classes)})
            sys.stdout.flush()
        print(f"{printable(str(model))} at {serving.address} ({engine.name})", file=sys.stderr)
        if access.token:
            print(f"open {serving.address}#token=TOKEN, with your token in place of TOKEN", file=sys.stderr)
        print("Ctrl-C ends it", file=sys.stderr, flush=True)

    def tell(text: str) -> None:
        last = text.strip().splitlines()[-1]
        print(text if debug else f"heeler: a request failed: {printable(last)}", file=sys.stderr, flush=True)

    with stop_requests() as stop:
        serve_model(model, access, on_start, stop, host=host, port=port, tell=tell)
    return 0  # both signals are how it is meant to end
