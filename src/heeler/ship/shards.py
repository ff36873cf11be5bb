"""Photos in many places and many to a file: folders behind any fsspec address, tar shards, Parquet; cut into units.

A unit is what one process reads at a time: some hundred files, one tar, or one row group of a Parquet file. It travels
as JSON text, in which a file's name may hold any bytes.
"""

from __future__ import annotations

import errno
import glob
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any
from zlib import error as ZlibError  # noqa: N812 - a class, whatever its name

from heeler.errors import DataError, ResourceError, UnreadableError
from heeler.files import MAX_FILE_BYTES, is_hidden, read_regular
from heeler.ship.names import in_order, stream_names

FILES_OF_A_UNIT = 256
ROWS_AT_ONCE = 64
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
PHOTO_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".heic", ".heif",
)  # fmt: skip

Fetch = Callable[[], bytes]


@dataclass(frozen=True)
class Unit:
    """What one process reads at a time.

    Args:
        kind: ``files``, ``tar``, ``parquet``, or ``bad`` for what could not be opened when it was listed.
        names: of the files; the one shard's otherwise.
        column: of a Parquet file, which holds the photos.
        group: row group of a Parquet file.
        start: number of its first row.
        reason: why a shard is bad.
    """

    kind: str
    names: tuple[str, ...]
    column: str = ""
    group: int = 0
    start: int = 0
    reason: str = ""


def list_units(args: Sequence[str], column: str) -> Iterator[Unit]:
    """Cut what a command line names into units, in its order, as they are asked for.

    Args:
        args: photos, folders, patterns, tar and Parquet files, ``-`` for a list; paths or fsspec addresses.
        column: of Parquet files, which holds the photos.

    Raises:
        DataError: a Parquet file has no such column.
    """
    files: list[str] = []
    for name in _names(args):
        shard = name.lower().endswith((*TAR_ENDINGS, ".parquet"))
        if files and (shard or len(files) == FILES_OF_A_UNIT):
            yield Unit("files", tuple(files))
            files = []
        if name.lower().endswith(".parquet"):
            yield from _row_groups(name, column)
        elif shard:
            yield Unit("tar", (name,))
        else:
            files.append(name)
    if files:
        yield Unit("files", tuple(files))


def photos_of(unit: Unit) -> Iterator[tuple[str, Fetch]]:
    """The photos of a unit: the name of each, and what reads it, which raises ``UnreadableError`` where it cannot.

    Raises:
        ResourceError: a place cannot be reached; nothing is known of its photos.
    """
    if unit.kind == "files":
        return ((name, partial(fetch, name)) for name in unit.names)
    if unit.kind == "tar":
        return _members(unit.names[0])
    if unit.kind == "parquet":
        return _cells(unit)
    return iter([(unit.names[0], partial(_refuse, unit.reason))])


def fetch(name: str) -> bytes:
    """Content of one file, at a path or at an address.

    Raises:
        UnreadableError: there is no such file, it may not be read, or it is too large.
        ResourceError: the place cannot be reached.
    """
    if "://" not in name:
        return read_regular(Path(name))
    try:
        files, path = _place(name)
        info = files.info(path)
        if info["type"] != "file":
            raise UnreadableError("is not a file")
        if (info.get("size") or 0) > MAX_FILE_BYTES:
            raise UnreadableError(_too_large(info["size"]))
        data: bytes = files.cat_file(path)
    except UnreadableError:
        raise
    except FileNotFoundError as error:
        raise UnreadableError("does not exist") from error
    except PermissionError as error:
        raise UnreadableError("cannot be opened: Permission denied") from error
    except Exception as error:  # each kind of place has errors of its own
        raise _unreachable(name, error) from error
    return data


def _names(args: Sequence[str]) -> Iterator[str]:
    for arg in args:
        yield from (_names_at(arg) if "://" in arg else stream_names([arg], sys.stdin))


def _names_at(address: str) -> Iterator[str]:
    """Files behind an address: those of a folder or a pattern, sorted, without hidden ones; else the address itself."""
    try:
        files, path = _place(address)
        if files.isdir(path):
            found: Iterable[str] = _below(files, path)
        elif glob.has_magic(path) and not files.exists(path) and (met := files.glob(path, detail=True)):
            found = chain.from_iterable(
                _below(files, each) if info["type"] == "directory" else [each]
                for each, info in met.items()
                if not is_hidden(os.path.basename(each))  # noqa: PTH119 - no path
            )
        else:
            yield address
            return
        visible = (each for each in found if not is_hidden(os.path.basename(each)))  # noqa: PTH119 - no path
        for each, _ in groupby(in_order(visible)):
            yield files.unstrip_protocol(each)
    except (DataError, ResourceError):
        raise
    except Exception as error:  # each kind of place has errors of its own
        raise _unreachable(address, error) from error


