"""Photos in, one row each out, in order: the bundle's preprocessing, its network, its temperature, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from heeler.data.decode import decode, file_of, fit_square, to_rgb
from heeler.errors import UnreadableError, UsageError
from heeler.files import n_cores, read_regular
from heeler.learn.engines import BATCH, Engine
from heeler.learn.memory import AtOnce
from heeler.learn.network import logit_engine
from heeler.records import (
    ByteArray,
    FloatArray,
    OnEvent,
    Prediction,
    Progress,
    Stage,
    ignore_events,
)
from heeler.ship.bundle import Bundle, open_bundle

Source = str | Path | bytes | Image.Image | np.ndarray
# Below this many photos, exporting and timing cost more than they save.
FEW = BATCH
KINDS = "give a path, bytes, a PIL image, or a uint8 array of shape (H, W, 3) in RGB"


@dataclass(frozen=True, repr=False)
class Classifier:
    """An opened model that classifies photos; made by ``heeler.load``.

    Args:
        bundle: the model.

    Example:
        >>> import heeler
        >>> model = heeler.load("runs/photos-1/model")
        >>> model.classes
        ('cat', 'coffee', 'person', 'rocket')
        >>> model
        Classifier('runs/photos-1/model': 4 classes, 64 px)
    """

    bundle: Bundle

    def __repr__(self) -> str:
        return f"Classifier({str(self.bundle.path)!r}: {len(self.classes):,} classes, {self.bundle.spec.image_px} px)"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.bundle.classes

    def predict(self, photos: Source | Iterable[Source], *, top: int = 3) -> list[Prediction]:
        """Classify photos.

        Args:
            photos: paths, bytes of image files, PIL images, or arrays (H, W, 3) or (H, W) uint8; one or many.
            top: how many classes each row names.

        Returns:
            One row for each photo, in order; what cannot be read has status ``unreadable`` and the reason.

        Raises:
            UsageError: an input is of another kind, or an array of another shape or dtype.

        Example:
            >>> import heeler
            >>> from PIL import Image
            >>> model, photo = heeler.load("runs/photos-1/model"), Image.open("photos/cat/1.jpg")
            >>> [row.label for row in model.predict(["photos/cat/1.jpg", photo], top=1)]
            ['cat', 'cat']
        """
        if isinstance(photos, str | Path | bytes | Image.Image | np.ndarray):
            photos = [photos]
        elif not isinstance(photos, Iterable):
            raise UsageError(f"a {type(photos).__name__} is no photo", hint=KINDS)
        return list(self.stream(photos, top=top))

    def stream(
        self, photos: Iterable[Source], *, top: int = 3, on_event: OnEvent = ignore_events
    ) -> Iterator[Prediction]:
        """``predict`` for any number of photos: rows come as they are made, and memory does not grow."""
        if top < 1:
            raise UsageError(f"{top} classes cannot be named for a photo", hint="choose a top of 1 or more")
        waiting = iter(photos)
        first = list(islice(waiting, FEW + 1))
        engine: Engine | None = None
        at_once = AtOnce(BATCH)
        done = 0
        with ThreadPoolExecutor(n_cores()) as pool:
            sources = chain(first, waiting)
            while batch := list(islice(sources, BATCH)):
                # Here and not in the pool: one image given twice must not be loaded twice at the same time.
                read = list(pool.map(self._read, [_at_rest(source) for source in batch]))
                squares = [square for square, _ in read if square is not None]
                if squares and engine is None:
                    engine = logit_engine(self.bundle.model, self.bundle.spec, np.stack(squares), few=len(first) <= FEW)
                probabilities = list(self._probabilities(engine, at_once, squares)) if engine and squares else []
                rows = iter(probabilities)
                for source, (square, reason) in zip(batch, read, strict=True):
                    path = str(source) if isinstance(source, str | Path) else ""
                    row = next(rows) if square is not None else None
                    yield self._row(path, row, reason, top)
                done += len(batch)
                at_once.tell(on_event)
                on_event(Progress(done))

    def _probabilities(self, engine: Engine, at_once: AtOnce, squares: Sequence[ByteArray]) -> FloatArray:
        logits = at_once.compute(engine.forward, np.stack(squares)) / self.bundle.temperature
        scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: FloatArray = scaled / scaled.sum(axis=1, keepdims=True)
        return result

    def _row(self, path: str, probabilities: FloatArray | None, reason: str, top: int) -> Prediction:
        if probabilities is None:
            return Prediction(path, "unreadable", reason)
        best = np.argsort(-probabilities, kind="stable")[:top]
        return Prediction(path, "ok", ranked=tuple((self.classes[k], float(probabilities[k])) for k in best))

    def _read(self, source: Source) -> tuple[ByteArray | None, str]:
        try:
            return self._square(source), ""
        except UnreadableError as error:
            return None, error.message

    def _square(self, source: Source) -> ByteArray:
        spec = self.bundle.spec
        if isinstance(source, str | Path):
            return decode(read_regular(Path(source)), spec).pixels
        if isinstance(source, bytes):
            return decode(source, spec).pixels
        if isinstance(source, Image.Image):
            return fit_square(to_rgb(source, spec.alpha), spec)
        if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim in (2, 3):
            rgb = np.repeat(source[:, :, None], 3, axis=2) if source.ndim == 2 else source
            if rgb.shape[2] == 3 and min(rgb.shape) > 0:
                return fit_square(
                    np.require(rgb, requirements=["C", "W"]), spec
                )  # torch warns of arrays it may not write to
        kind = (
            f"{source.dtype} array of shape {source.shape}" if isinstance(source, np.ndarray) else type(source).__name__
        )
        raise UsageError(f"a {kind} is no photo", hint=KINDS)


def _at_rest(source: Source) -> Source:
    """The source itself, but for a Pillow image: the file that it was opened from, or itself with its pixels loaded."""
    if not isinstance(source, Image.Image):
        return source
    data = file_of(source)
    if data is not None:
        return data
    with contextlib.suppress(Exception):  # met again, and told, where it is read
        source.load()
    return source


def load(path: str | Path) -> Classifier:
    """Open a model that heeler made.

    Args:
        path: the bundle's folder, such as ``runs/photos-1/model``.

    Raises:
        BundleError: it is damaged or not a bundle.

    Example:
        >>> import heeler
        >>> rows = heeler.load("runs/photos-1/model").predict("photos/coffee/2.jpg")
        >>> rows[0].label
        'coffee'
    """
    return Classifier(open_bundle(Path(path)))


def predict_paths(
    model: Path, paths: Iterable[str], *, top: int = 3, on_event: OnEvent = ignore_events
) -> Iterator[Prediction]:
    """Rows for paths, in order, as ``Classifier.stream`` makes them; ``on_event`` is told of progress.

    Raises:
        BundleError: the model is damaged or not a bundle; at once, before the first row is asked for.
    """
    classifier = load(model)
    on_event(Stage("classify", len(paths) if isinstance(paths, Sequence) else 0))
    return classifier.stream(paths, top=top, on_event=on_event)
