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
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from heeler.errors import BundleError, HeelerError
from heeler.files import canonical_json, disk_errors, fsync_folder, sha256_file, write_csv, write_json, write_text
from heeler.learn.backbone import load_state, size_options
from heeler.records import Preprocessing

FORMAT = 1
MANIFEST = "heeler.json"
FILES = ("README.md", "classes.csv", "config.json", "model.safetensors")
MAX_MANIFEST_BYTES = 64 << 20
OWN_HASH = "sha256_of_this"


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
    """

    path: Path
    model: nn.Module
    classes: tuple[str, ...]
    spec: Preprocessing
    temperature: float
    manifest: Mapping[str, Any]


def write_bundle(
    path: Path,
    model: Any,
    *,
    classes: tuple[str, ...],
    spec: Preprocessing,
    temperature: float,
    card: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a bundle whole or not at all: into a folder beside it, then renamed.

    Args:
        path: the bundle's folder, which must not exist yet.
        model: timm network whose head has ``len(classes)`` outputs.
        classes: names in the order of the outputs.
        spec: the preprocessing that the model was trained with.
        temperature: as fitted on photos that did not train it.
        card: text of the model card, Markdown.
        facts: JSON-able extras for ``heeler.json``: scores, split, versions.

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
                "files": {name: sha256_file(temporary / name) for name in FILES},
            }
            write_json(temporary / MANIFEST, {**manifest, OWN_HASH: _own_hash(manifest)})
            temporary.chmod(0o755)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(path.parent)


def _write_files(folder: Path, model: Any, classes: tuple[str, ...], spec: Preprocessing, card: str) -> None:
    from timm.models import save_for_hf

    crop_mode = {"crop": "center", "squash": "squash", "pad": "border"}[spec.fit]
    preprocessing = {
        "input_size": [3, spec.image_px, spec.image_px],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct if spec.fit == "crop" else 1.0,
        "crop_mode": crop_mode,
    }
    config: dict[str, Any] = {"label_names": list(classes), "pretrained_cfg": preprocessing}
    options = size_options(model.pretrained_cfg["architecture"], spec.image_px)
    save_for_hf(model, str(folder), model_config=config, model_args=options or None, safe_serialization=True)
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
        classes = tuple(str(name) for name in manifest["classes"])
        spec = _spec(manifest["preprocessing"])
        temperature = float(manifest["temperature"])
        model = _load_model(path, manifest["architecture"], len(classes), spec)
    except HeelerError as error:
        raise BundleError(f"{path}: {error.message}", hint="copy or train the model again") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{path / MANIFEST} lacks or garbles {error}", hint="copy or train the model again"
        ) from error
    if not 0 < temperature < float("inf"):
        raise BundleError(f"{path / MANIFEST}: a temperature of {temperature} makes no sense")
    return Bundle(path, model, classes, spec, temperature, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        hint = (
            "give the folder `model` inside a run" if not (path / "model" / MANIFEST).exists() else f"try {path}/model"
        )
        raise BundleError(f"{path} is not a heeler model: it has no {MANIFEST}", hint=hint)
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} has {file.stat().st_size:,} bytes; more than {MAX_MANIFEST_BYTES:,} are not read")
    text = file.read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(text)
        claimed = manifest.pop(OWN_HASH)
        right = claimed == _own_hash(manifest) and text == canonical_json({**manifest, OWN_HASH: claimed}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise BundleError(f"{file} was changed after it was written", hint="copy or train the model again")
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{file} is of format {manifest.get('format')}; this heeler reads {FORMAT}", hint="pip install -U heeler"
        )
    return manifest


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    hashes = manifest.get("files")
    if not isinstance(hashes, dict) or sorted(hashes) != sorted(FILES):
        raise BundleError(f"{path / MANIFEST} does not list the files of a bundle")
    for entry in sorted(path.iterdir()):
        if entry.name not in (*FILES, MANIFEST) and not entry.name.startswith("."):
            raise BundleError(f"{entry} does not belong to the model", hint="move it out of the folder")
    for name in FILES:
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file} is missing or a link", hint="copy the whole folder again")
        if sha256_file(file) != hashes[name]:
            raise BundleError(f"{file} was changed after it was written", hint="copy or train the model again")


def _load_model(path: Path, architecture: str, n_classes: int, spec: Preprocessing) -> nn.Module:
    import timm
    from safetensors.torch import load_file

    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if config.get("architecture") != architecture or config.get("num_classes") != n_classes:
        raise BundleError(f"config.json names another architecture or class count than {MANIFEST}")
    if not timm.is_model(architecture):
        raise BundleError(f"timm has no architecture {architecture!r}", hint="pip install -U timm")
    model = timm.create_model(architecture, num_classes=n_classes, **size_options(architecture, spec.image_px))
    state = load_file(path / "model.safetensors")
    extra = sorted(set(state) - set(model.state_dict()))
    if extra:
        raise BundleError(f"model.safetensors holds a tensor that the model lacks: {extra[0]}")
    load_state(model, state, source="model.safetensors", with_classifier=True)
    return model.eval()  # type: ignore[no-any-return]


def _spec(value: Mapping[str, Any]) -> Preprocessing:
    fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return Preprocessing(**fields)


def _own_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
