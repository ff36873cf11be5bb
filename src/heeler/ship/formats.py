"""Other forms of a bundle: OpenVINO's files, and the folder that a model hub is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.data.decode import fit_square
from heeler.errors import HeelerError, UsageError
from heeler.records import ByteArray, FloatArray
from heeler.ship.bundle import Bundle, copy_bundle
from heeler.ship.export import INPUT
from heeler.ship.prove import softmax

if TYPE_CHECKING:
    from onnx import ModelProto

OPENVINO_FILE = "model.xml"


def write_openvino(model: ModelProto, folder: Path) -> None:
    """Write an assembled model as OpenVINO's pair of files, ``model.xml`` and ``model.bin``, weights in 32 bits.

    Raises:
        UsageError: OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UsageError("OpenVINO is not installed", hint='pip install "heeler[openvino]"')
    import io

    import openvino

    converted = openvino.Core().read_model(io.BytesIO(model.SerializeToString()))
    openvino.save_model(converted, folder / OPENVINO_FILE, compress_to_fp16=False)


def openvino_probabilities(folder: Path) -> Callable[[Sequence[ByteArray]], FloatArray]:
    """Photos (H, W, 3) uint8 -> probabilities (N, K) float32, by the files in a folder."""
    import openvino

    compiled = openvino.Core().compile_model(folder / OPENVINO_FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def probabilities(photos: Sequence[ByteArray]) -> FloatArray:
        return np.concatenate([compiled({INPUT: photo[None]})[0].copy() for photo in photos])

    return probabilities


def write_hub_folder(bundle: Bundle, folder: Path) -> None:
    """Write what ``huggingface_hub.upload_folder`` uploads: the bundle, its card with the figures that the hub shows.

    The folder is a bundle itself: ``heeler.load`` and timm open it.
    """
    copy_bundle(bundle, folder, hub_card((bundle.path / "README.md").read_text(encoding="utf-8"), bundle.manifest))


def hub_card(text: str, manifest: Any) -> str:
    """A bundle's card with the hub's own header: the error on held-out photos stands in it as accuracy."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    scores = manifest.get("scores", {})
    results = []
    if "error" in scores:
        results.append(
            EvalResult(
                task_type="image-classification", dataset_type="photos",
                dataset_name=f"{scores['n']:,} held-out photos",
                metric_type="accuracy", metric_name="accuracy", metric_value=round(1 - scores["error"], 6),
            )
        )  # fmt: skip
    data = ModelCardData(
        library_name="timm", pipeline_tag="image-classification", tags=["image-classification", "timm", "heeler"],
        model_name="heeler", eval_results=results or None,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{ModelCard(text).text.lstrip()}"


def hub_probabilities(folder: Path, bundle: Bundle) -> Callable[[Sequence[ByteArray]], FloatArray]:
    """Photos (H, W, 3) uint8 -> probabilities (N, K) float32, by the model that timm makes of a folder.

    timm's own transform is left out: what goes through both networks is the same squares.

    Raises:
        HeelerError: timm cannot read it.
    """
    from heeler.learn.backbone import import_timm
    from heeler.learn.engines import torch_engine
    from heeler.learn.network import LogitNet

    timm = import_timm()
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # timm raises whatever fits
        raise HeelerError(f"timm cannot open {folder}: {type(error).__name__}: {error}") from error
    engine = torch_engine(LogitNet(model, bundle.spec), "cpu", "fp32")

    def probabilities(photos: Sequence[ByteArray]) -> FloatArray:
        squares = np.stack([fit_square(rgb, bundle.spec) for rgb in photos])
        return softmax(engine.forward(squares) / bundle.temperature)

    return probabilities
