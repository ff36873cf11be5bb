"""zip and tar -> a folder in heeler's cache, extracted once and safely; knows nothing of photos."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import psutil

from heeler.errors import DataError, HeelerError, ResourceError
from heeler.files import cache_root, disk_errors, is_inside, require_space, sha256_file

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "extract", "is_archive", "open_archive", "plain_name"]

Kind = Literal["zip", "r:", "r:gz", "r:bz2", "r:xz", ""]

MAX_ENTRIES = 1_000_000
MAX_BYTES = 200 * 10**9
MAX_LINK_BYTES = 4096
READ_BYTES = 1 << 20

# First bytes of what is a zip or a tar, or a stream that may hold a tar.
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
STREAM_STARTS: tuple[tuple[bytes, Kind], ...] = ((b"\x1f\x8b", "r:gz"), (b"BZh", "r:bz2"), (b"\xfd7zXZ\x00", "r:xz"))
TAR_MAGIC_AT, TAR_MAGIC, TAR_BLOCK_BYTES = 257, b"ustar", 512
NAME_ENDS = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
OTHER_STARTS = ((b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar"), (b"\x28\xb5\x2f\xfd", "zstd"))


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, plain or compressed by gzip, bzip2 or xz; the content decides, then the name.

    Raises:
        DataError: it is an archive of a kind that heeler does not read.
    """
    return _kind(path) != ""


def plain_name(path: Path) -> str:
    """A file's name without the endings that archives have: ``photos.tar.gz`` is ``photos``."""
    end = max((end for end in NAME_ENDS if path.name.lower().endswith(end)), key=len, default="")
    return path.name[: len(path.name) - len(end)] or path.name


def open_archive(path: Path) -> Path:
    """Extract an archive into heeler's cache, once for each content.

    Args:
        path: zip or tar file.

    Returns:
        ``<cache>/sources/<sha256 of the archive>``, which exists only when whole.

    Raises:
        DataError: the archive is damaged, or holds something that would not stay inside the folder.
        ResourceError: the disk is too small or cannot be written.
    """
    sources = cache_root() / "sources"
    digest = sha256_file(path)
    folder = sources / digest
    if folder.is_dir():
        return folder
    with disk_errors(sources):
        sources.mkdir(parents=True, exist_ok=True)
    for leftover in sources.glob(f".partial-{digest}-*"):
        if not psutil.pid_exists(int(leftover.name.split("-")[2])):
            shutil.rmtree(leftover, ignore_errors=True)
    with disk_errors(sources):
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{digest}-{os.getpid()}-", dir=sources))
    try:
        extract(path, partial)
        # Without this a power cut could leave a folder that looks whole and holds empty files.
        if hasattr(os, "sync"):  # Windows has none
            os.sync()
        try:
            partial.rename(folder)
        except OSError:
            # Another process may have extracted the same archive meanwhile; its folder is as good.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def extract(archive: Path, folder: Path, *, max_bytes: int | None = None) -> None:
    """Extract a zip or tar into an empty folder, and refuse all that would not stay inside it.

    Args:
        archive: zip or tar file.
        folder: empty, or made here; after an error it may hold a part of the archive.
        max_bytes: most that it may unpack to; ``MAX_BYTES`` by default.

    Raises:
        DataError: the archive is damaged or encrypted; or it holds an absolute name, ``..``, a link that leaves, a
            name that passes through a link, a device, more than ``MAX_ENTRIES`` entries or ``max_bytes`` bytes.
        ResourceError: the disk is too small or cannot be written.
    """
    require_space(folder, archive.stat().st_size)
    kind = _kind(archive)
    guard = _Guard(archive, folder, MAX_BYTES if max_bytes is None else max_bytes)
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "zip":
                _extract_zip(guard)
            else:
                _extract_tar(guard, kind or "r:")
    except HeelerError:
        raise
    except tarfile.FilterError as error:
        raise _refused(archive, error.tarinfo.name, "is a link or device that is not safe to make") from error
    except (
        *(OSError, EOFError, ValueError, NotImplementedError, RuntimeError),
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    ) as error:
        raise DataError(
            f"{archive} is damaged or not whole: {str(error) or type(error).__name__}",
            hint="download or copy it again, or unpack it yourself and give the folder",
        ) from error


