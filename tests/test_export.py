"""Exports say what the model says, are proved before they get their name, and leave nothing behind otherwise."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper

import heeler
from conftest import TrainedRun, assert_clear, make_photos, run_heeler, snapshot
from heeler import exporting
from heeler.data.square import fit_square
from heeler.errors import BundleError, ResourceError, UsageError
from heeler.judge.scores import paired_interval
from heeler.learn.network import LogitNet
from heeler.ship import prove
from heeler.ship.bundle import open_bundle
from heeler.ship.export import with_fixed_padding
from heeler.ship.onnx_model import open_onnx
from heeler.ship.prove import Beside, odd_photos, read_rgb, softmax

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def copy(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """The run again, to write into."""
    run = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(trained_run.run, run)
    return TrainedRun(trained_run.source, run, trained_run.done)


@pytest.fixture(scope="module")
def exported(copy: TrainedRun) -> Iterator[dict[str, Any]]:
    """``heeler export --json`` of it."""
    done = run_heeler("export", copy.model, "--to", "onnx", "--json")
    assert done.code == 0, done.err
    yield done.json


@pytest.fixture(scope="module")
def photo_files(copy: TrainedRun) -> list[Path]:
    return sorted(copy.source.glob("*/[0-9]*.jpg"))[::5]


def test_an_export_is_proved_on_the_run_s_own_photos(copy: TrainedRun, exported: dict[str, Any]) -> None:
    assert exported["out"] == str(copy.run / "model.onnx") and Path(exported["out"]).is_file()
    assert exported["max_dp"] < 1e-4 and exported["agreement"] == 1
    assert exported["n"] > exported["n_made"] > 0 and "photos of the run" in exported["photos"]
    told = open_bundle(copy.model).manifest["exports"]["onnx"]
    assert told["max_dp"] == exported["max_dp"] and told["file"] == "../model.onnx"


def test_the_file_says_what_the_model_says(copy: TrainedRun, exported: dict[str, Any], photo_files: list[Path]) -> None:
    model, bundle = open_onnx(Path(exported["out"])), open_bundle(copy.model)
    assert model.classes == bundle.classes and model.spec == bundle.spec and model.precision == "fp32"
    arrays = [*odd_photos(), *(read_rgb(file, bundle.spec) for file in photo_files)]
    rows = heeler.load(copy.model).predict(arrays, top=len(bundle.classes))
    for row, probabilities in zip(rows, model.probabilities(arrays), strict=True):
        assert row.label == bundle.classes[probabilities.argmax()]
        for label, share in row.ranked:
            assert abs(share - probabilities[bundle.classes.index(label)]) < 1e-4


def test_the_file_needs_nothing_else(exported: dict[str, Any]) -> None:
    model = onnx.load(exported["out"], load_external_data=False)
    assert {each.domain for each in model.opset_import} <= {"", "ai.onnx"}
    told = {each.key: each.value for each in model.metadata_props}
    assert json.loads(told["heeler.classes"]) == ["cat", "coffee", "person", "rocket"]
    assert told["heeler.version"] == heeler.__version__ and len(told["heeler.bundle"]) == 64
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.op_type == "Pad" and "/fixed" not in node.input[1] and node.input[1] not in
                   {each.name for each in model.graph.initializer} for node in model.graph.node
                   if len(node.input) > 1 and "Constant" not in node.input[1])  # fmt: skip


def test_the_example_names_photos_without_heeler(
    copy: TrainedRun, exported: dict[str, Any], photo_files: list[Path]
) -> None:
    example = ROOT / "examples" / "onnx_predict.py"
    assert len(example.read_text().splitlines()) <= 30 and "import heeler" not in example.read_text()
    done = subprocess.run(
        [sys.executable, str(example), exported["out"], *map(str, photo_files)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    rows = heeler.load(copy.model).predict(photo_files)
    for line, file, row in zip(done.stdout.splitlines(), photo_files, rows, strict=True):
        name, label, share = line.rsplit(" ", 2)
        assert (name, label) == (f"{file}:", row.label)
        assert abs(float(share) - row.probability) < 2e-4


def test_predict_with_the_exported_file(copy: TrainedRun, exported: dict[str, Any], photo_files: list[Path]) -> None:
    answers = [
        run_heeler("predict", copy.model, *photo_files, "--engine", engine, "--json").json["predictions"]
        for engine in ("auto", "onnx")
    ]
    for one, other in zip(*answers, strict=True):
        assert one["ranked"][0]["label"] == other["ranked"][0]["label"]
        assert abs(one["ranked"][0]["probability"] - other["ranked"][0]["probability"]) < 1e-4


def test_predict_refuses_a_file_that_was_changed_or_is_not_there(
    copy: TrainedRun, exported: dict[str, Any], tmp_path: Path, photo_files: list[Path]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(copy.run, run)
    file = run / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    assert_clear(run_heeler("predict", run / "model", photo_files[0], "--engine", "onnx"), 4, "model.onnx", "changed")
    file.unlink()
    assert_clear(run_heeler("predict", run / "model", photo_files[0], "--engine", "onnx"), 2, "model.onnx")


def test_predict_wants_an_export_first(trained_run: TrainedRun, photo_files: list[Path]) -> None:
    done = run_heeler("predict", trained_run.model, photo_files[0], "--engine", "onnx")
    assert_clear(done, 2, "nothing was exported")
    assert "heeler export" in done.err


def test_int8_is_smaller_and_tells_what_it_costs(copy: TrainedRun, exported: dict[str, Any]) -> None:
    done = run_heeler("export", copy.model, "--int8", "--max-loss", "100", "--json")
    assert done.code == 0, done.err
    told = done.json
    assert told["precision"] == "int8" and told["size_bytes"] < 0.5 * exported["size_bytes"]
    loss = told["loss"]
    assert loss["of"] == "accuracy" and loss["interval"][0] <= loss["points"] <= loss["interval"][1]
    assert open_onnx(Path(told["out"])).precision == "int8"
    kinds = {node.op_type for node in onnx.load(told["out"]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert set(open_bundle(copy.model).manifest["exports"]) == {"onnx", "onnx-int8"}


def test_int8_that_costs_too_much_is_not_written(
    copy: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calibrated on black alone, every range is wrong.
    monkeypatch.setattr(exporting, "squares_of_files", lambda photos, spec: np.zeros((8, 64, 64, 3), np.uint8))
    before = (copy.model / "heeler.json").read_bytes()
    out = tmp_path / "bad.onnx"
    done = run_heeler("export", copy.model, "--int8", "--out", out)
    assert_clear(done, 1, "8 bits cost", "more than 1")
    assert list(tmp_path.iterdir()) == [] and (copy.model / "heeler.json").read_bytes() == before


def test_an_export_that_says_something_else_is_not_written(
    copy: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporting.network_onnx

    def wrong(bundle: Any) -> Any:
        network = honest(bundle)
        for tensor in network.graph.initializer:
            if tensor.name.endswith("bias") and tensor.dims == [len(bundle.classes)]:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) +
                                np.arange(len(bundle.classes), dtype=np.float32), tensor.name))  # fmt: skip
        return network

    monkeypatch.setattr(exporting, "network_onnx", wrong)
    done = run_heeler("export", copy.model, "--out", tmp_path / "wrong.onnx")
    assert_clear(done, 1, "not written", "0.0001")
    assert list(tmp_path.iterdir()) == []


def test_photos_of_another_folder_prove_it(copy: TrainedRun, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "more", cat=3, rocket=3)
    done = run_heeler("export", copy.model, "--photos", folder, "--out", tmp_path / "m.onnx", "--json")
    assert done.code == 0, done.err
    assert done.json["n"] - done.json["n_made"] == 6 and str(folder) in done.json["photos"]


def test_without_photos_it_says_so_and_int8_is_refused(trained_run: TrainedRun, tmp_path: Path) -> None:
    shutil.copytree(trained_run.model, tmp_path / "model")
    done = run_heeler("export", tmp_path / "model")
    assert done.code == 0 and "no real photos" in done.out, done.err
    assert_clear(run_heeler("export", tmp_path / "model", "--int8"), 3, "no photos to calibrate")


def test_what_is_in_the_way_stays(copy: TrainedRun, tmp_path: Path) -> None:
    other = tmp_path / "notes.onnx"
    other.write_text("mine")
    assert_clear(run_heeler("export", copy.model, "--out", other), 2, "notes.onnx")
    assert other.read_text() == "mine"
    assert_clear(run_heeler("export", copy.model, "--out", copy.model / "x.onnx"), 2, "inside the model")
    assert_clear(run_heeler("export", copy.model, "--to", "openvino", "--int8"), 2, "--int8")


def test_the_hub_folder_is_what_timm_and_heeler_open(copy: TrainedRun, tmp_path: Path, photo_files: list[Path]) -> None:
    folder = tmp_path / "hub"
    done = run_heeler("export", copy.model, "--to", "hub-folder", "--out", folder)
    assert done.code == 0, done.err
    bundle = open_bundle(copy.model)
    squares = np.stack([fit_square(read_rgb(file, bundle.spec), bundle.spec) for file in photo_files])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        ours, theirs = (LogitNet(each, bundle.spec)(torch.from_numpy(squares)) for each in (bundle.model, model))
    assert torch.equal(ours, theirs)
    assert heeler.load(folder).classes == bundle.classes
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    card_data = card.data.to_dict()
    assert card_data["library_name"] == "timm" and card_data["pipeline_tag"] == "image-classification"
    assert card_data["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino(copy: TrainedRun, tmp_path: Path) -> None:
    done = run_heeler("export", copy.model, "--to", "openvino", "--out", tmp_path / "ov", "--json")
    assert done.code == 0, done.err
    assert sorted(file.name for file in (tmp_path / "ov").iterdir()) == ["model.bin", "model.xml"]
    assert done.json["max_dp"] < 1e-2


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
def test_executorch(copy: TrainedRun, tmp_path: Path, photo_files: list[Path]) -> None:
    folder = tmp_path / "et"
    done = run_heeler("export", copy.model, "--to", "executorch", "--out", folder, "--json")
    assert done.code == 0, done.err
    assert done.json["max_dp"] < 1e-4 and done.json["agreement"] == 1
    facts = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
    bundle = open_bundle(copy.model)
    side = bundle.spec.image_px
    assert facts["classes"] == list(bundle.classes) and facts["input"]["shape"] == [1, side, side, 3]
    assert facts["preprocessing"]["fit"] == bundle.spec.fit

    from executorch.runtime import Runtime

    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    assert method is not None
    model = heeler.load(copy.model)
    for file in photo_files[:3]:
        rgb = read_rgb(file, bundle.spec)
        square = torch.from_numpy(fit_square(rgb, bundle.spec)[None].copy())
        (found,) = method.execute([square])
        assert facts["classes"][int(found.argmax())] == model.predict([rgb])[0].label
    again = run_heeler("export", copy.model, "--to", "executorch", "--out", folder)
    assert again.code == 0, again.err  # an earlier export is replaced


def test_without_executorch_there_is_a_hint(copy: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "executorch" else find(name))
    with pytest.raises(UsageError, match="ExecuTorch is not installed"):
        exporting.export(copy.model, "executorch", out=tmp_path / "et")
    assert not (tmp_path / "et").exists()


def changed(model: onnx.ModelProto, what: str) -> bytes:
    """The exported model with something that heeler never writes."""
    if what == "external":
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
    elif what == "external in an attribute":
        tensor = TensorProto(name="t", data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret")
        model.graph.node.append(helper.make_node("Constant", [], ["t"], value=tensor))
    elif what == "foreign":
        model.opset_import.append(helper.make_opsetid("evil.ops", 1))
    elif what == "no metadata":
        del model.metadata_props[:]
    elif what == "fewer classes":
        next(each for each in model.metadata_props if each.key == "heeler.classes").value = '["a", "b"]'
    elif what == "other input":
        model.graph.input[0].name = "x"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("external", "another file"),
        ("external in an attribute", "another file"),
        ("foreign", "evil.ops"),
        ("no metadata", "not exported by heeler"),
        ("fewer classes", "4 probabilities"),
        ("other input", "'x'"),
    ],
)
def test_a_file_that_is_not_as_heeler_writes_it_is_refused(
    what: str, said: str, exported: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(changed(onnx.load(exported["out"]), what))
    with pytest.raises(BundleError, match=said):
        open_onnx(tmp_path / "m.onnx")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, exported: dict[str, Any]) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(Path(exported["out"]).read_bytes()[:5000])
    (tmp_path / "link.onnx").symlink_to(exported["out"])
    for name in ("text.onnx", "cut.onnx", "link.onnx", "none.onnx"):
        with pytest.raises(BundleError):
            open_onnx(tmp_path / name)


def test_arrays_of_another_kind_are_refused(exported: dict[str, Any]) -> None:
    model = open_onnx(Path(exported["out"]))
    assert model.probabilities([]).shape == (0, 4)
    for wrong in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(UsageError, match="is no photo"):
            model.probabilities([wrong])


def test_padding_that_depends_on_the_photos_stays_computed() -> None:
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Sub", ["shape", "shape"], ["none"]),
        helper.make_node("Concat", ["none", "none"], ["pads"], axis=0),
        helper.make_node("Pad", ["pixels", "pads"], ["padded"]),
        helper.make_node("Concat", ["none", "shape"], ["grown"], axis=0),
        helper.make_node("Pad", ["padded", "grown"], ["outputs"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, [None, 2, 2, 3]) for name in ("pixels", "outputs")]
    ends[1].type.tensor_type.ClearField("shape")
    model = helper.make_model(
        helper.make_graph(nodes, "pads", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    fixed = {node.output[0]: node.input[1] for node in with_fixed_padding(model).graph.node if node.op_type == "Pad"}
    assert fixed == {"padded": "pads/fixed", "outputs": "grown"}


def test_the_loss_is_paired() -> None:
    truth = softmax(np.eye(2, dtype=np.float32)[[0, 0, 1, 1]] * 4)
    exported = softmax(np.eye(2, dtype=np.float32)[[0, 1, 1, 1]] * 4)
    known = exporting.loss_of(Beside(truth, exported, np.array([0, 0, 1, 0])))
    assert (known.points, known.of) == (25, "accuracy")
    unknown = exporting.loss_of(Beside(truth, exported, np.full(4, -1)))
    assert (unknown.points, unknown.of) == (25, "agreement")


def test_the_interval_of_a_paired_loss() -> None:
    # Agresti and Min (2005), their formula by hand: (b, c, n) = (10, 4, 100).
    low, high = paired_interval(10, 4, 100)
    share, half = 6 / 102, 1.959964 * (15 - 36 / 102) ** 0.5 / 102
    assert np.allclose((low, high), (share - half, share + half))
    assert paired_interval(0, 0, 1000)[0] == -paired_interval(0, 0, 1000)[1] < 0


def test_the_model_of_another_run_is_no_earlier_export(copy: TrainedRun, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model"
    shutil.copytree(copy.model, other)
    before = snapshot(other)
    for to in ("hub-folder", "openvino", "executorch"):
        assert_clear(run_heeler("export", copy.model, "--to", to, "--out", other), 2, "no earlier export")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    assert_clear(run_heeler("export", copy.model, "--to", "hub-folder", "--out", tmp_path / "notes"), 2, "no earlier")
    assert snapshot(other) == before and (tmp_path / "notes" / "README.md").read_text() == "mine"
    for _ in range(2):  # an earlier one goes
        assert run_heeler("export", copy.model, "--to", "hub-folder", "--out", tmp_path / "hub").code == 0


@pytest.mark.parametrize("to", ["onnx", "hub-folder"])
def test_an_earlier_export_stays_where_the_new_one_cannot_be_told(
    copy: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    place = tmp_path / "here" / "export.onnx"
    assert run_heeler("export", copy.model, "--to", to, "--out", place).code == 0
    before = [path.read_bytes() for path in ([place] if place.is_file() else sorted(place.iterdir()))]

    def full(*_: object) -> None:
        raise ResourceError("the disk is full", hint="make room")

    monkeypatch.setattr(exporting, "record_export", full)
    assert_clear(run_heeler("export", copy.model, "--to", to, "--out", place), 1, "disk is full")
    assert before == [path.read_bytes() for path in ([place] if place.is_file() else sorted(place.iterdir()))]
    assert list(place.parent.iterdir()) == [place]


def test_whole_photos_are_opened_one_at_a_time(copy: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most: list[int] = []

    def opened(source: object, spec: object) -> tuple[np.ndarray, int]:
        rgb = np.zeros((80, 80, 3), np.uint8)
        alive.append(weakref.ref(rgb))
        most.append(sum(each() is not None for each in alive))
        return rgb, 0

    monkeypatch.setattr(prove, "_opened", opened)
    bundle = open_bundle(copy.model)
    photos = [prove.Labelled(Path(f"{n}.jpg"), 0) for n in range(40)]
    assert len(prove.squares_of_files(photos, bundle.spec)) == 40
    told = prove.beside(bundle, lambda batch: np.full((len(batch), len(bundle.classes)), 0.25, np.float32), photos)
    assert len(told.truth) == len(told.exported) == 40
    assert max(most) <= 2  # the next is opened before the name of the last is given to it
