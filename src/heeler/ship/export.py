"""A bundle as one ONNX model: photos of any size in, calibrated probabilities out, everything in between inside.

    photos (N, H, W, 3) uint8 -> squares (N, S, S, 3) uint8 -> logits (N, K) -> probabilities (N, K) float32
    ship.graph                   learn.engines.export_onnx     temperature, softmax

What the file says of itself is in its metadata, so that it can be used without the bundle.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import heeler
from heeler.errors import HeelerError
from heeler.files import canonical_json
from heeler.learn.engines import export_onnx
from heeler.learn.network import LogitNet
from heeler.ship.bundle import EXPORTS, Bundle
from heeler.ship.graph import INPUT, SQUARES, square_model

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["INPUT", "LOGITS", "PROBABILITIES", "SQUARES", "assemble", "bundle_mark", "metadata", "network_onnx"]

NETWORK_INPUT, NETWORK_OUTPUT = "pixels", "outputs"
LOGITS, PROBABILITIES = "logits", "probabilities"
METADATA_FORMAT = 1
# Numbers of photos that a network's padding is looked at with, to see that it does not depend on them.
PROBED = (1, 3)


def network_onnx(bundle: Bundle) -> ModelProto:
    """The bundle's network, head included: ``pixels`` (N, S, S, 3) uint8 -> ``outputs`` (N, K) float32, N free.

    Raises:
        HeelerError: torch cannot export this architecture.
    """
    import onnx

    net = LogitNet(bundle.model, bundle.spec).eval()
    with tempfile.TemporaryDirectory(prefix="heeler-export-") as folder:
        path = Path(folder) / "network.onnx"
        try:
            export_onnx(net, path, bundle.spec.image_px)
        except HeelerError:
            raise
        except Exception as error:  # the exporter raises whatever fits
            architecture = bundle.manifest["architecture"]
            raise HeelerError(
                f"{architecture} cannot be written as ONNX: {type(error).__name__}: {str(error).splitlines()[0]}",
                hint="train with another --backbone; the default can be exported",
            ) from error
        return with_fixed_padding(onnx.load(path))


def with_fixed_padding(network: ModelProto) -> ModelProto:
    """The same network with padding that was computed from shapes written as numbers.

    TensorFlow's padding is computed anew in each pass where the number of photos is free, and stays apart from the
    convolutions: 124 photos/s of Lite0 where numbers give 190.
    """
    from onnx import helper, numpy_helper
    from onnx.utils import Extractor

    known = {each.name for each in network.graph.initializer}
    constants = {node.output[0] for node in network.graph.node if node.op_type == "Constant"}
    pads = [node for node in network.graph.node if node.op_type == "Pad" and len(node.input) > 1]
    computed = sorted({node.input[1] for node in pads} - known - constants)
    if not computed:
        return network
    fixed = {name: value for name, value in _values(network, computed).items() if value is not None}
    for node in pads:
        if node.input[1] in fixed:
            node.input[1] = f"{node.input[1]}/fixed"
    network.graph.initializer.extend(
        numpy_helper.from_array(value, f"{name}/fixed") for name, value in sorted(fixed.items())
    )
    kept: ModelProto = Extractor(network).extract_model([NETWORK_INPUT], [NETWORK_OUTPUT])
    return helper.make_model(kept.graph, opset_imports=network.opset_import, ir_version=network.ir_version)


def _values(network: ModelProto, names: list[str]) -> dict[str, np.ndarray | None]:
    """What whole numbers inside a network are, and None where they depend on the number of photos."""
    import onnxruntime
    from onnx import TensorProto, helper

    probe = type(network)()
    probe.CopyFrom(network)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, [None]) for name in names)
    session = _session(probe.SerializeToString(), onnxruntime)
    shape = [size.dim_value for size in network.graph.input[0].type.tensor_type.shape.dim[1:]]
    seen = [session.run(names, {NETWORK_INPUT: np.zeros((n, *shape), np.uint8)}) for n in PROBED]
    return {name: one if np.array_equal(one, other) else None for name, one, other in zip(names, *seen, strict=True)}


def _session(model: bytes, onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assemble(bundle: Bundle, network: ModelProto, *, int8: bool = False) -> ModelProto:
    """Preprocessing, network, temperature and softmax in one model, with its metadata.

    Args:
        bundle: the model that it is of.
        network: ``pixels`` to ``outputs``, as ``network_onnx`` makes it, quantised or not.
        int8: whether it was quantised.
    """
    from onnx import TensorProto, checker, compose, helper, numpy_helper

    opset = next(each.version for each in network.opset_import if each.domain in ("", "ai.onnx"))
    before = square_model(bundle.spec, opset, network.ir_version)
    # Beyond the names of the network's own, which may be anything.
    model: ModelProto = compose.merge_models(
        before, compose.add_prefix(network, "network/"), io_map=[(SQUARES, f"network/{NETWORK_INPUT}")]
    )
    graph = model.graph
    # ONNX Runtime's optimiser declares operators of its own, whether it has used them or not.
    used = {node.domain for node in graph.node} | {"", "ai.onnx"}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    temperature = numpy_helper.from_array(np.array(bundle.temperature, np.float32), "temperature")
    graph.initializer.append(temperature)
    graph.node.extend(
        (
            helper.make_node("Identity", [f"network/{NETWORK_OUTPUT}"], [LOGITS], name=LOGITS),
            helper.make_node("Div", [LOGITS, "temperature"], ["calibrated"], name="calibrated"),
            helper.make_node("Softmax", ["calibrated"], [PROBABILITIES], name=PROBABILITIES, axis=1),
        )
    )
    del graph.output[:]
    shape: list[str | int | None] = ["batch", len(bundle.classes)]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape))
    # Wanted by those who cut the preprocessing off (see ship.onnx_model).
    squares: list[str | int | None] = ["batch", bundle.spec.image_px, bundle.spec.image_px, 3]
    graph.value_info.append(helper.make_tensor_value_info(SQUARES, TensorProto.UINT8, squares))
    graph.value_info.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape))
    graph.name, model.producer_name, model.producer_version = "heeler", "heeler", heeler.__version__
    helper.set_model_props(model, metadata(bundle, int8=int8))
    checker.check_model(model)
    return model


def metadata(bundle: Bundle, *, int8: bool) -> dict[str, str]:
    """What an exported file says of itself, name -> text."""
    return {
        "heeler.format": str(METADATA_FORMAT),
        "heeler.version": heeler.__version__,
        "heeler.classes": json.dumps(list(bundle.classes)),
        "heeler.preprocessing": json.dumps(asdict(bundle.spec), sort_keys=True),
        "heeler.temperature": repr(bundle.temperature),
        "heeler.precision": "int8" if int8 else "fp32",
        "heeler.bundle": bundle_mark(bundle.manifest),
    }


def bundle_mark(manifest: Mapping[str, Any]) -> str:
    """Hex sha256 that names a bundle: of what it says of itself but its exports, which come later."""
    told = {name: value for name, value in manifest.items() if name != EXPORTS}
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()
