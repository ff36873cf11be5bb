"""The model card: read by the hub, true to the run, and not to be broken by anybody's names."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file

from conftest import TrainedRun
from heeler.records import ClassScore, RunResult, Scores
from heeler.ship.card import model_card, versions
from images import HOSTILE_NAMES, cat, encode


def scores_of(*names: str) -> Scores:
    rows = tuple(ClassScore(name, 0.5, 0.25, 1 / 3, 8) for name in names)
    n = 8 * len(names)
    square = tuple(tuple(1 for _ in names) for _ in names)
    return Scores(n, n // 2, 0.5, (0.4, 0.6), 1.0, 0.05, 0.9, rows, square, ())


def result_of(scores: Scores) -> RunResult:
    classes = tuple(row.name for row in scores.per_class)
    run = Path("runs/1")
    return RunResult(run, run, run, run, "probe", scores, 70, 7, 80, classes, 1.25, {}, {})


def test_the_card_is_one_that_the_hub_reads_and_no_name_breaks_it() -> None:
    text = model_card("photos | of `mine`\n---", result_of(scores_of(*HOSTILE_NAMES)), {"back|bone\n": "x\n# y"})
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert "heeler" in card.data.tags
    lines = text.splitlines()
    first = lines.index("| class | photos judged | found | right when named |")
    rows = lines[first + 2 : first + 2 + len(HOSTILE_NAMES)]
    for row in rows:
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", row)
        assert [cell.strip() for cell in cells[2:5]] == ["8", "25.0 %", "50.0 %"]
        assert not re.search(r"(?<!\\)[*<\[#$&`]", cells[1])
    assert lines[first + 2 + len(HOSTILE_NAMES)] == ""
    prose = re.sub("```.*?```", "", text, flags=re.DOTALL).splitlines()
    assert [line for line in prose if line.startswith("#")] == [
        r"# photos \| of \`mine\` ---: 10 classes",
        "## Use",
        "## How it was made",
    ]
    assert text.count("\n---\n") == 1
    assert "Error **50.0 %** (95 % interval 40.0 to 60.0 %) on 80 photos that had no part" in text
    assert "Trained with heeler on 77 photos: 70 to begin with, and 7 more once these had chosen" in text
    tuned = replace(result_of(scores_of("a", "b")), chosen="tuned")
    assert "Trained with heeler on 70 photos; 7 more chose" in model_card("photos", tuned, {})


def test_the_commands_in_the_card_work(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (trained_run.model / "README.md").read_text()
    blocks = re.findall("```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(trained_run.run)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode(cat()))
    for block in blocks:
        names: dict[str, Any] = {}
        *before, last = block.strip().replace("photo.jpg", str(photo)).splitlines()
        exec("\n".join([*before, f"answer = {last}"]), names)
        if isinstance(names["answer"], list):
            assert names["answer"][0].ranked[0][0] == "cat"
        else:
            state, saved = names["answer"].state_dict(), load_file(trained_run.model / "model.safetensors")
            assert all(torch.equal(state[key], tensor) for key, tensor in saved.items())


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["timm"] == timm.__version__
    assert found["python"] == platform.python_version()
    assert {"heeler", "torch", "numpy", "pillow", "onnxruntime"} <= found.keys()
