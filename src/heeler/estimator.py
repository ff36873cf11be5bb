"""heeler in scikit-learn's terms: an estimator whose samples are paths, for cross-validation, pipelines, searches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from heeler.data.duplicates import near_duplicates
from heeler.data.pixels import read_photos
from heeler.data.split import draw_folds
from heeler.errors import DataError, UsageError
from heeler.judge.scores import fit_temperature, softmax
from heeler.keywords import FITS, require_choice, require_number
from heeler.records import ByteArray, Catalogue, Fit, FloatArray, Head, IntArray, Photo, ignore_events

if TYPE_CHECKING:
    from heeler.data.rows import Rows
    from heeler.learn.choose import Look
    from heeler.learn.engines import Engine

__all__ = ["PhotoClassifier"]

WHITE = (255, 255, 255)


class PhotoClassifier(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier of photos: a linear head, its penalty chosen by inner folds, on a frozen network.

    It is what ``heeler.train(photos, epochs=0)`` fits. Features are computed once for each photo and kept in heeler's
    cache, so that the folds of a cross-validation cost seconds. Copies of a photo, and photos that look the same, stay
    together in the inner folds; in folds outside of this class scikit-learn knows nothing of them. It passes
    scikit-learn's ``check_estimator`` but for the checks of sparse matrices, which no list of paths is.

    Args:
        backbone: network to compute features with, by timm's name.
        image_px: side of its input in pixels, 32 to 1024; None is the network's own.
        geometry: how a photo becomes a square: ``crop``, ``squash`` or ``pad``.
        seed: of the inner folds.

    Attributes:
        classes_: (K,) the labels that were seen, sorted.
        coef_: (K, D) float32, weights of the head.
        intercept_: (K,) float32.
        temperature_: divides the logits, so that probabilities are honest.

    Example:
        >>> import heeler
        >>> from sklearn.model_selection import cross_val_score
        >>> paths = [f"photos/{name}/{n}.jpg" for name in ("cat", "coffee") for n in range(12)]
        >>> labels = ["cat"] * 12 + ["coffee"] * 12
        >>> classifier = heeler.PhotoClassifier(image_px=64)
        >>> bool(cross_val_score(classifier, paths, labels, cv=3).mean() > 0.8)
        True
        >>> classifier.fit(paths, labels).predict(["photos/cat/5.jpg"]).tolist()
        ['cat']
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        image_px: int | None = None,
        geometry: Fit = "crop",
        seed: int = 42,
    ) -> None:
        self.backbone = backbone
        self.image_px = image_px
        self.geometry = geometry
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> PhotoClassifier:
        """Learn from photos.

        Args:
            X: N paths: strings or ``pathlib.Path``, in a list, an array (N,) or (N, 1), or a column of a table.
            y: (N,) labels, of at least two classes.

        Returns:
            The estimator itself.

        Raises:
            UsageError: a parameter does not make sense, or X holds something else than paths.
            DataError: a photo cannot be read.
            ValueError: X and y differ in length, y has one class, or y is not made of classes.
        """
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import check_consistent_length, column_or_1d

        from heeler.learn.probe import N_FOLDS, fit_probe

        require_number("seed", self.seed, whole=True)
        paths = _paths(X)
        y = column_or_1d(y, warn=True)
        check_consistent_length(paths, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(f"PhotoClassifier needs photos of two classes or more, and got {n_classes} class")
        seen = self._look_at(paths)
        # A photo that is there under two labels is learnt from under both.
        label_of = dict(zip(seen.rows.tolist(), labels.tolist(), strict=True))
        photos = [replace(photo, label=str(label_of[row])) for row, photo in enumerate(seen.photos)]
        folds = draw_folds(photos, near_duplicates(seen.thumbs), range(len(photos)), N_FOLDS, int(self.seed))
        labels = labels.astype(np.int64)
        probe = fit_probe(seen.features[seen.rows], labels, n_classes, folds[seen.rows])
        self.coef_, self.intercept_ = probe.head.weight, probe.head.bias
        self.temperature_ = fit_temperature(probe.logits, labels)
        return self

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Probabilities (N, K) float32 in [0, 1] of the classes in ``classes_``, calibrated on inner folds.

        Args:
            X: N paths, as in ``fit``.

        Raises:
            NotFittedError: before ``fit``.
            UsageError: X holds something else than paths.
            DataError: a photo cannot be read.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        seen = self._look_at(_paths(X))
        return softmax(Head(self.coef_, self.intercept_).logits(seen.features[seen.rows]), self.temperature_)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (N,) of each photo; see ``predict_proba``."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Share of photos, in [0, 1], whose most probable class is the one in y (N,)."""
        return float(np.mean(self.predict(X) == np.asarray(y)))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags

        tags = super().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        tags.target_tags.required = True
        tags.input_tags.one_d_array, tags.input_tags.two_d_array, tags.input_tags.string = True, False, True
        tags.no_validation = True  # what a path leads to is read, and judged, by heeler
        return tags

    def _look_at(self, paths: Sequence[Path]) -> _Seen:
        from heeler.learn.features import compute_features, known_features

        require_number("image_px", self.image_px, whole=True, optional=True)
        require_choice("geometry", self.geometry, FITS)
        eye = _eye(self.backbone, self.image_px, self.geometry)
        backbone, spec = eye.look.backbone, eye.look.spec
        photos = tuple(Photo(str(path), path) for path in dict.fromkeys(paths))
        catalogue, pixels = read_photos(Catalogue("photos by path", "photos", photos), spec, ignore_events)
        for photo in catalogue.photos:
            if photo.status == "unreadable":
                raise DataError(f"{photo.path} {photo.reason}", hint="leave it out, or copy it again")
        names = [photo.sha256 for photo in catalogue.usable]
        known = known_features(backbone, spec, names)
        if known is None:
            engine = eye.engine(pixels.rows)
            features, _ = compute_features(backbone, spec, pixels.rows, names, engine, ignore_events)
        else:
            features = known[0]
        row_of = {name: row for row, name in enumerate(names)}
        hash_of = {photo.file: photo.sha256 for photo in catalogue.photos}
        rows = np.array([row_of[hash_of[path]] for path in paths], dtype=np.int64)
        return _Seen(catalogue.usable, features, pixels.thumbs, rows)


