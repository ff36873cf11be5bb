"""A public set's name -> its folder: downloaded, verified, unpacked, put in place whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from heeler.data.archives import extract
from heeler.data.download import bytes_there, download, forget, is_safe, matches
from heeler.data.sets import PublicSet
from heeler.errors import DataError, Interrupted, UsageError
from heeler.files import cache_root, disk_errors, lock_file, require_space, write_csv
from heeler.records import Done, Note, OnEvent, Stage, ignore_events

__all__ = ["MIRROR_VARIABLE", "Fetched", "fetch"]

MIRROR_VARIABLE = "HEELER_GET_URL"
# Photos are compressed already, so an archive unpacks to about its own size; far more is an attack on the disk.
MAX_UNPACKED, MARGIN_BYTES = 4, 10 * 10**6
SPACE_HINT = "free some space, choose a smaller set, another --out, or a larger disk for HEELER_CACHE"


@dataclass(frozen=True)
class Fetched:
    """A set that is there.

    Args:
        name: of the set.
        folder: its photos.
        labels: table of folder and class, for ``heeler train --labels``; None where folders are named for classes.
        n_photos: in the folder.
        already: it was there before.
        downloaded_bytes: by this call.
        seconds: that this call took.
    """

    name: str
    folder: Path
    labels: Path | None
    n_photos: int
    already: bool
    downloaded_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler get --json`` prints."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "labels": str(self.labels) if self.labels else None,
            "n_photos": self.n_photos,
            "already": self.already,
            "downloaded_bytes": self.downloaded_bytes,
            "seconds": round(self.seconds, 3),
        }


def fetch(wanted: PublicSet, out: Path | None = None, on_event: OnEvent = ignore_events) -> Fetched:
    """Fetch a public set into a folder of its own.

    The archive comes from where the set is published, or from ``$HEELER_GET_URL/<archive>``, and waits in heeler's
    cache until it is whole and right; then it is unpacked beside ``out``, renamed to it, and removed.

    Args:
        wanted: the set.
        out: folder to make; one named like the set, in the current folder, by default.
        on_event: told the stages ``download``, ``verify`` and ``unpack``.

    Returns:
        Where it is. A set that is there already is left as it is.

    Raises:
        UsageError: ``out`` is there and is something else.
        ResourceError: the network or the disk failed; what was fetched stays for the next call.
        DataError: the file is not the published one, or holds what must not be unpacked.
        Interrupted: the user or the system stopped it; what was fetched stays for the next call.
    """
    start = time.perf_counter()
    out = Path(wanted.name) if out is None else out
    n_photos = _photos_there(wanted, out)
    n_bytes = 0
    if n_photos is None:
        file = cache_root() / "downloads" / wanted.archive
        try:
            with _alone(file):
                _require_room(wanted, file, out)
                n_bytes = _bring(wanted, file, on_event)
                _unpack(wanted, file, out, on_event)
                forget(file)
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(
                f"stopped with {bytes_there(file, wanted.size_bytes) / 1e6:,.1f} of {wanted.size_bytes / 1e6:,.1f} MB",
                hint="the same command goes on from there",
                signum=stop.exit_code - 128 if isinstance(stop, Interrupted) else 2,
            ) from stop
    labels = _write_labels(wanted, out)
    already = n_photos is not None
    n_found = _count(wanted, out) if n_photos is None else n_photos
    return Fetched(wanted.name, out, labels, n_found, already, n_bytes, time.perf_counter() - start)


def _photos_there(wanted: PublicSet, out: Path) -> int | None:
    """Photos of a set that is there and whole; None where nothing is.

    Raises:
        UsageError: something else is there.
    """
    if not os.path.lexists(out):
        return None
    if not out.is_dir():
        raise UsageError(f"{out} is there and is no folder", hint="name another folder with --out")
    n_found = _count(wanted, out)
    if n_found == wanted.n_photos:
        return n_found
    if not any(out.iterdir()):
        return None
    raise UsageError(
        f"{out} is there, with {n_found:,} of the {wanted.n_photos:,} photos of {wanted.name}",
        hint="name another folder with --out, or move this one away",
    )


def _count(wanted: PublicSet, out: Path) -> int:
    folders = (out / folder for folder in wanted.class_folders())
    return sum(entry.is_file() for folder in folders if folder.is_dir() for entry in os.scandir(folder))


def _bring(wanted: PublicSet, file: Path, on_event: OnEvent) -> int:
    """Download and verify the archive; the number of bytes that came."""
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if mirror and not is_safe(mirror):
        raise UsageError(f"{MIRROR_VARIABLE} is {mirror!r}, which is not https", hint="name a folder at https://...")
    url = f"{mirror.rstrip('/')}/{quote(wanted.archive)}" if mirror else wanted.url
    n_bytes = 0
    while True:
        had = bytes_there(file, wanted.size_bytes)
        missing = wanted.size_bytes - had
        if had and missing:
            on_event(Note(f"{had / 1e6:,.1f} of {wanted.size_bytes / 1e6:,.1f} MB are there from before"))
        if missing:
            with _stage("download", missing, "bytes", on_event) as tell:
                download(url, file, wanted.size_bytes, on_event)
                tell(f"{missing / 1e6:,.1f} MB")
            n_bytes += missing
        with _stage("verify", 0, "bytes", on_event) as tell:
            if matches(file, wanted.checksum):
                tell(wanted.checksum)
                return n_bytes
        forget(file)
        if not had:
            raise DataError(
                f"{url} is not the published file: its checksum is not {wanted.checksum}",
                hint="somebody may have replaced it, or the way to it changes files; try another network or a mirror",
            )
        # Two halves of two editions, or a disk that lost its last writes: what is left to do is to begin again.
        on_event(Note("what was there from before does not fit; fetching all of it again", "warning"))


def _unpack(wanted: PublicSet, file: Path, out: Path, on_event: OnEvent) -> None:
    """Extract beside the place where it shall stand, and move it there when it is whole."""
    place = Path(os.path.abspath(out))  # noqa: PTH100 - links in the user's path stay links
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        for leftover in place.parent.glob(f".{place.name}-*-partial-*"):
            pid = leftover.name.removeprefix(f".{place.name}-").partition("-")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}-{os.getpid()}-partial-", dir=place.parent))
    try:
        with _stage("unpack", 0, "files", on_event) as tell:
            try:
                extract(file, partial, max_bytes=MAX_UNPACKED * wanted.size_bytes + MARGIN_BYTES)
            except DataError:
                forget(file)
                raise
            tell(f"{_count(wanted, _top(partial)):,} photos")
        with disk_errors(place):
            if hasattr(os, "sync"):  # a power cut must not leave a folder that looks whole and holds empty files
                os.sync()
            if place.is_dir():
                place.rmdir()  # an empty one, see _photos_there
            top = _top(partial)
            if top == partial:
                top.chmod(0o755)  # mkdtemp's folders are for their maker alone
            top.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _top(folder: Path) -> Path:
    """The one folder that holds everything else, where an archive has such a one."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink() else folder


