"""The probe: the right optimum, and out-of-fold answers that did not see their fold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from heeler.errors import HeelerError
from heeler.learn import probe
from heeler.learn.probe import PENALTIES, Probe, class_order, fit_probe
from heeler.records import FloatArray, IntArray

Data = tuple[FloatArray, IntArray, IntArray]


def blobs(n: int, n_features: int, n_classes: int, *, noise: float = 1.0, seed: int = 0) -> Data:
    """Features around a centre for each class, labels, and five folds."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    features = draw.normal(size=(n_classes, n_features))[labels] + noise * draw.normal(size=(n, n_features))
    return features.astype(np.float32), labels, draw.permutation(n) % 5


@pytest.fixture
def digits() -> Data:
    """Real handwritten digits: 64 grey values of very different spread, three of them the same in every photo."""
    features, labels = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(labels))[:600]
    return features[rows].astype(np.float32), labels[rows].astype(np.int64), np.arange(600) % 5


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits go on to the optimum."""
    monkeypatch.setattr(probe, "FOLDS_TOLERANCE", 1e-12)
    monkeypatch.setattr(probe, "HEAD_TOLERANCE", 1e-12)
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 2000)


def scaled(features: FloatArray) -> FloatArray:
    """The features as the penalty sees them: centred, each divided by the root of its spread times the overall one."""
    return (features - features.mean(0)) / np.sqrt((features.std(0) + 1e-6) * (features.std() + 1e-6))


def by_scikit_learn(features: FloatArray, labels: IntArray, seen: np.ndarray, penalty: float) -> FloatArray:
    """Logits of all photos by scikit-learn's head with the same penalty, fitted on those seen."""
    x = scaled(features).astype(np.float64)
    model = LogisticRegression(C=1 / (penalty * seen.sum()), tol=1e-10, max_iter=5000)
    model.fit(x[seen], labels[seen])
    return model.decision_function(x)