@dataclass
class _Guard:
    """Counts what was let in so far, and the links, through which nothing may be written."""

    archive: Path
    folder: Path
    max_bytes: int
    n_entries: int = 0
    n_bytes: int = 0
    links: set[str] = field(default_factory=set)

    def admit(self, name: str, size_bytes: int) -> None:
        """Refuse an entry that would leave the folder, or that is one too many."""
        self.n_entries += 1
        self.n_bytes += size_bytes
        if self.n_entries > MAX_ENTRIES:
            raise DataError(f"{self.archive} holds more than {MAX_ENTRIES:,} entries", hint="unpack it yourself")
        if self.n_bytes > self.max_bytes:
            limit = f"{self.max_bytes / 1e9:.3g} GB"
            raise DataError(f"{self.archive} unpacks to more than {limit}", hint="unpack it yourself")
        if name.startswith("/") or PureWindowsPath(name).drive or "\0" in name:
            raise _refused(self.archive, name, "is an absolute name")
        if ".." in name.split("/"):
            raise _refused(self.archive, name, "climbs out of its folder")
        if self.links:
            # Case is folded because some disks do not tell Link from link.
            place = PurePosixPath(name.casefold())
            if any(str(step) in self.links for step in (place, *place.parents)):
                raise _refused(self.archive, name, "passes through a link")

    def admit_link(self, name: str, target: str) -> None:
        """Refuse a symbolic link that leaves the folder, and remember one that stays."""
        place = os.path.normpath(os.path.join(os.path.dirname(name), target))  # noqa: PTH118, PTH120 - names, not files
        absolute = target.startswith("/") or PureWindowsPath(target).drive
        if absolute or place == ".." or place.startswith("../") or not is_inside(self.folder / place, self.folder):
            raise _refused(self.archive, name, f"is a link that leaves its folder, to {target!r}")
        self.links.add(str(PurePosixPath(name.casefold())))


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{archive} was refused: the entry {name!r} {why}", hint="unpack it yourself, look at it, and give the folder"
    )


def _kind(path: Path) -> Kind:
    """``zip``, the mode to open a tar with (``r:``, ``r:gz``, ``r:bz2``, ``r:xz``), or "" for no archive."""
    with path.open("rb") as file:
        start = file.read(TAR_BLOCK_BYTES)
    if start.startswith(ZIP_STARTS):
        return "zip"
    if start[TAR_MAGIC_AT:].startswith(TAR_MAGIC):
        return "r:"
    for magic, mode in STREAM_STARTS:
        if start.startswith(magic):
            return mode
    for magic, name in OTHER_STARTS:
        if start.startswith(magic):
            raise DataError(f"{path} is a {name} archive; heeler reads zip and tar", hint="unpack it, give the folder")
    # What only its name calls an archive is opened as one, so that the error says that it is damaged.
    name = path.name.lower()
    return "zip" if name.endswith(".zip") else "r:" if name.endswith(NAME_ENDS) else ""


def _extract_zip(guard: _Guard) -> None:
    archive, folder = guard.archive, guard.folder
    links: list[zipfile.ZipInfo] = []
    with zipfile.ZipFile(archive) as file:
        require_space(folder, sum(entry.file_size for entry in file.infolist()))
        for entry in file.infolist():
            # Some Windows tools write backslashes, which the format forbids; kept, they would be part of a file's name.
            entry.filename = entry.filename.replace("\\", "/")
            guard.admit(entry.filename, entry.file_size)
            if entry.flag_bits & 1:
                raise DataError(f"{archive} is protected by a password", hint="unpack it yourself and give the folder")
            mode = entry.external_attr >> 16
            if stat.S_ISLNK(mode):
                links.append(entry)
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR):
                file.extract(entry, folder)
            else:
                raise _refused(archive, entry.filename, "is a pipe, socket or device")
        # Links come last so that nothing can be written through one.
        for entry in links:
            _make_link(guard, entry, file.read(entry) if entry.file_size <= MAX_LINK_BYTES else b"")


def _make_link(guard: _Guard, entry: zipfile.ZipInfo, content: bytes) -> None:
    target = os.fsdecode(content)
    if not target or "\0" in target:
        raise _refused(guard.archive, entry.filename, "is a link without a usable target")
    guard.admit_link(entry.filename, target)
    link = guard.folder / entry.filename
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _extract_tar(guard: _Guard, mode: Literal["r:", "r:gz", "r:bz2", "r:xz"]) -> None:
    # The data filter came to Python 3.11 with 3.11.4; it is the second of two guards, after _Guard.
    if not hasattr(tarfile, "data_filter"):
        raise ResourceError("this Python cannot extract a tar safely", hint="update Python to 3.11.4 or newer")
    archive, folder = guard.archive, guard.folder
    with tarfile.open(archive, mode) as file:
        for member in _members(file):
            guard.admit(member.name, member.size)
            require_space(folder, member.size)
            if member.issym():
                guard.admit_link(member.name, member.linkname)
            elif member.islnk():
                guard.admit(member.linkname, 0)
            elif not (member.isfile() or member.isdir()):
                raise _refused(archive, member.name, "is a pipe, socket or device")
            file.extract(member, folder, filter="data")
        _require_end(file)


def _members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, as they are read."""
    while (member := file.next()) is not None:
        yield member


def _require_end(file: tarfile.TarFile) -> None:
    """Refuse a tar that stops short: tarfile takes a damaged header after the first for the end, without a word."""
    if file.fileobj is None:
        raise tarfile.ReadError("the archive was closed")
    file.fileobj.seek(file.offset)
    if file.fileobj.read(TAR_BLOCK_BYTES) != bytes(TAR_BLOCK_BYTES):
        raise tarfile.ReadError("the tar ends in the middle or has a damaged entry")
    # The checksum of a compressed stream stands at its end, and is checked when that is read.
    while file.fileobj.read(READ_BYTES):
        pass
