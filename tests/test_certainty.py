"""Coverage counts what it says, and a threshold from some photos holds on others."""

from __future__ import annotations

import numpy as np
import pytest

from heeler.judge.certainty import coverage, threshold_for, uncalibrated
from heeler.judge.scores import fit_temperature, softmax
from heeler.records import FloatArray, IntArray

SURE = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.45, 0.55]], np.float32)
LABELS = np.array([0, 0, 1, 1, 0])


def test_coverage_counts_answers_and_right_ones() -> None:
    found = coverage(SURE, LABELS, [0.0, 0.65, 0.8, 0.95])
    assert [(each.n_answered, each.n_right) for each in found] == [(5, 3), (3, 3), (2, 2), (0, 0)]
    assert found[1].share == pytest.approx(0.6) and found[0].accuracy == pytest.approx(0.6)
    assert found[2].stated == pytest.approx(0.85)
    assert found[3].accuracy == 1 and found[3].share == 0


def test_threshold_wants_enough_photos_and_takes_equal_ones_together() -> None:
    assert threshold_for(SURE, LABELS, 0.9) is None  # three right answers prove little
    many = np.repeat(SURE, 40, axis=0), np.repeat(LABELS, 40)
    assert threshold_for(*many, 0.5) == 0.0
    assert threshold_for(*many, 0.75) == pytest.approx(0.7)
    assert threshold_for(*many, 0.9) is None  # the model itself states 0.9 at most
    assert threshold_for(SURE[:0], LABELS[:0], 0.9) is None


def answers(rng: np.random.Generator, n: int, boast: float) -> tuple[FloatArray, IntArray]:
    labels = rng.integers(0, 8, n)
    logits = rng.normal(0, 1.2, (n, 8))
    logits[np.arange(n), labels] += np.where(rng.random(n) < 0.12, 0.5, 4.5)
    return (boast * logits).astype(np.float32), labels


@pytest.mark.parametrize("boast", [0.7, 1.0, 2.0])
def test_where_95_per_cent_is_claimed_other_photos_have_at_least_94(boast: float) -> None:
    rng, holds, claims = np.random.default_rng(0), 0, 0
    for _ in range(40):
        (logits, labels), (others, truth) = answers(rng, 300, boast), answers(rng, 5000, boast)
        temperature = fit_temperature(logits, labels)
        threshold = threshold_for(softmax(logits, temperature), labels, 0.95)
        if threshold is not None:
            found = coverage(softmax(others, temperature), truth, [threshold])[0]
            claims, holds = claims + 1, holds + (found.accuracy >= 0.94)
            assert found.share > 0.3
    assert claims >= 36 and holds >= 0.94 * claims


def test_probabilities_before_temperature_come_back() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (200, 7)).astype(np.float32)
    for temperature in (0.4, 1.0, 2.5):
        assert uncalibrated(softmax(logits, temperature), temperature) == pytest.approx(softmax(logits), abs=1e-5)