def assert_same_probabilities(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(softmax(found, 1), softmax(expected, 1), atol=2e-3)


def test_the_head_is_the_one_scikit_learn_finds(digits: Data, tight: None) -> None:
    features, labels, folds = digits
    found = fit_probe(features, labels, 10, folds)
    expected = by_scikit_learn(features, labels, np.ones(len(labels), bool), found.penalty)
    assert_same_probabilities(found.head.logits(features), expected)
    for fold in range(5):
        expected = by_scikit_learn(features, labels, folds != fold, found.penalty)
        assert_same_probabilities(found.logits[folds == fold], expected[folds == fold])


def test_more_photos_are_learnt_from_and_choose_nothing(digits: Data, tight: None) -> None:
    features, labels, folds = digits
    alone = fit_probe(features[:400], labels[:400], 10, folds[:400])
    assert alone.head_of_more is alone.head
    found = fit_probe(features[:400], labels[:400], 10, folds[:400], more=(features[400:], labels[400:]))
    assert found.penalty == alone.penalty and np.array_equal(found.logits, alone.logits)
    np.testing.assert_array_equal(found.head.weight, alone.head.weight)
    # The optimum on all 600, scaled as the first 400 are.
    x = (features - features[:400].mean(0)) / np.sqrt((features[:400].std(0) + 1e-6) * (features[:400].std() + 1e-6))
    model = LogisticRegression(C=1 / (found.penalty * 600), tol=1e-10, max_iter=5000).fit(x.astype(np.float64), labels)
    assert_same_probabilities(found.head_of_more.logits(features), model.decision_function(x))
    broken = features[400:].copy()
    broken[3, 0] = np.nan
    with pytest.raises(HeelerError, match="1 of 200 photos"):
        fit_probe(features[:400], labels[:400], 10, folds[:400], more=(broken, labels[400:]))


def test_the_usual_tolerances_are_near_the_optimum(digits: Data, request: pytest.FixtureRequest) -> None:
    features, labels, folds = digits
    quick = fit_probe(features, labels, 10, folds)
    request.getfixturevalue("tight")
    exact = fit_probe(features, labels, 10, folds)
    assert quick.penalty == exact.penalty
    assert quick.tried[quick.penalty] == pytest.approx(exact.tried[exact.penalty], abs=1e-3)
    changed = quick.logits.argmax(1) != exact.logits.argmax(1)
    assert changed.sum() <= 3


def test_a_fifth_of_the_digits_in_each_fold_is_judged_well(digits: Data) -> None:
    features, labels, folds = digits
    found = fit_probe(features, labels, 10, folds)
    assert (found.logits.argmax(1) != labels).mean() < 0.08
    assert found.logits.shape == (600, 10)
    assert found.logits.dtype == found.head.weight.dtype == found.head.bias.dtype == np.float32
    assert found.head.weight.shape == (10, 64)


def test_the_chosen_penalty_is_the_best_of_those_tried(digits: Data) -> None:
    found = fit_probe(*digits[:2], 10, digits[2])
    assert found.tried[found.penalty] == min(found.tried.values())
    assert set(found.tried) <= set(PENALTIES)
    at = PENALTIES.index(found.penalty)
    neighbours = {PENALTIES[i] for i in (at - 1, at + 1) if 0 <= i < len(PENALTIES)}
    assert neighbours <= set(found.tried), "a best penalty has been compared with both of its neighbours"


@pytest.mark.parametrize(("noise", "large"), [(12.0, True), (0.05, False)])
def test_noisy_features_get_a_large_penalty_and_clean_ones_a_small(noise: float, large: bool) -> None:
    features, labels, folds = blobs(300, 40, 3, noise=noise)
    found = fit_probe(features, labels, 3, folds)
    assert (found.penalty > 0.1) == large


@pytest.fixture
def problem() -> Iterator[probe._Problem]:
    """Random features and fits, in more than one chunk."""
    draw = torch.Generator().manual_seed(0)
    n, n_features, n_fits = 3000, 6, 3
    with ThreadPoolExecutor(2) as pool:
        yield probe._Problem(
            features=torch.randn(n, n_features, generator=draw),
            labels=torch.randint(0, 4, (n,), generator=draw),
            weights=torch.rand(n, n_fits, 1, generator=draw) / n,
            variances=torch.ones(n_features),
            n_classes=4,
            pool=pool,
        )


def test_the_joint_loss_is_the_sum_of_the_fits_losses(problem: probe._Problem) -> None:
    n_fits, n_classes, n_features = problem.shape
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(n_fits, n_classes, n_features))
    biases = draw.normal(size=(n_fits, n_classes))
    x, labels = problem.features.double().numpy(), problem.labels.numpy()
    expected = sum(
        -(log_softmax(x @ weights[fit].T + biases[fit], 1)[np.arange(len(x)), labels] * share).sum()
        for fit, share in enumerate(problem.weights[:, :, 0].double().numpy().T)
    )
    found, _, _ = probe._data_term(problem, *as_tensors(weights, biases))
    assert found == pytest.approx(expected, rel=1e-5)


