"""Verbs that look at labelled photos without learning from them: check, fix and preview."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from heeler import options
from heeler.errors import UsageError
from heeler.exits import print_json


def check(
    source: options.Source,
    labels: options.Labels = None,
    nested: options.Nested = False,
    group_by: options.GroupBy = None,
    test: options.Test = 0.2,
    valid: options.Valid = 0.1,
    seed: options.Seed = 42,
    alpha: options.Alpha = "#ffffff",
    deep: options.Deep = False,
    out: options.FixesOut = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Look at labelled photos without training.

    What is there, what is left out and why, duplicates, classes that are too small. With
    --deep also labels that may be wrong, outliers, and blurred, dark, blank, tiny or
    odd-shaped photos; they are written to a table for heeler train --fixes.

    \b
    Examples:
      heeler check photos/
      heeler check photos/ --deep --out fixes.csv
      heeler check labels.csv --json > check.json
    """
    options.need(source, "a folder of photos, a table or an archive")
    colour = options.parse_colour(alpha)
    if out is not None and not deep:
        raise UsageError("--out goes with --deep", hint="add --deep: a plain check writes nothing")
    if deep:
        settings = {"labels": labels, "nested": nested, "group_by": group_by, "test": test, "valid": valid,
                    "seed": seed, "alpha": colour}  # fmt: skip
        return _check_deep(source, settings, out, json=json)
    from heeler.check import check as check_photos
    from heeler.errors import DataError
    from heeler.terminal import listener, print_check

    with listener() as on_event:
        result = check_photos(
            source, labels=labels, nested=nested, group_by=group_by, test=test, valid=valid, seed=seed, alpha=colour,
            on_event=on_event,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
    else:
        print_check(result)
    return DataError.exit_code if result.problems else 0


def _check_deep(source: Path, settings: dict[str, Any], out: Path | None, *, json: bool) -> int:
    from heeler.deep import DEFAULT_FIXES, check_deep
    from heeler.errors import DataError
    from heeler.plans import TrainOptions
    from heeler.terminal import listener, print_deep

    with listener() as on_event:
        result = check_deep(source, TrainOptions(**settings), out=out or DEFAULT_FIXES, on_event=on_event)
    if json:
        print_json(result.to_json())
    else:
        print_deep(result)
    return DataError.exit_code if result.check.problems else 0


def fix(
    run: options.Reviewed,
    photos: options.PhotosNow = None,
    labels: options.Labels = None,
    nested: options.Nested = False,
    write_clean: options.WriteClean = None,
    no_browser: options.NoBrowser = False,
    port: options.Port = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Decide about photos that may be wrong, in the browser.

    RUN is the folder of a run that lists problems in its fixes.csv; or such a table alone, with
    --photos, and with the --labels and --nested that heeler check had. Keep, relabel or drop: each
    decision is saved there at once, and the photos stay as they are. The page is served on this
    machine only; Ctrl-C ends it. To open it from another one, give --port 8000 and forward it:
    ssh -L 8000:127.0.0.1:8000 NAME.

    \b
    Examples:
      heeler fix runs/photos-1
      heeler fix fixes.csv --photos photos/
      heeler fix runs/photos-1 --write-clean clean-photos
    """
    options.need(run, "the folder of a run, or a fixes.csv")
    code = 0
    from heeler.review import clean_copy, open_browser, open_review, review
    from heeler.stopping import stop_requests
    from heeler.terminal import printable

    opened = open_review(run, photos, labels=labels, nested=nested)
    if write_clean is not None:
        copy = clean_copy(opened, write_clean)
        told, answer = copy.told, copy.to_json()
    else:

        def on_address(address: str, n_photos: int) -> None:
            print(f"{n_photos:,} photos to check: {address}\nCtrl-C ends it", file=sys.stderr, flush=True)
            if not no_browser:
                open_browser(address)

        with stop_requests() as stop:
            result = review(opened, on_address, stop, port)
        code = 128 + stop.signum if stop.signum == signal.SIGTERM else 0  # Ctrl-C is how it is meant to end
        told, answer = result.told, result.to_json()
    if json:
        print_json(answer)
    else:
        print(f"{printable(told)}\nnext:\n  {printable(answer['next'])}")
    return code


def preview(
    source: options.Source,
    out: options.Sheet = Path("preview.html"),
    augment: options.Preset = None,
    photos: options.Photos = 8,
    variants: options.Variants = 5,
    labels: options.Labels = None,
    nested: options.Nested = False,
    seed: options.Seed = 42,
    group_by: options.GroupBy = None,
    image_px: options.SheetPx = 224,
    fit: options.Fitting = "crop",
    alpha: options.Alpha = "#ffffff",
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Show a few photos before and after augmentation.

    It opens only the photos that it shows. An earlier sheet of heeler's is replaced; no other
    file is, and nothing is written into the folder of the photos.

    \b
    Examples:
      heeler preview photos/
      heeler preview photos/ --augment overhead --fit squash --out overhead.png
    """
    options.need(source, "a folder of photos, a table or an archive")
    if labels is not None:
        options.need(labels, "a file")
    colour = options.parse_colour(alpha)
    from heeler.preview import preview as preview_photos
    from heeler.terminal import listener

    with listener() as on_event:
        result = preview_photos(
            source, out=out, augment=augment, n_photos=photos, n_variants=variants, labels=labels, nested=nested,
            group_by=group_by, image_px=image_px, fit=fit, alpha=colour, seed=seed, on_event=on_event,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
    else:
        print(f"{result.n_photos:,} photos before and after augmentation: {result.sheet}")
        print(f"pass the preset that you choose to heeler train: --augment {augment or 'NAME'}")
    return 0
