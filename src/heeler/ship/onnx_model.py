"""An exported ONNX file, opened: checked before anything of it runs, then photos in and probabilities out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.errors import BundleError, UsageError
from heeler.files import read_regular, sha256_file
from heeler.learn.engines import Engine, onnxruntime_engine
from heeler.records import ByteArray, FloatArray, Preprocessing
from heeler.ship.bundle import EXPORTS, Bundle, spec_from_json
from heeler.ship.export import INPUT, LOGITS, METADATA_FORMAT, PROBABILITIES, SQUARES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

# A protobuf cannot be larger; the largest network of timm has 8 GB and cannot be one file.
MAX_ONNX_BYTES = (1 << 31) - 1
STANDARD = frozenset({"", "ai.onnx"})
AGAIN = "export the model again: heeler export MODEL --to onnx"


@dataclass(frozen=True)
class OnnxModel:
    """A file that ``heeler export --to onnx`` wrote, ready to compute in ONNX Runtime.

    Args:
        path: the file.
        classes: names, in the order of the probabilities.
        spec: the preprocessing that is inside.
        temperature: that is inside.
        precision: ``fp32`` or ``int8``.
        bundle: sha256 that names the bundle it was exported from.
        session: ONNX Runtime's.
    """

    path: Path
    classes: tuple[str, ...]
    spec: Preprocessing
    temperature: float
    precision: str
    bundle: str
    session: Any

    def probabilities(self, photos: Sequence[ByteArray]) -> FloatArray:
        """Probabilities (N, K) float32 of N photos (H, W, 3) uint8 RGB, upright, each of any size.

        Raises:
            UsageError: a photo has another shape or dtype.
        """
        for photo in photos:
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
                raise UsageError(
                    f"a {photo.dtype} array of shape {photo.shape} is no photo", hint="give (H, W, 3) uint8, in RGB"
                )
        rows = [self.session.run([PROBABILITIES], {INPUT: photo[None]})[0] for photo in photos]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.classes)), np.float32)


def open_onnx(path: Path) -> OnnxModel:
    """Open a file that heeler exported.

    Raises:
        BundleError: it is no such file, or one that was changed so that it needs other files or operators.
    """
    import onnxruntime

    data, model = _read(path)
    told = {each.key: each.value for each in model.metadata_props}
    try:
        if told["heeler.format"] != str(METADATA_FORMAT):
            raise BundleError(f"its metadata is of format {told['heeler.format']}; this heeler reads {METADATA_FORMAT}")
        classes = tuple(json.loads(told["heeler.classes"]))
        spec = spec_from_json(json.loads(told["heeler.preprocessing"]))
        temperature = float(told["heeler.temperature"])
        if not 0 < temperature < math.inf or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
            raise BundleError("its classes or its temperature make no sense")
        _check_graph(model, len(classes))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return OnnxModel(
            path, classes, spec, temperature, told["heeler.precision"], told["heeler.bundle"], session
        )  # fmt: skip
    except BundleError as error:
        raise BundleError(f"{path}: {error.message}", hint=AGAIN) from error
    except KeyError as error:
        raise BundleError(f"{path} was not exported by heeler: it has no {error.args[0]}", hint=AGAIN) from error
    except Exception as error:  # ONNX Runtime and onnx raise whatever fits when a file is not what it should be
        first = (str(error).splitlines() or [""])[0]
        raise BundleError(f"{path} cannot be used: {type(error).__name__}: {first}", hint=AGAIN) from error


def _read(path: Path) -> tuple[bytes, ModelProto]:
    import onnx

    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is missing or a link", hint=AGAIN)
    data = read_regular(path, MAX_ONNX_BYTES)
    try:
        # From bytes, so that no other file is looked for.
        return data, onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, which comes without types
        raise BundleError(f"{path} is no ONNX file", hint=AGAIN) from error


def _check_graph(model: ModelProto, n_classes: int) -> None:
    """Refuse what would read other files, needs operators of others, or has another input or output."""
    from onnx import TensorProto

    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            raise BundleError(f"its tensor {tensor.name!r} lies in another file")
    if model.functions or model.training_info:
        raise BundleError("it holds functions or training, which heeler does not write")
    foreign = sorted({each.domain for each in model.opset_import} - STANDARD)
    if foreign:
        raise BundleError(f"it needs operators of {foreign[0]!r}")
    ends = [(each.name, each.type.tensor_type) for each in (*model.graph.input, *model.graph.output)]
    if [name for name, _ in ends] != [INPUT, PROBABILITIES]:
        raise BundleError(f"it goes from {[name for name, _ in ends]}, not from {INPUT} to {PROBABILITIES}")
    (_, photos), (_, answers) = ends
    sizes = [len(photos.shape.dim), photos.shape.dim[-1].dim_value, len(answers.shape.dim)]
    kinds = (photos.elem_type, answers.elem_type)
    if kinds != (TensorProto.UINT8, TensorProto.FLOAT) or sizes != [4, 3, 2]:
        raise BundleError("its input or output has another shape")
    if answers.shape.dim[-1].dim_value != n_classes:
        raise BundleError(f"it gives {answers.shape.dim[-1].dim_value} probabilities and names {n_classes} classes")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: Any) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of(graph)


def exported_engine(bundle: Bundle) -> Engine:
    """A bundle's exported ONNX file as an engine for squares that ``data`` has made; the float one where there are two.

    The preprocessing in the file is cut off: what it makes is the same, bit for bit, and JPEGs decode faster.

    Raises:
        UsageError: nothing was exported, or the file is not beside the bundle any more.
        BundleError: the file is not the one that was exported.
    """
    import onnx
    from onnx.utils import Extractor

    told = bundle.manifest.get(EXPORTS, {})
    facts = next((told[name] for name in ("onnx", "onnx-int8") if name in told), None)
    if facts is None:
        raise UsageError(
            f"nothing was exported of {bundle.path}", hint=f"heeler export {bundle.path} --to onnx, or --engine auto"
        )
    path = bundle.path / facts["file"]
    if not path.is_file():
        raise UsageError(f"{path} is not there any more", hint=f"heeler export {bundle.path} --to onnx")
    if sha256_file(path) != facts.get("sha256"):
        raise BundleError(f"{path} was changed after it was exported", hint=AGAIN)
    open_onnx(path)
    network = Extractor(onnx.load(path)).extract_model([SQUARES], [LOGITS])
    return onnxruntime_engine(network.SerializeToString())
