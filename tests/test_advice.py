"""The sentences say what the counts say, at the edges too."""

from __future__ import annotations

import numpy as np
import pytest

from heeler.judge.advice import headline, kept_weights, largest_class, next_steps, percent
from heeler.judge.scores import score
from heeler.records import Scores


def scores_of(confusion: list[list[int]], names: tuple[str, ...] = ("oak", "elm", "ash"), sure: float = 0.6) -> Scores:
    """Scores with exactly these counts; each answer is given with probability ``sure``."""
    k = len(confusion)
    given, predicted = (np.array(axis) for axis in zip(*cells(confusion), strict=True))
    probabilities = np.full((len(given), k), (1 - sure) / (k - 1), dtype=np.float32)
    probabilities[np.arange(len(given)), predicted] = sure
    return score(probabilities, given.astype(np.int64), names[:k], [f"{i}.jpg" for i in range(len(given))])


def cells(confusion: list[list[int]]) -> list[tuple[int, int]]:
    return [(i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) for _ in range(count)]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.045, "4.5 %"), (0.0076, "0.8 %"), (0.0004, "0.04 %"), (0.9997, "99.97 %"),
     (0.00001, "below 0.01 %"), (0.99999, "above 99.99 %"), (0.5, "50.0 %"), (0.999, "99.9 %"), (0.9995, "99.95 %"),
     (0.0005, "0.05 %")],
)  # fmt: skip
def test_percent_reads_zero_or_hundred_only_where_it_is(share: float, text: str) -> None:
    assert percent(share).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("n_wrong", "n", "parts"),
    [
        (22, 484, ["About 1 in 22 photos", "between 3.0 % and 6.8 %"]),
        (5, 10, ["About 5 in 10 photos"]),
        (99, 100, ["Nearly all photos"]),
        (0, 500, ["None of the 500 photos was wrong", "not a promise", "between 0 % and 0.8 %"]),
        (30, 30, ["All 30 photos were wrong", "and 100 %"]),
        (0, 1, ["The one photo judged was right"]),
        (1, 1, ["The one photo judged was wrong"]),
    ],
)
def test_headline_at_every_edge(n_wrong: int, n: int, parts: list[str]) -> None:
    text = headline(scores_of([[n - n_wrong, n_wrong], [0, 0]])).replace("\u00a0", " ")
    for part in parts:
        assert part in text
    assert "19 times in 20" in text


def test_weak_class_is_named_with_what_it_is_taken_for() -> None:
    steps = next_steps(scores_of([[90, 2, 0], [30, 55, 5], [0, 1, 99]]), {}, 0)
    assert (
        steps[0]
        .replace("\u00a0", " ")
        .startswith("“elm” was found in 55 of 90 photos (61.1 %), and most often taken for “oak” (30).")
    )
    assert len(steps) == 1


def test_chance_alone_names_at_most_the_weakest_class() -> None:
    steps = next_steps(scores_of([[98, 1, 1], [2, 97, 1], [2, 1, 97]]), {}, 0)
    assert [step for step in steps if "was found in" in step] == [steps[0]]
    assert "not taken for any one class" in steps[0]


def test_small_unseen_and_unreadable_are_told_with_their_numbers() -> None:
    steps = " ".join(next_steps(scores_of([[300, 1, 0], [0, 200, 0], [0, 0, 0]]), {"oak": 1500, "ash": 12}, 3))
    assert "“ash” (12)" in steps
    assert "“oak” (1" not in steps
    assert "No photo of “ash” was judged" in steps
    assert "3 files are not a whole photo" in steps
    many = {f"kind {i}": i for i in range(20)}
    assert "and 14 more" in " ".join(next_steps(scores_of([[300, 1], [0, 200]]), many, 1))


def test_useless_model_and_confident_mistakes_and_few_photos_are_told() -> None:
    steps = " ".join(next_steps(scores_of([[20, 5], [5, 0]], sure=0.97), {}, 0)).replace("\u00a0", " ")
    assert "not clearly better than always guessing “oak”, which is wrong for 16.7 %" in steps
    assert "10 photos under “The worst photos” got another class than the given one at 90 % or more" in steps
    assert "Only 30 photos could be judged" in steps


def test_nothing_wrong_still_says_what_to_try() -> None:
    steps = next_steps(scores_of([[300, 0], [0, 200]]), {"oak": 1500, "elm": 1000}, 0)
    assert len(steps) == 1
    assert "another day" in steps[0]


def test_largest_class_has_most_judged_photos() -> None:
    assert largest_class(scores_of([[1, 0, 0], [0, 5, 1], [0, 0, 6]])) == "elm"


@pytest.mark.parametrize(
    ("kind", "epoch", "said"),
    [("raw", 7, "the weights of epoch 7."), ("ema", 3, "running average of the weights at epoch 3."),
     ("average", 2, "began with and those of epoch 2."), ("raw", 0, "Kept: the weights that tuning began with.")],
)  # fmt: skip
def test_the_weights_that_were_kept_are_named_with_their_loss_and_error(kind: str, epoch: int, said: str) -> None:
    text = kept_weights(kind, epoch, 0.17834, 0.0625)
    assert said in text and "their loss is 0.1783 and their error 6.2" in text


def test_suspects_take_the_place_of_confident_mistakes_and_prospects_come_last() -> None:
    scores = scores_of([[20, 5], [5, 0]], sure=0.97)
    steps = next_steps(scores, {}, 0, n_suspects=1, prospects=("", "More photos.", "More minutes."))
    assert steps[-2:] == ("More photos.", "More minutes.")
    text = " ".join(steps)
    assert "The label of 1 photo is in doubt" in text and "under “The worst photos”" not in text
    assert "The labels of 1,200 photos are in doubt" in " ".join(next_steps(scores, {}, 0, n_suspects=1200))
