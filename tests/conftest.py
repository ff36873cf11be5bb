"""What all tests share: a cache of their own, small folders of real photos, and disks that fill up or refuse writes."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

# What is promised of processors is tested on processors; ``test_gpu.py`` gives its own processes what was visible.
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

SCENES = {"cat": photos.chelsea, "coffee": photos.coffee, "person": photos.astronaut, "rocket": photos.rocket}
# Small pictures and the head alone make a training of seconds; most promises depend on neither.
SMALL = ("--image-px", "64", "--epochs", "0")


# Files of half a minute go first where two processes share the tests, so that none ends long after the other.
LONG = (
    "test_kill_resume.py", "test_tune.py", "test_train.py", "test_planning.py", "test_resume.py", "test_train_fixes.py",
    "test_estimator.py", "test_notebook.py", "test_api.py",
)  # fmt: skip
# What no other test may run beside: two processes that wait for each other, and answers in so many milliseconds.
ALONE = (
    "test_devices.py::",
    "test_api.py::test_importing_heeler_is_quick_and_loads_nothing_heavy",
    "test_cli.py::test_help_answers_in_under_300_ms_and_loads_nothing_heavy",
    "test_decode.py::test_a_claim_of_400_megapixels_is_refused_at_once",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; and ``alone`` marks what ``make test`` runs when all else is done."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
    for item in items:
        if f"{item.path.name}::{item.name}".startswith(ALONE):
            item.add_marker("alone")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole run of the tests, so that none touches the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEELER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def cache_of_module(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Path]:
    """A cache for the tests of one file, whose photos others would find decoded; exported networks are for all."""
    folder = tmp_path_factory.mktemp("module-cache")
    (cache / "onnx").mkdir(exist_ok=True)
    (folder / "onnx").symlink_to(cache / "onnx")
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
    return _scene(name, number).copy()


@functools.cache
def _scene(name: str, number: int) -> Image.Image:
    whole = _whole(name)
    draw = np.random.default_rng([number, *name.encode()])
    side = int(min(whole.size) * draw.uniform(0.35, 0.7))
    left, top = (int(draw.integers(0, room - side + 1)) for room in whole.size)
    piece = whole.crop((left, top, left + side, top + side)).resize((160, 160), Image.Resampling.LANCZOS)
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else piece


@functools.cache
def _whole(name: str) -> Image.Image:
    return Image.fromarray(SCENES[name]())


@functools.cache
def _jpeg(name: str, number: int) -> bytes:
    file = io.BytesIO()
    _scene(name, number).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """A maker of folders of real photos: ``photo_folder("pets", cat=12, coffee=12)``; four classes of 12 by default.

    A class is one of ``SCENES`` and its photos are JPEGs, ``0.jpg`` and so on, no two of them near duplicates.
    """

    def make(name: str = "photos", /, **n_photos: int) -> Path:
        return make_photos(tmp_path / name, **n_photos)

    return make


def make_photos(root: Path, **n_photos: int) -> Path:
    """What ``photo_folder`` makes, at any place."""
    for label, n in (n_photos or dict.fromkeys(SCENES, 12)).items():
        (root / label).mkdir(parents=True)
        for number in range(n):
            (root / label / f"{number}.jpg").write_bytes(_jpeg(label, number))
    return root


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Tiny matrices on cores that have other work: two threads would mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Done:
    """A ``heeler`` command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on standard output."""
        return json.loads(self.out)


def run_heeler(*args: object) -> Done:
    """Run a ``heeler`` command in this process."""
    from heeler.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in args])
    return Done(code, out.getvalue(), err.getvalue())


def assert_clear(done: Done, code: int, *words: str) -> None:
    """The command failed with this code, and its last words are one line of what and one line of what next."""
    lines = done.err.splitlines()
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert [line[:8] for line in lines if line.startswith(("heeler: ", "  hint: "))] == ["heeler: ", "  hint: "]
    assert lines[-2].startswith("heeler: ") and len(lines[-1]) > len("  hint: "), done.err
    for word in words:
        assert word in lines[-2], (word, lines[-2])


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: the photos, its folder, and what the command told."""

    source: Path
    run: Path
    done: Done

    @property
    def model(self) -> Path:
        """The bundle."""
        return self.run / "model"


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, cache: Path, one_thread: None) -> TrainedRun:
    """``heeler train --json`` of 48 photos and six things that are no photos to learn from; read it only."""
    source = make_photos(tmp_path_factory.mktemp("trained") / "photos")
    (source / "cat" / "broken.jpg").write_bytes((source / "cat" / "0.jpg").read_bytes()[:2000])
    (source / "cat" / "notes.jpg").write_text("the cat is on the left")
    (source / "coffee" / "same.jpg").write_bytes((source / "coffee" / "3.jpg").read_bytes())
    (source / "person" / "list.txt").write_text("no photo")
    (source / "person" / ".DS_Store").write_bytes(b"hidden")
    os.mkfifo(source / "rocket" / "pipe.jpg")
    run = source.parent / "run"
    done = run_heeler("train", source, *SMALL, "--out", run, "--json")
    assert done.code == 0, done.err
    return TrainedRun(source, run, done)


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
