"""The model card: what the model is, how good it is and what it was made of, for whoever meets the bundle later."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from heeler.records import RunResult

PACKAGES = ("heeler", "torch", "timm", "onnxruntime", "openvino", "numpy", "pillow", "simplejpeg", "scipy")


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that has a part in the result."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_card(name: str, result: RunResult, settings: Mapping[str, str]) -> str:
    """Markdown text of a bundle's ``README.md``, with the front matter that the Hugging Face hub reads.

    Args:
        name: of the photos, for people.
        result: the finished run.
        settings: what was chosen, name -> value.
    """
    scores = result.scores
    low, high = (f"{100 * value:.1f}" for value in scores.interval)
    judged = f"{scores.n:,} photos that had no part in training or choosing"
    if scores.estimate == "out-of-fold":
        judged = f"{scores.n:,} photos, each judged by a model that had not learned from it"
    rows = "\n".join(
        f"| {_cell(one.name)} | {one.support} | {100 * one.recall:.1f} % | {100 * one.precision:.1f} % |"
        for one in scores.per_class
    )
    chosen = "\n".join(f"- {_cell(key)}: {_cell(value)}" for key, value in settings.items())
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- heeler
---

# {_cell(name)}: {len(result.classes)} classes

Error **{100 * scores.error:.1f} %** (95 % interval {low} to {high} %) on {judged}.
Always guessing the largest class would be wrong {100 * scores.baseline_error:.1f} % of the time.

| class | photos judged | found | right when named |
|---|---|---|---|
{rows}

## Use

```python
import heeler
heeler.load("model").predict("photo.jpg")
```

```python
import timm
# Its outputs are logits: divide them by the temperature {result.temperature:.4g} before the softmax.
timm.create_model("local-dir:model", pretrained=True)
```

## How it was made

Trained with heeler on {_taught_by(result)}.

{chosen}

The probabilities are calibrated for photos like those it was trained on. Photos of other things get an answer too;
it means nothing.
"""


def _taught_by(result: RunResult) -> str:
    n_all, n_train, n_valid = result.scores.n, result.n_train, result.n_valid
    if result.scores.estimate == "out-of-fold":
        return f"all {n_all:,} photos, since they are too few to keep some back; the temperature is out-of-fold too"
    if result.chosen == "tuned":
        return f"{n_train:,} photos; {n_valid:,} more chose between models and set the temperature"
    return (
        f"{n_train + n_valid:,} photos: {n_train:,} to begin with, and {n_valid:,} more once these had chosen between "
        "models and set the temperature"
    )


def _cell(text: str) -> str:
    """Somebody else's text inside a Markdown line: no markup, no line break, no table column."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return "".join("\\" + character if character in "\\`*_{}[]<>#|!&~$" else character for character in plain)
