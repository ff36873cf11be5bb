"""Archives of real photos, good, damaged and hostile: extracted once, whole, and never outside the cache."""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from heeler.data import archives
from heeler.data.archives import extract, is_archive, open_archive, plain_name
from heeler.data.catalogue import read_source
from heeler.errors import DataError, ResourceError
from heeler.files import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """heeler's cache in a folder of the test's own."""
    monkeypatch.setenv("HEELER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), shade + 50).save(file, "JPEG")
    return file.getvalue()


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for member, data in members:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


PHOTOS = ("pets/cat/1.jpg", "pets/cat/2.jpg", "pets/dog/3.jpg")


def good(path: Path) -> Path:
    """An archive of three photos in one top folder, of the kind that the name asks for."""
    files = {name: jpeg(number) for number, name in enumerate(PHOTOS)}
    if path.suffix == ".zip":
        return make_zip(path, files)
    modes = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    return make_tar(path, [(entry(name), data) for name, data in files.items()], modes.get(path.suffix, "w"))


def refused(archive: Path, cache: Path, words: str) -> None:
    """The archive is refused in one line, nothing stays in the cache, nothing was written beside it."""
    with pytest.raises(DataError, match=words) as caught:
        open_archive(archive)
    assert archive.name in caught.value.message and "\n" not in caught.value.message
    assert list((cache / "sources").iterdir()) == []
    assert not (cache.parent / "evil.txt").exists()


@pytest.mark.parametrize("end", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_good_archive_of_each_kind(tmp_path: Path, cache: Path, end: str) -> None:
    archive = good(tmp_path / f"my pets{end}")
    digest = sha256_file(archive)
    catalogue = read_source(archive)
    assert (catalogue.source, catalogue.name) == (str(archive), "my pets")
    assert [(photo.path, photo.label) for photo in catalogue.photos] == [
        ("cat/1.jpg", "cat"),
        ("cat/2.jpg", "cat"),
        ("dog/3.jpg", "dog"),
    ]
    for photo in catalogue.photos:
        assert photo.file.is_relative_to(cache / "sources" / digest)
        with Image.open(photo.file) as image:
            image.load()
    assert [path.name for path in (cache / "sources").iterdir()] == [digest]


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    assert read_source(good(tmp_path / "a.zip").rename(tmp_path / "photos.data")).name == "photos.data"
    assert is_archive(good(tmp_path / "a.tar.gz").rename(tmp_path / "b.zip"))
    (tmp_path / "table.csv").write_text("path,label\n")
    assert not is_archive(tmp_path / "table.csv")
    assert [plain_name(Path(name)) for name in ("a.TAR.GZ", "b.c.zip", ".zip")] == ["a", "b.c", ".zip"]


def test_it_is_extracted_once(tmp_path: Path) -> None:
    archive = good(tmp_path / "a.zip")
    first = open_archive(archive)
    made_ns = first.stat().st_mtime_ns
    assert open_archive(archive) == first
    assert first.stat().st_mtime_ns == made_ns


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, cache: Path) -> None:
    archive = good(tmp_path / "a.zip")
    ended = subprocess.Popen(["true"])
    ended.wait()
    leftover = cache / "sources" / f".partial-{sha256_file(archive)}-{ended.pid}-x1"
    (leftover / "cat").mkdir(parents=True)
    open_archive(archive)
    assert not leftover.exists()


def test_a_table_in_an_archive_says_what_the_photos_are(tmp_path: Path) -> None:
    table = b"path,label\nimages/1.jpg,rust\nimages/2.jpg,ok\n"
    files = {"set/images/1.jpg": jpeg(1), "set/images/2.jpg": jpeg(2), "set/index.csv": table, "__MACOSX/._set": b"x"}
    catalogue = read_source(make_zip(tmp_path / "a.zip", files))
    assert [(photo.path, photo.label) for photo in catalogue.photos] == [
        ("images/1.jpg", "rust"),
        ("images/2.jpg", "ok"),
    ]


@pytest.mark.parametrize("path", ["../../../../secret.jpg", "/etc/hostname", "leak.jpg"])
def test_a_table_in_an_archive_cannot_read_files_outside(tmp_path: Path, path: str) -> None:
    table = f"path,label\n1.jpg,a\n{path},b\n".encode()
    members = [(entry("1.jpg"), jpeg()), (entry("index.csv"), table)]
    archive = make_tar(tmp_path / "a.tar", members)
    if path == "leak.jpg":
        # A link that someone puts into the cache by hand is no way out either.
        (tmp_path / "secret.jpg").write_bytes(jpeg())
        (open_archive(archive) / path).symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="line 3 names a file outside the archive"):
        read_source(archive)


