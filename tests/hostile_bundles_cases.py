"""Bundles that nobody means well with, for the tests and for bench/.

Each spoils a copy of a good one, and makes the hashes valid again where whoever forges a bundle could.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper

from heeler.files import canonical_json
from heeler.ship.bundle import EXPORTS, FILES, MANIFEST, MAX_MANIFEST_BYTES

WEIGHTS = "model.safetensors"
PLANTED = "planted"


@dataclass(frozen=True)
class Case:
    """One hostile bundle.

    Args:
        name: what it tries.
        spoil: changes a bundle's folder, which has its exported ONNX file beside it.
        engine: that ``heeler predict`` is asked for.
    """

    name: str
    spoil: Callable[[Path], object]
    engine: str = "auto"


@dataclass(frozen=True)
class Planted:
    """What makes a folder where its pickle is read."""

    place: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change a manifest and give it valid hashes again, as whoever forges a bundle would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256_of_this"]
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    change(manifest)
    own = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    (folder / MANIFEST).write_text(canonical_json({**manifest, "sha256_of_this": own}))


def change_config(folder: Path, **changes: object) -> None:
    """Change the configuration for timm; not signed."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def with_one_byte_changed(data: bytes, draw: random.Random, first: int = 0) -> bytes:
    """The data with one byte replaced, lost or put in, at a place among the first ``first`` or, where 0, among all."""
    at = draw.randrange(min(first or len(data), len(data)))
    how = draw.choice(("replaced", "replaced", "lost", "put in"))
    new = bytes([data[at] ^ draw.randrange(1, 256)])
    return data[:at] + (b"" if how == "lost" else new) + data[at + (how != "put in") :]


def cases() -> list[Case]:
    """All of them."""
    return [*_names(), *_links(), *_extra(), *_manifests(), *_weights(), *_exports(), *_onnx()]


def _signed(name: str, engine: str = "auto", /, **changes: Any) -> Case:
    return Case(name, lambda folder: sign(folder, lambda manifest: manifest.update(changes)), engine)


def _names() -> Iterator[Case]:
    for name in ("../../etc/passwd", "../model.onnx", "/etc/passwd", "./config.json", "config.json\0", "a\\..\\b"):

        def add(folder: Path, name: str = name) -> None:
            sign(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))

        yield Case(f"a file {name!r} in the manifest".replace("\\x00", "0"), add)

    def call_it(folder: Path, name: str) -> None:
        change_config(folder, architecture=name)
        sign(folder, lambda manifest: manifest.update(architecture=name))

    yield _signed("files that are no table", files=list(FILES))
    yield Case("a file fewer in the manifest", lambda folder: sign(folder, lambda told: told["files"].pop("README.md")))
    for name in ("local-dir:/etc", "hf-hub:evil/model", "../../evil", "os.system"):
        yield Case(f"an architecture {name!r}", lambda folder, name=name: call_it(folder, name))


def _links() -> Iterator[Case]:
    def link(folder: Path, name: str, target: str) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    def link_out(folder: Path, name: str) -> None:
        kept = folder.parent / "kept"
        (folder / name).rename(kept)
        (folder / name).symlink_to(kept)

    def pipe(folder: Path, name: str) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    for name in (WEIGHTS, MANIFEST):
        yield Case(f"{name}: a link out", lambda folder, name=name: link_out(folder, name))
        yield Case(f"{name}: a link to an endless file", lambda folder, name=name: link(folder, name, "/dev/zero"))
        yield Case(f"{name}: a link that leads to itself", lambda folder, name=name: link(folder, name, name))
        yield Case(f"{name}: a pipe that nobody writes to", lambda folder, name=name: pipe(folder, name))
    yield Case("README.md: a link to /etc/passwd", lambda folder: link(folder, "README.md", "/etc/passwd"))


def _extra() -> Iterator[Case]:
    def add(folder: Path, name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    def add_and_list(folder: Path) -> None:
        add(folder, "code.py", b"print()")
        sign(folder, lambda manifest: manifest["files"].update({"code.py": hashlib.sha256(b"print()").hexdigest()}))

    for name in ("code.py", "sitecustomize.py", "timm/__init__.py", "Model.safetensors", "config.json "):
        yield Case(f"a file too many: {name!r}", lambda folder, name=name: add(folder, name, b"raise SystemExit"))
    yield Case("a file too many that the manifest lists", add_and_list)
    yield Case("pickled weights beside", lambda folder: add(folder, "pytorch_model.bin", _pickle(folder)))


def _pickle(folder: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"classifier.weight": Planted(str(folder.parent / PLANTED))}, file)
    return file.getvalue()


def _manifests() -> Iterator[Case]:
    def text(folder: Path, said: str) -> None:
        (folder / MANIFEST).write_text(said)

    def doubled(folder: Path) -> None:
        said = (folder / MANIFEST).read_text()
        text(folder, said.replace('{\n  "architecture"', '{\n  "architecture": "resnet18",\n  "architecture"', 1))

    def many_classes(folder: Path) -> None:
        names = [f"class {number}" for number in range(1_000_000)]
        change_config(folder, num_classes=len(names), label_names=names)
        sign(folder, lambda manifest: manifest.update(classes=names))

    yield Case("a manifest of 10 GB", lambda folder: os.truncate(folder / MANIFEST, 10_000_000_000))
    yield Case("a manifest of as much as is read", lambda folder: os.truncate(folder / MANIFEST, MAX_MANIFEST_BYTES))
    yield Case("a manifest of 30 million brackets", lambda folder: text(folder, "[" * 30_000_000))
    yield Case("a number of a million digits", lambda folder: text(folder, '{"temperature": ' + "9" * 1_000_000 + "}"))
    yield Case("a key that stands twice", doubled)
    yield Case("a million classes", many_classes)
    yield _signed("a temperature above all floats", temperature=10**400)
    yield _signed("a threshold above all floats", threshold=10**400)
    yield _signed("a square of 10 gigapixels", preprocessing={"image_px": 100_000})
    yield _signed("a resize to a billion times the square", preprocessing={"image_px": 224, "crop_pct": 1e-9})
    yield _signed("a mean above all floats", preprocessing={"image_px": 224, "mean": [10**400, 0.5, 0.5]})


