"""``heeler predict`` on a Ray cluster: units of photos to its processes, rows back in order, each input exactly once.

Ray runs a task again where a process dies, so a unit may be computed twice. Its rows are counted here, where they
arrive: those of a unit all come, in order and once, or the job fails.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from heeler.errors import HeelerError, ResourceError, UsageError
from heeler.files import canonical_json, write_bytes
from heeler.learn.engines import Engine
from heeler.records import STATUSES, OnEvent, Prediction, Progress, Stage
from heeler.ship.bundle import FILES, MANIFEST
from heeler.ship.predict import Classifier, Deferred, load
from heeler.ship.rows import begin_rows, header_of, stream_rows
from heeler.ship.shards import Unit, list_units, photos_of

Format = Literal["parquet", "csv"]
# Units of which the driver knows at a time, rows that travel together, rows of one shard of the answer.
UNITS_AT_ONCE = 4096
ROWS_OF_A_PIECE = 1024
ROWS_OF_A_SHARD = 100_000
SUMMARY = "_heeler.json"
MOST_CAUSES = 10


@dataclass(frozen=True)
class RayJob:
    """A prediction on a cluster.

    Args:
        model: the bundle's folder.
        inputs: folders, patterns, files, tar and Parquet shards, at paths or fsspec addresses that all machines see.
        out: folder or address that is new or empty.
        top: classes named for each photo.
        unsure_below: probability below which a photo is unsure; the model's where None.
        format: of the answer's shards.
        column: of Parquet inputs, which holds the photos.
    """

    model: Path
    inputs: Sequence[str]
    out: str
    top: int = 3
    unsure_below: float | None = None
    format: Format = "parquet"
    column: str = "image"


class RayWorker:
    """One process of the cluster, with the model opened once; made by Ray.

    Args:
        files: reference to the content of the bundle's files by name; the process may see no disk of the driver's.
        top: as for ``Classifier.predict``.
        unsure_below: as for ``Classifier.predict``.
    """

    def __init__(self, files: Any, top: int, unsure_below: float) -> None:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            for name, content in ray.get(files).items():
                (Path(folder) / name).write_bytes(content)
            self.classifier = load(folder)
        self.top, self.unsure_below = top, unsure_below
        self.engine: Engine | str = ""

    def __call__(self, units: Mapping[str, Iterable[Any]]) -> Iterator[dict[str, list[Any]]]:
        """Rows of some units, in pieces: the unit's number, the piece's, whether it is the last, and its rows."""
        for number, text in zip(units["number"], units["unit"], strict=True):
            rows = self._rows(unit_of(str(text)))
            piece, waiting = 0, list(islice(rows, ROWS_OF_A_PIECE))
            while True:
                following = list(islice(rows, ROWS_OF_A_PIECE))
                told = json.dumps([asdict(row) for row in waiting])
                yield {"number": [int(number)], "piece": [piece], "last": [not following], "rows": [told]}
                if not following:
                    break
                piece, waiting = piece + 1, following

    def _rows(self, unit: Unit) -> Iterator[Prediction]:
        names: deque[str] = deque()

        def sources() -> Iterator[Deferred]:
            for name, fetch in photos_of(unit):
                names.append(name)
                yield Deferred(fetch)

        def keep(engine: Engine) -> None:
            self.engine = engine

        # An engine is timed once for all units, however small the first one is.
        for row in self.classifier.stream(
            sources(), top=self.top, unsure_below=self.unsure_below, engine=self.engine, on_engine=keep, few=0
        ):
            yield Prediction(names.popleft(), row.status, row.reason, row.ranked)


def unit_of(text: str) -> Unit:
    """A unit from its JSON text."""
    fields = json.loads(text)
    return Unit(**{**fields, "names": tuple(fields["names"])})


def predict_on_ray(job: RayJob, classifier: Classifier, on_event: OnEvent) -> dict[str, int]:
    """Classify photos on a Ray cluster: that of ``RAY_ADDRESS``, else one of this machine's cores for this job alone.

    Args:
        job: what to classify, and where the answer goes.
        classifier: its model, opened.
        on_event: told of progress.

    Returns:
        Photos of each status.

    Raises:
        UsageError: Ray is not installed, or the answer's folder is not empty.
        ResourceError: a place cannot be reached, or the cluster lost or repeated rows.
    """
    _require_ray()
    answer = _Answer(job.out)
    answer.require_empty()
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    with _cluster():
        on_event(Stage("classify"))
        rows = iter(_told(_all_rows(job, classifier), on_event))
        n_shards = 0
        while shard := list(islice(rows, ROWS_OF_A_SHARD)):
            for row in shard:
                counts[row.status] += 1
            answer.write(f"part-{n_shards:05d}.{job.format}", _encoded(shard, job))
            n_shards += 1
    if n_shards:
        summary = {"n": sum(counts.values()), **{f"n_{key}": n for key, n in counts.items()}, "n_shards": n_shards}
        answer.write(SUMMARY, canonical_json(summary).encode())
    return counts


def _told(rows: Iterable[Prediction], on_event: OnEvent) -> Iterator[Prediction]:
    for number, row in enumerate(rows, start=1):
        yield row
        if number % 32 == 0:
            on_event(Progress(number))


def _all_rows(job: RayJob, classifier: Classifier) -> Iterator[Prediction]:
    import ray

    files = {name: (job.model / name).read_bytes() for name in (*FILES, MANIFEST)}
    options = {"files": ray.put(files), "top": job.top, "unsure_below": classifier.threshold(job.unsure_below)}
    units = list_units(job.inputs, job.column)
    with _ordered():
        while window := list(islice(units, UNITS_AT_ONCE)):
            items = [{"number": number, "unit": json.dumps(asdict(unit))} for number, unit in enumerate(window)]
            n_workers = max(1, min(len(window), int(ray.cluster_resources().get("CPU", 1))))
            found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                RayWorker, fn_constructor_kwargs=options, batch_size=1, num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=n_workers),
            )  # fmt: skip
            try:
                yield from checked_rows(found.iter_rows(), len(window))
            except HeelerError:
                raise
            except Exception as error:  # Ray wraps what a process raises, each version in its own way
                raise _explained(error) from error


def checked_rows(pieces: Iterable[Mapping[str, Any]], n_units: int) -> Iterator[Prediction]:
    """The rows of all pieces, as long as each piece of each unit comes once and in order.

    Raises:
        ResourceError: a piece is missing, or came twice.
    """
    due = (0, 0)
    for piece in pieces:
        came = (int(piece["number"]), int(piece["piece"]))
        if came != due:
            raise _lost(due, came)
        for row in json.loads(piece["rows"]):
            yield Prediction(row["path"], row["status"], row["reason"], tuple((k, p) for k, p in row["ranked"]))
        due = (came[0] + 1, 0) if piece["last"] else (came[0], came[1] + 1)
    if due != (n_units, 0):
        raise _lost(due, (n_units, 0))


def _lost(due: tuple[int, int], came: tuple[int, int]) -> ResourceError:
    return ResourceError(
        f"the cluster gave part {came[1]} of unit {came[0]} where part {due[1]} of unit {due[0]} was due",
        hint="nothing of this answer can be relied on; run it again into a new folder",
    )


def _explained(error: Exception) -> HeelerError:
    """Ray wraps an error of a process of its; ours has a message for people."""
    cause: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if isinstance(cause, HeelerError):
            return cause
        cause = getattr(cause, "cause", None) or getattr(cause, "__cause__", None)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ResourceError(f"the cluster failed: {lines[-1]}", hint="see Ray's logs, and run it again into a new folder")


def _require_ray() -> None:
    try:
        import fsspec  # noqa: F401
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--engine ray needs Ray: {error}", hint='pip install "heeler[ray]"') from error


@contextmanager
def _cluster() -> Iterator[None]:
    """A connection to a cluster, unless there is one already, which is left as it is."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers of each cluster
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"no Ray cluster at {address}: {error}", hint="check RAY_ADDRESS, or unset it") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _ordered() -> Iterator[None]:
    """Rows come in the order of the inputs, and Ray's own displays are off."""
    import ray

    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


