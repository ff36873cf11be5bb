"""Scores in, plain sentences out: what the error means, and what would help most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heeler.judge.scores import wilson_interval
from heeler.records import ClassScore, RunResult, Scores

__all__ = ["calibrated_by", "headline", "largest_class", "next_steps", "percent", "taught_by"]

FEW_PHOTOS_OF_A_CLASS = 50
MAX_LISTED = 6
SURE = 0.9
WIDE_INTERVAL = 0.1


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage that reads 0 or 100 only where the share is exactly that."""
    edge = min(share, 1 - share)
    if edge == 0:
        return f"{100 * share:.0f}\u00a0%"
    if edge < 0.00005:
        return "below 0.01\u00a0%" if share < 0.5 else "above 99.99\u00a0%"
    return f"{100 * share:.{2 if edge < 0.00051 else 1}f}\u00a0%"


def headline(scores: Scores) -> str:
    """What the error means for the next photos, in one plain sentence.

    Args:
        scores: of photos that the model did not learn from.

    Returns:
        Odds and the range of the true rate; where no photo was wrong, or all were, it says so instead of odds.
    """
    low, high = scores.interval
    n = scores.n
    between = f"19 times in 20 the true rate is between {percent(low)} and {percent(high)}."
    if scores.n_wrong == 0:
        start = f"None of the {n:,} photos was wrong" if n > 1 else "The one photo judged was right"
        return f"{start}, which is not a promise of never: {between}"
    if scores.n_wrong == n:
        start = f"All {n:,} photos were wrong" if n > 1 else "The one photo judged was wrong"
        return f"{start}: {between}"
    return f"{_odds(scores.error)} photos like these will be wrong; {between}"


def next_steps(
    scores: Scores,
    n_by_class: Mapping[str, int],
    n_unreadable: int,
    *,
    n_suspects: int = 0,
    prospects: Sequence[str] = (),
) -> tuple[str, ...]:
    """What would help most, most pressing first.

    Args:
        scores: of photos that the model did not learn from.
        n_by_class: usable photos of each class, all parts together; empty where unknown.
        n_unreadable: files that were opened and are no whole photo.
        n_suspects: photos whose label is in doubt and that nobody has decided about.
        prospects: what more photos and more minutes would bring; empty ones are left out.

    Returns:
        At least one sentence.
    """
    steps = [
        *_on_baseline(scores),
        *_on_weak_classes(scores),
        *_on_small_classes(scores, n_by_class),
        *(_on_suspects(n_suspects) or _on_labels(scores)),
        *_on_unreadable(n_unreadable),
        *_on_range(scores),
    ]
    if not steps:
        steps = [
            "Nothing stands out. Try the model on photos from another day, place or camera: "
            "that is where a model like this goes wrong first."
        ]
    return (*steps, *filter(None, prospects))


def largest_class(scores: Scores) -> str:
    """The class with most judged photos, the first of them where several tie."""
    return max(scores.per_class, key=lambda row: row.support).name


def taught_by(result: RunResult) -> tuple[str, str]:
    """How many photos the model that is kept has learnt from; and a sentence where those that chose are among them."""
    if result.scores.estimate == "out-of-fold":
        return f"all {_photos(result.scores.n)}", "The model that is kept has learnt from all of them."
    if result.chosen == "tuned":
        return _photos(result.n_train), ""
    also = f"Once everything was chosen, the last layer also learnt from the {_photos(result.n_valid)} that choose."
    return _photos(result.n_train + result.n_valid), also


def calibrated_by(result: RunResult) -> str:
    """Which answers the temperature was fitted on, and whether that flatters the figures beside it, in a sentence."""
    if result.scores.estimate == "out-of-fold":
        return "It was fitted on the very answers that are judged here, so that distance flatters a little."
    which = f"It was fitted on the {_photos(result.n_valid)} that choose"
    if result.chosen == "tuned":
        return f"{which}; the photos judged here had no part in it."
    return (
        f"{which}, by the answers of a last layer that had not seen them. The last layer that is kept has learnt from "
        "them too; the photos judged here had no part in either."
    )


def _odds(error: float) -> str:
    if error <= 0.25:
        return f"About 1 in {round(1 / error):,}"
    tenths = round(10 * error)
    return f"About {tenths} in 10" if tenths < 10 else "Nearly all"


def _quoted(names: Sequence[str]) -> str:
    marked = [f"“{name}”" for name in names]
    return marked[0] if len(marked) == 1 else f"{', '.join(marked[:-1])} and {marked[-1]}"


def _photos(n: int) -> str:
    return f"{n:,} photo" if n == 1 else f"{n:,} photos"