def as_tensors(weights: np.ndarray, biases: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    flat = weights.reshape(-1, weights.shape[-1])
    return torch.from_numpy(flat.astype(np.float32)), torch.from_numpy(biases.ravel().astype(np.float32))


def test_the_joint_gradient_is_the_losss_slope(problem: probe._Problem) -> None:
    problem = replace(problem, features=problem.features.double(), weights=problem.weights.double())
    n_fits, n_classes, n_features = problem.shape
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(n_fits * n_classes, n_features, generator=draw, dtype=torch.float64)
    biases = torch.randn(n_fits * n_classes, generator=draw, dtype=torch.float64)
    _, slope, bias_slope = probe._data_term(problem, weights, biases)
    step = 1e-5
    for row in range(n_fits * n_classes):
        for column in range(n_features):
            moved = torch.zeros_like(weights)
            moved[row, column] = step
            up, down = (probe._data_term(problem, weights + way * moved, biases)[0] for way in (1, -1))
            assert float(slope[row, column]) == pytest.approx((up - down) / (2 * step), abs=1e-8)
        nudged = torch.zeros_like(biases)
        nudged[row] = step
        up, down = (probe._data_term(problem, weights, biases + way * nudged)[0] for way in (1, -1))
        assert float(bias_slope[row]) == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_out_of_fold_answers_did_not_see_their_fold() -> None:
    """More features than photos and labels by chance: only a head that saw a photo can know its label."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(400, 600)).astype(np.float32)
    labels = draw.integers(0, 2, 400)
    found = fit_probe(features, labels, 2, draw.permutation(400) % 5)
    assert (found.head.logits(features).argmax(1) == labels).mean() > 0.95
    assert 0.4 < (found.logits.argmax(1) == labels).mean() < 0.6


def test_out_of_fold_answers_of_photos_judged_together() -> None:
    """Each photo is there twice. Two copies in one fold stay unknown; in two folds, they give each other away."""
    draw = np.random.default_rng(0)
    half = draw.normal(size=(150, 300))
    features = np.concatenate([half, half]).astype(np.float32)
    labels = np.tile(draw.integers(0, 2, 150), 2)
    together, apart = np.tile(np.arange(150) % 5, 2), np.arange(300) // 60
    right = [(fit_probe(features, labels, 2, folds).logits.argmax(1) == labels).mean() for folds in (together, apart)]
    assert right[0] < 0.65
    assert right[1] > 0.9


def test_fold_numbers_are_names_only(digits: Data) -> None:
    features, labels, folds = digits
    named = np.array([70, 2, 30, -4, 11])[folds]
    one, other = fit_probe(features, labels, 10, folds), fit_probe(features, labels, 10, named)
    assert one.penalty == other.penalty
    # The folds are summed in another order; weights that hardly matter end a little elsewhere, what is said does not.
    for logits in ((one.logits, other.logits), (one.head.logits(features), other.head.logits(features))):
        np.testing.assert_allclose(softmax(logits[0], 1), softmax(logits[1], 1), atol=2e-3, rtol=0)


def test_few_photos_that_are_nearly_equal() -> None:
    rng = np.random.default_rng(3)
    pictures = rng.random((4, 1280), dtype=np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    features = pictures[[0, 1, 2, 3, 3, 3, 3]] + rng.normal(0, 1e-6, (7, 1280)).astype(np.float32)
    probe = fit_probe(features, labels, 2, np.array([0, 1, 2, 0, 1, 2, 3]))
    assert np.isfinite(probe.logits).all()
    assert (probe.head.logits(features).argmax(1) == labels).all()


def assert_equal_probes(one: Probe, other: Probe) -> None:
    assert one.penalty == other.penalty
    np.testing.assert_array_equal(one.logits, other.logits)
    np.testing.assert_array_equal(one.head.weight, other.head.weight)
    np.testing.assert_array_equal(one.head.bias, other.head.bias)


def test_the_same_on_any_number_of_threads() -> None:
    features, labels, folds = blobs(5000, 30, 3, noise=3.0)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 2):
            torch.set_num_threads(n)
            found.append(fit_probe(features, labels, 3, folds))
            assert torch.get_num_threads() == n, "the caller's setting is put back"
    finally:
        torch.set_num_threads(n_threads)
    assert_equal_probes(found[0], found[1])
    assert_equal_probes(found[1], found[2])


def test_the_scaling_is_folded_into_the_head(digits: Data) -> None:
    """Shifting or stretching all features alike changes the head's numbers and not its answers."""
    features, labels, folds = digits
    plain = fit_probe(features, labels, 10, folds)
    moved = (features * 8 + 64).astype(np.float32)
    other = fit_probe(moved, labels, 10, folds)
    np.testing.assert_allclose(softmax(other.head.logits(moved), 1), softmax(plain.head.logits(features), 1), atol=0.02)


def test_two_classes() -> None:
    features, labels, folds = blobs(200, 10, 2)
    found = fit_probe(features, labels, 2, folds)
    assert found.head.weight.shape == (2, 10)
    assert (found.logits.argmax(1) == labels).mean() > 0.9


def test_a_feature_that_never_changes_has_no_say() -> None:
    features, labels, folds = blobs(200, 10, 3)
    features[:, 4] = 7.25
    found = fit_probe(features, labels, 3, folds)
    assert np.isfinite(found.head.weight).all()
    np.testing.assert_allclose(found.head.weight[:, 4], 0, atol=1e-4)
    assert (found.logits.argmax(1) == labels).mean() > 0.8


def test_features_that_are_all_the_same_say_nothing() -> None:
    labels = np.arange(90) % 3
    labels[:15] = 0
    found = fit_probe(np.full((90, 5), 3, np.float32), labels, 3, np.arange(90) % 5)
    assert np.isfinite(found.logits).all()
    expected = np.bincount(labels) / 90
    np.testing.assert_allclose(softmax(found.head.logits(np.full((1, 5), 3, np.float32)), 1)[0], expected, atol=0.01)


def test_a_class_that_a_fold_holds_alone() -> None:
    """Its head has never met that class: the answers are wrong, and still numbers."""
    features, labels, folds = blobs(100, 8, 4)
    folds = np.where(labels == 3, 0, folds % 4 + 1)
    found = fit_probe(features, labels, 4, folds)
    assert np.isfinite(found.logits).all()
    assert (found.logits.argmax(1)[labels == 3] != 3).all()
    assert (found.head.logits(features).argmax(1) == labels).mean() > 0.9


def test_a_class_without_photos() -> None:
    features, labels, folds = blobs(90, 8, 3)
    found = fit_probe(features, labels, 4, folds)
    assert found.head.weight.shape == (4, 8)
    assert np.isfinite(found.logits).all()
    assert 3 not in found.head.logits(features).argmax(1)


def test_fewer_photos_than_features(tight: None) -> None:
    features, labels, folds = blobs(40, 200, 2, noise=2.0)
    found = fit_probe(features, labels, 2, folds)
    x = scaled(features).astype(np.float64)
    model = LogisticRegression(C=2 / (found.penalty * 40), tol=1e-10, max_iter=5000).fit(x, labels)
    # Two rows of weights share the penalty between them, so one row of scikit-learn's has half of it.
    logits = found.head.logits(features)
    np.testing.assert_allclose(softmax(logits, 1)[:, 1], model.predict_proba(x)[:, 1], atol=3e-3)


@pytest.mark.parametrize("n", [2, 5])
def test_hardly_any_photos(n: int) -> None:
    features, labels, _ = blobs(n, 6, 2)
    found = fit_probe(features, labels, 2, np.arange(n))
    assert np.isfinite(found.logits).all()
    assert (found.head.logits(features).argmax(1) == labels).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers(value: float) -> None:
    features, labels, folds = blobs(60, 6, 2)
    features[[3, 9], 2] = value
    with pytest.raises(HeelerError, match="of 2 of 60 photos are not finite") as caught:
        fit_probe(features, labels, 2, folds)
    assert "--backbone" in caught.value.hint


def test_no_blas_is_left_with_threads_of_its_own() -> None:
    """A BLAS that loads after the limit keeps its threads, and they spin: the first fit then took twice as long."""
    code = """
import numpy as np
from threadpoolctl import threadpool_info
from heeler.learn import probe
seen = []
data_term = probe._data_term
def spy(*args):
    seen.append([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
    return data_term(*args)
probe._data_term = spy
rng = np.random.default_rng(0)
labels = np.arange(60) % 2
probe.fit_probe(rng.standard_normal((60, 8), dtype=np.float32), labels, 2, np.arange(60) // 12)
assert len(seen[0]) >= 1 and all(set(pools) == {1} for pools in seen), seen[0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_heads_on_fewer_photos_are_the_optimum_on_those(digits: Data, tight: None) -> None:
    features, labels, folds = digits
    probe = fit_probe(features, labels, 10, folds, shares=(0.1, 0.4))
    assert [n for n, _ in probe.smaller] == [60, 240]
    alone = fit_probe(features, labels, 10, folds)
    assert alone.smaller == () and np.array_equal(alone.head.weight, probe.head.weight)
    order = class_order(labels)
    for n, head in probe.smaller:
        seen = np.zeros(len(labels), dtype=bool)
        seen[order[:n]] = True
        expected = softmax(by_scikit_learn(features, labels, seen, probe.penalty), axis=1)
        assert np.abs(softmax(head.logits(features), axis=1) - expected).max() < 5e-3


def test_every_beginning_of_the_class_order_has_all_classes_in_their_shares() -> None:
    labels = np.repeat([0, 1, 2, 3], [500, 300, 190, 10])
    order = class_order(labels)
    assert sorted(order) == list(range(1000))
    assert set(labels[order[:4]]) == {0, 1, 2, 3}
    for n in (50, 100, 400, 700):
        shares = np.bincount(labels[order[:n]], minlength=4) / n
        assert shares == pytest.approx([0.5, 0.3, 0.19, 0.01], abs=0.04)
    assert np.array_equal(order, class_order(labels)) and not np.array_equal(order, class_order(labels, 1))


def test_shares_of_few_photos_are_no_more_than_there_are() -> None:
    features, labels, folds = blobs(12, 8, 4)
    probe = fit_probe(features, labels, 4, folds, shares=(0.1, 0.2, 0.4, 0.7))
    assert [n for n, _ in probe.smaller] == [4, 5, 8]
