"""``heeler export``, the story: a bundle in another form, proved on photos beside the model before it gets its name."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heeler.clock import Clock
from heeler.errors import BundleError, DataError, HeelerError, UsageError
from heeler.evidence import files_of_run
from heeler.files import disk_errors, fsync_folder, is_inside, sha256_file, write_bytes
from heeler.judge.scores import paired_interval
from heeler.records import ByteArray, FloatArray, OnEvent, ignore_events
from heeler.ship.bundle import FILES, MANIFEST, Bundle, is_copy, open_bundle, record_export
from heeler.ship.executorch import FACTS_FILE, PROGRAM_FILE, executorch_probabilities, write_executorch
from heeler.ship.export import assemble, network_onnx
from heeler.ship.formats import (
    OPENVINO_FILE,
    hub_probabilities,
    openvino_probabilities,
    write_hub_folder,
    write_openvino,
)
from heeler.ship.names import stream_names
from heeler.ship.onnx_model import open_onnx
from heeler.ship.prove import UNKNOWN, Beside, Labelled, beside, odd_photos, squares_of_files
from heeler.ship.quantise import N_CALIBRATION, quantise, spread

Probabilities = Callable[[Sequence[ByteArray]], FloatArray]
Form = Literal["onnx", "openvino", "executorch", "hub-folder"]
# Photos that an export is proved on, at most.
N_PROVED = 1000
# The most that a probability may differ from torch's in fp32; OpenVINO computes the resize's weights in 32 bits.
MAX_DP = {"onnx": 1e-4, "openvino": 1e-2, "executorch": 1e-4, "hub-folder": 1e-6}
ENDINGS = {"onnx": ".onnx", "openvino": "-openvino", "executorch": "-executorch", "hub-folder": "-hub"}
OURS = {
    "openvino": {OPENVINO_FILE, "model.bin"},
    "executorch": {PROGRAM_FILE, FACTS_FILE},
    "hub-folder": {*FILES, MANIFEST},
}


@dataclass(frozen=True)
class Photos:
    """What an export is proved on and calibrated with.

    Args:
        proof: photos to compare on.
        learnt: photos to calibrate with, apart from those.
        told: what the first ones are, for people; empty where there are none but made ones.
    """

    proof: Sequence[Labelled]
    learnt: Sequence[Labelled]
    told: str


@dataclass(frozen=True)
class Loss:
    """What quantisation costs, on the same photos.

    Args:
        points: accuracy lost, in per cent of the photos; below 0 where it was gained.
        interval: 95 % interval of ``points``, (low, high).
        of: what the share is of: ``accuracy`` by labels or, where there are none, ``agreement`` with the model.
    """

    points: float
    interval: tuple[float, float]
    of: Literal["accuracy", "agreement"]


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the model.

    Args:
        out: the file or folder.
        to: its form.
        precision: ``fp32`` or ``int8``.
        size_bytes: of all that was written.
        n: photos that it was proved on, made ones included.
        n_made: made ones among them.
        photos: what the others are, for people.
        max_dp: largest difference of a probability, in [0, 1].
        agreement: share of photos that get the same class, in [0, 1].
        loss: what quantisation costs; None for fp32.
    """

    out: Path
    to: Form
    precision: Literal["fp32", "int8"]
    size_bytes: int
    n: int
    n_made: int
    photos: str
    max_dp: float
    agreement: float
    loss: Loss | None = None

    @property
    def told(self) -> str:
        """What to say of it, on two or three lines."""
        on = (
            f"{self.n - self.n_made:,} {self.photos}"
            if self.photos
            else "no real photos: name some with --photos FOLDER"
        )
        lines = [
            f"{self.out}: {self.precision}, {self.size_bytes / 1e6:,.1f} MB",
            f"proved beside torch on {on}, and {self.n_made:,} made ones: largest difference of a probability "
            f"{self.max_dp:.1e}, same class for {100 * self.agreement:.2f} %",
        ]
        if self.loss:
            low, high = self.loss.interval
            lines.append(
                f"8 bits cost {self.loss.points:.2f} points of {self.loss.of} (95 % interval {low:.2f} to {high:.2f})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler export --json`` prints."""
        return {**asdict(self), "out": str(self.out)}


def export(
    model: Path,
    to: Form = "onnx",
    *,
    int8: bool = False,
    max_loss: float = 1.0,
    photos: Path | None = None,
    out: Path | None = None,
    on_event: OnEvent = ignore_events,
) -> Exported:
    """Write a bundle in another form, unless it says something else than the model.

    Args:
        model: the bundle's folder.
        to: the form.
        int8: in 8-bit integers; ``onnx`` only.
        max_loss: points of accuracy that 8 bits may cost.
        photos: folder to prove it on, in place of the run's photos that the model did not learn from.
        out: file or folder to write; beside the bundle where None.
        on_event: told of stages and progress.

    Raises:
        UsageError: the options do not go together, or something else is in the way.
        DataError: there are no photos to calibrate with.
        BundleError: the model is not what it says it is.
        HeelerError: the export is too far from the model; nothing is left behind.
    """
    if int8 and to != "onnx":
        raise UsageError(f"--int8 goes with --to onnx, not with --to {to}", hint="leave out --int8")
    clock = Clock(on_event)
    bundle = open_bundle(model)
    place = out or model.absolute().with_name(model.absolute().name + ("-int8" if int8 else "") + ENDINGS[to])
    _require_free(place, to, bundle)
    with clock.stage("find photos", unit=""):
        found = find_photos(bundle, photos, int8=int8)
    if int8 and not found.learnt:
        raise DataError("there are no photos to calibrate 8 bits with", hint="name some: --photos FOLDER")
    with disk_errors(place), _beside(place) as temporary:
        if to == "onnx":
            proof = _onnx(bundle, temporary, found, int8, clock)
        elif to == "openvino":
            proof = _openvino(bundle, temporary, found, clock)
        elif to == "executorch":
            proof = _executorch(bundle, temporary, found, clock)
        else:
            proof = _hub_folder(bundle, temporary, found, clock)
        told = _judged(place, to, temporary, proof, found, int8)
        _refuse(told, max_loss)
        try:
            _put(temporary, place)
            _record(bundle, told)
        except BaseException:
            if not os.path.lexists(temporary):
                place.rename(temporary)  # and away with it
            if os.path.lexists(earlier := _earlier(temporary)):
                earlier.replace(place)
            raise
    return told


def find_photos(bundle: Bundle, folder: Path | None, *, int8: bool = False) -> Photos:
    """Photos to prove an export on: those of a folder, or of the run whose folder the bundle is in.

    Raises:
        DataError: the folder holds no files.
    """
    number = {name: k for k, name in enumerate(bundle.classes)}
    if folder is not None:
        files = [Path(name) for name in stream_names([str(folder)], sys.stdin)]
        if not files:
            raise DataError(f"{folder} holds no photos", hint="name a folder with photos in it")
        labelled = [Labelled(file, number.get(file.parent.name, UNKNOWN)) for file in files]
        proof, learnt = (labelled[::2], labelled[1::2]) if int8 else (labelled, [])
        return Photos(spread(proof, N_PROVED), spread(learnt, N_CALIBRATION), f"photos of {folder}")
    run = bundle.path.absolute().parent
    parted = files_of_run(run)
    learnt = [Labelled(file, number.get(name, UNKNOWN)) for part, file, name in parted if part == "train"]
    # A last layer that was chosen has learnt from the photos that chose it, once nothing was left to choose.
    unseen = ("valid", "test") if bundle.manifest.get("chosen") == "tuned" else ("test",)
    held_out = [Labelled(file, number.get(name, UNKNOWN)) for part, file, name in parted if part in unseen]
    told = "photos of the run that it did not learn from"
    if bundle.manifest.get("scores", {}).get("estimate") == "out-of-fold":
        told = "photos of the run, which it has learnt from too, since they are few"
    return Photos(spread(held_out, N_PROVED), spread(learnt, N_CALIBRATION), told if held_out else "")


def _onnx(bundle: Bundle, path: Path, photos: Photos, int8: bool, clock: Clock) -> Beside:
    with clock.stage("write ONNX", unit=""):
        network = network_onnx(bundle)
    if int8:
        with clock.stage("quantise", unit=""):
            network = quantise(network, squares_of_files(photos.learnt, bundle.spec))
    write_bytes(path, assemble(bundle, network, int8=int8).SerializeToString())
    exported = open_onnx(path)
    return _prove(bundle, exported.probabilities, photos, clock)


def _openvino(bundle: Bundle, folder: Path, photos: Photos, clock: Clock) -> Beside:
    with clock.stage("write OpenVINO", unit=""):
        folder.mkdir()
        write_openvino(assemble(bundle, network_onnx(bundle)), folder)
    return _prove(bundle, openvino_probabilities(folder), photos, clock)


def _executorch(bundle: Bundle, folder: Path, photos: Photos, clock: Clock) -> Beside:
    with clock.stage("write ExecuTorch", unit=""):
        folder.mkdir()
        write_executorch(bundle, folder)
    return _prove(bundle, executorch_probabilities(folder, bundle), photos, clock)


def _hub_folder(bundle: Bundle, folder: Path, photos: Photos, clock: Clock) -> Beside:
    with clock.stage("write hub folder", unit=""):
        folder.mkdir()
        write_hub_folder(bundle, folder)
        open_bundle(folder)
    return _prove(bundle, hub_probabilities(folder, bundle), photos, clock)


def _prove(bundle: Bundle, probabilities: Probabilities, photos: Photos, clock: Clock) -> Beside:
    made = odd_photos()
    with clock.stage("prove", total=len(made) + len(photos.proof)) as tell:
        return beside(bundle, probabilities, photos.proof, made, tell)


def _judged(place: Path, to: Form, written: Path, proof: Beside, photos: Photos, int8: bool) -> Exported:
    size = sum(file.stat().st_size for file in ([written] if written.is_file() else written.iterdir()))
    n_made = len(odd_photos())
    real = Beside(proof.truth[n_made:], proof.exported[n_made:], proof.labels[n_made:])
    told = Exported(
        place, to, "int8" if int8 else "fp32", size, len(proof.truth), n_made, photos.told if len(real.truth) else "",
        proof.max_dp, real.agreement if int8 else proof.agreement,
    )  # fmt: skip
    if not int8:
        return told
    if not len(real.truth):
        raise DataError("no photo could be read to see what 8 bits cost", hint="name some: --photos FOLDER")
    return replace(told, max_dp=real.max_dp, n=len(real.truth) + n_made, loss=loss_of(real))


def loss_of(proof: Beside) -> Loss:
    """What the exported file costs in accuracy or, where no label is known, in agreement."""
    known = proof.labels != UNKNOWN
    truth, exported = proof.truth.argmax(1), proof.exported.argmax(1)
    labels = proof.labels
    if not known.any():
        known, labels = np.ones(len(labels), bool), truth
    right, still = (truth == labels)[known], (exported == labels)[known]
    n_lost, n_won, n = int(np.sum(right & ~still)), int(np.sum(~right & still)), int(known.sum())
    low, high = (100 * share for share in paired_interval(n_lost, n_won, n))
    of: Literal["accuracy", "agreement"] = "accuracy" if (proof.labels != UNKNOWN).any() else "agreement"
    return Loss(100 * (n_lost - n_won) / n, (low, high), of)


def _refuse(told: Exported, max_loss: float) -> None:
    """Stop an export that says something else than the model.

    Raises:
        HeelerError: it does.
    """
    if told.loss:
        if told.loss.points > max_loss:
            low, high = told.loss.interval
            raise HeelerError(
                f"not written: 8 bits cost {told.loss.points:.2f} points of {told.loss.of} (95 % interval {low:.2f} to "
                f"{high:.2f}), more than {max_loss:g}",
                hint=f"leave out --int8, or accept it with --max-loss {np.ceil(told.loss.points):g}",
            )
    elif not told.max_dp <= MAX_DP[told.to]:
        raise HeelerError(
            f"not written: a probability of the export is {told.max_dp:.1e} away from the model's, more than "
            f"{MAX_DP[told.to]:g}",
            hint="export to another form; the model itself is as it was",
        )


def _require_free(place: Path, to: Form, bundle: Bundle) -> None:
    if is_inside(place, bundle.path):
        raise UsageError(f"{place} is inside the model, which holds its own files alone", hint="choose another --out")
    if not os.path.lexists(place):
        return
    if to == "onnx":
        try:
            open_onnx(place)
            return
        except BundleError:
            pass
    elif place.is_dir() and not place.is_symlink():
        names = {entry.name for entry in place.iterdir()}
        if not names or (names == OURS[to] and (to != "hub-folder" or is_copy(place))):
            return
    raise UsageError(f"{place} is there already and no earlier export", hint="choose another --out")


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A name on the same disk for what is being written; gone afterwards, unless it was put in its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield folder / "export"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _earlier(temporary: Path) -> Path:
    """Where an earlier export waits until the new one is recorded."""
    return temporary.with_name("earlier")


def _put(temporary: Path, place: Path) -> None:
    """Give what was written its name; an earlier export is set aside."""
    if place.is_dir():
        place.rename(_earlier(temporary))
    elif place.exists():
        shutil.copy2(place, _earlier(temporary))  # and so the place is never empty
    temporary.replace(place)
    fsync_folder(place.parent)


def _record(bundle: Bundle, told: Exported) -> None:
    """Keep in the bundle where the export lies and how near it is."""
    relative = Path(os.path.relpath(told.out.resolve(), bundle.path.resolve())).as_posix()
    facts = {name: value for name, value in told.to_json().items() if name not in ("out", "to")}
    if told.out.is_file():
        facts["sha256"] = sha256_file(told.out)
    name = told.to if told.precision == "fp32" else f"{told.to}-{told.precision}"
    record_export(bundle.path, name, {**facts, "file": relative})