def test_a_single_folder_of_photos_stays_a_class(tmp_path: Path) -> None:
    catalogue = read_source(make_zip(tmp_path / "a.zip", {"cat/1.jpg": jpeg(1), "cat/2.jpg": jpeg(2)}))
    assert {photo.label for photo in catalogue.photos} == {"cat"}


def test_parts_and_label_maps_work_in_archives(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {f"w/{part}/n1/{part}.jpg": jpeg(1) for part in ("train", "val")})
    (tmp_path / "labels.csv").write_text("n1,beagle\n")
    photos = read_source(archive, labels=tmp_path / "labels.csv").photos
    assert [(photo.part, photo.label) for photo in photos] == [("train", "beagle"), ("valid", "beagle")]


def test_backslashes_in_a_zip_are_folders(tmp_path: Path) -> None:
    photos = read_source(make_zip(tmp_path / "a.zip", {"p\\cat\\1.jpg": jpeg(1), "p\\dog\\2.jpg": jpeg(2)})).photos
    assert [photo.path for photo in photos] == ["cat/1.jpg", "dog/2.jpg"]


HOSTILE_NAMES = [
    ("/evil.txt", "is an absolute name"),
    ("../evil.txt", "climbs out of its folder"),
    ("a/../../evil.txt", "climbs out of its folder"),
    ("C:/evil.txt", "is an absolute name"),
]


@pytest.mark.parametrize(("name", "words"), [*HOSTILE_NAMES, ("..\\evil.txt", "climbs out of its folder")])
def test_hostile_names_in_a_zip(tmp_path: Path, cache: Path, name: str, words: str) -> None:
    refused(make_zip(tmp_path / "a.zip", {"cat/1.jpg": jpeg(), name: b"x"}), cache, words)


@pytest.mark.parametrize(("name", "words"), HOSTILE_NAMES)
def test_hostile_names_in_a_tar(tmp_path: Path, cache: Path, name: str, words: str) -> None:
    refused(make_tar(tmp_path / "a.tar.gz", [(entry("1.jpg"), jpeg()), (entry(name), b"x")], "w:gz"), cache, words)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([entry("out", tarfile.SYMTYPE, "../../..")], "link that leaves its folder"),
        ([entry("out", tarfile.SYMTYPE, "/etc")], "link that leaves its folder"),
        ([entry("a/in", tarfile.SYMTYPE, "../b"), entry("A/In/evil.txt")], "passes through a link"),
        ([entry("in", tarfile.SYMTYPE, "cat"), entry("in")], "passes through a link"),
        ([entry("hard", tarfile.LNKTYPE, "../evil.txt")], "climbs out of its folder"),
        ([entry("in", tarfile.SYMTYPE, "cat"), entry("hard", tarfile.LNKTYPE, "in/x")], "passes through a link"),
        ([entry("pipe", tarfile.FIFOTYPE)], "pipe, socket or device"),
        ([entry("null", tarfile.CHRTYPE)], "pipe, socket or device"),
        ([entry("disk", tarfile.BLKTYPE)], "pipe, socket or device"),
    ],
)
def test_hostile_entries_in_a_tar(tmp_path: Path, cache: Path, members: list[tarfile.TarInfo], words: str) -> None:
    refused(make_tar(tmp_path / "a.tar", [(member, b"") for member in members]), cache, words)


