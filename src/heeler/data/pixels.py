"""One pass over the files: each is read once, hashed, decoded, and its pixels kept for every later run.

What a file is comes out of this pass (size, format, sha256, verdict), so the catalogue leaves it completed. A second
run over the same folder decodes nothing and, where size, times and inode are as before, opens nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from heeler.data.decode import decode
from heeler.data.duplicates import THUMBNAIL_PX, mark_duplicates, thumbnails
from heeler.data.rows import Facts, Rows, RowStore
from heeler.data.square import without_padding
from heeler.data.turns import Turns
from heeler.errors import DataError, UnreadableError
from heeler.files import cache_root, read_regular, require_space, write_text
from heeler.machine import n_cores
from heeler.records import ByteArray, Catalogue, Note, OnEvent, Photo, Preprocessing, Progress

# Raise when decoding changes what it makes of the same bytes.
DECODE_VERSION = 4
# Photos that a thread takes at once, fewer where they are large: the last threads then end together.
CHUNK, CHUNK_BYTES = 16, 2 << 20
# Chunks that each core may be ahead of the disk: 256 photos, 40 MB at 224 px.
AHEAD = 16
# A file changed within this time of being read may change again without its times showing it.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Pixels:
    """The usable photos as the network will see them.

    Args:
        spec: how they were made.
        rows: N rows (S, S, 3) uint8, in the order of ``Catalogue.usable``.
        thumbs: (N, 32, 32) uint8 grey miniatures, for finding near duplicates.
        n_decoded: photos that this pass had to decode.
    """

    spec: Preprocessing
    rows: Rows
    thumbs: ByteArray
    n_decoded: int

    def kept(self, names: Sequence[str]) -> tuple[list[str], Rows]:
        """Other photos, by their sha256: those that some run has decoded in the same way, and their squares."""
        squares, _ = _stores(self.spec)
        there = [name for name in names if name in squares]
        return there, squares.view(there)


@dataclass(frozen=True)
class _Chunk:
    """Files that one thread read, each with its stat, and the squares and miniatures of photos that are to be kept."""

    files: list[tuple[Photo, tuple[int, ...]]]
    decoded: list[Photo]
    squares: ByteArray
    thumbs: ByteArray

    def without(self, names: set[str]) -> _Chunk:
        """The same without photos, by their sha256, that are kept already, and each of the others once."""
        own = [photo.sha256 for photo in self.decoded]
        new = [i for i, name in enumerate(own) if name not in names and name not in own[:i]]
        if len(new) == len(own):
            return self
        decoded = [self.decoded[i] for i in new]
        return replace(self, decoded=decoded, squares=self.squares[new], thumbs=self.thumbs[new])


def read_photos(catalogue: Catalogue, spec: Preprocessing, on_event: OnEvent) -> tuple[Catalogue, Pixels]:
    """Read every candidate of a catalogue once.

    Args:
        catalogue: photos with status ``ok`` are candidates; the others pass through.
        spec: how a photo becomes a square of pixels.
        on_event: told of progress (``Progress``, one unit a file).

    Returns:
        The catalogue with sizes, formats, hashes and verdicts filled in and exact duplicates marked, and the pixels
        of its usable photos.

    Raises:
        ResourceError: the cache's disk is full; what was decoded before is kept.
    """
    store, thumbs = _stores(spec)
    seen = _Seen(catalogue)
    known, unknown = _recall(catalogue, seen, store, thumbs)
    # Of the files still to be opened, as many as the store has other rows may be in it under another path.
    n_new = len(unknown) - (len(store) - len({photo.sha256 for photo in known}))
    require_space(store.folder, max(0, n_new) * (store.row_bytes + thumbs.row_bytes))
    completed = {photo.path: photo for photo in known}
    n_decoded = 0
    done = len(known)
    on_event(Progress(done))
    with (
        store.writer() as squares_out,
        thumbs.writer() as thumbs_out,
        contextlib.closing(_read_all(unknown, spec, store, thumbs)) as chunks,
    ):
        for chunk in chunks:
            for photo, stat in chunk.files:
                completed[photo.path] = photo
                if stat:
                    seen.remember(photo, stat)
            if chunk.decoded:
                names = [photo.sha256 for photo in chunk.decoded]
                facts = [(photo.width_px, photo.height_px, photo.format) for photo in chunk.decoded]
                thumbs_out.append(names, chunk.thumbs)
                if squares_out.append(names, chunk.squares, facts):
                    thumbs_out.commit()  # one is of no use without the other
            n_decoded += len(chunk.decoded)
            done += len(chunk.files)
            on_event(Progress(done))
    if unknown:
        seen.save()
    photos = mark_duplicates(completed.get(photo.path, photo) for photo in catalogue.photos)
    full = replace(catalogue, photos=photos)
    names = [photo.sha256 for photo in full.usable]
    for text in _verdict_notes(full):
        on_event(Note(text, "warning"))
    view = thumbs.view(names)
    return full, Pixels(spec, store.view(names), view.take(np.arange(len(view))), n_decoded)


def read_again(catalogue: Catalogue, spec: Preprocessing, on_event: OnEvent) -> Pixels:
    """Pixels of photos that were read before, prepared in another way.

    Args:
        catalogue: as ``read_photos`` completed it.
        spec: how a photo becomes a square of pixels.
        on_event: told of progress (``Progress``, one unit a file).

    Raises:
        DataError: the photos are not those of the first reading any more.
        ResourceError: the cache's disk is full; what was decoded before is kept.
    """
    again, pixels = read_photos(replace(catalogue, photos=catalogue.usable), spec, on_event)
    now = {photo.path: photo.sha256 for photo in again.usable}
    for photo in catalogue.usable:
        if now.get(photo.path) != photo.sha256:
            raise DataError(
                f"{photo.path} has changed, or cannot be read any more, since the run read it first",
                hint="run the same command again, and leave the photos as they are meanwhile",
            )
    return pixels


def count_known(catalogue: Catalogue, spec: Preprocessing) -> int:
    """How many of a catalogue's candidates an earlier run has decoded, as far as can be told without opening them."""
    store, thumbs = _stores(spec)
    return len(_recall(catalogue, _Seen(catalogue), store, thumbs)[0])