def _below(files: Any, path: str) -> Iterator[str]:
    """Files of a folder and of those in it, but for hidden folders."""
    for home, _, inside in files.walk(path):
        if not any(is_hidden(part) for part in home[len(path) :].split("/") if part):
            yield from (f"{home.rstrip('/')}/{name}" for name in inside)


def _place(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    return files, str(path)


def _members(name: str) -> Iterator[tuple[str, Fetch]]:
    """The photos in a tar, in its order, each read when it is its turn."""
    try:
        with _open(name) as file, tarfile.open(fileobj=file, mode="r|*") as shard:
            for member in shard:
                if not member.isfile() or not member.name.lower().endswith(PHOTO_ENDINGS):
                    continue
                if member.size > MAX_FILE_BYTES:
                    yield f"{name}/{member.name}", partial(_refuse, _too_large(member.size))
                    continue
                content = shard.extractfile(member)
                data = content.read() if content else b""
                yield f"{name}/{member.name}", partial(_given, data)
    except (FileNotFoundError, PermissionError) as error:
        yield name, partial(_refuse, f"cannot be opened: {os.strerror(error.errno or errno.ENOENT)}")
    except (tarfile.TarError, EOFError, ZlibError) as error:
        yield name, partial(_refuse, f"is no whole tar: {error}")


def _row_groups(name: str, column: str) -> Iterator[Unit]:
    import pyarrow
    from pyarrow import parquet

    try:
        with _open(name) as file:
            shard = parquet.ParquetFile(file)
            columns = list(shard.schema_arrow.names)
            n_rows = [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)]
    except FileNotFoundError:
        yield Unit("bad", (name,), reason="does not exist")
        return
    except PermissionError:
        yield Unit("bad", (name,), reason="cannot be opened: Permission denied")
        return
    except (pyarrow.ArrowException, OSError) as error:
        # pyarrow says of a damaged file what it says of a disk, but for the number that systems give to errors.
        if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None):
            raise _unreachable(name, error) from error
        yield Unit("bad", (name,), reason=f"is no whole Parquet file: {error}")
        return
    if column not in columns:
        raise DataError(
            f"{name} has no column {column!r}; it has {', '.join(columns[:20])}",
            hint="name the one that holds the photos: --image-column NAME",
        )
    start = 0
    for group, n in enumerate(n_rows):
        yield Unit("parquet", (name,), column, group, start)
        start += n


def _cells(unit: Unit) -> Iterator[tuple[str, Fetch]]:
    from pyarrow import parquet

    number = unit.start
    with _open(unit.names[0]) as file:
        shard = parquet.ParquetFile(file)
        for batch in shard.iter_batches(ROWS_AT_ONCE, row_groups=[unit.group], columns=[unit.column]):
            for cell in batch.column(0):
                yield f"{unit.names[0]}#{number}", _of_cell(cell.as_py())
                number += 1


def _of_cell(value: Any) -> Fetch:
    """A cell may hold the file's bytes, or a mapping with them, as Hugging Face's data sets have it."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return partial(_given, data)
    return partial(_refuse, "has no value" if data is None else f"is a {type(data).__name__}, not the bytes of a file")


def _open(name: str) -> Any:
    if "://" not in name:
        return Path(name).open("rb")
    try:
        files, path = _place(name)
        return files.open(path, "rb")
    except FileNotFoundError:
        raise
    except Exception as error:  # each kind of place has errors of its own
        raise _unreachable(name, error) from error


def _given(data: bytes) -> bytes:
    return data


def _refuse(reason: str) -> bytes:
    raise UnreadableError(reason)


def _too_large(n_bytes: int) -> str:
    return f"has {n_bytes / 1e6:,.0f} MB; more than {MAX_FILE_BYTES / 1e6:,.0f} MB are not read"


def _unreachable(name: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{name} cannot be read: {type(error).__name__}: {error}",
        hint="check the address, the network and the rights; some places need a package of their own, as s3fs",
    )
