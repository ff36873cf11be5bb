"""A network in 8-bit integers: ONNX Runtime's static quantisation, calibrated on photos that the model learnt from."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.errors import HeelerError
from heeler.records import ByteArray
from heeler.ship.export import NETWORK_INPUT

if TYPE_CHECKING:
    from onnx import ModelProto

# Photos that tell how large each layer's numbers get.
N_CALIBRATION = 128
CALIBRATION_BATCH = 8
# Layers whose cost is in their multiplications; what lies between them is fused into them.
QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "GlobalAveragePool")


@dataclass(frozen=True)
class Calibration:
    """How a network is quantised.

    Args:
        method: how the range of a layer's outputs is chosen: ``minmax``, ``percentile`` or ``entropy``.
        per_channel: whether each channel's weights have a scale of their own.
        reduce_range: whether weights have 7 bits, whose sums cannot overflow on processors without VNNI.
        keep_first: whether the first convolution stays float.
        keep_last: whether the last layer stays float.
    """

    method: str = "minmax"
    per_channel: bool = True
    reduce_range: bool = False
    keep_first: bool = False
    keep_last: bool = True


def quantise(network: ModelProto, squares: ByteArray, how: Calibration | None = None) -> ModelProto:
    """The network with weights and activations of 8 bits (QDQ); normalisation stays float.

    Args:
        network: ``pixels`` (N, S, S, 3) uint8 -> ``outputs`` (N, K), padding in numbers.
        squares: (N, S, S, 3) uint8 photos to calibrate with.
        how: the settings; those that keep Lite0's answers best where None.

    Raises:
        HeelerError: ONNX Runtime cannot quantise this network.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    how = how or Calibration()
    method = {"minmax": quantization.CalibrationMethod.MinMax, "percentile": quantization.CalibrationMethod.Percentile,
              "entropy": quantization.CalibrationMethod.Entropy}[how.method]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="heeler-quantise-") as folder, _quiet():
        given, ready, out = (Path(folder) / f"{name}.onnx" for name in ("given", "ready", "int8"))
        try:
            onnx.save(network, given)
            quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(ready),
                str(out),
                _reader(squares),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=how.per_channel,
                reduce_range=how.reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=_kept(onnx.load(ready), how),
                calibrate_method=method,
            )
            return onnx.load(out)
        except Exception as error:  # ONNX Runtime raises whatever fits
            first = (str(error).splitlines() or [""])[0]
            raise HeelerError(
                f"ONNX Runtime cannot quantise this network: {type(error).__name__}: {first}",
                hint="leave out --int8",
            ) from error


def _kept(network: ModelProto, how: Calibration) -> list[str]:
    """Names of the layers that stay float; the arithmetic before the first convolution always does."""
    kinds = [(node.op_type, node.name) for node in network.graph.node]
    heavy = [at for at, (kind, _) in enumerate(kinds) if kind in ("Conv", "Gemm", "MatMul")]
    if not heavy:
        return []
    kept = [name for _, name in kinds[: heavy[0] + how.keep_first]]
    return [*kept, kinds[heavy[-1]][1]] if how.keep_last else kept


def _reader(squares: ByteArray) -> Any:
    """What ONNX Runtime reads the photos from, a batch at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = _batches(squares)
    # Its base class must be inherited from; it asks for nothing but this method.
    return type("Photos", (CalibrationDataReader,), {"get_next": lambda _: next(batches, None)})()


def _batches(squares: ByteArray) -> Iterator[dict[str, ByteArray]]:
    for start in range(0, len(squares), CALIBRATION_BATCH):
        yield {NETWORK_INPUT: squares[start : start + CALIBRATION_BATCH]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nobody who exports can act on what the quantiser logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """At most n of the items, evenly spread, so that each class of a sorted list is among them."""
    return list(items) if len(items) <= n else [items[at] for at in np.linspace(0, len(items) - 1, n).astype(int)]
