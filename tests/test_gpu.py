"""On a GPU, where there is one: the processor's answers, the same bits twice, smaller pieces where memory is short."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import VISIBLE_GPUS, make_photos, run_heeler

CHILD = Path(__file__).with_name("gpu_child.py")


def with_gpu(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python command that sees the GPUs that this process was hidden from."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if VISIBLE_GPUS is not None:
        environment["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def has_gpu() -> bool:
    """Whether torch could compute on one; a machine without NVIDIA's tools is not asked, since that takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return False
    asked = with_gpu("-c", "import torch; raise SystemExit(not torch.cuda.is_available())")
    return asked.returncode == 0


pytestmark = pytest.mark.skipif(not has_gpu(), reason="there is no GPU that torch can compute on")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = with_gpu(CHILD, tmp_path_factory.mktemp("gpu"))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_same_recipe_makes_the_same_weights(tuned: dict[str, Any]) -> None:
    assert tuned["again"]


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tuned: dict[str, Any]) -> None:
    assert tuned["resumed"]


def test_the_network_to_start_from_stays_where_it_was(tuned: dict[str, Any]) -> None:
    assert tuned["start_stays_on"] == "cpu"


def test_where_memory_is_short_a_step_is_done_in_pieces(tuned: dict[str, Any]) -> None:
    said = [text for text in tuned["notes"] if text.startswith("training: out of memory with 64 photos at once")]
    assert len(said) == 1
    np.testing.assert_allclose(tuned["short_losses"], tuned["losses"], rtol=0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_of_module: Path) -> tuple[Path, Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("trained-on-gpu")
    photos, run = make_photos(work / "photos"), work / "run"
    done = with_gpu("-m", "heeler", "train", photos, "--minutes", 1, "--valid", 0.2, "--out", run, "--json")
    assert done.returncode == 0, done.stderr
    return photos, run, json.loads(done.stdout)


def test_a_run_by_minutes_ends_on_time(trained: tuple[Path, Path, dict[str, Any]]) -> None:
    assert trained[2]["seconds"]["total"] <= 1.03 * 60


def test_the_model_answers_as_on_the_processor(trained: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    photos, run, _ = trained
    tables = [tmp_path / "gpu.csv", tmp_path / "cpu.csv"]
    done = with_gpu("-m", "heeler", "predict", run / "model", photos, "--out", tables[0])
    assert done.returncode == 0, done.stderr
    assert run_heeler("predict", run / "model", photos, "--out", tables[1]).code == 0
    gpu, cpu = map(read_rows, tables)
    assert [row[:4] for row in gpu] == [row[:4] for row in cpu]
    np.testing.assert_allclose(probabilities(gpu), probabilities(cpu), atol=1e-4)


def read_rows(path: Path) -> list[list[str]]:
    """Of a CSV file, its header too."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def probabilities(rows: list[list[str]]) -> list[float]:
    """Of the first answer of each photo."""
    return [float(row[rows[0].index("probability")]) for row in rows[1:]]
