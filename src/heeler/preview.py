"""``heeler preview``: a few photos before and after augmentation on one sheet, to choose a preset by."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heeler.clock import Clock
from heeler.data.catalogue import read_source
from heeler.data.decode import decode
from heeler.errors import DataError, UnreadableError, UsageError
from heeler.files import is_inside, read_regular
from heeler.judge.sheet import SUFFIXES, Sheet, SheetSection, is_sheet, write_sheet
from heeler.learn.augment import PRESETS, Preset, preset_of
from heeler.learn.augment import preview as variants
from heeler.records import ByteArray, Catalogue, Fit, Note, OnEvent, Photo, Preprocessing, Progress, ignore_events

DEFAULT_SHEET = Path("preview.html")


@dataclass(frozen=True)
class PreviewResult:
    """Where the sheet is, how many photos are on it, and which presets."""

    sheet: Path
    n_photos: int
    presets: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler preview --json`` prints."""
        return {"sheet": str(self.sheet), "photos": self.n_photos, "presets": list(self.presets)}


def preview(
    source: str | Path,
    *,
    out: Path = DEFAULT_SHEET,
    augment: str | None = None,
    n_photos: int = 8,
    n_variants: int = 5,
    labels: Path | None = None,
    nested: bool = False,
    group_by: str | None = None,
    image_px: int = 224,
    fit: Fit = "crop",
    alpha: tuple[int, int, int] = (255, 255, 255),
    seed: int = 42,
    on_event: OnEvent = ignore_events,
) -> PreviewResult:
    """Show what augmentation makes of a few photos.

    Args:
        source: folder, table or archive of labelled photos; it is never written to.
        out: the sheet, ``.html`` or ``.png``; an earlier sheet there is replaced, any other file is not.
        augment: the preset to show; all of them where None.
        n_photos: photos to show, at least 1; fewer where the source has fewer. No other photo is opened.
        n_variants: changed copies of each.
        labels: CSV that renames, merges or drops class folders.
        nested: the class is the whole path below the source, not its first level.
        group_by: a column of the CSV, or a regex on the path; photos of different groups are preferred.
        image_px: side of the network's input in pixels.
        fit: how a photo becomes a square.
        alpha: colour behind transparent pixels, 8-bit RGB.
        seed: of the choice of photos and of their changes.
        on_event: told of stages and of photos that cannot be read.

    Raises:
        UsageError: an option does not make sense, or the sheet cannot be put there.
        DataError: there is no photo to train with that can be read.
        ResourceError: the disk is full or the place cannot be written.
    """
    source, clock = Path(source), Clock(on_event)
    presets = {name: preset_of(name) for name in (PRESETS if augment is None else (augment,))}
    _require_place(out, source)
    with clock.stage("list files", unit="files"):
        catalogue = read_source(source, labels=labels, nested=nested, group_by=group_by)
    with clock.stage("read photos", total=n_photos) as tell:
        spec = Preprocessing(image_px=image_px, fit=fit, alpha=alpha)
        photos, squares = _read_some(catalogue, spec, n_photos, seed, tell)
    with clock.stage("draw sheet", unit=""):
        sections = []
        for name, preset in presets.items():
            # Beside other presets, photos that nothing is done to would only repeat what stands in the frames.
            shown = squares if preset or augment else squares[:0]
            rows = variants(shown, name, seed=seed, n_variants=n_variants if preset else 0)
            sections.append(SheetSection(name, _describe(name, preset), f"--augment {name}", rows))
        facts = f"{len(photos):,} of {len(catalogue.usable):,} photos, {image_px} px, --fit {fit}"
        _write(out, Sheet(catalogue.name, facts, tuple(photo.label for photo in photos), tuple(sections)))
    return PreviewResult(out, len(photos), tuple(presets))


def training_batch(
    catalogue: Catalogue, n_photos: int, augment: str, spec: Preprocessing, seed: int
) -> tuple[ByteArray, list[str]]:
    """Photos as one step of training sees them, and their classes.

    Args:
        catalogue: whose photos; no others than those returned are opened, but for unreadable ones.
        n_photos: how many, at least 1; fewer where the catalogue has fewer.
        augment: a preset of ``learn.augment``.
        spec: how a photo becomes a square.
        seed: of the choice of photos and of their changes.

    Returns:
        (N, S, S, 3) uint8 and N class names; as many classes as possible are there.

    Raises:
        UsageError: there is no such preset.
        DataError: no photo can be read.
    """
    preset = preset_of(augment)
    photos, squares = _read_some(catalogue, spec, n_photos, seed, ignore_events)
    rows = variants(squares, augment, seed=seed, n_variants=1 if preset else 0)
    return rows[:, -1], [photo.label for photo in photos]


