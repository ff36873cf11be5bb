"""Photos in Python: a folder that was listed, what is in it, and how it looks to training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from heeler.clock import Clock
from heeler.keywords import FITS, label_map, optional_path, require_choice, require_number, rgb
from heeler.notebook import shown
from heeler.photos import list_files
from heeler.plans import Augment, TrainOptions
from heeler.records import Catalogue, Fit, Preprocessing, ignore_events

if TYPE_CHECKING:
    from heeler.check import CheckResult
    from heeler.judge.plots import Chart

__all__ = ["PhotoFolder", "open_folder"]

MAX_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class PhotoFolder:
    """Photos that were listed with their classes, and how they are to be divided; made by ``heeler.open_folder``.

    Args:
        source: folder, table or archive, as it was named.
        catalogue: every file that was found; photos that cannot be read are known only once they are opened.
        options: what decides classes and parts.

    Example:
        >>> import heeler
        >>> photos = heeler.open_folder("photos")
        >>> photos
        PhotoFolder('photos': 48 photos in 4 classes)
        >>> photos.counts["cat"], len(photos)
        (12, 48)
    """

    source: Path
    catalogue: Catalogue
    options: TrainOptions

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted as Python sorts strings."""
        return self.catalogue.classes

    @property
    def counts(self) -> dict[str, int]:
        """Number of photos of each class, in class order."""
        found = Counter(photo.label for photo in self.catalogue.usable)
        return {name: found[name] for name in self.classes}

    def __len__(self) -> int:
        return len(self.catalogue.usable)

    def __repr__(self) -> str:
        n_left_out = len(self.catalogue.photos) - len(self)
        left_out = f", {n_left_out:,} files left out" if n_left_out else ""
        return f"PhotoFolder({str(self.source)!r}: {len(self):,} photos in {len(self.classes):,} classes{left_out})"

    def _repr_html_(self) -> str:
        counts = self.counts
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{n:,}</td></tr>"
            for name, n in list(counts.items())[:MAX_CLASSES_SHOWN]
        )
        more = f"<p>and {len(counts) - MAX_CLASSES_SHOWN:,} more classes</p>" if len(counts) > MAX_CLASSES_SHOWN else ""
        head = "<tr><th style='text-align:left'>class</th><th>photos</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{rows}</table>{more}"

    def show_batch(
        self, n: int = 9, *, augment: Augment = "photo", image_px: int = 224, fit: Fit = "crop", seed: int | None = None
    ) -> Chart:
        """Show photos as training sees them: cut, scaled and varied by the same code.

        Args:
            n: how many, 1 to 100; they are of as many classes as possible. No others are opened.
            augment: how photos are varied: ``photo``, ``overhead``, ``document`` or ``none``.
            image_px: side of the network's input in pixels, 32 to 1024.
            fit: how a photo becomes a square: ``crop``, ``squash`` or ``pad``.
            seed: another one shows other photos; the folder's own by default.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            UsageError: an argument does not make sense.
            DataError: no photo can be read.

        Example:
            >>> import heeler
            >>> heeler.open_folder("photos").show_batch(4, image_px=64).savefig("batch.png")
        """
        require_number("n", n, whole=True, limits=(1, 100))
        require_number("image_px", image_px, whole=True)
        require_number("seed", seed, whole=True, optional=True)
        require_choice("fit", fit, FITS)
        from heeler.judge.plots import plot_batch
        from heeler.preview import training_batch

        spec = Preprocessing(image_px=int(image_px), fit=fit, alpha=self.options.alpha)
        draw = self.options.seed if seed is None else int(seed)
        squares, labels = training_batch(self.catalogue, int(n), augment, spec, draw)
        return shown(plot_batch(squares, labels))

    def check(self) -> CheckResult:
        """Read every photo and tell what is wrong: see ``heeler.check``.

        Raises:
            DataError: nothing can be read as labelled photos.

        Example:
            >>> import heeler
            >>> heeler.open_folder("photos").check().problems
            ()
        """
        from heeler.check import check

        options = self.options
        return check(
            self.source, labels=options.labels, nested=options.nested, group_by=options.group_by, test=options.test,
            valid=options.valid, seed=options.seed, alpha=options.alpha,
        )  # fmt: skip


def open_folder(
    source: str | os.PathLike[str],
    labels: Mapping[str, str | None] | str | os.PathLike[str] | None = None,
    *,
    fixes: str | os.PathLike[str] | None = None,
    test: float = 0.2,
    valid: float = 0.1,
    seed: int = 42,
    nested: bool = False,
    group_by: str | None = None,
    alpha: tuple[int, int, int] = (255, 255, 255),
) -> PhotoFolder:
    """List the photos of a folder and their classes; none is opened, and nothing is written.

    Args:
        source: folder with a folder for each class (perhaps inside ``train``, ``val`` and ``test``), or a CSV, TSV, zip
            or tar of photos.
        labels: class of each folder that is to be renamed, merged (two folders, one class) or dropped (None), or the
            path of a CSV that says so; folders that are not named keep their names.
        fixes: ``fixes.csv`` of a run, whose decisions are applied: photos relabelled or dropped.
        test: share of the photos to keep for the result, 0 to 0.9; unused where the source has a test part.
        valid: share of the rest to keep for choices, 0.01 to 0.9; unused where the source has such a part.
        seed: number that fixes which photo goes into which part, and training's chances; 0 to 4,294,967,295.
        nested: the class is the whole path below the source, not its first level.
        group_by: a column of the CSV, or a regular expression on the path; photos of one group stay in one part.
        alpha: colour behind transparent pixels, 8-bit RGB.

    Returns:
        The photos, for ``heeler.train``.

    Raises:
        UsageError: the source is not there, or an argument does not make sense.
        DataError: there are no photos, they lie in no class folders, or the fixes cannot be applied to them.

    Example:
        >>> import heeler
        >>> photos = heeler.open_folder("photos", labels={"cat": "animal", "rocket": None})
        >>> photos.classes
        ('animal', 'coffee', 'person')
    """
    require_number("test", test)
    require_number("valid", valid)
    require_number("seed", seed, whole=True)
    colour = rgb(alpha)
    options = TrainOptions(
        labels=label_map(labels), nested=nested, test=float(test), valid=float(valid), seed=int(seed),
        group_by=group_by, alpha=colour, fixes=optional_path("fixes", fixes),
    )  # fmt: skip
    place = Path(source)
    return PhotoFolder(place, list_files(place, options, Clock(ignore_events)), options)
