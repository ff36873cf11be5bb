"""Memory that runs out in a forward pass: fewer photos at once, the same answers, and a word about it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import heeler
from conftest import TrainedRun
from heeler.errors import ResourceError
from heeler.learn.engines import Engine
from heeler.learn.memory import is_out_of_memory
from heeler.records import Event, Note

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
)


def engine(room: int, error: BaseException, asked: list[int]) -> Engine:
    """The mean of each photo, for at most ``room`` photos at once."""

    def forward(pixels: np.ndarray) -> np.ndarray:
        asked.append(len(pixels))
        if len(pixels) > room:
            raise error
        return pixels.reshape(len(pixels), -1).mean(1, keepdims=True).astype(np.float32)

    return Engine("torch", "fp32", forward)


def batches() -> Iterator[np.ndarray]:
    yield PIXELS[:32]
    yield PIXELS[32:]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pass_that_runs_out_of_memory_goes_on_with_fewer_photos(error: BaseException) -> None:
    told: list[Event] = []
    asked: list[int] = []
    outputs = np.concatenate(list(engine(9, error, asked).run(batches(), told.append)))
    np.testing.assert_allclose(outputs[:, 0], PIXELS.reshape(50, -1).mean(1), rtol=1e-6)
    assert asked[:3] == [32, 16, 8] and max(asked[2:]) == 8  # once halved, it stays so
    assert [event.text for event in told if isinstance(event, Note)] == [
        "out of memory with 32 photos at once, so 16 from now on",
        "out of memory with 16 photos at once, so 8 from now on",
    ]


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(engine(9, RuntimeError("shapes do not match"), []).run(batches()))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_no_room_for_one_photo_is_an_error_with_a_way_out() -> None:
    with pytest.raises(ResourceError, match="one photo at a time") as caught:
        list(engine(0, MemoryError(), []).run(batches()))
    assert "--image-px" in caught.value.hint


def test_predictions_are_the_same_where_memory_is_short(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((trained_run.source / "coffee").glob("*.jpg"))
    plain = heeler.load(trained_run.model).predict(paths)
    logit_engine = heeler.ship.predict.logit_engine

    def short(*args: object, **options: object) -> Engine:
        whole = logit_engine(*args, **options)

        def forward(pixels: np.ndarray) -> np.ndarray:
            if len(pixels) > 4:
                raise MemoryError
            return whole.forward(pixels)

        return Engine(whole.name, whole.precision, forward)

    monkeypatch.setattr("heeler.ship.predict.logit_engine", short)
    told: list[Event] = []
    rows = list(heeler.load(trained_run.model).stream(paths, on_event=told.append))
    assert [row.path for row in rows] == [row.path for row in plain]
    for row, other in zip(rows, plain, strict=True):
        assert dict(row.ranked) == pytest.approx(dict(other.ranked), abs=1e-5)
    assert any(isinstance(event, Note) and "out of memory" in event.text for event in told)