def zip_entry(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    return info


@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        (stat.S_IFLNK, b"../../../..", "link that leaves its folder"),
        (stat.S_IFLNK, b"/etc/passwd", "link that leaves its folder"),
        (stat.S_IFLNK, b"x" * 5000, "without a usable target"),
        (stat.S_IFIFO, b"", "pipe, socket or device"),
    ],
)
def test_hostile_entries_in_a_zip(tmp_path: Path, cache: Path, kind: int, target: bytes, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zip_entry("cat/odd", kind), target)
    refused(tmp_path / "a.zip", cache, words)


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zip_entry("cat/2.jpg", stat.S_IFLNK), "../.store/x.jpg")
        file.writestr(".store/x.jpg", jpeg())
    links = [
        entry("cat/2.jpg", tarfile.SYMTYPE, "../.store/x.jpg"),
        entry("cat/3.jpg", tarfile.LNKTYPE, ".store/x.jpg"),
    ]
    make_tar(tmp_path / "a.tar", [(entry(".store/x.jpg"), jpeg()), *((link, b"") for link in links)])
    for name, n_photos in (("a.zip", 1), ("a.tar", 2)):
        usable = read_source(tmp_path / name).usable
        assert len(usable) == n_photos
        with Image.open(usable[0].file) as image:
            assert image.size == (64, 64)


@pytest.mark.parametrize("end", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_cut_archive_is_damaged(tmp_path: Path, cache: Path, end: str, share: float) -> None:
    archive = good(tmp_path / f"a{end}")
    data = archive.read_bytes()
    # A plain tar ends in 10 kB of padding that may be lost without loss.
    length = len(data) if end != ".tar" else len(data.rstrip(b"\0"))
    archive.write_bytes(data[: int(length * share)])
    refused(archive, cache, "is damaged or not whole")


@pytest.mark.parametrize("end", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_changed_byte_is_damage(tmp_path: Path, cache: Path, end: str) -> None:
    archive = good(tmp_path / f"a{end}")
    data = bytearray(archive.read_bytes())
    data[len(data) // 3] ^= 0xFF
    archive.write_bytes(data)
    refused(archive, cache, "is damaged or not whole")


def test_a_damaged_header_inside_a_tar_is_not_taken_for_its_end(tmp_path: Path, cache: Path) -> None:
    archive = good(tmp_path / "a.tar")
    data = bytearray(archive.read_bytes())
    data[data.index(b"pets/cat/2.jpg") + 150] ^= 0xFF
    archive.write_bytes(data)
    refused(archive, cache, "damaged entry")


def test_text_that_is_called_an_archive(tmp_path: Path, cache: Path) -> None:
    for name in ("a.zip", "a.tar.gz"):
        (tmp_path / name).write_text("<html>not found</html>")
        refused(tmp_path / name, cache, "is damaged or not whole")


def test_archives_of_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(100))
    with pytest.raises(DataError, match="is a rar archive; heeler reads zip and tar"):
        read_source(tmp_path / "a.rar")


def test_an_encrypted_zip(tmp_path: Path, cache: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"cat/1.jpg": jpeg()})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    refused(archive, cache, "protected by a password")


@pytest.mark.parametrize("end", [".zip", ".tar.gz"])
def test_limits(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    archive = good(tmp_path / f"a{end}")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    refused(archive, cache, "holds more than 2 entries")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 10)
    monkeypatch.setattr(archives, "MAX_BYTES", 3_000)
    refused(archive, cache, "unpacks to more than")


class SmallDisk:
    """What ``shutil.disk_usage`` says of a disk with 1 GB free."""

    free = 10**9


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_more_than_the_disk_holds_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"x"})
        data = bytearray(archive.read_bytes())
        at = data.index(b"PK\x01\x02") + 24
        data[at : at + 4] = (4 * 10**9).to_bytes(4, "little")
        archive.write_bytes(data)
    else:
        archive = tmp_path / "a.tar"
        member = entry("cat/1.jpg")
        member.size = 4 * 10**9
        archive.write_bytes(member.tobuf() + bytes(10_240))
    monkeypatch.setattr("heeler.files.shutil.disk_usage", lambda _: SmallDisk())
    with pytest.raises(ResourceError, match=r"4\.00 GB are needed in .* and 1\.00 GB are free"):
        extract(archive, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_a_read_only_archive_in_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    archive = good(tmp_path / "p" / "a.zip")
    archive.chmod(0o444)
    (tmp_path / "p").chmod(0o555)
    try:
        assert len(read_source(archive).usable) == 3
        assert [path.name for path in (tmp_path / "p").iterdir()] == ["a.zip"]
    finally:
        (tmp_path / "p").chmod(0o755)
