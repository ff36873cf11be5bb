"""PhotoClassifier in scikit-learn: its checks, cross-validation, pipelines, searches, and what is no photo."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

import heeler
from conftest import make_photos
from heeler.data import pixels
from heeler.data.decode import decode

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[list[str], list[str]]:
    """Paths and labels of 36 photos in three classes."""
    root = make_photos(tmp_path_factory.mktemp("estimator") / "photos", cat=12, coffee=12, rocket=12)
    paths = [str(path) for path in sorted(root.rglob("*.jpg"))]
    return paths, [Path(path).parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(photos: tuple[list[str], list[str]]) -> heeler.PhotoClassifier:
    return heeler.PhotoClassifier(image_px=64).fit(*photos)


def test_it_learns_and_answers(fitted: heeler.PhotoClassifier, photos: tuple[list[str], list[str]]) -> None:
    paths, labels = photos
    assert fitted.classes_.tolist() == ["cat", "coffee", "rocket"]
    assert fitted.score(paths, labels) > 0.95
    shares = fitted.predict_proba(paths)
    assert shares.shape == (36, 3) and np.allclose(shares.sum(1), 1, atol=1e-5)
    assert (fitted.classes_[shares.argmax(1)] == fitted.predict(paths)).all()
    assert is_classifier(fitted)


@pytest.mark.parametrize(
    "kind", [list, np.array, lambda x: np.array(x, dtype=object)[:, None], lambda x: list(map(Path, x))]
)
def test_paths_come_in_many_shapes(
    fitted: heeler.PhotoClassifier, photos: tuple[list[str], list[str]], kind: Any
) -> None:
    assert (fitted.predict(kind(photos[0])) == fitted.predict(photos[0])).all()


def test_labels_may_be_numbers(photos: tuple[list[str], list[str]]) -> None:
    numbers = np.array([{"cat": 7, "coffee": -2, "rocket": 3}[label] for label in photos[1]])
    found = heeler.PhotoClassifier(image_px=64).fit(photos[0], numbers)
    assert found.classes_.tolist() == [-2, 3, 7]
    assert (found.predict(photos[0]) == numbers).mean() > 0.95


def test_order_and_copies_change_no_answer(
    fitted: heeler.PhotoClassifier, photos: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    paths, _ = photos
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(Path(paths[5]).read_bytes())
    mixed = [paths[5], paths[0], str(copy), paths[5], paths[30]]
    shares = fitted.predict_proba(mixed)
    # A product of other size may be added up in another order.
    assert shares[[0, 1, 4]] == pytest.approx(fitted.predict_proba(paths)[[5, 0, 30]], abs=1e-6)
    assert np.array_equal(shares[0], shares[2]) and np.array_equal(shares[0], shares[3])


def test_cross_validation_computes_each_feature_once(
    photos: tuple[list[str], list[str]], fitted: heeler.PhotoClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def count(data: bytes, spec: Any) -> Any:
        decoded.append(1)
        return decode(data, spec)

    monkeypatch.setattr(pixels, "decode", count)
    scores = cross_val_score(heeler.PhotoClassifier(image_px=64), *photos, cv=3)
    assert scores.mean() > 0.9
    assert decoded == []
    labels = cross_val_predict(heeler.PhotoClassifier(image_px=64), *photos, cv=3)
    assert (labels == np.array(photos[1])).mean() == pytest.approx(scores.mean())


def test_pipelines_and_searches(photos: tuple[list[str], list[str]]) -> None:
    root = Path(photos[0][0]).parents[1]
    names = [str(Path(path).relative_to(root)) for path in photos[0]]
    below = FunctionTransformer(lambda found: [str(root / name) for name in found])
    whole = Pipeline([("folder", below), ("photos", heeler.PhotoClassifier(image_px=64))])
    search = GridSearchCV(whole, {"photos__geometry": ["crop", "squash"]}, cv=2).fit(names, photos[1])
    assert search.best_params_["photos__geometry"] in ("crop", "squash")
    assert search.best_score_ > 0.9 and search.predict(names[:1]) == photos[1][:1]


def test_parameters_and_copies_of_the_estimator(
    fitted: heeler.PhotoClassifier, photos: tuple[list[str], list[str]]
) -> None:
    assert fitted.get_params() == {
        "backbone": "tf_efficientnet_lite0", "geometry": "crop", "image_px": 64, "seed": 42,
    }  # fmt: skip
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params() and not hasattr(fresh, "classes_")
    with pytest.raises(NotFittedError):
        fresh.predict(photos[0])
    assert "image_px=64" in repr(fresh)
    # joblib passes estimators on so.
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(photos[0]), fitted.predict_proba(photos[0]))


def test_what_cannot_be_learnt_from_is_refused(photos: tuple[list[str], list[str]], tmp_path: Path) -> None:
    paths, labels = photos
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(paths[0]).read_bytes()[:1000])
    small = heeler.PhotoClassifier(image_px=64)
    for bad, words in ((broken, "is cut short"), (tmp_path / "none.jpg", "does not exist")):
        with pytest.raises(heeler.DataError, match=words):
            small.fit([*paths, str(bad)], [*labels, "cat"])
    for X, words in ((paths[0], "is one path"), ([[1.0, 2.0]], r"shape \(1, 2\)"), ([3.5], "3.5 is no path")):
        with pytest.raises(heeler.UsageError, match=words):
            small.fit(X, ["cat"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small.fit(paths, labels[:-1])
    with pytest.raises(ValueError, match="two classes or more"):
        small.fit(paths[:3], ["cat"] * 3)
    with pytest.raises(ValueError, match="Unknown label type"):
        small.fit(paths, np.linspace(0, 1, len(paths)))
    with pytest.raises(heeler.UsageError, match="image_px=5 "):
        heeler.PhotoClassifier(image_px=5).fit(paths, labels)
    with pytest.raises(heeler.UsageError, match="geometry='round'"):
        heeler.PhotoClassifier(geometry="round").fit(paths, labels)  # type: ignore[arg-type]


class Painted(heeler.PhotoClassifier):
    """PhotoClassifier as scikit-learn's checks can use it, whose samples are rows of numbers: each becomes a photo.

    It is a picture of white bars on black, a bar for each number.
    """

    folder = ""

    def fit(self, X: Any, y: Any) -> Painted:
        super().fit(self._paint(X), y)
        return self

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._paint(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = tags.input_tags
        inputs.two_d_array, inputs.one_d_array, inputs.string = True, False, False
        return tags

    def _paint(self, X: Any) -> list[str]:
        files = []
        for row in np.asarray(X, dtype=float):
            file = Path(self.folder) / f"{hashlib.sha256(row.tobytes()).hexdigest()}.png"
            width, square = 64 // len(row), np.zeros((64, 64), np.uint8)
            for i, height in enumerate((32 * (1 + np.tanh(row / 1.5))).astype(int)):
                square[64 - height :, i * width : (i + 1) * width] = 255
            if not file.exists():
                Image.fromarray(square).save(file)
            files.append(str(file))
        return files


NEVER_SPARSE = "no list of paths is sparse, and what is no list of paths is refused as such"
NOT_FOR_PHOTOS = {
    "check_estimator_sparse_tag": NEVER_SPARSE,
    "check_estimator_sparse_array": NEVER_SPARSE,
    "check_estimator_sparse_matrix": NEVER_SPARSE,
}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_where_they_apply_to_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(Painted, "folder", str(tmp_path))
    results = check_estimator(Painted(image_px=64), expected_failed_checks=NOT_FOR_PHOTOS, on_fail=None, on_skip=None)
    status = {(result["check_name"], result["status"]): str(result["exception"]) for result in results}
    assert {name: why for (name, status), why in status.items() if status == "failed"} == {}
    assert {name for name, status in status if status == "xfail"} <= set(NOT_FOR_PHOTOS)
    assert sum(result["status"] == "passed" for result in results) > 35


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_knows_that_paths_are_no_matrix() -> None:
    tags = get_tags(heeler.PhotoClassifier())
    assert (tags.estimator_type, tags.input_tags.two_d_array, tags.input_tags.string) == ("classifier", False, True)
    check_estimator(heeler.PhotoClassifier())
