"""Suspicious labels and outliers: arrays whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from heeler.errors import UsageError
from heeler.judge import suspects
from heeler.judge.suspects import confident_labels, find_outliers, find_suspects, label_quality, neighbour_distances
from heeler.records import FloatArray, IntArray

N_EACH, N_CLASSES = 100, 4


def flipped(seed: int = 0) -> tuple[FloatArray, IntArray, set[int]]:
    """Probabilities of a good model, labels of which every twentieth was changed, and which these are."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(N_CLASSES), N_EACH)
    logits = rng.normal(size=(len(truth), N_CLASSES))
    logits[np.arange(len(truth)), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = truth.copy()
    changed = np.arange(0, len(truth), 20)
    labels[changed] = (truth[changed] + rng.integers(1, N_CLASSES, len(changed))) % N_CLASSES
    return probabilities.astype(np.float32), labels, set(changed.tolist())


def test_quality_is_the_probability_of_the_given_class() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0, 0, 1], [0, 0, 1]], np.float32)
    assert label_quality(probabilities, np.array([0, 1, 2, 0])) == pytest.approx([0.7, 0.2, 1, 0])


def test_a_photo_is_sure_of_a_class_from_the_mean_of_that_class() -> None:
    # Means of the given class: (0.9 + 0.5) / 2 = 0.7 and (0.6 + 0.2) / 2 = 0.4.
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.8, 0.2]], np.float32)
    assert confident_labels(probabilities, np.array([0, 0, 1, 1])).tolist() == [0, 1, 1, 0]
    unsure = np.array([[0.9, 0.1], [0.65, 0.35], [0.1, 0.9]], np.float32)
    assert confident_labels(unsure, np.array([0, 0, 1])).tolist() == [0, -1, 1]


def test_a_class_that_nobody_was_given_is_no_class_to_suspect() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.1, 0.8, 0.1]], np.float32)
    assert confident_labels(probabilities, np.array([0, 1, 1])).tolist() == [0, -1, 1]


def test_flipped_labels_head_the_list_with_the_class_that_they_had() -> None:
    probabilities, labels, changed = flipped()
    found = find_suspects(probabilities, labels)
    first = found.rows[: len(changed)].tolist()
    assert 10 <= len(found.rows) <= 2 * len(changed)
    assert len(changed & set(first)) >= 0.9 * len(first)
    right = [row // N_EACH == likelier for row, likelier in zip(first, found.likelier, strict=False)]
    assert sum(right) >= 0.9 * len(first)
    assert (np.diff(found.quality) >= 0).all()
    assert found.quality == pytest.approx(label_quality(probabilities, labels)[found.rows])


def test_a_class_that_the_model_is_unsure_of_is_not_suspected_as_a_whole() -> None:
    """The likeliest class alone would name all of class 1; its own threshold names none of it."""
    sure = np.tile(np.array([[0.95, 0.05]], np.float32), (50, 1))
    unsure = np.tile(np.array([[0.55, 0.45]], np.float32), (50, 1))
    labels = np.repeat([0, 1], 50)
    assert find_suspects(np.concatenate([sure, unsure]), labels).rows.tolist() == []


def test_nothing_to_judge_and_what_does_not_fit() -> None:
    assert len(find_suspects(np.empty((0, 3), np.float32), np.empty(0, np.int64)).rows) == 0
    with pytest.raises(UsageError, match="do not fit"):
        find_suspects(np.ones((2, 3), np.float32), np.zeros(3, np.int64))


def clusters(n_strangers: int = 0, seed: int = 0) -> FloatArray:
    """Four tight clusters of 60 in 32 dimensions, then strangers that point anywhere."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 32))
    known = np.repeat(centres, 60, axis=0) + 0.3 * rng.normal(size=(240, 32))
    return np.concatenate([known, rng.normal(size=(n_strangers, 32))]).astype(np.float32)


def test_a_distance_is_to_the_nearest_others_and_never_to_oneself() -> None:
    angles = np.deg2rad([0, 10, 20, 180])
    features = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "N_NEIGHBOURS", 1)
        near = 1 - np.cos(np.deg2rad([10, 10, 10, 160]))
        assert neighbour_distances(3 * features) == pytest.approx(near, abs=1e-6)


@pytest.mark.parametrize("max_references", [2048, 120])
def test_strangers_are_found(monkeypatch: pytest.MonkeyPatch, max_references: int) -> None:
    monkeypatch.setattr(suspects, "MAX_REFERENCES", max_references)
    found = find_outliers(clusters(n_strangers=5))
    assert set(found.rows.tolist()) == {240, 241, 242, 243, 244}
    assert (np.diff(found.distances) <= 0).all()


def test_a_list_of_outliers_is_short_even_where_the_distances_trail_off() -> None:
    rng = np.random.default_rng(0)
    features = clusters(n_strangers=20)
    assert len(find_outliers(features).rows) == 5
    even = rng.normal(size=(1000, 4)).astype(np.float32) ** 3
    assert len(find_outliers(even).rows) <= 10


def test_too_few_photos_and_photos_that_are_all_the_same_have_no_outliers() -> None:
    assert len(find_outliers(clusters(n_strangers=1)[-5:]).rows) == 0
    assert len(find_outliers(np.ones((50, 8), np.float32)).rows) == 0
    assert len(find_outliers(np.zeros((50, 8), np.float32)).rows) == 0
