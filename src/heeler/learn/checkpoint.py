"""Checkpoints that survive a kill at any moment: two generations, each verified by its hash when it is read.

A generation is a safetensors file named by its content and a JSON file that names it. The JSON is written last, so what
it names is whole. It takes the place of the older of the two; tensors that no JSON names are removed after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from heeler.files import write_bytes, write_json
from heeler.records import IntArray, short_hash

N_GENERATIONS = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run: tensors by name, contiguous and on the CPU, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Add a generation to a folder.

    Args:
        folder: for checkpoints alone, of one run; it is made.
        checkpoint: the state to keep.

    Raises:
        ResourceError: the disk is full or the place cannot be written; the generations that are there stay.
    """
    data = save(dict(checkpoint.tensors))
    sha256 = hashlib.sha256(data).hexdigest()
    number = 1 + max((known["number"] for known in _manifests(folder)), default=0)
    facts = dict(checkpoint.facts)
    manifest = {"number": number, "sha256": sha256, "facts": facts, "key": short_hash([number, sha256, facts])}
    try:
        write_bytes(_tensors_file(folder, sha256), data)
        write_json(folder / f"checkpoint-{number % N_GENERATIONS}.json", manifest)
    finally:
        _tidy(folder)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest generation whose content is what its hash says; None where there is none."""
    for manifest in sorted(_manifests(folder), key=lambda known: -known["number"]):
        with contextlib.suppress(OSError, SafetensorError):
            data = _tensors_file(folder, manifest["sha256"]).read_bytes()
            if hashlib.sha256(data).hexdigest() == manifest["sha256"]:
                return Checkpoint(load(data), manifest["facts"])
    return None


def discard_checkpoints(folder: Path) -> None:
    """Remove every generation, so that none is taken for one of the run that begins."""
    for number in range(N_GENERATIONS):
        (folder / f"checkpoint-{number}.json").unlink(missing_ok=True)
    _tidy(folder)


def key_of(settings: object, arrays: Sequence[IntArray], weights: Mapping[str, Tensor]) -> str:
    """Key of what a run is made of, to tell its checkpoints from another run's.

    Args:
        settings: anything that JSON can hold.
        arrays: photos and labels.
        weights: tensors by name, contiguous and on the CPU.
    """
    digest = hashlib.sha256(short_hash(settings).encode())
    for array in arrays:
        digest.update(f"{array.shape}".encode() + array.tobytes())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as one message to another process."""
    facts = torch.frombuffer(bytearray(json.dumps(checkpoint.facts).encode()), dtype=torch.uint8)
    data: bytes = save({**checkpoint.tensors, "facts": facts})
    return data


def from_bytes(data: bytes) -> Checkpoint:
    """The checkpoint that ``to_bytes`` made into a message."""
    tensors = load(data)
    return Checkpoint(tensors, json.loads(tensors.pop("facts").numpy().tobytes()))


def _manifests(folder: Path) -> list[dict[str, Any]]:
    """The JSON files that are whole, whatever has become of the tensors that they name."""
    found = []
    for number in range(N_GENERATIONS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = json.loads((folder / f"checkpoint-{number}.json").read_bytes())
            if short_hash([manifest["number"], manifest["sha256"], manifest["facts"]]) == manifest["key"]:
                found.append(manifest)
    return found


def _tensors_file(folder: Path, sha256: str) -> Path:
    return folder / f"checkpoint-{sha256[:16]}.safetensors"


def _tidy(folder: Path) -> None:
    """Remove tensors that no JSON names, and what killed or failed writes left."""
    named = {_tensors_file(folder, manifest["sha256"]) for manifest in _manifests(folder)}
    for path in (*folder.glob("checkpoint-*.safetensors"), *folder.glob(".checkpoint-*")):
        if path not in named:
            with contextlib.suppress(OSError):
                path.unlink()
