"""Flip labels and look for them: ``python bench/label_errors.py --bench PHOTOS``; heeler's list beside cleanlab's.

5 % of the labels of ``clothing/train`` are changed to another class at random. The photos then go the way of ``heeler
check --deep``, the flips by way of a ``fixes.csv``: features, a head out of fold, the list of suspicious labels. Some
of the set's own labels are wrong too, and count here as false alarms.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heeler.check import read_all
from heeler.clock import Clock
from heeler.deep import judge_all, photos_of
from heeler.fixes import Fix, write_fixes
from heeler.flaws import honest_probabilities
from heeler.judge.suspects import find_suspects, label_quality
from heeler.photos import list_files
from heeler.planning import first_look
from heeler.plans import TrainOptions
from heeler.records import FloatArray, IntArray, ignore_events

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
GOAL_FOUND, GOAL_RIGHT = 0.8, 0.5


@dataclass(frozen=True)
class Flipped:
    """Photos of which some have another label than they came with.

    Args:
        labels: (N,) as given to heeler.
        is_flipped: (N,) bool.
        probabilities: (N, K) out of fold.
        seconds: of the deep check.
    """

    labels: IntArray
    is_flipped: np.ndarray
    probabilities: FloatArray
    seconds: float


def flip(source: Path, share: float, seed: int, folder: Path) -> Flipped:
    """Change some labels and judge all of them out of fold."""
    clock = Clock(ignore_events)
    listed = list_files(source, TrainOptions(), clock)
    usable, classes = listed.usable, listed.classes
    rng = np.random.default_rng(seed)
    fixes = []
    for row in rng.permutation(len(usable))[: round(share * len(usable))].tolist():
        given = usable[row].label
        other = rng.choice([name for name in classes if name != given])
        fixes.append(Fix(usable[row].path, "flipped", given, str(other), "relabel"))
    write_fixes(folder / "flips.csv", fixes)
    options = TrainOptions(fixes=folder / "flips.csv")
    start = time.perf_counter()
    look = first_look(options)
    reading = read_all(list_files(source, options, clock), look.spec, clock, test=0.2, valid=0.1, seed=42)
    photos = photos_of(reading)
    if photos is None:
        raise SystemExit(reading.problems[0])
    _, logits = judge_all(photos, look, 42, clock)
    probabilities = honest_probabilities(logits, photos.labels)
    flipped = {fix.path for fix in fixes}
    is_flipped = np.array([photo.path in flipped for photo in photos.catalogue.usable])
    return Flipped(photos.labels, is_flipped, probabilities, time.perf_counter() - start)


def lists(made: Flipped) -> dict[str, tuple[IntArray, int]]:
    """Rows of all photos, the most suspicious first, and how many of them are named as suspects; by method."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    p, labels = made.probabilities.astype(np.float64), made.labels
    p /= p.sum(axis=1, keepdims=True)
    quality = label_quality(made.probabilities, labels)
    suspects = find_suspects(made.probabilities, labels).rows
    found = {"heeler": (_with_rest(suspects, np.argsort(quality, kind="stable")), len(suspects))}
    for filter_by in ("prune_by_noise_rate", "both"):
        ranked = find_label_issues(labels, p, return_indices_ranked_by="self_confidence", filter_by=filter_by, n_jobs=1)
        rest = np.argsort(get_label_quality_scores(labels, p, method="self_confidence"), kind="stable")
        found[f"cleanlab {filter_by}"] = (_with_rest(ranked, rest), len(ranked))
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        scores = get_label_quality_scores(labels, p, method=method, adjust_pred_probs=False)
        found[f"cleanlab {method}"] = (np.argsort(scores, kind="stable"), 0)
    return found


def _with_rest(first: IntArray, order: IntArray) -> IntArray:
    return np.concatenate([first, order[~np.isin(order, first)]])


def main() -> int:
    """Print the curves and say whether the goal is met; 1 where it is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder that holds clothing/train")
    parser.add_argument("--share", type=float, default=0.05, help="labels that are flipped [0.05]")
    parser.add_argument("--seeds", type=int, default=3, help="how often [3]")
    given = parser.parse_args()
    columns = " ".join(f"{100 * share:>5.0f} %" for share in SHARES)
    print(f"flipped labels found among the first ... of the list, in %{'':<14}  right   named  of them flipped")
    print(f"{'seed':<5}{'list':<40}{columns}")
    met = True
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            made = flip(given.bench / "clothing" / "train", given.share, seed, Path(folder))
        n_flipped = int(made.is_flipped.sum())
        for name, (order, n_named) in lists(made).items():
            hits = made.is_flipped[order]
            found = [hits[: round(share * len(hits))].sum() / n_flipped for share in SHARES]
            right = hits[:n_flipped].mean()
            curve = " ".join(f"{100 * share:>7.1f}" for share in found)
            named = f"{n_named:>7} {100 * hits[:n_named].mean():>8.1f} %" if n_named else ""
            print(f"{seed:<5}{name:<40}{curve} {100 * right:>7.1f} {named}")
            if name == "heeler":
                met &= bool(found[3] >= GOAL_FOUND and right >= GOAL_RIGHT)
        print(f"     {n_flipped} of {len(made.labels)} labels flipped; {made.seconds:.1f} s")
    print(f"goal ({GOAL_FOUND:.0%} among the first 10 %, {GOAL_RIGHT:.0%} right): {'met' if met else 'NOT met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
