"""Array rows on disk, named by content: what was computed once is found again, whatever folder it came from.

A store is a folder of shards. A shard is one raw file of rows and one JSON index of their names; the index is replaced
atomically after the rows are on disk, so a killed writer loses at most the rows since its last commit, and no two
writers ever share a file. Rows that a killed writer left without an index are removed by a writer of another day.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from heeler.errors import ResourceError
from heeler.files import disk_errors, write_text

COMMIT_EVERY_BYTES = 256 << 20
COMMIT_EVERY_ROWS = 1024
# A writer appends or commits far more often; rows without an index that nobody touched for so long have no writer.
ABANDONED_S = 86_400
Facts = Sequence[Any]


@dataclass(frozen=True)
class Rows:
    """Rows of one store in an order of the caller's; behaves like an array that is read by index lists.

    Args:
        shards: one (n, *shape) memory map for each shard in use.
        shard_of: (N,) which shard holds each row.
        row_of: (N,) where in it.
        facts: what was stored beside each row.
    """

    shards: tuple[NDArray[Any], ...]
    shard_of: NDArray[np.int64]
    row_of: NDArray[np.int64]
    facts: tuple[Facts, ...]

    def __len__(self) -> int:
        return len(self.row_of)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """A new (len(indices), *shape) array of these rows."""
        wanted = np.asarray(indices, dtype=np.int64)
        shards, rows = self.shard_of[wanted], self.row_of[wanted]
        first = self.shards[0]
        out = np.empty((len(wanted), *first.shape[1:]), dtype=first.dtype)
        for shard in np.unique(shards):
            mask = shards == shard
            out[mask] = self.shards[shard][rows[mask]]
        return out

    def batches(self, size: int) -> Iterator[NDArray[Any]]:
        """All rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


class RowStore:
    """A folder of shards whose rows all have one shape and dtype.

    Args:
        folder: where the shards lie; made when the first row is written.
        shape: shape of one row.
        dtype: numpy dtype of the rows.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = math.prod(shape) * self.dtype.itemsize
        self._where: dict[str, tuple[str, int]] = {}
        self._facts: dict[str, Facts] = {}
        for index in sorted(folder.glob("*.json")):
            self._read_index(index)

    def _read_index(self, index: Path) -> None:
        try:
            entries: list[list[Any]] = json.loads(index.read_text())
            n_rows = index.with_suffix(".rows").stat().st_size // self.row_bytes
            named = [(str(name), facts) for name, *facts in entries[:n_rows]]
        except (OSError, ValueError, TypeError, KeyError):
            return  # a shard whose rows are gone or whose index is not one holds nothing
        for row, (name, facts) in enumerate(named):
            self._where.setdefault(name, (index.stem, row))
            self._facts.setdefault(name, facts)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def facts(self, name: str) -> Facts:
        """What was stored beside one row."""
        return self._facts[name]

    @contextlib.contextmanager
    def writer(self) -> Iterator[RowWriter]:
        """A shard of one's own to append to; committed as it grows and when the block ends, also by an error."""
        writer = RowWriter(self)
        try:
            yield writer
            writer.commit()
        except BaseException:
            writer.rescue()
            raise
        finally:
            writer.close()

    def view(self, names: Iterable[str]) -> Rows:
        """The rows of these names, in this order.

        Raises:
            KeyError: a name that the store lacks.
        """
        places = [(self._where[name], self._facts[name]) for name in names]
        stems = sorted({stem for (stem, _), _ in places})
        number = {stem: i for i, stem in enumerate(stems)}
        maps = tuple(self._map(stem) for stem in stems) or (np.empty((0, *self.shape), self.dtype),)
        return Rows(
            shards=maps,
            shard_of=np.array([number[stem] for (stem, _), _ in places], dtype=np.int64),
            row_of=np.array([row for (_, row), _ in places], dtype=np.int64),
            facts=tuple(facts for _, facts in places),
        )

    def _open_shard(self, stem: str) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        for rows in self.folder.glob("*.rows"):
            with contextlib.suppress(OSError):  # another writer may be tidying too
                if not rows.with_suffix(".json").exists() and rows.stat().st_mtime < time.time() - ABANDONED_S:
                    rows.unlink()
        # Without a buffer no row waits in memory for a disk that is full by then.
        return (self.folder / f"{stem}.rows").open("wb", buffering=0)

    def _map(self, stem: str) -> NDArray[Any]:
        path = self.folder / f"{stem}.rows"
        n_rows = path.stat().st_size // self.row_bytes
        return np.memmap(path, dtype=self.dtype, mode="r", shape=(n_rows, *self.shape))

    def _committed(self, stem: str, entries: Mapping[int, tuple[str, Facts]]) -> None:
        for row, (name, facts) in entries.items():
            self._where[name] = (stem, row)
            self._facts[name] = facts