@dataclass(frozen=True)
class _Seen:
    """M different photos among N paths: features (M, D), miniatures (M, 32, 32), and the row (N,) of each path."""

    photos: tuple[Photo, ...]
    features: FloatArray
    thumbs: ByteArray
    rows: IntArray


def _paths(X: ArrayLike) -> list[Path]:
    """N absolute paths of what scikit-learn passes on."""
    if isinstance(X, str | bytes | os.PathLike):
        raise UsageError(f"{X!r} is one path", hint="give a list of paths")
    found = np.asarray(X, dtype=object)
    if found.ndim == 0 or found.size != found.shape[0]:
        raise UsageError(f"an array of shape {found.shape} holds no paths", hint="give N paths: (N,) or (N, 1)")
    for each in found.ravel():
        if not isinstance(each, str | os.PathLike):
            raise UsageError(f"{each!r} is no path", hint="give strings or pathlib.Path objects")
    return [Path(each).absolute() for each in found.ravel()]


class _Eye:
    """A network that is loaded, and its engine once it was picked: both take longer than a few photos."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self._engine: Engine | None = None

    def engine(self, rows: Rows) -> Engine:
        """The fastest engine, timed on the first photos that were ever looked at."""
        from heeler.learn.features import feature_engine

        if self._engine is None:
            self._engine = feature_engine(self.look.backbone, self.look.spec, rows)
        return self._engine


@lru_cache(maxsize=2)
def _eye(backbone: str, image_px: int | None, geometry: Fit) -> _Eye:
    from heeler.learn.choose import load_look

    return _Eye(load_look(backbone, image_px and int(image_px), geometry, alpha=WHITE))
