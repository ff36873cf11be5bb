"""The bundle: a folder that holds a model whole; timm and the hub read it as it is, and it proves itself on opening.

model.safetensors   weights, under timm's names
config.json         timm's hub layout: architecture, classes, preprocessing
classes.csv         number and name of each class
README.md           the model card
heeler.json         preprocessing, temperature, scores, provenance, and the sha256 of every file above and of itself
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from heeler.errors import BundleError, HeelerError
from heeler.files import (
    canonical_json,
    disk_errors,
    fsync_folder,
    sha256_file,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from heeler.learn.backbone import import_timm, load_state, size_options
from heeler.records import Fit, Preprocessing

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
MANIFEST = "heeler.json"
FILES = ("README.md", "classes.csv", "config.json", "model.safetensors")
MAX_MANIFEST_BYTES = 64 << 20
OWN_HASH = "sha256_of_this"
# Name, in the manifest, of what was exported and how near each file is to the model.
EXPORTS = "exports"
# And that it is a copy, which may go when a new one comes; the model itself is elsewhere.
COPY = "copy"
# A manifest can be made up, hash and all; beyond these, preparing a single photo would fill the memory.
MAX_IMAGE_PX = 8192
MIN_CROP_PCT = 0.1
AGAIN = "copy the whole folder again, or train the model again"


@dataclass(frozen=True)
class Bundle:
    """A model that was opened and found to be what it says it is.

    Args:
        path: its folder.
        model: timm network with its head, in evaluation mode: normalised (B, 3, S, S) -> logits (B, K).
        classes: names, in the order of the logits.
        spec: the preprocessing that the model expects.
        temperature: divides the logits before the softmax.
        manifest: the whole content of ``heeler.json``.
        threshold: top probability, in [0, 1], below which a photo is ``unsure``; 0 answers always, as older bundles do.
    """

    path: Path
    model: nn.Module
    classes: tuple[str, ...]
    spec: Preprocessing
    temperature: float
    manifest: Mapping[str, Any]
    threshold: float = 0.0


def write_bundle(
    path: Path,
    model: Any,
    *,
    classes: tuple[str, ...],
    spec: Preprocessing,
    temperature: float,
    card: str,
    facts: Mapping[str, Any],
    threshold: float = 0.0,
    replace: bool = False,
) -> None:
    """Write a bundle whole or not at all: into a folder beside it, then renamed.

    Args:
        path: the bundle's folder, which must not exist yet unless ``replace``.
        model: timm network whose head has ``len(classes)`` outputs.
        classes: names in the order of the outputs.
        spec: the preprocessing that the model was trained with.
        temperature: as fitted on photos that did not train it.
        card: text of the model card, Markdown.
        facts: JSON-able extras for ``heeler.json``: scores, split, versions.
        threshold: top probability, in [0, 1], below which a photo is ``unsure``; 0 answers always.
        replace: whether an earlier bundle of the same run gives way once the new one is whole.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            _write_files(temporary, model, classes, spec, card)
            manifest = {
                **facts,
                "format": FORMAT,
                "architecture": model.pretrained_cfg["architecture"],
                "classes": list(classes),
                "preprocessing": asdict(spec),
                "temperature": temperature,
                "threshold": threshold,
                "files": {name: sha256_file(temporary / name) for name in FILES},
            }
            write_json(temporary / MANIFEST, {**manifest, OWN_HASH: _own_hash(manifest)})
            temporary.chmod(0o755)
            if replace:
                _put_aside(path, lambda: temporary.rename(path))
            else:
                temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(path.parent)