class RowWriter:
    """Appends rows to one new shard; made by ``RowStore.writer``."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._stem = secrets.token_hex(8)
        self._file: IO[bytes] | None = None
        self._entries: list[list[Any]] = []
        self._n_committed = 0

    def append(self, names: Sequence[str], rows: NDArray[Any], facts: Sequence[Facts] | None = None) -> bool:
        """Add rows (n, *shape), n >= 1; each is found under its name after the next commit.

        Args:
            names: of the rows.
            rows: of the store's shape and dtype.
            facts: what is stored beside each; nothing where None.

        Returns:
            Whether that commit has happened: one is due every ``COMMIT_EVERY_ROWS`` or ``COMMIT_EVERY_BYTES``.

        Raises:
            ResourceError: the disk is full; what was committed stays.
        """
        if rows.shape != (len(names), *self._store.shape) or rows.dtype != self._store.dtype:
            held = f"{len(names)} of {self._store.dtype}{self._store.shape}"
            raise ValueError(f"rows are {rows.dtype}{rows.shape}, the store holds {held}")
        with disk_errors(self._store.folder / f"{self._stem}.rows"):
            if self._file is None:
                self._file = self._store._open_shard(self._stem)
            data = np.ascontiguousarray(rows).data.cast("B")
            while data:
                data = data[self._file.write(data) :]
        self._entries += [[name, *beside] for name, beside in zip(names, facts or [()] * len(names), strict=True)]
        n_new = len(self._entries) - self._n_committed
        if n_new < COMMIT_EVERY_ROWS and n_new * self._store.row_bytes < COMMIT_EVERY_BYTES:
            return False
        self.commit()
        return True

    def commit(self) -> None:
        """Put the rows on disk, then say so in the index.

        Raises:
            ResourceError: the disk is full; what was committed stays.
        """
        if self._file is None or self._n_committed == len(self._entries):
            return
        path = self._store.folder / f"{self._stem}.json"
        with disk_errors(path):
            os.fsync(self._file.fileno())
        write_text(path, json.dumps(self._entries, separators=(",", ":")))
        new = range(self._n_committed, len(self._entries))
        self._store._committed(self._stem, {i: (self._entries[i][0], self._entries[i][1:]) for i in new})
        self._n_committed = len(self._entries)

    def rescue(self) -> None:
        """After an error, commit as many whole rows as there is room for and give the rest of the room back."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            while self._n_committed < len(self._entries):
                self._file.truncate(len(self._entries) * self._store.row_bytes)
                try:
                    self.commit()
                except ResourceError:  # the index needs room as well: half of the new rows make some
                    n_new = len(self._entries) - self._n_committed
                    del self._entries[-((n_new + 1) // 2) :]
            self._file.truncate(self._n_committed * self._store.row_bytes)
            if not self._n_committed:
                (self._store.folder / f"{self._stem}.rows").unlink()

    def close(self) -> None:
        """Close the shard; rows that were not committed are lost."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
