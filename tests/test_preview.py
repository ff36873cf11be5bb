"""``heeler preview``: a balanced handful of photos, opened alone, and a sheet that takes no other file's place."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import assert_clear, run_heeler, snapshot
from heeler.data.decode import decode
from heeler.errors import DataError, UsageError
from heeler.learn.augment import PRESETS
from heeler.learn.augment import preview as variants
from heeler.preview import PreviewResult, preview
from heeler.records import Event, Note, Preprocessing
from test_report import Page
from test_sheet import images_of

pytestmark = pytest.mark.usefixtures("one_thread")
PhotoFolder = Callable[..., Path]


def labels_of(sheet: Path) -> list[str]:
    """The labels of the rows of a sheet's first section."""
    attributes = Page(sheet.read_text(encoding="utf-8")).attributes
    labels = [value for tag, name, value in attributes if (tag, name) == ("img", "alt") and value]
    n_sections = sum((tag, name) == ("section", "id") for tag, name, _ in attributes)
    n_shown = max(1, n_sections - 1)
    return labels[: len(labels) // n_shown]


def photo_of(image: np.ndarray, source: Path) -> Path:
    """The photo below a folder that a picture of a sheet shows unchanged."""
    spec = Preprocessing(image_px=len(image))

    def distance(photo: Path) -> float:
        return float(np.abs(image.astype(int) - decode(photo.read_bytes(), spec).pixels).mean())

    return min(source.rglob("*.jpg"), key=distance)


def small(source: Path, out: Path, **options: object) -> PreviewResult:
    """A sheet of small pictures."""
    return preview(source, out=out, **{"image_px": 64, "n_variants": 2, **options})  # type: ignore[arg-type]


def test_all_presets_are_shown_with_the_option_for_train(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=5, coffee=5), tmp_path / "sheet.html"
    done = run_heeler("preview", source, "--out", out, "--photos", 4, "--variants", 3, "--image-px", 64, "--json")
    assert done.code == 0, done.err
    assert done.json == {"sheet": str(out), "photos": 4, "presets": ["photo", "overhead", "document", "none"]}
    page = Page(out.read_text(encoding="utf-8"))
    assert [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")] == list(PRESETS)
    assert all(f"--augment {name}" in page.text for name in PRESETS)
    assert "4 of 10 photos, 64 px, --fit crop" in page.text
    assert len(images_of(out.read_text(encoding="utf-8"))) == 3 * 4 * (1 + 3)


def test_the_pictures_are_what_training_makes_of_the_photos(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=1, coffee=1), tmp_path / "sheet.html"
    small(source, out, augment="overhead", fit="squash", seed=7)
    spec = Preprocessing(image_px=64, fit="squash")
    squares = np.stack([decode((source / name / "0.jpg").read_bytes(), spec).pixels for name in ("cat", "coffee")])
    wanted = variants(squares, "overhead", seed=7, n_variants=2).reshape(6, 64, 64, 3)
    shown = images_of(out.read_text(encoding="utf-8"))
    assert labels_of(out) == ["cat", "coffee"]
    distances = np.array([[np.abs(image.astype(int) - square).mean() for square in wanted] for image in shown])
    assert distances.argmin(axis=1).tolist() == list(range(6))
    assert distances.diagonal().max() < 6


def test_one_preset_alone_and_none_has_no_variants(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=2, coffee=2), tmp_path / "sheet.html"
    result = small(source, out, augment="none")
    assert (result.n_photos, result.presets) == (4, ("none",))
    html = out.read_text(encoding="utf-8")
    assert len(images_of(html)) == 4
    assert "--augment photo" not in Page(html).text
    with pytest.raises(UsageError, match="'phot'"):
        small(source, out, augment="phot")


def test_photos_are_balanced_over_the_classes_and_fixed_by_the_seed(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=12, coffee=2, person=6, rocket=1)
    pages = {}
    for seed in (1, 1, 2):
        small(source, tmp_path / "sheet.html", n_photos=8, seed=seed)
        assert Counter(labels_of(tmp_path / "sheet.html")) in (
            {"cat": 3, "coffee": 2, "person": 2, "rocket": 1},
            {"cat": 2, "coffee": 2, "person": 3, "rocket": 1},
        )
        page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
        assert pages.setdefault(seed, page) == page
    assert pages[1] != pages[2]
    small(source, tmp_path / "sheet.html", n_photos=3)
    assert len(set(labels_of(tmp_path / "sheet.html"))) == 3
    assert small(source, tmp_path / "sheet.html", n_photos=64).n_photos == 21


def test_photos_of_different_groups_come_first(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder(cat=12)
    for number in range(9):
        (source / "cat" / f"{number}.jpg").rename(source / "cat" / f"plant1-{number}.jpg")
    small(source, tmp_path / "by_group.html", n_photos=4, group_by=r"(plant\d|/\d+)", augment="none")
    shown = images_of((tmp_path / "by_group.html").read_text(encoding="utf-8"))
    names = sorted(photo_of(image, source).name for image in shown)
    assert names[:3] == ["10.jpg", "11.jpg", "9.jpg"]
    assert names[3].startswith("plant1")


def test_photos_kept_for_the_test_are_not_looked_at(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source = photo_folder("parts/train", cat=2, coffee=1).parent
    (source / "test").mkdir()
    shutil.copytree(source / "train" / "cat", source / "test" / "cat")
    assert small(source, tmp_path / "sheet.html").n_photos == 3


def test_only_the_photos_on_the_sheet_are_opened(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=6, coffee=6), tmp_path / "sheet.html"
    events: list[Event] = []
    small(source, out, n_photos=4, augment="none", on_event=events.append)
    before = out.read_bytes()
    shown = images_of(before.decode())
    chosen = {photo_of(image, source) for image in shown}
    assert len(chosen) == 4
    for photo in set(source.rglob("*.jpg")) - chosen:
        photo.write_text("no photo any more")
    small(source, out, n_photos=4, augment="none", on_event=events.append)
    assert out.read_bytes() == before
    assert not [event for event in events if isinstance(event, Note)]


def test_photos_that_cannot_be_read_are_told_and_others_shown(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=6, coffee=6), tmp_path / "sheet.html"
    for number in range(5):
        (source / "cat" / f"{number}.jpg").write_text("no photo")
    done = run_heeler("preview", source, "--out", out, "--photos", 7, "--image-px", 64, "--variants", 1)
    assert done.code == 0, done.err
    assert done.out.startswith(f"7 photos before and after augmentation: {out}\n")
    assert "warning: 5 unreadable and passed over: cat/" in done.err
    assert Counter(labels_of(out)) == {"cat": 1, "coffee": 6}


def test_nothing_to_show_is_unusable_data_and_leaves_no_file(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder(cat=2), tmp_path / "sheet.html"
    for photo in source.rglob("*.jpg"):
        photo.write_text("no photo")
    assert_clear(run_heeler("preview", source, "--out", out), DataError.exit_code, "no photo to train with", "cat/")
    (tmp_path / "empty").mkdir()
    assert_clear(run_heeler("preview", tmp_path / "empty", "--out", out), DataError.exit_code, "no photos in")
    assert not out.exists()


def test_labels_and_nested_are_read_as_train_reads_them(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    source, out = photo_folder("pets/house", cat=2, coffee=2).parent, tmp_path / "sheet.html"
    (tmp_path / "names.csv").write_text("house/cat,tiger\nhouse/coffee,\n")
    names = ("--nested", "--labels", tmp_path / "names.csv")
    done = run_heeler("preview", source, *names, "--out", out, "--image-px", 64, "--variants", 1)
    assert done.code == 0, done.err
    assert labels_of(out) == ["tiger", "tiger"]


def test_the_default_sheet_is_replaced_and_other_files_and_the_photos_are_left_alone(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo_folder(cat=2, coffee=2)
    before = snapshot(source)
    monkeypatch.chdir(tmp_path)
    options = ("--image-px", 64, "--variants", 1)
    assert run_heeler("preview", "photos", *options).code == 0
    first = Path("preview.html").read_bytes()
    assert run_heeler("preview", "photos", *options, "--augment", "photo").code == 0
    assert Path("preview.html").read_bytes() != first
    for name in ("preview.html", "mine.png"):
        Path(name).write_text("my own page")
        done = run_heeler("preview", "photos", *options, "--out", name)
        assert_clear(done, UsageError.exit_code, name, "no sheet of heeler's")
        assert Path(name).read_text() == "my own page"
    monkeypatch.chdir(source)
    assert_clear(run_heeler("preview", ".", *options), UsageError.exit_code, "preview.html", "inside the photos")
    assert snapshot(source) == before


@pytest.mark.parametrize(
    ("out", "word"),
    [("sheet.pdf", "neither .html nor .png"), ("sheet", "neither"), ("a-file/sheet.png", "cannot be written")],
)
def test_a_place_that_cannot_be(photo_folder: PhotoFolder, tmp_path: Path, out: str, word: str) -> None:
    (tmp_path / "a-file").write_text("")
    done = run_heeler("preview", photo_folder(cat=1), "--image-px", 64, "--photos", 1, "--out", tmp_path / out)
    assert_clear(done, UsageError.exit_code, out, word)


def test_a_picture_is_written_where_the_name_says_so(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = small(photo_folder(cat=2, coffee=2), out)
    assert result.to_json() == {"sheet": str(out), "photos": 4, "presets": list(PRESETS)}
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "args", [("--photos", "0"), ("--photos", "65"), ("--variants", "0"), ("--image-px", "31"), ("--alpha", "white")]
)
def test_values_out_of_range_are_wrong_usage(photo_folder: PhotoFolder, tmp_path: Path, args: tuple[str, str]) -> None:
    done = run_heeler("preview", photo_folder(cat=1), *args, "--out", tmp_path / "sheet.html")
    assert_clear(done, UsageError.exit_code, args[0], args[1])
    assert not (tmp_path / "sheet.html").exists()
