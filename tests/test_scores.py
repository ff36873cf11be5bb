"""Scores against scikit-learn, scipy and simulation."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.metrics import log_loss as sklearn_log_loss

from heeler.errors import BundleError, DataError, HeelerError, UsageError
from heeler.files import canonical_json
from heeler.judge.scores import (
    PROBABILITY_FLOOR,
    calibration_error,
    fit_temperature,
    log_loss,
    score,
    scores_from_json,
    scores_to_json,
    softmax,
    wilson_interval,
)
from heeler.records import FloatArray, IntArray


def draw(n: int, n_classes: int, seed: int = 0, sharpness: float = 1.5) -> tuple[FloatArray, IntArray]:
    """Logits (n, n_classes) float32, and labels drawn from their softmax: a model that is calibrated at T = 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, sharpness, (n, n_classes)).astype(np.float32)
    gumbel = rng.gumbel(size=logits.shape)
    return logits, (logits + gumbel).argmax(axis=1).astype(np.int64)


@pytest.mark.parametrize(("n_wrong", "n"), [(0, 1), (1, 1), (0, 500), (25, 500), (499, 500), (7, 13), (500, 500)])
def test_wilson_is_scipys(n_wrong: int, n: int) -> None:
    reference = binomtest(n_wrong, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(n_wrong, n) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_wilson_of_nothing_is_everything_and_ends_are_exact() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 40)[0] == 0.0
    assert wilson_interval(40, 40)[1] == 1.0
    for n_wrong in (-1, 6):
        with pytest.raises(UsageError, match="5 photos"):
            wilson_interval(n_wrong, 5)


def test_wilson_covers_the_true_rate_nineteen_times_in_twenty() -> None:
    draws = np.random.default_rng(7).binomial(500, 0.05, size=1000)
    covered = [low <= 0.05 <= high for low, high in (wilson_interval(int(k), 500) for k in draws)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_softmax_survives_large_logits_and_takes_a_temperature() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]), atol=1e-7)
    milder = softmax(np.array([[2.0, 0.0]], dtype=np.float32), 2.0)
    np.testing.assert_allclose(milder, np.array([[0.7310586, 0.2689414]]), atol=1e-7)


def test_log_loss_is_scikit_learns_zeros_included() -> None:
    logits, labels = draw(400, 5)
    probabilities = softmax(logits)
    assert log_loss(probabilities, labels) == pytest.approx(
        sklearn_log_loss(labels, probabilities, labels=range(5)), abs=1e-5
    )
    certain = np.array([[0.0, 1.0]], dtype=np.float32)
    assert log_loss(certain, np.array([0])) == pytest.approx(-np.log(PROBABILITY_FLOOR))
    assert log_loss(certain, np.array([1])) == 0.0
    assert log_loss(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)) == 0.0


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]], dtype=np.float32)
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(probabilities, labels, n_bins=2) == pytest.approx((0.1 + 0.1) / 2, abs=1e-6)
    assert calibration_error(probabilities, labels, n_bins=1) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(probabilities[:0], labels[:0]) == 0.0


def test_calibration_error_tells_an_honest_model_from_a_boasting_one() -> None:
    logits, labels = draw(20_000, 4, seed=3)
    assert calibration_error(softmax(logits), labels) < 0.015
    assert calibration_error(softmax(logits, 0.33), labels) > 0.1


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60), n_classes=st.integers(2, 6), seed=st.integers(0, 10**6), sharpness=st.floats(0.0, 200.0),
    n_bins=st.integers(1, 20),
)  # fmt: skip
def test_calibration_error_is_a_share_and_row_order_is_nothing(
    n: int, n_classes: int, seed: int, sharpness: float, n_bins: int
) -> None:
    rng = np.random.default_rng(seed)
    probabilities = softmax((rng.integers(-2, 3, (n, n_classes)) * sharpness).astype(np.float32))
    labels = rng.integers(0, n_classes, n)
    found = calibration_error(probabilities, labels, n_bins)
    assert 0.0 <= found <= 1.0
    shuffled = rng.permutation(n)
    assert calibration_error(probabilities[shuffled], labels[shuffled], n_bins) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5, 6.0])
def test_fit_temperature_recovers_a_known_one(true_temperature: float) -> None:
    logits, labels = draw(4000, 6, seed=11)
    found = fit_temperature(logits * np.float32(true_temperature), labels)
    assert found == pytest.approx(true_temperature, rel=0.06)


def test_fit_temperature_lowers_the_loss_and_never_changes_the_answer() -> None:
    logits, labels = draw(1500, 3, seed=5)
    logits *= np.float32(3.0)
    found = fit_temperature(logits, labels)
    assert log_loss(softmax(logits, found), labels) < log_loss(softmax(logits), labels) - 0.1
    np.testing.assert_array_equal(softmax(logits, found).argmax(1), logits.argmax(1))


