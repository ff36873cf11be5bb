"""ExecuTorch: the network and its softmax in one file for phones and small boards, beside the facts to feed it with.

The photo's way to a square is not in the file, since its shapes are fixed; what to do is in ``preprocessing.json``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

import heeler
from heeler.data.decode import fit_square
from heeler.errors import HeelerError, UsageError
from heeler.learn.network import ProbabilityNet
from heeler.records import ByteArray, FloatArray
from heeler.ship.bundle import Bundle

PROGRAM_FILE, FACTS_FILE = "model.pte", "preprocessing.json"
FACTS_FORMAT = 1


def write_executorch(bundle: Bundle, folder: Path) -> None:
    """Write a bundle as an ExecuTorch program for XNNPACK, and what its input has to be.

    ``model.pte`` takes ``(1, S, S, 3)`` uint8, a photo that is a square already, and gives ``(1, K)`` float32.

    Raises:
        UsageError: ExecuTorch is not installed.
        HeelerError: it cannot take this architecture.
    """
    if importlib.util.find_spec("executorch") is None:
        raise UsageError("ExecuTorch is not installed", hint='pip install "heeler[executorch]"')
    side = bundle.spec.image_px
    try:
        with _quiet():
            import torch
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            example = (torch.zeros(1, side, side, 3, dtype=torch.uint8),)
            net = ProbabilityNet(bundle.model, bundle.spec, bundle.temperature).eval()
            exported = torch.export.export(net, example)
            program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # the exporter raises whatever fits
        raise HeelerError(
            f"{bundle.manifest['architecture']} cannot be written for ExecuTorch: {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}",
            hint="export with --to onnx, or train with another --backbone; the default can be exported",
        ) from error
    (folder / PROGRAM_FILE).write_bytes(program.buffer)
    facts = {
        "format": FACTS_FORMAT,
        "heeler": heeler.__version__,
        "input": {"shape": [1, side, side, 3], "dtype": "uint8", "colours": "RGB"},
        "output": {"shape": [1, len(bundle.classes)], "dtype": "float32", "what": "probabilities, calibrated"},
        "classes": list(bundle.classes),
        "preprocessing": asdict(bundle.spec),
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def executorch_probabilities(folder: Path, bundle: Bundle) -> Callable[[Sequence[ByteArray]], FloatArray]:
    """Photos (H, W, 3) uint8 -> probabilities (N, K) float32, by the program in a folder."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(folder / PROGRAM_FILE).load_method("forward")
    assert method is not None

    def probabilities(photos: Sequence[ByteArray]) -> FloatArray:
        squares = (torch.from_numpy(fit_square(rgb, bundle.spec)[None].copy()) for rgb in photos)
        return np.concatenate([method.execute([square])[0].numpy().copy() for square in squares])

    return probabilities


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell what their authors alone can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