def _write_labels(wanted: PublicSet, out: Path) -> Path | None:
    """The map from folders to classes, beside the photos; one that is there is the user's, and stays."""
    if not wanted.names_differ:
        return None
    table = out.parent / f"{Path(os.path.abspath(out)).name}-labels.csv"  # noqa: PTH100 - as above
    if not table.exists():
        write_csv(table, ("folder", "class"), wanted.classes)
    return table


def _require_room(wanted: PublicSet, file: Path, out: Path) -> None:
    """Refuse to begin where the archive, or what it unpacks to, will not fit.

    Where both go onto one disk they must fit side by side, as the archive is removed last.
    """
    archive_bytes = wanted.size_bytes - bytes_there(file, wanted.size_bytes)
    unpacked_bytes = wanted.size_bytes + wanted.size_bytes // 10  # small files take whole blocks
    if _disk_of(file) == _disk_of(out):
        require_space(file.parent, archive_bytes + unpacked_bytes, hint=SPACE_HINT)
    else:
        require_space(file.parent, archive_bytes, hint=SPACE_HINT)
        require_space(out.parent, unpacked_bytes, hint=SPACE_HINT)


def _disk_of(path: Path) -> int:
    return next(parent.stat().st_dev for parent in path.absolute().parents if parent.exists())


@contextlib.contextmanager
def _stage(name: str, total: int, unit: str, on_event: OnEvent) -> Iterator[Callable[[str], None]]:
    """Tell of a stage; what the block says of it comes with its end, and an error ends it without a word."""
    summary: list[str] = []
    start = time.perf_counter()
    on_event(Stage(name, total, unit))
    yield summary.append
    on_event(Done(name, time.perf_counter() - start, " ".join(summary)))


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Let one process at a time fetch a file.

    Raises:
        ResourceError: another one does.
    """
    lock = file.with_name(file.name + ".lock")
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        # On Windows, where nothing is locked, two at once would be found out by the checksum.
        lock_file(handle, f"another heeler is fetching {file.name}")
        yield