def _on_baseline(scores: Scores) -> list[str]:
    if scores.interval[1] < scores.baseline_error or scores.n_wrong == 0:
        return []
    return [
        f"This model is not clearly better than always guessing “{largest_class(scores)}”, which is wrong for "
        f"{percent(scores.baseline_error)}. Check that each photo is in the right folder, "
        "and that a person could tell the classes apart on these photos."
    ]


def _on_weak_classes(scores: Scores) -> list[str]:
    accuracy = 1 - scores.error
    weak = [
        (row, k)
        for k, row in enumerate(scores.per_class)
        if row.recall < accuracy and row.support - scores.confusion[k][k] >= 2
    ]
    weak.sort(key=lambda pair: pair[0].recall)
    # With few photos a class looks weak by chance: only the weakest is named unless its interval rules chance out.
    clearly = [(row, k) for row, k in weak if wilson_interval(scores.confusion[k][k], row.support)[1] < accuracy]
    return [_weak_sentence(row, k, scores) for row, k in clearly[:3] or weak[:1]]


def kept_weights(kind: str, epoch: int, loss: float, error: float) -> str:
    """Which weights of tuning were kept, and how good they are on the photos that choose.

    Args:
        kind: ``raw``, ``ema`` or ``average``, as ``learn.contest.Tuned`` has it.
        epoch: that they come from; 0 is the start.
        loss: in nats, after the best temperature.
        error: share of wrong answers, in [0, 1].
    """
    what = {
        "raw": f"the weights of epoch {epoch:,}",
        "ema": f"the running average of the weights at epoch {epoch:,}",
        "average": f"an average of the weights that tuning began with and those of epoch {epoch:,}",
    }[kind]
    return (
        f"Kept: {what if epoch else 'the weights that tuning began with'}. On the photos that choose, their loss is "
        f"{loss:.4f} and their error {percent(error)}. “Best so far” is the error of what had the lowest loss by then, "
        "the start and averages of weights among it. Where minutes decide, the end is kept unless something before it "
        "was better by more than chance."
    )


def _weak_sentence(row: ClassScore, k: int, scores: Scores) -> str:
    missed = [0 if j == k else count for j, count in enumerate(scores.confusion[k])]
    other = max(range(len(missed)), key=missed.__getitem__)
    found = f"“{row.name}” was found in {scores.confusion[k][k]:,} of {_photos(row.support)} ({percent(row.recall)})"
    if missed[other] < 3:
        return f"{found}, and is not taken for any one class in particular. More photos of it would help."
    return (
        f"{found}, and most often taken for “{scores.per_class[other].name}” ({missed[other]:,}). Look at photos of "
        "the two side by side: add more of them, or make the rule between them clearer."
    )


def _on_small_classes(scores: Scores, n_by_class: Mapping[str, int]) -> list[str]:
    found = []
    small = sorted((n, name) for name, n in n_by_class.items() if n < FEW_PHOTOS_OF_A_CLASS)
    if small:
        listed = ", ".join(f"“{name}” ({n:,})" for n, name in small[:MAX_LISTED])
        more = f" and {len(small) - MAX_LISTED:,} more" if len(small) > MAX_LISTED else ""
        found.append(
            f"Fewer than {FEW_PHOTOS_OF_A_CLASS} photos: {listed}{more}. A few dozen more of each would help the "
            "model and make its figures firmer."
        )
    unseen = [row.name for row in scores.per_class if row.support == 0]
    if unseen:
        found.append(f"No photo of {_quoted(unseen)} was judged, so nothing is known about how well it is recognised.")
    return found


def _on_suspects(n: int) -> list[str]:
    if not n:
        return []
    start, it = ("The label of 1 photo is", "it") if n == 1 else (f"The labels of {n:,} photos are", "them")
    return [
        f"{start} in doubt, see “Labels to check”. Look at {it} first: heeler fix shows {it} with the likelier class, "
        "the most suspect first."
    ]


def _on_labels(scores: Scores) -> list[str]:
    n = sum(row.given != row.predicted and row.probability >= SURE for row in scores.top_losses)
    if not n:
        return []
    its = "its label" if n == 1 else "their labels"
    return [
        f"{_photos(n)} under “The worst photos” got another class than the given one at {100 * SURE:.0f}\u00a0% or "
        f"more. Check {its} first: either the label is wrong, or the model has not met this look before."
    ]


def _on_unreadable(n: int) -> list[str]:
    if not n:
        return []
    start, them = ("1 file is", "it") if n == 1 else (f"{n:,} files are", "them")
    return [
        f"{start} not a whole photo, see “Left out”. Copy {them} again from the camera or the archive, and run the "
        "same command once more."
    ]


def _on_range(scores: Scores) -> list[str]:
    low, high = scores.interval
    if high - low <= WIDE_INTERVAL:
        return []
    return [
        f"Only {_photos(scores.n)} could be judged, so the true error may lie anywhere from {percent(low)} to "
        f"{percent(high)}. Four times as many photos would halve that range."
    ]
