"""What ``bench/predict.py`` runs in processes of their own: ``python bench/predict_steps.py STEP FOLDER MODEL [N]``.

Each prints one JSON object with photos a second, imports and the opening of the model left out, in favour of whoever
takes long for them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 32
N_BARE = 1024


def bare(folder: Path, model: Path, n: int) -> dict[str, Any]:
    """The forward pass alone, over pixels that are in memory, by each engine and by ONNX Runtime as it comes."""
    import numpy as np

    import heeler
    from heeler.data.decode import decode
    from heeler.learn import engines
    from heeler.learn.network import LogitNet
    from heeler.ship.export import network_onnx
    from heeler.ship.quantise import N_CALIBRATION, quantise, spread

    bundle = heeler.load(model).bundle
    net = LogitNet(bundle.model, bundle.spec).eval()
    files = spread(sorted(folder.rglob("*.jpg")), min(n, N_BARE))
    squares = np.stack([decode(file.read_bytes(), bundle.spec).pixels for file in files])
    onnx = folder.parent / "bare.onnx"
    engines.export_onnx(net, onnx, bundle.spec.image_px)
    int8 = quantise(network_onnx(bundle), np.stack(spread(squares, N_CALIBRATION))).SerializeToString()
    found = {
        "onnxruntime fp32": engines.onnxruntime_engine(onnx),
        "onnxruntime int8": engines.onnxruntime_engine(int8),
        "onnxruntime by itself, fp32": engines.Engine("onnxruntime", "fp32", by_itself(onnx.read_bytes())),
        "onnxruntime by itself, int8": engines.Engine("onnxruntime", "fp32", by_itself(int8)),
        "torch fp32": engines.torch_engine(net, "cpu", "fp32"),
        "torch bf16": engines.torch_engine(net, "cpu", "bf16"),
    }
    try:
        found |= {f"openvino {each}": engines.openvino_engine(onnx, each) for each in ("fp32", "bf16")}
    except ImportError:
        print("OpenVINO is not installed", file=sys.stderr)
    rates = {}
    for name, engine in found.items():
        batches = [squares[start : start + BATCH] for start in range(0, len(squares), BATCH)]
        list(engine.run(batches[:2]))
        start = time.perf_counter()
        list(engine.run(batches))
        rates[name] = len(squares) / (time.perf_counter() - start)
    return {"rates": rates}


def by_itself(model: bytes) -> Callable[[Any], Any]:
    """A session as its documentation makes one: all cores on each batch, whose size it is told."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("batch", BATCH)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def stream(folder: Path, model: Path, n: int) -> dict[str, Any]:
    """heeler's rows for files, the choice of an engine included."""
    import heeler

    classifier = heeler.load(model)
    files = [str(file) for file in sorted(folder.rglob("*.jpg"))[:n]]
    picked: list[Any] = []
    start = time.perf_counter()
    ticks = [time.perf_counter() for _ in classifier.stream(files, on_engine=picked.append)]
    rate = len(files) / (ticks[-1] - start)
    # Once the engine is chosen: from the first row on.
    return {
        "rate": rate,
        "steady": (len(files) - 1) / (ticks[-1] - ticks[0]),
        "engine": f"{picked[0].name} {picked[0].precision}",
    }


def fastai(folder: Path, model: Path, n: int) -> dict[str, Any]:
    """fastai's ``test_dl`` and ``get_preds`` with the same network, all else as it comes."""
    import fastai.callback.progress  # noqa: F401 - gives the learner its no_bar
    import timm
    import torch
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import Normalize, RandomSplitter, parent_label
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import Resize
    from fastai.vision.data import ImageBlock

    import heeler

    bundle = heeler.load(model).bundle
    files = sorted(folder.rglob("*.jpg"))[:n]
    stats = Normalize.from_stats(bundle.spec.mean, bundle.spec.std)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_y=parent_label, splitter=RandomSplitter(0.5, 1),
        item_tfms=Resize(bundle.spec.image_px), batch_tfms=stats,
    )  # fmt: skip
    first = {file.parent: file for file in files}
    loaders = block.dataloaders([*first.values()] * 2, bs=64)
    network = timm.create_model(f"local-dir:{model}", pretrained=True)
    learner = Learner(loaders, network, loss_func=CrossEntropyLossFlat())
    with learner.no_bar():
        start = time.perf_counter()
        answers, _ = learner.get_preds(dl=loaders.test_dl(files))
        seconds = time.perf_counter() - start
    return {"rate": len(answers) / seconds, "threads": torch.get_num_threads()}


def timm(folder: Path, model: Path, n: int) -> dict[str, Any]:
    """The loop of timm's ``inference.py`` (its wheel has no scripts) at that script's defaults, but for the device."""
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.models import create_model

    network = create_model(f"local-dir:{model}", pretrained=True).eval()
    config = resolve_data_config({}, model=network)
    dataset = create_dataset(root=str(folder), name="")
    if len(dataset) > n:
        dataset.reader.samples = dataset.reader.samples[:n]
    start = time.perf_counter()
    loader = create_loader(
        dataset, batch_size=256, use_prefetcher=True, num_workers=2, device=torch.device("cpu"), **config
    )
    indices, shares = [], []
    with torch.inference_mode():
        for images, _ in loader:
            output = network(images).softmax(-1)
            output, index = output.topk(1)
            shares.append(output.cpu().numpy())
            indices.append(index.cpu().numpy())
    seconds = time.perf_counter() - start
    return {"rate": sum(map(len, indices)) / seconds, "threads": torch.get_num_threads()}


def command(folder: Path, model: Path, n: int) -> dict[str, Any]:
    """The command itself, for its memory: names come on standard input, in turn where there are fewer photos."""
    from heeler.cli import main

    files = sorted(folder.rglob("*.jpg"))

    def names() -> Iterator[str]:
        for number in range(n):
            yield f"{files[number % len(files)]}\n"

    sys.stdin = Lines(names())  # type: ignore[assignment]
    printed, sys.stdout = sys.stdout, sys.stderr
    code = main(["predict", str(model), "-", "--out", str(folder.parent / "rows.csv")])
    sys.stdout = printed
    if code:
        raise SystemExit(f"heeler predict ended with {code}")
    return {"code": code}


class Lines:
    """What the command reads names from."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines

    def readline(self, size: int = -1) -> str:
        """The next line, which is shorter than any ``size`` that is asked for; empty after the last."""
        return next(self.lines, "")


STEPS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "bare": bare, "stream": stream, "fastai": fastai, "timm": timm, "command": command,
}  # fmt: skip


if __name__ == "__main__":
    step, where, which, *rest = sys.argv[1:]
    answer = STEPS[step](Path(where), Path(which), int(rest[0]) if rest else sys.maxsize)
    print(json.dumps(answer))
