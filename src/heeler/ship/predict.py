"""Photos in, one row each out, in order: the bundle's preprocessing, its network, its temperature, nothing else."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    Status,
    ignore_events,
)
from heeler.ship.bundle import Bundle, open_bundle

# Of each photo its path, its pixels (S, S, 3) where it could be read, and the reason where not.
Batch = list[tuple[str, ByteArray | None, str]]
Source = str | Path | bytes | Image.Image | np.ndarray
# Below this many photos, exporting and timing cost more than they save.
FEW = BATCH
# Rows come so many at a time, computed together.
EVERY = BATCH
KINDS = "give a path, bytes, a PIL image, or a uint8 array of shape (H, W, 3) in RGB"


@dataclass(frozen=True)
class Deferred:
    """A photo whose file is read when it is its turn, beside others; ``read`` gives its bytes.

    ``read`` raises ``UnreadableError`` where there is no such photo; any other error ends the stream.
    """

    read: Callable[[], bytes]


def ignore_engine(_: Engine) -> None:
    """Whoever does not care which engine computes."""


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

    def predict(
        self, photos: Source | Iterable[Source], *, top: int = 3, unsure_below: float | None = None
    ) -> list[Prediction]:
        """Classify photos.

        Args:
            photos: paths, bytes of image files, PIL images, or arrays (H, W, 3) or (H, W) uint8; one or many.
            top: how many classes each row names.
            unsure_below: probability in [0, 1] below which a photo's status is ``unsure``; 0 answers always. The
                model's own where None: from there on it was right in 95 % of the photos that it was tuned by.

        Returns:
            One row for each photo, in order; what cannot be read has status ``unreadable`` and the reason.

        Raises:
            UsageError: an input is of another kind, or an array of another shape or dtype; or a number makes no sense.

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
        return list(self.stream(photos, top=top, unsure_below=unsure_below))

    def stream(
        self,
        photos: Iterable[Source | Deferred],
        *,
        top: int = 3,
        unsure_below: float | None = None,
        on_event: OnEvent = ignore_events,
        engine: Engine | str = "",
        on_engine: Callable[[Engine], None] = ignore_engine,
        few: int = FEW,
    ) -> Iterator[Prediction]:
        """``predict`` for any number of photos: rows come as they are made, and memory does not grow.

        Photos are read and decoded while those before them are computed, so three batches of 32 are under way at most.

        Args:
            photos: as for ``predict``; taken as they are needed.
            top: as for ``predict``.
            unsure_below: as for ``predict``.
            on_event: told of progress.
            engine: the one that computes, or its name; the fastest where empty.
            on_engine: told of the engine before the first row that it computed.
            few: up to so many photos, none is timed.

        Raises:
            UsageError: as for ``predict``, or the engine is not there.
        """
        if top < 1:
            raise UsageError(f"{top} classes cannot be named for a photo", hint="choose a top of 1 or more")
        threshold = self.threshold(unsure_below)
        waiting = iter(photos)
        first = list(islice(waiting, few + 1))
        chosen = engine if isinstance(engine, Engine) else None
        at_once, done = AtOnce(BATCH), 0
        computed: deque[tuple[Batch, Future[FloatArray] | None]] = deque()

        def rows_of(batch: Batch, logits: Future[FloatArray] | None) -> Iterator[Prediction]:
            nonlocal done
            answers = iter(self._probabilities(logits.result()) if logits else ())
            for path, square, reason in batch:
                yield self._row(path, next(answers) if square is not None else None, reason, top, threshold)
            done += len(batch)
            at_once.tell(on_event)
            on_event(Progress(done))

        with ThreadPoolExecutor(n_cores()) as pool, ThreadPoolExecutor(1) as worker:
            for batch in self._read_ahead(chain(first, waiting), pool):
                squares = [square for _, square, _ in batch if square is not None]
                if squares and chosen is None:
                    model, spec, is_few = self.bundle.model, self.bundle.spec, len(first) <= few
                    chosen = logit_engine(model, spec, np.stack(squares), few=is_few, name=str(engine))
                    on_engine(chosen)
                logits = (
                    worker.submit(at_once.compute, chosen.forward, np.stack(squares)) if chosen and squares else None
                )
                computed.append((batch, logits))
                if len(computed) > 1:
                    yield from rows_of(*computed.popleft())
            while computed:
                yield from rows_of(*computed.popleft())

    def _read_ahead(self, sources: Iterator[Source | Deferred], pool: ThreadPoolExecutor) -> Iterator[Batch]:
        """Batches of photos that were read, the next one being read meanwhile."""
        reading: deque[list[tuple[str, Future[tuple[ByteArray | None, str]]]]] = deque()
        while True:
            batch = []
            for source in islice(sources, BATCH):
                path = str(source) if isinstance(source, str | Path) else ""
                # Here and not in the pool: one image given twice must not be loaded twice at the same time.
                batch.append((path, pool.submit(self._read, _at_rest(source))))
            if batch:
                reading.append(batch)
            if len(reading) > 1 or (reading and not batch):
                yield [(path, *future.result()) for path, future in reading.popleft()]
            elif not batch:
                return

    def _probabilities(self, outputs: FloatArray) -> FloatArray:
        logits = outputs / self.bundle.temperature
        scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: FloatArray = scaled / scaled.sum(axis=1, keepdims=True)
        return result

    def threshold(self, unsure_below: float | None = None) -> float:
        """Top probability, in [0, 1], below which a photo is ``unsure``: the one given, or the model's own.

        Args:
            unsure_below: in [0, 1]; None is the model's own.

        Raises:
            UsageError: it is no probability.
        """
        if unsure_below is None:
            return self.bundle.threshold
        if isinstance(unsure_below, bool | str) or not 0 <= unsure_below <= 1:
            raise UsageError(
                f"unsure_below={unsure_below!r} is no probability", hint="give a number from 0 (always answer) to 1"
            )
        return float(unsure_below)

    def _row(self, path: str, probabilities: FloatArray | None, reason: str, top: int, threshold: float) -> Prediction:
        if probabilities is None:
            return Prediction(path, "unreadable", reason)
        best = np.argsort(-probabilities, kind="stable")[:top]
        status: Status = "ok" if float(probabilities[best[0]]) >= threshold else "unsure"
        return Prediction(path, status, ranked=tuple((self.classes[k], float(probabilities[k])) for k in best))

    def _read(self, source: Source | Deferred) -> tuple[ByteArray | None, str]:
        try:
            return self._square(source), ""
        except UnreadableError as error:
            return None, error.message

    def _square(self, source: Source | Deferred) -> ByteArray:
        spec = self.bundle.spec
        if isinstance(source, str | Path):
            return decode(read_regular(Path(source)), spec).pixels
        if isinstance(source, bytes | Deferred):
            return decode(source if isinstance(source, bytes) else source.read(), spec).pixels
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


def _at_rest(source: Source | Deferred) -> Source | Deferred:
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