def decoding_per_s(catalogue: Catalogue, spec: Preprocessing) -> float:
    """Photos a second that this machine reads and decodes, timed on all candidates of a catalogue; nothing is kept."""
    photos = catalogue.usable

    def read(photo: Photo) -> None:
        with contextlib.suppress(UnreadableError):
            decode(read_regular(photo.file), spec)

    start = time.perf_counter()
    with _one_thread_a_photo(), ThreadPoolExecutor(n_cores()) as pool:
        list(pool.map(read, photos))
    return len(photos) / (time.perf_counter() - start)


def kept_squares(names: list[str], spec: Preprocessing) -> ByteArray | None:
    """Squares (N, S, S, 3) uint8 of photos by their sha256, as an earlier run kept them; None unless it kept all."""
    squares, _ = _stores(spec)
    return squares.view(names).take(np.arange(len(names))) if all(name in squares for name in names) else None


def _stores(spec: Preprocessing) -> tuple[RowStore, RowStore]:
    """Squares and miniatures of photos prepared in one way."""
    folder = cache_root() / "pixels" / f"{spec.pixel_key()}-{DECODE_VERSION}"
    squares = RowStore(folder / "squares", (spec.image_px, spec.image_px, 3), "uint8")
    return squares, RowStore(folder / "thumbs", (THUMBNAIL_PX, THUMBNAIL_PX), "uint8")


def _recall(
    catalogue: Catalogue, seen: _Seen, store: RowStore, thumbs: RowStore
) -> tuple[list[Photo], list[tuple[Photo, tuple[int, ...]]]]:
    """Split the candidates into those known from an earlier run and those to be opened, with their stat."""
    known, unknown = [], []
    for photo in catalogue.usable:
        stat = _stat(photo.file)
        sha256 = seen.recall(photo, stat)
        if sha256 and sha256 in store and sha256 in thumbs:
            known.append(_completed(photo, sha256, store.facts(sha256)))
        else:
            unknown.append((photo, stat))
    return known, unknown


def _completed(photo: Photo, sha256: str, facts: Facts) -> Photo:
    width_px, height_px, format_name = facts
    return replace(photo, sha256=sha256, width_px=width_px, height_px=height_px, format=format_name)


def _read_all(
    files: list[tuple[Photo, tuple[int, ...]]], spec: Preprocessing, store: RowStore, thumbs: RowStore
) -> Generator[_Chunk]:
    """Read and decode on as many cores as pays, in order. Chunks keep threads from fighting over Python's lock."""
    chunks = _chunks(files)
    n_workers = n_cores()
    turns = Turns(n_workers)
    in_hand: set[str] = set()
    with _one_thread_a_photo(), ThreadPoolExecutor(n_workers) as pool:
        # Enough ahead to keep the cores busy while rows are put on disk, too little to fill the memory.
        ahead = AHEAD * n_workers
        waiting = deque(pool.submit(_read_chunk, c, spec, store, thumbs, turns) for c in islice(chunks, ahead))
        while waiting:
            chunk = waiting.popleft().result()
            turns.done(len(chunk.files))
            waiting.extend(pool.submit(_read_chunk, c, spec, store, thumbs, turns) for c in islice(chunks, 1))
            new = chunk.without(in_hand)
            in_hand.update(photo.sha256 for photo in new.decoded)
            yield new