def test_fit_temperature_does_not_boast_after_a_few_photos() -> None:
    logits = np.full((5, 3), 0.0, dtype=np.float32)
    logits[:, 0] = 3.0
    right = np.zeros(5, dtype=np.int64)
    assert 0.6 < fit_temperature(logits, right) < 1.0
    assert fit_temperature(np.tile(logits, (400, 1)), np.tile(right, 400)) < 0.6


def test_fit_temperature_is_one_where_nothing_can_be_learned() -> None:
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == 1.0
    assert fit_temperature(np.zeros((8, 3), np.float32), np.zeros(8, np.int64)) == 1.0
    saturated = np.array([[5000.0, 0.0]] * 8, dtype=np.float32)
    assert fit_temperature(saturated, np.zeros(8, np.int64)) == 1.0


@pytest.mark.parametrize("estimate", ["test", "out-of-fold"])
def test_score_is_scikit_learns(estimate: str) -> None:
    logits, labels = draw(300, 4, seed=1)
    logits[:, 3] = -50.0  # never predicted
    labels[labels == 2] = 1  # never given
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    found = score(probabilities, labels, list("abcd"), [f"{i}.jpg" for i in range(300)], estimate=estimate)  # type: ignore[arg-type]
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=0
    )
    np.testing.assert_allclose([row.precision for row in found.per_class], precision)
    np.testing.assert_allclose([row.recall for row in found.per_class], recall)
    np.testing.assert_allclose([row.f1 for row in found.per_class], f1)
    assert [row.support for row in found.per_class] == support.tolist()
    assert found.per_class[2].support == 0
    assert found.per_class[2].recall == 0.0
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, predicted, labels=range(4)))
    assert found.n_wrong == int((predicted != labels).sum())
    assert found.error == found.n_wrong / found.n
    assert found.interval == wilson_interval(found.n_wrong, 300)
    assert found.baseline_error == pytest.approx(1 - np.bincount(labels).max() / 300)
    assert found.loss == log_loss(probabilities, labels)
    assert found.ece == calibration_error(probabilities, labels)
    assert found.estimate == estimate


def test_top_losses_are_the_worst_first_with_both_classes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.999, 0.001], [0.6, 0.4]], dtype=np.float32)
    labels = np.array([0, 0, 1, 0])
    found = score(probabilities, labels, ["cat", "dog"], ["a", "b", "c", "d"], n_top_losses=3).top_losses
    assert [(row.row, row.path, row.given, row.predicted) for row in found] == [
        (2, "c", "dog", "cat"), (1, "b", "cat", "dog"), (3, "d", "cat", "cat"),
    ]  # fmt: skip
    assert found[0].probability == pytest.approx(0.999)
    assert [float(np.exp(-row.loss)) for row in found] == pytest.approx([0.001, 0.2, 0.6], rel=1e-5)


def test_score_refuses_what_does_not_fit() -> None:
    probabilities, labels = np.full((2, 2), 0.5, np.float32), np.array([0, 1])
    with pytest.raises(UsageError, match="3 classes"):
        score(probabilities, labels, ["a", "b", "c"], ["x", "y"])
    with pytest.raises(UsageError, match="from 0 to 2"):
        score(probabilities, np.array([0, 2]), ["a", "b"], ["x", "y"])
    with pytest.raises(DataError, match="no photos"):
        score(probabilities[:0], labels[:0], ["a", "b"], [])
    probabilities[1, 0] = np.nan
    with pytest.raises(HeelerError, match=r"1 of 2 photos.*y\.jpg"):
        score(probabilities, labels, ["a", "b"], ["x.jpg", "y.jpg"])


def test_scores_survive_json_exactly() -> None:
    logits, labels = draw(50, 3, seed=2)
    found = score(softmax(logits), labels, ["a", "b\udc80", "ç"], [f"ph\udcff{i}.jpg" for i in range(50)])
    read = json.loads(canonical_json(scores_to_json(found)))
    assert scores_from_json(read) == found
    del read["ece"]
    with pytest.raises(BundleError, match="ece"):
        scores_from_json(read)
    with pytest.raises(BundleError):
        scores_from_json({**scores_to_json(found), "per_class": [{"name": "a"}]})
    assert scores_from_json(scores_to_json(replace(found, estimate="out-of-fold"))).estimate == "out-of-fold"


def test_certain_and_wrong_scores_are_json_without_infinity() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(np.array([[1.0, 0.0]], np.float32), np.array([1]), ["a", "b"], ["x"])
        text = canonical_json(scores_to_json(found))
    assert found.error == 1.0
    assert "Infinity" not in text


def test_importing_scores_is_cheap() -> None:
    names = "('torch', 'sklearn', 'scipy.optimize')"
    code = f"import sys, heeler.judge.scores; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
