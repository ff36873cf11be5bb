"""Inputs of a cluster: files behind addresses, tar shards and Parquet, cut into units; one entry for each photo."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from heeler.errors import DataError, ResourceError, UnreadableError
from heeler.files import MAX_FILE_BYTES
from heeler.ship import shards
from heeler.ship.ray_predict import checked_rows, unit_of
from heeler.ship.shards import Unit, fetch, list_units, photos_of
from images import cat, encode

fsspec = pytest.importorskip("fsspec", reason='fsspec is not installed: pip install "heeler[ray]"')

PHOTO = encode(cat())


def met(*args: object, column: str = "image") -> list[tuple[str, bytes | str]]:
    """Name and content, or the reason why there is none, of each photo; units travel as text."""
    found: list[tuple[str, bytes | str]] = []
    for unit in list_units([str(arg) for arg in args], column):
        for name, read in photos_of(unit_of(json.dumps(asdict(unit)))):
            try:
                found.append((name, read()))
            except UnreadableError as error:
                found.append((name, error.message))
    return found


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as shard:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def test_files_of_a_folder_are_cut_into_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "FILES_OF_A_UNIT", 3)
    for number in range(7):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number]))
    (tmp_path / "odd\udcff.jpg").write_bytes(b"odd")
    assert [len(unit.names) for unit in list_units([str(tmp_path), "gone.jpg"], "image")] == [3, 3, 3]
    assert met(tmp_path, "gone.jpg") == [
        *((f"{tmp_path}/{number}.jpg", bytes([number])) for number in range(7)),
        (f"{tmp_path}/odd\udcff.jpg", b"odd"), ("gone.jpg", "does not exist"),
    ]  # fmt: skip


def test_addresses_are_read_through_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b/2.jpg", "a/1.jpg", "a/.hidden.jpg", ".cache/3.jpg"):
        memory.pipe(f"/bucket/{name}", name.encode())
    expected = [("memory:///bucket/a/1.jpg", b"a/1.jpg"), ("memory:///bucket/b/2.jpg", b"b/2.jpg")]
    plain = [(name.replace(":///", "://"), data) for name, data in met("memory://bucket")]
    assert plain == [(name.replace(":///", "://"), data) for name, data in expected]
    assert [data for _, data in met("memory://bucket/*/1.jpg")] == [b"a/1.jpg"]
    assert [data for _, data in met("memory://bucket/[ab]/?.jpg")] == [b"a/1.jpg", b"b/2.jpg"]
    memory.pipe("/bucket/b/Thumbs.db", b"none of the user's")
    assert [data for _, data in met("memory://bucket/*")] == [b"a/1.jpg", b"b/2.jpg"]  # what is in folders it meets
    assert met("memory://bucket/gone.jpg") == [("memory://bucket/gone.jpg", "does not exist")]
    monkeypatch.setattr(shards, "MAX_FILE_BYTES", 3)
    with pytest.raises(UnreadableError, match="are not read"):
        fetch("memory://bucket/a/1.jpg")
    memory.rm("/bucket", recursive=True)


def test_a_place_that_cannot_be_reached_is_no_unreadable_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"nowhere://x/1\.jpg cannot be read") as caught:
        fetch("nowhere://x/1.jpg")
    assert "package" in caught.value.hint
    with pytest.raises(ResourceError, match="cannot be read"):
        met("nowhere://x")


@pytest.mark.parametrize(("ending", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_photos_of_a_tar_come_in_its_order(tmp_path: Path, ending: str, mode: str) -> None:
    shard = make_tar(
        tmp_path / f"s{ending}",
        {"b.jpg": b"1", "b.cls": b"7", "a/A.PNG": b"2", "c.json": b"{}", "../x.jpg": b"3"},
        mode,
    )
    expected = [(f"{shard}/b.jpg", b"1"), (f"{shard}/a/A.PNG", b"2"), (f"{shard}/../x.jpg", b"3")]
    assert met(shard) == met(tmp_path) == expected
    assert [data for _, data in met(f"file://{shard}")] == [b"1", b"2", b"3"]


def test_a_tar_that_is_cut_short_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {"1.jpg": PHOTO, "2.jpg": PHOTO})
    data = shard.read_bytes()
    shard.write_bytes(data[: 512 + len(PHOTO) + 512 + 700])
    names = met(shard)
    assert names[0] == (f"{shard}/1.jpg", PHOTO)
    assert names[-1][0] in (str(shard), f"{shard}/2.jpg") and names[-1][1] != PHOTO
    (tmp_path / "no.tar").write_text("no tar")
    ((name, reason),) = met(tmp_path / "no.tar")
    assert name.endswith("no.tar") and "is no whole tar" in str(reason)
    assert met(tmp_path / "gone.tar") == [(f"{tmp_path}/gone.tar", "cannot be opened: No such file or directory")]


def test_a_file_in_a_tar_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge.jpg")
    member.size = MAX_FILE_BYTES + 1
    (tmp_path / "s.tar").write_bytes(member.tobuf() + bytes(1024))
    assert "are not read" in str(met(tmp_path / "s.tar")[0][1])


def test_photos_of_a_parquet_column_come_with_their_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason='pyarrow is not installed: pip install "heeler[ray]"')
    parquet = pytest.importorskip("pyarrow.parquet")
    values: list[Any] = [b"0", None, b"2", b"3", b"4"]
    plain, nested = tmp_path / "plain.parquet", tmp_path / "nested.parquet"
    parquet.write_table(pyarrow.table({"id": range(5), "image": values}), plain, row_group_size=2)
    cells = [None if value is None else {"bytes": value, "path": "x.jpg"} for value in values]
    parquet.write_table(pyarrow.table({"photo": cells}), nested)
    assert [unit.start for unit in list_units([str(plain)], "image")] == [0, 2, 4]
    for shard, column in ((plain, "image"), (nested, "photo")):
        assert met(shard, column=column) == [
            (f"{shard}#{number}", "has no value" if value is None else value) for number, value in enumerate(values)
        ]
    assert met(plain, column="id")[0][1] == "is a int, not the bytes of a file"
    with pytest.raises(DataError, match="no column 'image'; it has photo"):
        met(nested)
    whole = plain.read_bytes()
    for name, data in (("no", b"no table"), ("footer", whole[:-60] + bytes(52) + whole[-8:])):
        (tmp_path / f"{name}.parquet").write_bytes(data)
        assert "is no whole Parquet file" in str(met(tmp_path / f"{name}.parquet")[0][1])
    assert met(tmp_path / "gone.parquet") == [(f"{tmp_path}/gone.parquet", "does not exist")]


def piece(number: int, part: int, last: bool, *names: str) -> dict[str, Any]:
    rows = [{"path": name, "status": "ok", "reason": "", "ranked": [["a", 0.5]]} for name in names]
    return {"number": number, "piece": part, "last": last, "rows": json.dumps(rows)}


def test_rows_of_all_pieces_come_once_and_in_order() -> None:
    pieces = [piece(0, 0, False, "a"), piece(0, 1, True, "b"), piece(1, 0, True), piece(2, 0, True, "c")]
    assert [row.path for row in checked_rows(pieces, 3)] == ["a", "b", "c"]
    wrong = [pieces[1:], [pieces[0], pieces[0], *pieces[1:]], pieces[:2], pieces[:1], [*pieces, pieces[3]],
             [pieces[0], pieces[1], pieces[3], pieces[2]]]  # fmt: skip
    for each in wrong:
        with pytest.raises(ResourceError, match="was due"):
            list(checked_rows(each, 3))


def test_a_bad_unit_is_one_row() -> None:
    ((name, read),) = photos_of(Unit("bad", ("x.parquet",), reason="is bad"))
    assert name == "x.parquet"
    with pytest.raises(UnreadableError, match="is bad"):
        read()
