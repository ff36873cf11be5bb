"""The table that the demo trains on."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from heeler.demo import CREDITS, prepare_demo
from heeler.errors import DataError, UsageError


def _package(folder: Path, labels: str, photos: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder / "fake_elpv" / "data"
    (data / "images").mkdir(parents=True)
    (folder / "fake_elpv" / "__init__.py").write_text("raise RuntimeError('the package must not be imported')\n")
    (data / "labels.csv").write_text(labels)
    for name in photos:
        (data / "images" / name).write_bytes(b"photo")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the extra demo")
def test_the_real_photos_give_2624_rows_of_two_classes(tmp_path: Path) -> None:
    table = prepare_demo(tmp_path / "demo")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["label"] for row in rows]
    assert (len(rows), labels.count("functional"), labels.count("defective")) == (2624, 1803, 821)
    assert all(Path(row["path"]).is_absolute() and Path(row["path"]).is_file() for row in rows)
    assert "elpv_dataset" not in sys.modules
    before = table.read_bytes()
    assert prepare_demo(tmp_path / "demo").read_bytes() == before


def test_a_half_is_defective_and_the_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "images/1.png  0.5   mono\nimages/2.png  0.3333  poly\n"
    _package(tmp_path / "site", lines, ("1.png", "2.png"), monkeypatch)
    table = prepare_demo(tmp_path / "demo", package="fake_elpv")
    assert [line.rsplit(",")[-1] for line in table.read_text().splitlines()] == ["label", "defective", "functional"]


def test_a_missing_package_is_answered_with_the_command_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_demo(tmp_path, package="no_such_photos")
    assert 'pip install "heeler[demo]"' in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("images/1.png 1.0 mono\nimages/9.png 0.0 mono\n", r"1 of the demo's 2 photos are missing"),
        ("images/1.png 1.0 mono\nimages/1.png\n", r"line 2 of .*labels\.csv cannot be read"),
        ("", r"0 of the demo's 0 photos"),
    ],
)
def test_a_damaged_package_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str, said: str
) -> None:
    _package(tmp_path / "site", labels, ("1.png",), monkeypatch)
    with pytest.raises(DataError, match=said):
        prepare_demo(tmp_path / "demo", package="fake_elpv")
    assert not (tmp_path / "demo").exists()


def test_the_credits_name_the_licence_and_the_three_papers() -> None:
    for words in ("CC BY-NC-SA 4.0", "2018", "Solar Energy", "Machine Vision and Applications"):
        assert words in CREDITS
