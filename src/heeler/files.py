"""Writing that survives a kill or a full disk, and paths that stay where they should; knows nothing of photos."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any

import platformdirs

from heeler.errors import ResourceError, UnreadableError

# What systems and NAS boxes leave beside photos without starting its name with a dot.
SYSTEM_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information")
)
# No photo that heeler reads is larger: 100 megapixels of 16-bit RGB are 600 MB uncompressed.
MAX_FILE_BYTES = 1 << 30
# Names that Windows keeps for itself, whatever ending they have.
DEVICE_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))})
MAX_NAME_BYTES = 200


def cache_root() -> Path:
    """Folder for what can be computed again: ``$HEELER_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("HEELER_CACHE") or platformdirs.user_cache_dir("heeler", appauthor=False))


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a read-only place into a ``ResourceError`` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"the disk is full: could not write {path}",
                hint="free some space (heeler's cache is in " + str(cache_root()) + ") and run the same command again",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(
                f"cannot write {path}: {os.strerror(error.errno)}",
                hint="choose a folder that you may write to with --out, or set HEELER_CACHE",
            ) from error
        raise


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: temporary file, fsync, replace, fsync of the folder.

    Args:
        path: where the file shall stand; its folder is made.
        write: called with the open binary file.

    Raises:
        ResourceError: the disk is full or the place cannot be written; an earlier file at ``path`` is untouched.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """``atomic_write`` of bytes."""
    atomic_write(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """``atomic_write`` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: object) -> None:
    """``atomic_write`` of a value in the one canonical JSON form (see ``canonical_json``)."""
    write_text(path, canonical_json(value))


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value that heeler writes: keys sorted, two spaces, one newline at the end."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """``atomic_write`` of a CSV with a header, UTF-8, newline-terminated rows."""

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        text.write(csv_line(header))
        text.writelines(map(csv_line, rows))
        text.flush()
        text.detach()

    atomic_write(path, write)


def csv_line(cells: Sequence[Any]) -> str:
    """One line of a CSV, newline-terminated. A carriage return in a cell has it quoted, as Python 3.11.9 was the first
    to do: else one row would be read as two."""
    text = io.StringIO(newline="")
    is_odd = any("\r" in str(cell) for cell in cells)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if is_odd else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


def lock_file(file: IO[Any], message: str) -> None:
    """Keep other processes from what an open file stands for until it is closed; a no-op where that cannot be had.

    Raises:
        ResourceError: another process holds it; with this message.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResourceError(message, hint="wait for it, and run the same command again") from None
    except OSError:  # some network disks know no locks
        return


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder last; a no-op where the system cannot open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Content of a regular file; never waits on a pipe and never fills the memory with a file that is no photo.

    Raises:
        UnreadableError: it is not there, not a regular file, too large or not to be opened.
    """
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):
            raise UnreadableError("is not a file" if S_ISDIR(stat.st_mode) else "is not a regular file")
        if stat.st_size > max_bytes:
            raise UnreadableError(f"has {stat.st_size / 1e6:,.0f} MB; more than {max_bytes / 1e6:,.0f} MB are not read")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableError("does not exist") from error
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UnreadableError(f"cannot be opened: {reason}") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that people do not see or did not make."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def safe_name(name: str) -> str:
    """A name for a file or folder that every system takes: ``name`` itself where it is one, else like it."""
    safe = re.sub(r'[\x00-\x1f\x7f/<>:"\\|?*\ud800-\udfff]', "_", name).rstrip(". ")
    safe = "_" + safe[1:] if safe.startswith(".") else safe
    while len(safe.encode()) > MAX_NAME_BYTES:
        safe = safe[:-1]
    if safe.split(".")[0].lower() in DEVICE_NAMES or not safe:
        safe = f"_{safe}"
    # Two odd names must not meet in one folder, so a changed name carries a mark of the original.
    return safe if safe == name else f"{safe}-{name_mark(name)}"


def name_mark(name: str) -> str:
    """Six hex digits that tell names apart."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def is_inside(path: Path, root: Path) -> bool:
    """Whether ``path``, links followed, lies in ``root``, links followed."""
    return path.resolve().is_relative_to(root.resolve())


SPACE_HINT = "free some space, set HEELER_CACHE to a folder on a larger disk, or use a smaller --image-px"


def require_space(folder: Path, n_bytes: int, *, hint: str = SPACE_HINT) -> None:
    """Refuse to begin what will not fit.

    Raises:
        ResourceError: fewer than ``n_bytes`` are free on the disk that holds ``folder``.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ResourceError(
            f"{n_bytes / 1e9:.2f} GB are needed in {folder} and {free / 1e9:.2f} GB are free",
            hint=hint,
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