def _require_place(out: Path, source: Path) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out} is neither .html nor .png", hint="for example --out preview.png")
    if source.is_dir() and is_inside(out, source):
        raise UsageError(
            f"the sheet would be written to {out}, inside the photos in {source}",
            hint="choose a place elsewhere with --out, or run the command from another folder",
        )
    if os.path.lexists(out) and not is_sheet(out):
        raise UsageError(f"{out} is there and is no sheet of heeler's", hint="choose another name with --out")


def _write(out: Path, sheet: Sheet) -> None:
    try:
        write_sheet(out, sheet)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"{out} cannot be written: {reason}", hint="choose another place with --out") from error


def _read_some(
    catalogue: Catalogue, spec: Preprocessing, n_photos: int, seed: int, tell: OnEvent
) -> tuple[list[Photo], ByteArray]:
    """Photos of as many classes as possible, in class order, and their squares (N, S, S, 3) uint8.

    Raises:
        DataError: none can be read.
    """
    read: list[tuple[Photo, ByteArray]] = []
    unreadable: list[str] = []
    for photo in _in_turn(catalogue, seed):
        try:
            read.append((photo, decode(read_regular(photo.file), spec).pixels))
        except UnreadableError as error:
            unreadable.append(f"{photo.path} {error.message}")
        tell(Progress(len(read)))
        if len(read) == n_photos:
            break
    if not read:
        first = f", such as {unreadable[0]}" if unreadable else ""
        raise DataError(
            f"no photo to train with in {catalogue.source} can be read{first}",
            hint="heeler check tells what is wrong with each file",
        )
    if unreadable:
        more = f" and {len(unreadable) - 1:,} more" if len(unreadable) > 1 else ""
        tell(Note(f"{len(unreadable):,} unreadable and passed over: {unreadable[0]}{more}", "warning"))
    read.sort(key=lambda each: (each[0].label, each[0].path))
    return [photo for photo, _ in read], np.stack([pixels for _, pixels in read])


def _in_turn(catalogue: Catalogue, seed: int) -> list[Photo]:
    """The photos that training could learn from, in random order, but classes take turns, and groups within them."""
    photos = [photo for photo in catalogue.usable if photo.part in (None, "train")]
    shuffled = [photos[i] for i in np.random.default_rng(seed).permutation(len(photos))]
    by_group = _take_turns(shuffled, lambda photo: (photo.label, photo.group or photo.path))
    return _take_turns(by_group, lambda photo: photo.label)


def _take_turns(photos: Sequence[Photo], key: Callable[[Photo], object]) -> list[Photo]:
    """First the first photo of each key, then the second of each, and so on."""
    turns: Counter[object] = Counter()
    numbered = []
    for photo in photos:
        turns[key(photo)] += 1
        numbered.append((turns[key(photo)], photo))
    return [photo for _, photo in sorted(numbered, key=lambda each: each[0])]


def _describe(name: str, preset: Preset | None) -> str:
    if preset is None:
        return "Nothing is changed: training sees each photo as it stands in its frame."
    suits = {
        "photo": "For photos with an up and a down: animals, plants, food, things, rooms.",
        "overhead": "For photos without an up: from above, through a microscope, of parts on a table.",
        "document": "For writing and digits, where a mirror image would be wrong: scans, labels, forms.",
    }[name]
    turn = "by any angle" if preset.rotate_deg >= 180 else f"by up to {preset.rotate_deg:g}\N{DEGREE SIGN}"
    moves = {
        "mirrored": preset.flip,
        f"turned {turn}": preset.rotate_deg > 0,
        f"enlarged up to {preset.zoom:g} times": preset.zoom > 1,
        f"stretched by up to {_percent(preset.stretch - 1)}": preset.stretch > 1,
        f"slanted by up to {preset.shear_deg:g}\N{DEGREE SIGN}": preset.shear_deg > 0,
        "seen at a slight angle": preset.tilt > 0,
    }
    moved = ", ".join(text for text, happens in moves.items() if happens)
    light = _percent(1 / (1 - preset.light) - 1)
    return f"{suits} At random: {moved}; brightness, contrast and colour changed by up to {light}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