@dataclass(frozen=True)
class _Answer:
    """The folder of the answer, at a path or at an address; each file is there whole or not at all."""

    out: str

    def require_empty(self) -> None:
        """Refuse a folder with something in it: shards of two jobs would be taken for one answer."""
        if "://" in self.out:
            files, path = self._place()
            taken = files.exists(path) and (not files.isdir(path) or files.ls(path))
        else:
            taken = Path(self.out).exists() and (not Path(self.out).is_dir() or any(Path(self.out).iterdir()))
        if taken:
            raise UsageError(f"{self.out} is not an empty folder", hint="give --out a new one for the shards")

    def write(self, name: str, data: bytes) -> None:
        if "://" not in self.out:
            write_bytes(Path(self.out) / name, data)
            return
        files, path = self._place()
        files.makedirs(path, exist_ok=True)
        files.pipe_file(f"{path.rstrip('/')}/{name}", data)

    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(self.out)
        return files, str(path)


def _encoded(rows: Sequence[Prediction], job: RayJob) -> bytes:
    if job.format == "csv":
        text = io.StringIO()
        begin_rows(text, job.top)
        stream_rows(text, rows, job.top)
        return text.getvalue().encode("utf-8", "surrogateescape")
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, Any] = {}
    for title in header_of(job.top):
        rank = int(title.rpartition("_")[2]) - 1 if "_" in title else 0
        if title.startswith(("label", "probability")):
            which = 0 if title.startswith("label") else 1
            values = [row.ranked[rank][which] if rank < len(row.ranked) else None for row in rows]
            values = [_plain(value) if isinstance(value, str) else value for value in values]
        else:
            values = [_plain(getattr(row, title)) for row in rows]
        kind = pyarrow.float64() if title.startswith("probability") else pyarrow.string()
        columns[title] = pyarrow.array(values, kind)
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def _plain(text: str) -> str:
    """Text as UTF-8 has it: bytes of a name that are no text are written out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
