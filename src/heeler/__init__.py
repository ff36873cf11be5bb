"""heeler: a folder of labelled photos in, an image classifier you can trust out.

Importing this package does not import torch; the public names load what they need when they are first used.

Example:
    >>> import heeler
    >>> photos = heeler.open_folder("photos")
    >>> run = heeler.train(photos, epochs=0, image_px=64, quiet=True)
    >>> run.model.predict("photos/rocket/3.jpg")[0].label
    'rocket'
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from heeler.errors import (
    BundleError,
    DataError,
    HeelerError,
    Interrupted,
    ResourceError,
    UnreadableError,
    UsageError,
)

if TYPE_CHECKING:
    from heeler.check import CheckResult as CheckResult
    from heeler.check import check as check
    from heeler.dataset import PhotoFolder as PhotoFolder
    from heeler.dataset import open_folder as open_folder
    from heeler.estimator import PhotoClassifier as PhotoClassifier
    from heeler.records import Prediction as Prediction
    from heeler.records import Scores as Scores
    from heeler.run import Run as Run
    from heeler.run import open_run as open_run
    from heeler.ship.predict import Classifier as Classifier
    from heeler.ship.predict import load as load
    from heeler.training import train as train

__version__ = "0.1.0.dev0"

__all__ = [
    "BundleError",
    "CheckResult",
    "Classifier",
    "DataError",
    "HeelerError",
    "Interrupted",
    "PhotoClassifier",
    "PhotoFolder",
    "Prediction",
    "ResourceError",
    "Run",
    "Scores",
    "UnreadableError",
    "UsageError",
    "__version__",
    "check",
    "load",
    "open_folder",
    "open_run",
    "train",
]


class _Package(ModuleType):
    """This package: when its module ``train`` or ``check`` is imported, the function of that name keeps its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


# The way that Python documents for a module whose attributes are not to be set by the import system.
sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    homes = {
        "CheckResult": "heeler.check",
        "Classifier": "heeler.ship.predict",
        "PhotoClassifier": "heeler.estimator",
        "PhotoFolder": "heeler.dataset",
        "Prediction": "heeler.records",
        "Run": "heeler.run",
        "Scores": "heeler.records",
        "check": "heeler.check",
        "load": "heeler.ship.predict",
        "open_folder": "heeler.dataset",
        "open_run": "heeler.run",
        "train": "heeler.training",
    }
    if name not in homes:
        raise AttributeError(f"module 'heeler' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(homes[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
