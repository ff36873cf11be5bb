"""Hostile bundles and single changed bytes: each is refused with exit code 4, and nothing of it runs."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from conftest import TrainedRun, assert_clear, run_heeler
from heeler.ship.bundle import FILES, MANIFEST
from hostile_bundles_cases import PLANTED, Case, cases, with_one_byte_changed
from images import cat, encode

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parent.parent
CASES = cases()


@pytest.fixture(scope="module")
def good(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its exported file beside it, and a photo."""
    root = tmp_path_factory.mktemp("good")
    shutil.copytree(trained_run.model, root / "model")
    done = run_heeler("export", root / "model", "--json")
    assert done.code == 0, done.err
    (root / "photo.jpg").write_bytes(encode(cat()))
    return root


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "run")) / "model"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_bundle_is_refused(case: Case, bundle: Path) -> None:
    case.spoil(bundle)
    done = run_heeler("predict", bundle, bundle.parent / "photo.jpg", "--engine", case.engine)
    assert_clear(done, 4)
    assert "root:" not in done.err  # of /etc/passwd
    assert not (bundle.parent / PLANTED).exists()


def test_one_changed_byte_is_refused(bundle: Path) -> None:
    draw = random.Random(8)
    for name in (*FILES, MANIFEST, "../model.onnx"):
        good = (bundle / name).read_bytes()
        engine = "onnx" if name.endswith(".onnx") else "auto"
        for first in (0, 0, 8, 1000):
            (bundle / name).write_bytes(with_one_byte_changed(good, draw, first))
            done = run_heeler("predict", bundle, bundle.parent / "photo.jpg", "--engine", engine)
            assert_clear(done, 4, Path(name).name)
        (bundle / name).write_bytes(good)


def test_what_was_copied_is_good_before_it_is_spoilt(bundle: Path) -> None:
    for engine in ("auto", "onnx"):
        assert run_heeler("predict", bundle, bundle.parent / "photo.jpg", "--engine", engine).code == 0


def test_there_are_enough_and_no_two_alike_as_the_docs_say() -> None:
    assert len(CASES) >= 30
    assert f"| {len(CASES)} tried: all refused" in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert len({case.name for case in CASES}) == len(CASES)
