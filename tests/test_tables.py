"""CSV and TSV sources, and label maps, as spreadsheets and people really write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from heeler.data.catalogue import read_source
from heeler.data.tables import read_label_map
from heeler.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four real photos: a.jpg, b.jpg, deep/c d.jpg, e,f.jpg."""
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "b.jpg", "deep/c d.jpg", "e,f.jpg"):
        Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / name)
    return tmp_path


def rows(folder: Path, text: str | bytes, name: str = "t.csv", **options: str) -> list[tuple[str, ...]]:
    """Write a table and read it: path, status, class, part and group of each photo."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    photos = read_source(folder / name, **options).photos  # type: ignore[arg-type]
    return [(photo.path, photo.status, photo.label, photo.part or "", photo.group) for photo in photos]


def test_all_columns(folder: Path) -> None:
    text = 'path,label,split,group\na.jpg,rust,train,f1\n"e,f.jpg",rust,,f2\ndeep/c d.jpg,"leaf, healthy",Validation,\n'
    assert rows(folder, text + f"{folder}/b.jpg,rust,TEST,f1\n") == [
        ("a.jpg", "ok", "rust", "train", "f1"),
        ("b.jpg", "ok", "rust", "test", "f1"),
        ("deep/c d.jpg", "ok", "leaf, healthy", "valid", ""),
        ("e,f.jpg", "ok", "rust", "", "f2"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,rust\nb.jpg,ok\n",
        "\ufeffPath,Class\r\na.jpg,rust\r\nb.jpg,ok\r\n",
        "target\tFILENAME\nrust\ta.jpg\nok\tb.jpg",
        '"image";"label"\n"a.jpg";"rust"\n\n"b.jpg";" ok "\n;\n',
        "id,file,label\n1,./a.jpg,rust\n2,deep/../b.jpg,ok\n",
        "\ufeffpath\tlabel\r\na.jpg\trust\r\nb.jpg\tok\r\n".encode("utf-16-le"),
    ],
)
def test_spellings_of_the_same_table(folder: Path, text: str | bytes) -> None:
    assert rows(folder, text) == [("a.jpg", "ok", "rust", "", ""), ("b.jpg", "ok", "ok", "", "")]


def test_name_and_folder_of_the_source(folder: Path) -> None:
    (folder / "wheat.tsv").write_text("path\tlabel\na.jpg\trust\n")
    catalogue = read_source(folder / "wheat.tsv")
    assert (catalogue.name, catalogue.photos[0].file) == ("wheat", folder / "a.jpg")


def test_files_that_are_not_there_and_labels_that_are_missing(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    text = "path,label\na.jpg,rust\nb.jpg\ndeep,rust\ngone.jpg,rust\npipe.jpg,rust\na.jpg/x.jpg,rust\n"
    (folder / "t.csv").write_text(text)
    assert [(photo.path, photo.status, photo.reason) for photo in read_source(folder / "t.csv").photos] == [
        ("a.jpg", "ok", ""),
        ("a.jpg/x.jpg", "unreadable", "no such file"),
        ("b.jpg", "left_out", "no label in the table"),
        ("deep", "left_out", "a folder, not a file"),
        ("gone.jpg", "unreadable", "no such file"),
        ("pipe.jpg", "left_out", "a pipe, socket or device, not a file"),
    ]


def test_paths_with_the_separators_of_windows(folder: Path) -> None:
    assert rows(folder, "path,label\ndeep\\c d.jpg,rust\n") == [("deep/c d.jpg", "ok", "rust", "", "")]


def test_a_name_that_is_not_utf8(folder: Path) -> None:
    name = b"caf\xe9.jpg"
    (folder / "a.jpg").rename(folder / os.fsdecode(name))
    ((path, status, *_),) = rows(folder, b"path,label\n" + name + b",rust\n")
    assert (os.fsencode(path), status) == (name, "ok")


def test_the_same_line_twice_counts_once(folder: Path) -> None:
    assert rows(folder, "path,label\na.jpg,rust\n./a.jpg,rust\n") == [("a.jpg", "ok", "rust", "", "")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg,rust\n", "line 1 names no path column and label column: 'a.jpg,rust'"),
        ("", "line 1 names no path column and label column"),
        (
            "path,label\na.jpg,rust\n\nb.jpg,ok\ndeep/../a.jpg,ok\n",
            "lines 2 and 5 give 'a.jpg' two labels, 'rust' and 'ok'",
        ),
        (
            "path,label,split\na.jpg,x,train\na.jpg,x,test\n",
            "lines 2 and 3 give 'a.jpg' two splits, 'train' and 'test'",
        ),
        ('path,label,split\n"a.jpg",\n"b.jpg","two\nlines",train\nb.jpg,x,holdout\n', "line 5 has the split 'holdout'"),
        ("path,label\ne,f.jpg,rust\n", "line 2 has 3 columns and line 1 has 2"),
        ("path,label\n ,rust\n", "line 2 names no file"),
        ('path,label\na.jpg,rust\nb.jpg,"rust\n', "line 3 is not a row of a table"),
        (b"path,label\na.jpg,caf\xe9\n", "line 2 has a class name that is not UTF-8"),
        (b"\xff\xfe\x00\xd8", "is not a text file"),
    ],
)
def test_tables_that_cannot_be_used(folder: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        rows(folder, text)
    assert "t.csv" in caught.value.message


def test_a_table_without_one_file_says_where_it_looked(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 files found \(2 no such file\)") as caught:
        rows(folder, "path,label\nphotos/a.jpg,x\nphotos/b.jpg,y\n")
    assert str(folder / "photos" / "a.jpg") in caught.value.hint


def test_group_by_a_column(folder: Path) -> None:
    text = "path,label,group,Field,none\na.jpg,x,g1,f1,\nb.jpg,x,g2,f1,\n"
    assert [row[4] for row in rows(folder, text)] == ["g1", "g2"]
    assert [row[4] for row in rows(folder, text, group_by="field")] == ["f1", "f1"]
    with pytest.raises(UsageError, match=r"has no column 'plot'") as caught:
        rows(folder, text, group_by="plot")
    assert "'Field'" in caught.value.hint
    with pytest.raises(UsageError, match=r"'none' of .* is empty on every line"):
        rows(folder, text, group_by="none")


def test_labels_of_a_table_are_mapped_too(folder: Path) -> None:
    (folder / "map.tsv").write_text("\ufefflabel\tclass\n0\tok\n1\t\n")
    (folder / "t.csv").write_text("path,label\na.jpg,0\nb.jpg,1\n")
    photos = read_source(folder / "t.csv", labels=folder / "map.tsv").photos
    assert [(photo.label, photo.status, photo.reason) for photo in photos] == [
        ("ok", "ok", ""),
        ("1", "left_out", "dropped by map.tsv"),
    ]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("n1,Shih-Tzu\nn2,Beagle\n", {"n1": "Shih-Tzu", "n2": "Beagle"}),
        ('synset;class\nn1;"dog; small"\n', {"n1": "dog; small"}),
        ("folder,class,remark\nn1,,bad photos\nn1,,again\n", {"n1": ""}),
        ("folder,class\n", {}),
        ("folder,other\n", {"folder": "other"}),
    ],
)
def test_label_maps(tmp_path: Path, text: str, classes: dict[str, str]) -> None:
    (tmp_path / "map.csv").write_text(text)
    names = ["n1", "n2"] + (["folder"] if "folder" in classes else [])
    assert read_label_map(tmp_path / "map.csv", names) == classes


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("n1,dog\nn1,cat\n", DataError, "lines 1 and 2 give the folder 'n1' two classes"),
        ("n1,dog\nn2\n", DataError, "line 2 has one column: 'n2'"),
        ("folder,class\nN3,dog\n", UsageError, "line 2: there is no folder 'N3'"),
    ],
)
def test_label_maps_that_cannot_be_used(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(error, match=words):
        read_label_map(tmp_path / "map.csv", ["n1", "n2"])


def test_a_label_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*map\.csv"):
        read_label_map(tmp_path / "map.csv", ["n1"])
