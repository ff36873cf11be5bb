"""Checkpoints that are cut short, altered, out of room, or of a run that was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from heeler.errors import ResourceError
from heeler.learn.checkpoint import (
    Checkpoint,
    discard_checkpoints,
    from_bytes,
    key_of,
    read_checkpoint,
    to_bytes,
    write_checkpoint,
)


def checkpoint(number: int, n: int = 1000) -> Checkpoint:
    generator = torch.Generator().manual_seed(number)
    tensors = {
        "model/weight": torch.randn(4, n // 4, generator=generator),
        "model/count": torch.tensor(number),
        "step/weight": torch.tensor(float(number)),
        "half": torch.randn(8, generator=generator).bfloat16(),
    }
    return Checkpoint(tensors, {"epoch": number, "loss": 0.1 + number, "history": [{"phase": "head"}]})


def assert_same(one: Checkpoint | None, other: Checkpoint) -> None:
    assert one is not None
    assert one.facts == other.facts
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in other.tensors.items():
        assert one.tensors[name].dtype == tensor.dtype
        assert torch.equal(one.tensors[name], tensor)


def test_nothing_is_read_from_nothing(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "none") is None


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    for number in range(5):
        write_checkpoint(tmp_path / "run", checkpoint(number))
        assert_same(read_checkpoint(tmp_path / "run"), checkpoint(number))
    names = sorted(path.suffix for path in (tmp_path / "run").iterdir())
    assert names == [".json", ".json", ".safetensors", ".safetensors"]


def test_the_same_state_twice(tmp_path: Path) -> None:
    for _ in range(3):
        write_checkpoint(tmp_path, checkpoint(1))
    assert_same(read_checkpoint(tmp_path), checkpoint(1))


def newest(folder: Path, suffix: str) -> Path:
    manifests = {json.loads(path.read_text())["number"]: path for path in folder.glob("*.json")}
    manifest = manifests[max(manifests)]
    sha256 = json.loads(manifest.read_text())["sha256"]
    return manifest if suffix == ".json" else folder / f"checkpoint-{sha256[:16]}.safetensors"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 7),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "other json": lambda path: path.write_text("[1, 2]"),
}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_older_generation_stands_in_for_a_damaged_one(tmp_path: Path, suffix: str, damage: str) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, checkpoint(number))
    DAMAGE[damage](newest(tmp_path, suffix))
    assert_same(read_checkpoint(tmp_path), checkpoint(1))


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, checkpoint(number))
    manifest = newest(tmp_path, ".json")
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 4
        manifest.write_bytes(altered)
        found = read_checkpoint(tmp_path)
        assert found is not None
        assert found.facts in (checkpoint(1).facts, checkpoint(2).facts)


def test_two_damaged_generations_are_none(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, checkpoint(number))
    for path in tmp_path.glob("*.safetensors"):
        flip(path)
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, checkpoint(3))
    assert_same(read_checkpoint(tmp_path), checkpoint(3))


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / "checkpoint-0123456789abcdef.safetensors").write_bytes(b"tensors without a manifest")
    (tmp_path / ".checkpoint-1.json.k2j3").write_bytes(b"half of a manifest")
    (tmp_path / "notes.txt").write_text("not ours")
    write_checkpoint(tmp_path, checkpoint(2))
    assert_same(read_checkpoint(tmp_path), checkpoint(2))
    assert len(list(tmp_path.iterdir())) == 5
    assert (tmp_path / "notes.txt").exists()


def test_a_full_disk_keeps_what_is_there(mount: Callable[..., Path]) -> None:
    folder = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs") / "run"
    for number in (1, 2):
        write_checkpoint(folder, checkpoint(number, n=100_000))
    with pytest.raises(ResourceError, match="disk is full"):
        write_checkpoint(folder, checkpoint(3, n=400_000))
    assert_same(read_checkpoint(folder), checkpoint(2, n=100_000))
    assert not list(folder.glob(".checkpoint-*"))
    named = {f"checkpoint-{json.loads(path.read_text())['sha256'][:16]}" for path in folder.glob("*.json")}
    assert named == {path.stem for path in folder.glob("*.safetensors")}
    write_checkpoint(folder, checkpoint(4, n=100_000))
    assert_same(read_checkpoint(folder), checkpoint(4, n=100_000))


def test_discarded_is_gone(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, checkpoint(number))
    discard_checkpoints(tmp_path)
    assert read_checkpoint(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    discard_checkpoints(tmp_path / "none")


def test_a_message_is_the_checkpoint() -> None:
    assert_same(from_bytes(to_bytes(checkpoint(3))), checkpoint(3))


def test_a_key_changes_with_everything() -> None:
    rows, weights = np.arange(6), {"a": torch.zeros(2, 3), "n": torch.tensor(1)}
    keys = {
        key_of({"seed": 1}, [rows], weights),
        key_of({"seed": 2}, [rows], weights),
        key_of({"seed": 1}, [rows[::-1]], weights),
        key_of({"seed": 1}, [rows[:5]], weights),
        key_of({"seed": 1}, [rows[:3], rows[3:]], weights),
        key_of({"seed": 1}, [rows], {"a": torch.ones(2, 3), "n": torch.tensor(1)}),
        key_of({"seed": 1}, [rows], {"b": torch.zeros(2, 3), "n": torch.tensor(1)}),
    }
    assert len(keys) == 7
    assert key_of({"seed": 1}, [rows.copy()], dict(weights)) in keys