def _put_aside(path: Path, put: Callable[[], object]) -> None:
    """Put something at ``path`` in place of what is there, which comes back if that fails."""
    earlier = path.with_name(f".{path.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if path.exists():
        path.rename(earlier)
    try:
        put()
    except BaseException:
        if earlier.exists():
            earlier.rename(path)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _write_files(folder: Path, model: Any, classes: tuple[str, ...], spec: Preprocessing, card: str) -> None:
    from timm.models._hub import save_config_for_hf  # save_for_hf would write the weights without an fsync

    crop_mode = {"crop": "center", "squash": "squash", "pad": "border"}[spec.fit]
    preprocessing = {
        "input_size": [3, spec.image_px, spec.image_px],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct if spec.fit == "crop" else 1.0,
        "crop_mode": crop_mode,
    }
    names: dict[str, Any] = {"label_names": list(classes)}
    options = size_options(model.pretrained_cfg["architecture"], spec.image_px)
    save_config_for_hf(model, folder / "config.json", model_config=names, model_args=options or None)
    config = json.loads((folder / "config.json").read_bytes())
    # Here and not through timm's options, which older releases do not merge with the rest.
    config["pretrained_cfg"].update(preprocessing)
    write_json(folder / "config.json", config)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(weights))
    write_csv(folder / "classes.csv", ("index", "class"), enumerate(classes))
    write_text(folder / "README.md", card)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle after checking every byte of it.

    Raises:
        BundleError: a file is missing, added, changed or a link; or shapes and class counts disagree.
    """
    manifest = _read_manifest(path)
    _check_files(path, manifest)
    try:
        classes = _classes(manifest["classes"])
        spec = spec_from_json(manifest["preprocessing"])
        temperature = float(manifest["temperature"])
        if not 0 < temperature < math.inf:
            raise BundleError(f"a temperature of {temperature} makes no sense")
        threshold = float(manifest.get("threshold", 0.0))
        if not 0 <= threshold <= 1:
            raise BundleError(f"a threshold of {threshold} makes no sense")
        _check_exports(manifest.get(EXPORTS, {}))
        model = _load_model(path, manifest["architecture"], classes, spec)
    except HeelerError as error:
        raise BundleError(f"{path}: {error.message}", hint=AGAIN) from error
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        SafetensorError,
    ) as error:
        # timm, torch and safetensors raise whatever fits when a file holds what heeler would not have written.
        raise BundleError(f"{path} is not a model: {type(error).__name__}: {error}", hint=AGAIN) from error
    return Bundle(path, model, classes, spec, temperature, manifest, threshold)


def record_export(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Keep in a bundle's manifest what was exported of it, in place of what was said of an earlier such export.

    Args:
        path: the bundle's folder.
        name: of the kind of file, such as ``onnx``.
        facts: JSON-able.

    Raises:
        BundleError: the manifest is not as it was written.
        ResourceError: the disk is full or the folder cannot be written; the manifest is as it was.
    """
    manifest = _read_manifest(path)
    manifest[EXPORTS] = {**manifest.get(EXPORTS, {}), name: dict(facts)}
    write_json(path / MANIFEST, {**manifest, OWN_HASH: _own_hash(manifest)})


