"""Who trains, who chooses, who judges: shares, ties, the user's own parts, and what cannot be split."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heeler.data.split import draw_folds, find_problems, judged_share, split_notes, split_photos
from heeler.errors import DataError, UsageError
from heeler.records import Catalogue, Part, Photo, Split


def photo(path: str, part: Part | None = None, group: str = "", **more: str) -> Photo:
    """A photo as the pass over the files leaves it; its class is its folder."""
    content = hashlib.sha256(path.encode()).hexdigest()
    fields = {"label": path.split("/")[0], "sha256": content, **more}
    return Photo(path, Path(path), part=part, group=group, **fields)  # type: ignore[arg-type]


def photos(n: int, label: str, part: Part | None = None, start: int = 0) -> list[Photo]:
    return [photo(f"{label}/{number:06}", part) for number in range(start, start + n)]


def catalogue(*given: Photo) -> Catalogue:
    return Catalogue("folder", "folder", given)


def parts_of(given: Catalogue, split: Split) -> dict[str, Part]:
    return dict(zip((photo.path for photo in given.usable), split.part_of(), strict=True))


def check_whole(given: Catalogue, split: Split) -> None:
    """Every usable photo has one part, and the indices are sorted."""
    rows = np.concatenate([split.train, split.valid, split.test])
    assert sorted(rows.tolist()) == list(range(len(given.usable)))
    assert all(np.all(np.diff(part) > 0) for part in (split.train, split.valid, split.test))


def check_together(given: Catalogue, split: Split, pairs: Sequence[tuple[int, int]]) -> None:
    part = split.part_of()
    assert all(part[i] == part[j] for i, j in pairs)
    of_group: dict[str, set[str]] = {}
    for row, each in enumerate(given.usable):
        if each.group:
            of_group.setdefault(each.group, set()).add(part[row])
    assert all(len(found) == 1 for found in of_group.values())


SIZES = {"ant": 3, "bee": 4, "cat": 17, "dog": 100, "eel": 333, "fox": 1001}


@pytest.mark.parametrize(("test", "valid"), [(0.2, 0.1), (0.35, 0.25), (0.05, 0.5), (0.0, 0.2)])
@pytest.mark.parametrize("seed", [0, 42])
def test_each_class_has_its_share_of_each_part(test: float, valid: float, seed: int) -> None:
    given = catalogue(*(each for label, n in SIZES.items() for each in photos(n, label)))
    split = split_photos(given, [], test=test, valid=valid, seed=seed)
    check_whole(given, split)
    assert split.method == "drawn"
    counts = Counter((path.split("/")[0], part) for path, part in parts_of(given, split).items())
    for label, n in SIZES.items():
        n_test = counts[label, "test"]
        assert abs(n_test - test * n) <= 1 and (n_test >= 1 or test == 0)
        assert abs(counts[label, "valid"] - valid * (n - n_test)) <= 1 and counts[label, "valid"] >= 1
        assert counts[label, "train"] >= 1


@pytest.mark.parametrize("given", [{}, {"test": 300}, {"valid": 100}, {"test": 300, "valid": 100}, {"train": 500}])
def test_the_share_that_judges_is_known_before_the_draw(given: dict[Part, int]) -> None:
    made = [one for n, part in enumerate(given) for one in photos(given[part], "ant", part, 10_000 * n)]
    listed = catalogue(*made, *photos(1_000, "ant", start=90_000), *photos(1_000, "bee"))
    split = split_photos(listed, [], test=0.3, valid=0.2)
    n_judged = len(split.test) + len(split.valid)
    assert judged_share(listed.usable, 0.3, 0.2) == pytest.approx(n_judged / len(listed.usable), abs=0.002)


def test_the_draw_depends_on_the_seed_and_the_content_alone() -> None:
    given = catalogue(*photos(200, "cat"), *photos(100, "dog"))
    first = split_photos(given, [])
    again = split_photos(given, [])
    assert first.key == again.key and first.part_of() == again.part_of()
    other = split_photos(given, [], seed=43)
    assert other.key != first.key
    moved = sum(a != b for a, b in zip(first.part_of(), other.part_of(), strict=True))
    assert moved > 30
    renamed = catalogue(*(replace(each, path=each.path[::-1]) for each in reversed(given.photos)))
    assert split_photos(renamed, []).key == first.key
    assert split_photos(renamed, []).part_of()[::-1] == first.part_of()


def test_adding_photos_later_moves_few_of_the_old_ones() -> None:
    old = [*photos(150, "cat"), *photos(150, "dog")]
    before = parts_of(catalogue(*old), split_photos(catalogue(*old), []))
    for start in range(1000, 1020, 5):
        grown = catalogue(*old, *photos(5, "cat", start=start))
        after = parts_of(grown, split_photos(grown, []))
        assert sum(before[path] != after[path] for path in before) <= 5


def test_near_duplicates_stay_together() -> None:
    given = catalogue(*photos(200, "cat"), *photos(200, "dog"))
    rng = np.random.default_rng(0)
    pairs = [(int(i), int(j)) for i, j in rng.integers(0, 400, (150, 2)) if i < j]
    for seed in range(10):
        split = split_photos(given, pairs, seed=seed)
        check_whole(given, split)
        check_together(given, split, pairs)
        assert abs(len(split.test) - 80) <= 8


def test_groups_stay_together_and_the_shares_are_kept() -> None:
    fields = [photo(f"{'cat' if row % 3 else 'dog'}/{row}", group=f"field{row % 30}") for row in range(600)]
    given = catalogue(*fields)
    for seed in range(10):
        split = split_photos(given, [(0, 1), (31, 62)], seed=seed)
        check_whole(given, split)
        check_together(given, split, [(0, 1), (31, 62)])
        assert 80 <= len(split.test) <= 160 and 20 <= len(split.valid) <= 80


def test_three_groups_in_a_class_are_enough() -> None:
    given = catalogue(*(photo(f"{label}/{row}", group=f"{label}{row % 3}") for label in "ab" for row in range(90)))
    split = split_photos(given, [])
    check_together(given, split, [])
    assert (len(split.train), len(split.valid), len(split.test)) == (60, 60, 60)


def test_one_huge_group_does_not_become_the_test_part() -> None:
    crowd = [photo(f"cat/{row}", group="all" if row < 90 else "") for row in range(100)]
    given = catalogue(*crowd, *photos(100, "dog"))
    for seed in range(10):
        split = split_photos(given, [], seed=seed)
        check_together(given, split, [])
        assert len(split.test) <= 30 and len(split.train) >= 150


def test_the_users_three_parts_are_kept() -> None:
    given = catalogue(
        *(each for label in ("cat", "dog") for part in ("test", "train", "valid") for each in photos(9, label, part))
    )
    given = catalogue(*(replace(each, path=f"{each.part}/{each.path}") for each in given.photos))
    split = split_photos(given, [(0, 20)], test=0.5, valid=0.5)
    assert split.method == "folders"
    assert split.part_of() == [each.part for each in given.usable]


@pytest.mark.parametrize(("there", "missing"), [("test", "valid"), ("valid", "test")])
def test_a_part_that_the_user_did_not_make_is_drawn_from_train(there: Part, missing: Part) -> None:
    given = catalogue(
        *photos(100, "cat", "train"),
        *photos(20, "cat", there, start=100),
        *photos(50, "dog", "train"),
        *photos(10, "dog", there, start=100),
    )
    split = split_photos(given, [], test=0.2, valid=0.2)
    check_whole(given, split)
    assert split.method == "mixed"
    counts = Counter((path[:3], part) for path, part in parts_of(given, split).items())
    assert counts == {
        ("cat", "train"): 80, ("cat", missing): 20, ("cat", there): 20,
        ("dog", "train"): 40, ("dog", missing): 10, ("dog", there): 10,
    }  # fmt: skip
    assert all(part == there for path, part in parts_of(given, split).items() if int(path[4:]) >= 100)


def test_what_the_user_put_in_train_moves_only_when_nothing_else_can() -> None:
    fixed = [*photos(30, "cat", "train"), *photos(30, "dog", "train")]
    free = [*photos(30, "cat", start=50), *photos(30, "dog", start=50)]
    split = split_photos(given := catalogue(*fixed, *free), [], test=0.2, valid=0.2)
    assert all(parts_of(given, split)[each.path] == "train" for each in fixed)
    assert (len(split.test), len(split.valid)) == (24, 20)
    assert split.method == "mixed"


def test_a_free_photo_joins_the_users_part_that_holds_its_near_duplicate_or_group() -> None:
    free = [*photos(40, "cat"), *photos(40, "dog")]
    free[1] = replace(free[1], group="a")
    held = [photo("cat/t0", "test"), photo("dog/t1", "test", group="a"), photo("dog/v0", "valid")]
    given = catalogue(*free, *held)
    pairs = [(0, 80), (2, 82), (3, 80), (3, 82), (5, 6)]
    for seed in range(5):
        split = split_photos(given, pairs, seed=seed)
        check_whole(given, split)
        part = split.part_of()
        assert [part[row] for row in (0, 1, 3)] == ["test"] * 3
        assert part[80:] == ["test", "test", "valid"]
        check_together(given, split, [(0, 80), (3, 80), (5, 6)])
        assert len(split.test) + len(split.valid) == 7


def problem(*given: Photo, **options: float) -> DataError:
    with pytest.raises(DataError) as caught:
        split_photos(catalogue(*given), [], **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3 and caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_one_class() -> None:
    assert "only one class was found, 'cat'" in problem(*photos(30, "cat")).message


@pytest.mark.parametrize(("n", "told"), [(1, "has 1 photo;"), (2, "has 2 photos;")])
def test_a_class_with_too_few_photos(n: int, told: str) -> None:
    message = problem(*photos(30, "cat"), *photos(n, "dog")).message
    assert message.startswith(f"class 'dog' {told}") and "at least 3" in message


def test_three_photos_in_a_class_are_enough() -> None:
    split = split_photos(catalogue(*photos(3, "cat"), *photos(3, "dog")), [])
    assert (len(split.train), len(split.valid), len(split.test)) == (2, 2, 2)


def test_no_photo() -> None:
    torn = photo("cat/1.jpg", status="unreadable", reason="is cut short")
    message = problem(torn, photo("cat/2.txt", status="left_out", reason="not an image", sha256="")).message
    assert message == "no usable photo in folder (2 files found; cat/1.jpg is cut short)"


def test_a_class_in_test_that_train_lacks() -> None:
    given = [*photos(9, "cat", "train"), *photos(9, "dog", "train"), *photos(9, "emu", "test")]
    assert problem(*given).message == "class 'emu' is in test or valid and train lacks it"


def test_a_class_whose_files_are_all_bad() -> None:
    bad = [replace(each, status="unreadable", reason="is cut short") for each in photos(4, "emu")]
    message = problem(*photos(9, "cat"), *photos(9, "dog"), *bad).message
    assert message == "class 'emu': none of its 4 files can be used"


def test_empty_folders_and_dropped_classes_are_no_problem() -> None:
    empty = photo("emu", status="left_out", reason="an empty class", sha256="")
    dropped = photo("fox/1", status="left_out", reason="dropped by labels.csv", sha256="")
    given = catalogue(*photos(9, "cat"), *photos(9, "dog"), empty, dropped)
    assert find_problems(given) == []
    check_whole(given, split_photos(given, []))


def test_all_problems_are_told_at_once() -> None:
    given = catalogue(*photos(1, "ant"), *photos(2, "bee"), *photos(9, "cat", "train"), *photos(9, "dog", "valid"))
    told = find_problems(given)
    assert [message.split(" ")[1] for message in told] == ["'ant'", "'bee'", "'dog'"]


def test_a_class_of_one_picture_cannot_be_split() -> None:
    given = catalogue(*photos(9, "cat"), *photos(9, "dog"))
    pairs = [(row, row + 1) for row in range(17) if row != 8]
    with pytest.raises(DataError, match="no photo can be drawn for test") as caught:
        split_photos(given, pairs)
    assert "--group-by" in caught.value.hint


def test_two_pictures_in_each_class_cannot_make_three_parts() -> None:
    given = catalogue(*photos(3, "cat"), *photos(3, "dog"))
    with pytest.raises(DataError, match="no photo can be drawn for valid"):
        split_photos(given, [(0, 1), (3, 4)])


def test_a_class_that_its_ties_take_out_of_train() -> None:
    given = catalogue(*photos(20, "cat"), *photos(20, "dog"), *photos(3, "emu"), *photos(5, "cat", "test", start=90))
    with pytest.raises(DataError, match="class 'emu' is in test and train lacks it") as caught:
        split_photos(given, [(40, 43), (41, 43), (42, 43)])
    assert "near duplicates or one group" in caught.value.hint


@pytest.mark.parametrize(("test", "valid"), [(1.0, 0.1), (-0.1, 0.1), (0.2, 0.0), (0.2, 1.0), (20, 0.1)])
def test_shares_out_of_range(test: float, valid: float) -> None:
    given = catalogue(*photos(9, "cat"), *photos(9, "dog"))
    with pytest.raises(UsageError, match=f"--test {test} and --valid {valid}") as caught:
        split_photos(given, [], test=test, valid=valid)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("n_folds", [2, 3, 5, 7])
def test_folds_are_balanced_class_by_class(n_folds: int) -> None:
    given = [each for label, n in SIZES.items() for each in photos(n, label)]
    rows = [row for row in range(len(given)) if row % 10]
    folds = draw_folds(given, [], rows, n_folds, seed=42)
    assert folds.dtype == np.int64 and set(folds.tolist()) == set(range(n_folds))
    for label in SIZES:
        counts = np.bincount(
            [f for f, row in zip(folds, rows, strict=True) if given[row].label == label], None, n_folds
        )
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds, minlength=n_folds)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(folds, draw_folds(given, [], rows, n_folds, seed=42))
    assert (folds != draw_folds(given, [], rows, n_folds, seed=43)).any()


def test_folds_keep_groups_and_near_duplicates_together() -> None:
    given = [
        photo(f"{'cat' if row % 2 else 'dog'}/{row}", group=f"g{row // 10}" if row < 200 else "") for row in range(500)
    ]
    pairs = [(row, row + 1) for row in range(200, 500, 5)]
    folds = draw_folds(given, pairs, range(500), 5, seed=0)
    assert all(folds[i] == folds[j] for i, j in pairs)
    assert all(len(set(folds[start : start + 10].tolist())) == 1 for start in range(0, 200, 10))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 10


def test_a_hundred_thousand_photos_are_split_in_three_seconds() -> None:
    given = catalogue(*(each for label in range(20) for each in photos(5000, f"class{label}")))
    pairs = [(row, row + 1) for row in range(0, 100_000, 50)]
    start = time.process_time()
    split = split_photos(given, pairs)
    assert time.process_time() - start < 3
    check_whole(given, split)
    check_together(given, split, pairs)
    assert abs(len(split.test) - 20_000) <= 20 and abs(len(split.valid) - 8_000) <= 20


def test_a_group_across_the_users_parts_is_told() -> None:
    given = catalogue(
        *photos(6, "a", "train"), *photos(6, "b", "train", 10),
        *photos(3, "a", "test", 20), *photos(3, "b", "test", 30),
        photo("a/p.jpg", "train", "patient 7", label="a"), photo("a/q.jpg", "test", "patient 7", label="a"),
    )  # fmt: skip
    split = split_photos(given, [], test=0.2, valid=0.1, seed=0)
    (note,) = [note for note in split_notes(given, split, []) if "group" in note]
    assert note.startswith("1 group lies in different parts of yours") and "a/p.jpg" in note and "a/q.jpg" in note