@contextlib.contextmanager
def _one_thread_a_photo() -> Iterator[None]:
    """One photo a thread beats one photo on all threads."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _chunks(files: list[tuple[Photo, tuple[int, ...]]]) -> Iterator[list[tuple[Photo, tuple[int, ...]]]]:
    chunk: list[tuple[Photo, tuple[int, ...]]] = []
    n_bytes = 0
    for photo, stat in files:
        chunk.append((photo, stat))
        n_bytes += stat[0] if stat else 0
        if len(chunk) == CHUNK or n_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def _read_chunk(
    chunk: list[tuple[Photo, tuple[int, ...]]], spec: Preprocessing, store: RowStore, thumbs: RowStore, turns: Turns
) -> _Chunk:
    with turns.take():
        files, decoded, squares = [], [], []
        for photo, stat in chunk:
            read, square = _read_one(photo, spec, store, thumbs)
            files.append((read, stat if read.status == "ok" else ()))
            if square is not None:
                decoded.append(read)
                squares.append(square)
        if not squares:
            return _Chunk(files, [], np.empty(0, np.uint8), np.empty(0, np.uint8))
        kept = np.stack(squares)
        return _Chunk(files, decoded, kept, _miniatures(kept, decoded, spec))


def _read_one(photo: Photo, spec: Preprocessing, store: RowStore, thumbs: RowStore) -> tuple[Photo, ByteArray | None]:
    """What one file turned out to be, and its square; None where the store has it or the file is no photo."""
    try:
        data = read_regular(photo.file)
    except UnreadableError as error:
        return replace(photo, status="unreadable", reason=error.message), None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in store and sha256 in thumbs:
        return _completed(photo, sha256, store.facts(sha256)), None
    try:
        made = decode(data, spec)
    except UnreadableError as error:
        return replace(photo, sha256=sha256, status="unreadable", reason=error.message), None
    return _completed(photo, sha256, (made.width_px, made.height_px, made.format)), made.pixels


def _miniatures(squares: ByteArray, photos: list[Photo], spec: Preprocessing) -> ByteArray:
    """Of each photo one, (n, 32, 32) uint8."""
    if spec.fit != "pad":
        return thumbnails(squares)
    # Bars that are the same in all photos would hide what differs, and where a photo was cropped.
    sizes = [(photo.width_px, photo.height_px) for photo in photos]
    shown = [without_padding(square, size) for square, size in zip(squares, sizes, strict=True)]
    return np.concatenate([thumbnails(each[None]) for each in shown])


def _verdict_notes(catalogue: Catalogue) -> list[str]:
    """One line for each kind of trouble that the pass met."""
    notes = []
    unreadable = [photo for photo in catalogue.photos if photo.status == "unreadable"]
    if unreadable:
        first = unreadable[0]
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        notes.append(f"{len(unreadable)} unreadable: {first.path} {first.reason}{more}")
    conflicts = [photo for photo in catalogue.photos if photo.reason.startswith("same bytes, other class")]
    if conflicts:
        notes.append(
            f"{len(conflicts)} photos left out because the same photo stands in two classes, "
            f"such as {conflicts[0].path}: decide which is right and remove the other"
        )
    return notes


def _stat(path: Path) -> tuple[int, ...]:
    """What changes when a file does: size, times of content and of inode, inode. Empty where it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


class _Seen:
    """Which content each file of a source had, by its stat; lets a second run leave the files closed."""

    def __init__(self, catalogue: Catalogue) -> None:
        root = os.fsencode(Path(catalogue.source).absolute())  # a name need not be text
        self._path = cache_root() / "seen" / f"{hashlib.sha256(root).hexdigest()[:16]}.json"
        self._now_ns = time.time_ns()
        self._entries: dict[str, list[int | str]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._entries.update(json.loads(self._path.read_text()))

    def recall(self, photo: Photo, stat: tuple[int, ...]) -> str:
        """The sha256 that this unchanged file had, or an empty string."""
        entry = self._entries.get(str(photo.file))
        return str(entry[-1]) if isinstance(entry, list) and stat and entry[:-1] == list(stat) else ""

    def remember(self, photo: Photo, stat: tuple[int, ...]) -> None:
        """Keep what a file was, unless it is so fresh that a change could go unseen."""
        if stat[2] < self._now_ns - SETTLED_NS:
            self._entries[str(photo.file)] = [*stat, photo.sha256]

    def save(self) -> None:
        """Write the entries for the next run."""
        write_text(self._path, json.dumps(self._entries, separators=(",", ":")))
