"""How near exports are to torch, and how fast: ``python bench/export.py --bench PHOTOS``.

Trains the last layer on Imagewoof's ``train``, exports it in fp32 and in 8 bits (calibrated on photos of it), and
compares on photos of ``val``, which nothing has seen. Rates are of the network alone, on squares, at two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from heeler.exporting import find_photos, loss_of
from heeler.learn.engines import BATCH, Engine, onnxruntime_engine
from heeler.ship.bundle import Bundle, open_bundle
from heeler.ship.export import assemble, network_onnx
from heeler.ship.onnx_model import open_onnx
from heeler.ship.prove import Beside, Labelled, beside, odd_photos, squares_of_files
from heeler.ship.quantise import Calibration, quantise, spread
from processes import machine, pin_to_cores, warn_if_busy

N_PHOTOS = 1000
TRIED = {
    "8 bits, as heeler exports": Calibration(),
    "8 bits, first layer float too": Calibration(keep_first=True),
    "8 bits, last layer too": Calibration(keep_last=False),
    "8 bits, one scale a layer": Calibration(per_channel=False),
    "8 bits, weights of 7 bits": Calibration(reduce_range=True),
    "8 bits, percentile": Calibration(method="percentile"),
    "8 bits, entropy": Calibration(method="entropy"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path, required=True, help="folder with imagewoof/ in it")
    parser.add_argument("--tried", action="store_true", help="also other ways to quantise")
    parser.add_argument("--model", type=Path, help="a model of Imagewoof that is there already")
    asked = parser.parse_args()
    pin_to_cores(2)
    warn_if_busy()
    print(machine(2))
    with tempfile.TemporaryDirectory(prefix="heeler-bench-") as folder:
        model = asked.model or train(asked.bench / "imagewoof" / "train", Path(folder) / "run")
        measure(open_bundle(model), asked.bench / "imagewoof" / "val", Path(folder), asked.tried)


def train(photos: Path, run: Path) -> Path:
    """The last layer on the photos."""
    command = [sys.executable, "-m", "heeler", "train", photos, "--epochs", "0", "--out", run, "--quiet"]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return run / "model"


def measure(bundle: Bundle, folder: Path, place: Path, tried: bool) -> None:
    """A row for each export."""
    number = {name: k for k, name in enumerate(bundle.classes)}
    photos = [Labelled(file, number[file.parent.name]) for file in sorted(folder.glob("*/*.*"))][:N_PHOTOS]
    calibration = squares_of_files(find_photos(bundle, None).learnt, bundle.spec)
    squares = squares_of_files(spread(photos, 320), bundle.spec)
    network = network_onnx(bundle)
    print(f"{len(photos):,} photos of {folder.name}, {len(calibration):,} of the train part to calibrate with")
    print(
        "| export | max dp | same class | points of accuracy lost (95 %) | photos/s | MB |\n|---|--:|--:|--:|--:|--:|"
    )
    row(bundle, "fp32", network, photos, squares, place)
    for name, how in TRIED.items() if tried else [*TRIED.items()][:1]:
        row(bundle, name, quantise(network, calibration, how), photos, squares, place)


def row(bundle: Bundle, name: str, network: object, photos: list[Labelled], squares: np.ndarray, place: Path) -> None:
    """Print one export's line."""
    path = place / "model.onnx"
    path.write_bytes(assemble(bundle, network, int8=name != "fp32").SerializeToString())  # type: ignore[arg-type]
    made = odd_photos() if name == "fp32" else []
    found = beside(bundle, open_onnx(path).probabilities, photos, made)
    real = Beside(found.truth[len(made) :], found.exported[len(made) :], found.labels[len(made) :])
    loss, speed = loss_of(real), rate(onnxruntime_engine(network.SerializeToString()), squares)  # type: ignore[attr-defined]
    low, high = loss.interval
    print(
        f"| {name} | {found.max_dp:.1e} | {100 * real.agreement:.1f} % | {loss.points:.2f} ({low:.2f} to {high:.2f}) | "
        f"{speed:,.0f} | {path.stat().st_size / 1e6:.1f} |",
        flush=True,
    )


def rate(engine: Engine, squares: np.ndarray) -> float:
    """Photos a second, the best of three passes."""
    batches = [squares[start : start + BATCH] for start in range(0, len(squares), BATCH)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in engine.run(batches):
            pass
        seconds.append(time.perf_counter() - start)
    return len(squares) / min(seconds)


if __name__ == "__main__":
    main()