def _weights() -> Iterator[Case]:
    def forge(folder: Path, name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        sign(folder)

    def header(told: object, rest: bytes = bytes(64)) -> bytes:
        said = told if isinstance(told, bytes) else json.dumps(told).encode()
        return struct.pack("<Q", len(said)) + said + rest

    def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    head = "classifier.weight"
    many = {f"w{number}": tensor([0], 0, 0) for number in range(400_000)}
    forged = {
        "a header of 9 exabytes": struct.pack("<Q", (1 << 63) - 1) + b"{}",
        "a header longer than the file": struct.pack("<Q", 5000) + b"{}",
        "a header of 60 MB of spaces": header(b" " * 60_000_000),
        "a header of 400,000 tensors": header(many),
        "a header of brackets": header(b"[" * 1_000_000),
        "a tensor of an exabyte": header({head: tensor([1 << 29, 1 << 29], 0, 64)}),
        "a tensor whose size overflows": header({head: tensor([1 << 40, 1 << 40], 0, 64)}),
        "a tensor behind the end": header({head: tensor([16], 1 << 40, (1 << 40) + 64)}),
        "a tensor before the beginning": header({head: tensor([16], -64, 0)}),
        "tensors one over the other": header({head: tensor([16], 0, 64), "classifier.bias": tensor([16], 0, 64)}),
        "a tensor of an unknown kind": header({head: tensor([16], 0, 64, "PICKLE")}),
        "nothing but zero bytes": bytes(1000),
    }
    for name, data in forged.items():
        yield Case(f"weights: {name}", lambda folder, data=data: forge(folder, WEIGHTS, data))
    yield Case("weights: a pickle that would run", lambda folder: forge(folder, WEIGHTS, _pickle(folder)))
    yield Case("config.json: 30 million brackets", lambda folder: forge(folder, "config.json", b"[" * 30_000_000))


def _exports() -> Iterator[Case]:
    passwd = {"file": "/etc/passwd", "sha256": hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()}
    for name, exports in {
        "an export that is /etc/passwd, by its hash": {"onnx": passwd},
        "an export that is /etc/passwd, on many levels": {"onnx": {**passwd, "file": "../" * 40 + "etc/passwd"}},
        "an export without a hash": {"onnx": {"file": "../model.onnx"}},
        "an export of another hash": {"onnx": {"file": "../model.onnx", "sha256": "0" * 64}},
        "an export that is a number": {"onnx": 7},
        "an export whose name is a number": {"onnx": {"file": 7, "sha256": ""}},
        "an export with a zero in its name": {"onnx": {"file": "a\0b", "sha256": ""}},
        "exports that are a text": "onnx",
    }.items():
        yield _signed(name, "onnx", exports=exports)


def _onnx() -> Iterator[Case]:
    def change(folder: Path, spoil: Callable[[Any], object]) -> None:
        place = folder.parent / "model.onnx"
        model = onnx.load(place)
        spoil(model)
        place.write_bytes(model.SerializeToString())
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
        sign(folder, lambda manifest: manifest[EXPORTS]["onnx"].update(sha256=digest))

    def outside(tensor: Any, location: str) -> Any:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return tensor

    def node(model: Any, name: str, **attributes: Any) -> None:
        model.graph.node.append(helper.make_node(name, ["photos"], ["t"], **attributes))

    def in_a_branch(model: Any) -> None:
        branch = helper.make_graph([], "branch", [], [], [outside(TensorProto(name="t"), "../secret")])
        node(model, "If", then_branch=branch, else_branch=branch)

    def in_a_sparse_one(model: Any) -> None:
        model.graph.sparse_initializer.add().values.CopyFrom(outside(TensorProto(name="t"), "../secret"))

    def huge(model: Any) -> None:
        model.graph.initializer[0].ClearField("raw_data")
        model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]

    spoilers: dict[str, Callable[[Any], object]] = {
        "weights in /etc/passwd": lambda model: outside(model.graph.initializer[0], "/etc/passwd"),
        "weights in a file above": lambda model: outside(model.graph.initializer[0], "../../secret"),
        "a constant in another file": lambda model: node(model, "C", value=outside(TensorProto(name="t"), "/dev/zero")),
        "weights of a branch in another file": in_a_branch,
        "sparse weights in another file": in_a_sparse_one,
        "operators of somebody's library": lambda model: model.opset_import.append(helper.make_opsetid("evil", 1)),
        "a function of its own": lambda model: model.functions.add(name="f", domain="evil"),
        "weights of a terabyte": huge,
        "no classes": lambda model: model.metadata_props.__delitem__(slice(None)),
        "another input": lambda model: setattr(model.graph.input[0], "name", "x"),
    }
    for name, spoil in spoilers.items():
        yield Case(f"ONNX: {name}", lambda folder, spoil=spoil: change(folder, spoil), "onnx")

    def no_onnx(folder: Path) -> None:
        (folder.parent / "model.onnx").write_bytes(_pickle(folder))
        digest = hashlib.sha256((folder.parent / "model.onnx").read_bytes()).hexdigest()
        sign(folder, lambda manifest: manifest[EXPORTS]["onnx"].update(sha256=digest))

    yield Case("ONNX: a pickle that would run", no_onnx, "onnx")
