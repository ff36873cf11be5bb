"""heeler: a folder of labelled photos in, an image classifier you can trust out.

Importing this package does not import torch; the public names load what they need when they are first used.
"""

from __future__ import annotations

import importlib
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
    from heeler.plans import TrainOptions as TrainOptions
    from heeler.records import (
        Prediction as Prediction,
    )
    from heeler.records import (
        Recipe as Recipe,
    )
    from heeler.records import (
        RunResult as RunResult,
    )
    from heeler.records import (
        Scores as Scores,
    )
    from heeler.ship.predict import Classifier as Classifier
    from heeler.ship.predict import load as load
    from heeler.train import train as train

__version__ = "0.1.0.dev0"

__all__ = [
    "BundleError",
    "CheckResult",
    "Classifier",
    "DataError",
    "HeelerError",
    "Interrupted",
    "Prediction",
    "Recipe",
    "ResourceError",
    "RunResult",
    "Scores",
    "TrainOptions",
    "UnreadableError",
    "UsageError",
    "__version__",
    "check",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    """Load a public name, and with it all that have the same home, on first use.

    Importing ``heeler.train`` puts that module under the name of the function in it, which is what users mean.
    """
    homes = {
        "CheckResult": "heeler.check",
        "Classifier": "heeler.ship.predict",
        "Prediction": "heeler.records",
        "Recipe": "heeler.records",
        "RunResult": "heeler.records",
        "Scores": "heeler.records",
        "TrainOptions": "heeler.train",
        "check": "heeler.check",
        "load": "heeler.ship.predict",
        "train": "heeler.train",
    }
    if name not in homes:
        raise AttributeError(f"module 'heeler' has no attribute {name!r}")
    module = importlib.import_module(homes[name])
    globals().update({other: getattr(module, other) for other, home in homes.items() if home == homes[name]})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