def copy_bundle(bundle: Bundle, folder: Path, card: str) -> None:
    """Write the files of a bundle into an empty folder, with another model card.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    with disk_errors(folder):
        for name in FILES:
            write_bytes(folder / name, (bundle.path / name).read_bytes())
        write_text(folder / "README.md", card)
        hashes = {name: sha256_file(folder / name) for name in FILES}
        # Files that lie beside this folder do not go with the copy.
        manifest = {name: value for name, value in bundle.manifest.items() if name != EXPORTS}
        manifest |= {"files": hashes, COPY: True}
        write_json(folder / MANIFEST, {**manifest, OWN_HASH: _own_hash(manifest)})


def is_copy(folder: Path) -> bool:
    """Whether a folder is a bundle that ``copy_bundle`` wrote."""
    try:
        return _read_manifest(folder).get(COPY) is True
    except BundleError:
        return False


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        hint = (
            "give the folder `model` inside a run" if not (path / "model" / MANIFEST).exists() else f"try {path}/model"
        )
        raise BundleError(f"{path} is not a heeler model: it has no {MANIFEST}", hint=hint)
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{file} has {file.stat().st_size:,} bytes; more than {MAX_MANIFEST_BYTES:,} are not read", hint=AGAIN
        )
    text = file.read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(text)
        claimed = manifest.pop(OWN_HASH)
        right = claimed == _own_hash(manifest) and text == canonical_json({**manifest, OWN_HASH: claimed}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise BundleError(f"{file} was changed after it was written", hint=AGAIN)
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{file} is of format {manifest.get('format')}; this heeler reads {FORMAT}", hint="pip install -U heeler"
        )
    return manifest


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    hashes = manifest.get("files")
    if not isinstance(hashes, dict) or sorted(hashes) != sorted(FILES):
        raise BundleError(f"{path / MANIFEST} does not list the files of a model", hint=AGAIN)
    for entry in sorted(path.iterdir()):
        if entry.name not in (*FILES, MANIFEST) and not entry.name.startswith("."):
            raise BundleError(f"{entry} does not belong to the model", hint="move it out of the folder")
    for name in FILES:
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file} is missing or a link", hint=AGAIN)
        if sha256_file(file) != hashes[name]:
            raise BundleError(f"{file} was changed after it was written", hint=AGAIN)


def _check_exports(told: Any) -> None:
    places = [each.get("file") for each in told.values()]
    if not all(isinstance(place, str) and "\0" not in place for place in places):
        raise BundleError(f"{MANIFEST} does not say where its exports are")


def _load_model(path: Path, architecture: str, classes: tuple[str, ...], spec: Preprocessing) -> nn.Module:
    timm = import_timm()
    config = json.loads((path / "config.json").read_bytes())
    told = (config.get("architecture"), config.get("num_classes"), tuple(config.get("label_names", ())))
    if told != (architecture, len(classes), classes):
        raise BundleError(f"config.json names another architecture or other classes than {MANIFEST}")
    if not timm.is_model(architecture):
        raise BundleError(f"the installed timm has no architecture {architecture!r}")
    weights = path / "model.safetensors"
    # Before the network is made: a count of classes that is made up could ask for more memory than there is.
    head = f"{timm.models.get_pretrained_cfg(architecture).classifier}.weight"
    with safe_open(weights, "pt") as tensors:
        n_outputs = tensors.get_slice(head).get_shape()[0]
    if n_outputs != len(classes):
        raise BundleError(f"model.safetensors tells {n_outputs:,} classes apart and {MANIFEST} names {len(classes):,}")
    model = timm.create_model(architecture, num_classes=n_outputs, **size_options(architecture, spec.image_px))
    state = load_file(weights)
    extra = sorted(set(state) - set(model.state_dict()))
    if extra:
        raise BundleError(f"model.safetensors holds a tensor that the model lacks: {extra[0]}")
    load_state(model, state, source="model.safetensors", with_classifier=True)
    return model.eval()  # type: ignore[no-any-return]


def _classes(value: Any) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise BundleError(f"{MANIFEST} does not list two or more different classes")
    return names


def spec_from_json(value: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a model names.

    Raises:
        BundleError: it makes no sense.
        TypeError: it has other fields.
    """
    fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    spec = Preprocessing(**fields)
    sane = (
        (type(spec.image_px) is int and 0 < spec.image_px <= MAX_IMAGE_PX)
        and (spec.fit in get_args(Fit) and spec.interpolation in ("bicubic", "bilinear"))
        and MIN_CROP_PCT <= spec.crop_pct <= 1
        and len(spec.mean) == len(spec.std) == len(spec.alpha) == 3
        and all(0 <= mean <= 1 and 0 < std <= 1 for mean, std in zip(spec.mean, spec.std, strict=True))
        and all(type(level) is int and 0 <= level <= 255 for level in spec.alpha)
    )
    if not sane:
        raise BundleError(f"{MANIFEST} holds a preprocessing that makes no sense")
    return spec


def _own_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
