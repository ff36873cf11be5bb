"""The bundle: other tools read it as it is, and it opens only as it was written."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load, load_file, save_file

from conftest import TrainedRun, assert_clear, run_heeler, snapshot
from heeler.data.decode import decode
from heeler.errors import BundleError, ResourceError
from heeler.learn.backbone import default_spec
from heeler.records import Preprocessing
from heeler.ship import bundle as bundle_module
from heeler.ship.bundle import FILES, MANIFEST, MAX_MANIFEST_BYTES, open_bundle, write_bundle
from hostile_bundles_cases import change_config, sign
from images import HOSTILE_NAMES, cat, encode

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """A copy of a bundle, to be spoilt."""
    return Path(shutil.copytree(trained_run.model, tmp_path / "model"))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert caught.value.hint
    for word in words:
        assert word in caught.value.message, (word, caught.value.message)


def write_like(trained_run: TrainedRun, path: Path, **changes: Any) -> Path:
    """Write the opened bundle again with some things changed."""
    opened = open_bundle(trained_run.model)
    settings: dict[str, Any] = {
        "classes": opened.classes, "spec": opened.spec, "temperature": 1.5, "card": "a card", "facts": {"seed": 1},
    }  # fmt: skip
    write_bundle(path, changes.pop("model", opened.model), **{**settings, **changes})
    return path


def test_timm_loads_the_folder_and_computes_the_same(trained_run: TrainedRun) -> None:
    ours = open_bundle(trained_run.model)
    theirs = timm.create_model(f"local-dir:{trained_run.model}", pretrained=True).eval()
    batch = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (ours.model(batch) - theirs(batch)).abs().max() <= 1e-5
        assert ours.model(batch).std() > 0.1
    assert tuple(theirs.pretrained_cfg["label_names"]) == ours.classes == ("cat", "coffee", "person", "rocket")
    assert theirs.num_classes == 4


@pytest.mark.parametrize(("fit", "crop_pct"), [("crop", 0.75), ("crop", 0.9), ("squash", 0.75), ("pad", 0.75)])
def test_timm_prepares_a_photo_as_heeler_does(
    trained_run: TrainedRun, tmp_path: Path, fit: Any, crop_pct: float
) -> None:
    spec = Preprocessing(image_px=96, fit=fit, crop_pct=crop_pct, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    folder = write_like(trained_run, tmp_path / fit, spec=spec)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = timm.data.resolve_data_config({}, model=theirs)
    tensor = timm.data.create_transform(**config)(cat())
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    levels = (tensor * std + mean) * 255
    ours = torch.from_numpy(decode(encode(cat(), "PNG"), spec).pixels).permute(2, 0, 1)
    assert levels.shape == ours.shape == (3, 96, 96)
    # Two implementations of one resize round differently, by a level; a shift by one pixel would be ten times that.
    difference = (levels - ours).abs()
    assert difference.mean() < 0.5
    assert difference.max() < 2.5


def test_the_config_has_what_the_hub_reads(trained_run: TrainedRun) -> None:
    config = json.loads((trained_run.model / "config.json").read_text())
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert (config["num_classes"], config["num_features"]) == (4, 1280)
    assert config["label_names"] == ["cat", "coffee", "person", "rocket"]
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert config["pretrained_cfg"]["mean"] == config["pretrained_cfg"]["std"] == [0.5, 0.5, 0.5]
    assert (config["pretrained_cfg"]["crop_pct"], config["pretrained_cfg"]["crop_mode"]) == (0.875, "center")
    assert set(load_file(trained_run.model / "model.safetensors")) == set(
        open_bundle(trained_run.model).model.state_dict()
    )


def test_the_manifest_tells_where_the_model_comes_from(trained_run: TrainedRun) -> None:
    manifest = open_bundle(trained_run.model).manifest
    assert manifest["split"].keys() == {"key", "seed", "method"}
    assert re.fullmatch("[0-9a-f]{16}", manifest["split"]["key"])
    assert manifest["scores"]["n"] == 48
    assert manifest["versions"].items() >= {"torch": torch.__version__.split("+")[0]}.items()
    assert set(manifest["files"]) == set(FILES)
    assert {path.name for path in trained_run.model.iterdir()} == {*FILES, MANIFEST}
    assert 0 < open_bundle(trained_run.model).temperature < 20


def test_a_flipped_bit_anywhere_is_found(model: Path) -> None:
    draw = np.random.default_rng(20)
    for name in (*FILES, MANIFEST):
        size = (model / name).stat().st_size
        for position in {0, size - 1, *draw.integers(0, size, 38).tolist()}:
            with (model / name).open("r+b") as file:
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ (1 << int(draw.integers(8)))]))
                file.flush()
                with pytest.raises(BundleError, match=re.escape(name)):
                    open_bundle(model)
                file.seek(position)
                file.write(bytes([byte]))
    assert open_bundle(model).classes  # all was put right again


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_file_that_is_missing_or_a_link_is_refused(model: Path, name: str, tmp_path: Path) -> None:
    kept = (model / name).rename(tmp_path / name)
    refused(model, name)
    (model / name).symlink_to(kept)
    refused(model, name)
    (model / name).unlink()
    (model / name).mkdir()
    refused(model, name)
    (model / name).rmdir()
    os.mkfifo(model / name)
    refused(model, name)


def test_a_file_too_many_is_refused_but_not_what_systems_leave(model: Path) -> None:
    (model / ".DS_Store").write_bytes(b"left by a system")
    assert open_bundle(model).classes
    (model / "code.py").write_text("print()")
    refused(model, "code.py")


def test_a_folder_that_is_no_model_is_refused_with_the_way_to_one(trained_run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=MANIFEST) as caught:
        open_bundle(trained_run.run)
    assert str(trained_run.model) in caught.value.hint
    refused(tmp_path, MANIFEST)
    refused(trained_run.model / "config.json", MANIFEST)


def test_a_huge_manifest_is_not_read(model: Path) -> None:
    os.truncate(model / MANIFEST, MAX_MANIFEST_BYTES + 1)
    refused(model, MANIFEST, "bytes")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"format": 1', "[" * 200_000, '{"sha256_of_this": 1, "x": NaN}', "\xff\xfe"]
)
def test_a_manifest_that_is_none_is_refused(model: Path, text: str) -> None:
    (model / MANIFEST).write_text(text, encoding="latin-1")
    refused(model, MANIFEST)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 99}, "99"),
        ({"format": None}, "None"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "inf"}, "temperature"),
        ({"temperature": None}, ""),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": "nan"}, "threshold"),
        ({"threshold": []}, ""),
        ({"classes": ["cat", "coffee", "person", "rocket", "zebra"]}, "classes"),
        ({"classes": ["cat", "coffee", "person", "zebra"]}, "classes"),
        ({"classes": ["cat", "cat", "person", "rocket"]}, "classes"),
        ({"classes": "cats"}, "classes"),
        ({"classes": [1, 2, 3, 4]}, "classes"),
        ({"classes": None}, "classes"),
        ({"architecture": "resnet18"}, "architecture"),
        ({"architecture": "local-dir:/etc"}, "architecture"),
        ({"architecture": ["tf_efficientnet_lite0"]}, "architecture"),
        ({"preprocessing": {}, "files": {}}, "files"),
        ({"files": {"../../etc/passwd": "0"}}, "files"),
        ({"files": ["config.json"]}, "files"),
        ({"preprocessing": {"image_px": 10**9}}, "preprocessing"),
        ({"preprocessing": {"image_px": 0}}, "preprocessing"),
        ({"preprocessing": {"image_px": 64.5}}, "preprocessing"),
        ({"preprocessing": {"crop_pct": 1e-9}}, "preprocessing"),
        ({"preprocessing": {"fit": "stretch"}}, "preprocessing"),
        ({"preprocessing": {"std": [0, 1, 1]}}, "preprocessing"),
        ({"preprocessing": {"mean": [0.5]}}, "preprocessing"),
        ({"preprocessing": {"alpha": [0, 0, 256]}}, "preprocessing"),
        ({"preprocessing": {"run": "rm"}}, "run"),
        ({"preprocessing": 7}, ""),
    ],
)
def test_a_manifest_with_a_valid_hash_is_still_not_trusted(model: Path, change: dict[str, Any], word: str) -> None:
    sign(model, lambda manifest: manifest.update(change))
    refused(model, word)


@pytest.mark.parametrize("key", ["format", "files", "classes", "preprocessing", "temperature", "architecture"])
def test_a_manifest_that_lacks_something_is_refused(model: Path, key: str) -> None:
    sign(model, lambda manifest: manifest.pop(key))
    refused(model)


def test_a_count_of_classes_that_the_weights_lack_is_refused_before_memory_is_asked_for(model: Path) -> None:
    names = [f"class {number}" for number in range(1_000_000)]
    change_config(model, num_classes=len(names), label_names=names)
    sign(model, lambda manifest: manifest.update(classes=names))
    refused(model, "4 classes", "1,000,000")


def test_weights_of_other_shapes_or_names_are_refused(model: Path) -> None:
    good = load((model / "model.safetensors").read_bytes())  # not mapped: the file is written again

    def with_weights(**changes: torch.Tensor | None) -> None:
        renamed = {key.replace("__", "."): tensor for key, tensor in changes.items()}
        state = {key: tensor for key, tensor in {**good, **renamed}.items() if tensor is not None}
        save_file(state, model / "model.safetensors")
        sign(model)

    with_weights(conv_stem__weight=torch.zeros(32, 3, 5, 5))
    refused(model, "conv_stem.weight")
    with_weights(classifier__weight=torch.zeros(5, 1280), classifier__bias=torch.zeros(5))
    refused(model, "5", "4")
    with_weights(classifier__weight=torch.zeros(4, 1279))
    refused(model, "classifier.weight")
    with_weights(bn1__weight=None)
    refused(model, "bn1.weight is missing")
    with_weights(classifier__weight=None)
    refused(model)
    with_weights(extra__weight=torch.zeros(1))
    refused(model, "extra.weight")
    with_weights()
    assert open_bundle(model).classes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [b"", b"no such thing", b"\xff" * 100, b"[" * 200_000, b"[]", b"null"])
def test_a_forged_file_that_is_no_such_file_is_refused(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    sign(model)
    refused(model)


def test_names_of_classes_survive_in_every_file(trained_run: TrainedRun, tmp_path: Path) -> None:
    classes = HOSTILE_NAMES[:4]
    folder = write_like(trained_run, tmp_path / "hostile", classes=classes)
    assert open_bundle(folder).classes == classes
    with (folder / "classes.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["index", "class"], *([str(k), name] for k, name in enumerate(classes))]
    assert json.loads((folder / "config.json").read_text())["label_names"] == list(classes)
    assert tuple(timm.create_model(f"local-dir:{folder}").pretrained_cfg["label_names"]) == classes
    odd = write_like(trained_run, tmp_path / "odd", classes=HOSTILE_NAMES[-4:])
    assert open_bundle(odd).classes == HOSTILE_NAMES[-4:]


def test_writing_keeps_what_was_given(trained_run: TrainedRun, tmp_path: Path) -> None:
    spec = Preprocessing(image_px=80, fit="pad", alpha=(1, 2, 3))
    opened = open_bundle(write_like(trained_run, tmp_path / "deep" / "er" / "model", spec=spec))
    assert (opened.spec, opened.temperature, opened.manifest["seed"]) == (spec, 1.5, 1)
    assert not opened.model.training
    assert (opened.path / "README.md").read_text() == "a card"


def test_a_network_laid_out_in_another_memory_format_is_written_all_the_same(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    network = open_bundle(trained_run.model).model.to(memory_format=torch.channels_last)
    assert not network.conv_stem.weight.is_contiguous()
    folder = write_like(trained_run, tmp_path / "model", model=network)
    assert (folder / "model.safetensors").read_bytes() == (trained_run.model / "model.safetensors").read_bytes()


def test_a_transformer_of_one_size_is_opened_at_that_size(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=2, img_size=64).eval()
    spec = default_spec(network, 64)
    write_bundle(tmp_path / "vit", network, classes=("a", "b"), spec=spec, temperature=1.0, card="", facts={})
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for other in (
            open_bundle(tmp_path / "vit").model,
            timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval(),
        ):
            assert (other(batch) - network(batch)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "step", ["write_csv", "write_text", "write_bytes", "write_json", "save_config_for_hf", "rename"]
)
def test_a_disk_that_fills_up_leaves_nothing_and_spoils_nothing(
    trained_run: TrainedRun, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = snapshot(model)
    home = {"rename": Path, "save_config_for_hf": timm.models._hub}.get(step, bundle_module)
    monkeypatch.setattr(home, step, full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_like(trained_run, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert snapshot(model) == before


def test_a_disk_that_really_fills_up_leaves_nothing(trained_run: TrainedRun, mount: Callable[..., Path]) -> None:
    small = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    with pytest.raises(ResourceError, match="disk is full"):
        write_like(trained_run, small / "run" / "model")
    assert list((small / "run").iterdir()) == []


def test_a_bundle_is_never_written_over_another(trained_run: TrainedRun, model: Path) -> None:
    before = snapshot(model)
    with pytest.raises(OSError, match="not empty"):
        write_like(trained_run, model, temperature=2.0)
    assert snapshot(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_damaged_model_is_exit_code_4_and_earlier_predictions_stay(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "predictions.csv"
    table.write_text("from before")
    (tmp_path / "cat.jpg").write_bytes(encode(cat()))
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0\1\2\3")
    done = run_heeler("predict", model, tmp_path / "cat.jpg", "--out", table)
    assert_clear(done, 4, "model.safetensors", "changed")
    assert table.read_text() == "from before"
    done = run_heeler("predict", model, tmp_path / "cat.jpg")
    assert_clear(done, 4, "model.safetensors")
    assert done.out == ""
    assert run_heeler("predict", model, tmp_path / "cat.jpg", "--json").json["error"]["exit_code"] == 4


def test_a_run_s_earlier_bundle_gives_way_to_a_whole_one(
    trained_run: TrainedRun, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(model)
    with monkeypatch.context() as patch:
        rename = Path.rename

        def full(self: Path, target: Path) -> Path:
            if self.name.startswith(".model.") and not self.name.endswith("earlier"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        patch.setattr(Path, "rename", full)
        with pytest.raises(ResourceError, match="disk is full"):
            write_like(trained_run, model, replace=True)
    assert snapshot(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    write_like(trained_run, model, replace=True)
    assert open_bundle(model).classes == open_bundle(trained_run.model).classes
    assert [path.name for path in model.parent.iterdir()] == ["model"]
