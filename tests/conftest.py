"""What all tests share: a cache of their own, small folders of real photos, and disks that fill up or refuse writes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

SCENES = {"cat": photos.chelsea, "coffee": photos.coffee, "person": photos.astronaut, "rocket": photos.rocket}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole run of the tests, so that none touches the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEELER_CACHE", str(folder))
        yield folder


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "fresh-cache"
    monkeypatch.setenv("HEELER_CACHE", str(folder))
    return folder


def scene(name: str, number: int) -> Image.Image:
    """A piece of a real photo, 160 x 160 pixels; each number shows another piece at another scale."""
    whole = Image.fromarray(SCENES[name]())
    draw = np.random.default_rng([number, *name.encode()])
    side = int(min(whole.size) * draw.uniform(0.35, 0.7))
    left, top = (int(draw.integers(0, room - side + 1)) for room in whole.size)
    piece = whole.crop((left, top, left + side, top + side)).resize((160, 160), Image.Resampling.LANCZOS)
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else piece


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """A maker of folders of real photos: ``photo_folder("pets", cat=12, coffee=12)``; four classes of 12 by default.

    A class is one of ``SCENES`` and its photos are JPEGs, ``0.jpg`` and so on, no two of them near duplicates.
    """

    def make(name: str = "photos", /, **n_photos: int) -> Path:
        root = tmp_path / name
        for label, n in (n_photos or dict.fromkeys(SCENES, 12)).items():
            (root / label).mkdir(parents=True)
            for number in range(n):
                scene(label, number).save(root / label / f"{number}.jpg", quality=92)
        return root

    return make


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A maker of mounts: ``mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")``; skips where mounting is not allowed."""
    made: list[Path] = []

    def make(*arguments: str) -> Path:
        folder = tmp_path / f"mount-{len(made)}"
        folder.mkdir()
        try:
            done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("this system has no mount command")
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield make
    for folder in reversed(made):
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and content of everything below a folder."""
    found = {}
    for path in sorted((root, *root.rglob("*"))):
        stat = path.lstat()
        found[os.fspath(path)] = (stat.st_mode, stat.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found
