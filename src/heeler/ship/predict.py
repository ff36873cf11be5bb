"""Photos in, one row each out, in order: the bundle's preprocessing, its network, its temperature, nothing else."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from heeler.data.decode import decode, file_of, fit_square, to_rgb
from heeler.errors import UnreadableError, UsageError
from heeler.files import read_regular
from heeler.learn.engines import BATCH, Engine
from heeler.learn.memory import AtOnce
from heeler.learn.network import logit_engine
from heeler.machine import n_cores
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

# Of a photo its path, its pixels (S, S, 3) where it could be read, and the reason where not.
Read = tuple[str, ByteArray | None, str]
Source = str | Path | bytes | Image.Image | np.ndarray
# Below this many photos, exporting and timing cost more than they save.
FEW = BATCH
# Rows come so many at a time, computed together.
EVERY = BATCH
# A thread reads photos for so many passes before it computes them: on two cores Lite0 came to 329 photos/s of 320 px in
# ONNX Runtime so, to 320 with one pass, and to no more with four. Decoding takes a twelfth of the cores' time.
PASSES = 2
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
            >>> model = heeler.load("runs/photos-1/model")
            >>> with Image.open("photos/cat/1.jpg") as photo:
            ...     [row.label for row in model.predict(["photos/cat/1.jpg", photo], top=1)]
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

        Each core reads a few photos, 8 or 32 by the engine, and computes them; at most two such pieces a core are ahead
        of the row that is taken.

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
        at_once, done = AtOnce(BATCH), 0
        with contextlib.closing(self._answered(photos, top, threshold, engine, on_engine, few, at_once)) as batches:
            for rows in batches:
                done += len(rows)
                at_once.tell(on_event)
                on_event(Progress(done))
                yield from rows

    def _answered(
        self,
        photos: Iterable[Source | Deferred],
        top: int,
        threshold: float,
        engine: Engine | str,
        on_engine: Callable[[Engine], None],
        few: int,
        at_once: AtOnce,
    ) -> Generator[list[Prediction], None, None]:
        """Rows as they are made: of the photos that an engine is chosen with, then of as many as it computes best."""
        waiting = iter(photos)
        first = list(islice(waiting, few + 1))
        sources = map(_at_rest, chain(first, waiting))
        chosen = engine if isinstance(engine, Engine) else None

        def answer(batch: list[Read]) -> list[Prediction]:
            squares = [square for _, square, _ in batch if square is not None]
            outputs = at_once.compute(chosen.forward, np.stack(squares)) if chosen and squares else None
            return self._rows(batch, outputs, top, threshold)

        def read_and_answer(piece: list[Source | Deferred]) -> list[Prediction]:
            # By one thread: what it decodes is still in its core's cache when it computes.
            return answer([self._read(source) for source in piece])

        with ThreadPoolExecutor(n_cores() + 1) as pool:
            while chosen is None and (batch := list(pool.map(self._read, islice(sources, BATCH)))):
                squares = [square for _, square, _ in batch if square is not None]
                if squares:
                    model, spec, is_few = self.bundle.model, self.bundle.spec, len(first) <= few
                    chosen = logit_engine(model, spec, np.stack(squares), few=is_few, name=str(engine))
                    on_engine(chosen)
                yield answer(batch)
            ahead: deque[Future[list[Prediction]]] = deque()
            while chosen and (piece := list(islice(sources, min(BATCH, PASSES * chosen.at_once)))):
                ahead.append(pool.submit(read_and_answer, piece))
                if len(ahead) > 2 * n_cores():
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

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

    def _rows(self, batch: list[Read], outputs: FloatArray | None, top: int, threshold: float) -> list[Prediction]:
        answers = iter(self._probabilities(outputs) if outputs is not None else ())
        return [
            self._row(path, None if square is None else next(answers), reason, top, threshold)
            for path, square, reason in batch
        ]

    def _row(self, path: str, probabilities: FloatArray | None, reason: str, top: int, threshold: float) -> Prediction:
        if probabilities is None:
            return Prediction(path, "unreadable", reason)
        best = np.argsort(-probabilities, kind="stable")[:top]
        status: Status = "ok" if float(probabilities[best[0]]) >= threshold else "unsure"
        return Prediction(path, status, ranked=tuple((self.classes[k], float(probabilities[k])) for k in best))

    def _read(self, source: Source | Deferred) -> Read:
        path = str(source) if isinstance(source, str | Path) else ""
        try:
            return path, self._square(source), ""
        except UnreadableError as error:
            return path, None, error.message

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
