"""Public sets fetched from a server on loopback that breaks off, lies, changes its mind and serves hostile archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import assert_clear, make_photos, run_heeler
from heeler.data import download, fetch, sets
from heeler.data.fetch import fetch as fetch_set
from heeler.data.sets import SETS, PublicSet, find_set
from heeler.errors import Interrupted, ResourceError, UsageError
from heeler.records import Done, Event, Note, Progress, Stage

CLASSES = (("n01", "cat"), ("n02", "rocket"))
FILES = {f"pets/{part}/{folder}/{n}.jpg": os.urandom(40_000) for part in ("train", "val") for folder, _ in CLASSES
         for n in range(3)}  # fmt: skip


def tgz(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


ARCHIVE = tgz(FILES)
HALF = len(ARCHIVE) // 2


@dataclass
class Site:
    """What the server has and does: one way to answer for each request, the last one for all that follow."""

    data: bytes = ARCHIVE
    etag: str = '"one"'
    answers: list[Callable[[BaseHTTPRequestHandler, Site], None]] = field(default_factory=list)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def ranges(self) -> list[str | None]:
        return [asked for _, asked, _ in self.asked]


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, *, cut: int | None = None, **headers: object
) -> None:
    handler.send_response(status)
    for name, value in {"Content_Length": len(body), **headers}.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body[:cut])


def as_it_should(handler: BaseHTTPRequestHandler, site: Site, cut: int | None = None) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers.get("If-Range", site.etag) == site.etag:
        start = int(asked[1])
        where = f"bytes {start}-{len(site.data) - 1}/{len(site.data)}"
        send(handler, 206, site.data[start:], cut=cut, ETag=site.etag, Content_Range=where)
    else:
        send(handler, 200, site.data, cut=cut, ETag=site.etag)


def breaks_off(handler: BaseHTTPRequestHandler, site: Site) -> None:
    as_it_should(handler, site, cut=HALF)


def without_ranges(handler: BaseHTTPRequestHandler, site: Site) -> None:
    send(handler, 200, site.data, ETag=site.etag)


def answers(status: int, **headers: object) -> Callable[[BaseHTTPRequestHandler, Site], None]:
    return lambda handler, site: send(handler, status, b"no", **headers)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path, tmp_path: Path) -> Iterator[Site]:
    """A server on loopback, as the mirror of all sets; the current folder is an empty one."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            answer = site.answers.pop(0) if len(site.answers) > 1 else (*site.answers, as_it_should)[0]
            answer(self, site)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HEELER_GET_URL", f"{site.url}/mirror/")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def md5(data: bytes) -> str:
    return "md5:" + hashlib.md5(data).hexdigest()


def pets(data: bytes = ARCHIVE, **changes: object) -> PublicSet:
    made = PublicSet(
        name="pets", about="two kinds", url="https://example.org/sets/pets.tgz", size_bytes=len(data),
        checksum=md5(data), n_photos=12, classes=CLASSES, licence="CC0", parts=("train", "val"),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> PublicSet:
    """``heeler get`` knows one set, ``pets``."""
    monkeypatch.setattr(sets, "SETS", (pets(),))
    return pets()


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def downloads() -> list[str]:
    return names(os.environ["HEELER_CACHE"] + "/downloads")


def is_whole(folder: Path = Path("pets")) -> bool:
    found = {f"pets/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found == FILES


def test_a_set_is_fetched_and_a_second_call_does_nothing(site: Site, listed: PublicSet) -> None:
    done = run_heeler("get", "pets", "--json")
    assert done.code == 0, done.err
    assert done.json["downloaded_bytes"] == len(ARCHIVE) and not done.json["already"]
    assert (done.json["folder"], done.json["labels"], done.json["n_photos"]) == ("pets", "pets-labels.csv", 12)
    assert is_whole() and names() == ["pets", "pets-labels.csv"]
    assert Path("pets-labels.csv").read_text() == "folder,class\nn01,cat\nn02,rocket\n"
    assert site.asked == [("/mirror/pets.tgz", None, None)]
    assert downloads() == ["pets.tgz.lock"]
    assert Path("pets").stat().st_mode & 0o777 == 0o755
    again = run_heeler("get", "pets")
    assert again.code == 0 and len(site.asked) == 1
    assert again.out.splitlines()[0] == "pets is there already: 12 photos in 2 classes"
    assert "  heeler train pets --labels pets-labels.csv" in again.out


def test_its_labels_are_what_train_and_check_take(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = make_photos(tmp_path / "pets", cat=4, rocket=4)
    files = {}
    for folder, name in CLASSES:
        for n in range(4):
            files[f"pets/{'val' if n == 3 else 'train'}/{folder}/{n}.jpg"] = (root / name / f"{n}.jpg").read_bytes()
    site.data = tgz(files)
    monkeypatch.setattr(sets, "SETS", (pets(site.data, n_photos=8),))
    assert run_heeler("get", "pets", "--out", "data/mine").code == 0
    done = run_heeler("check", "data/mine", "--labels", "data/mine-labels.csv", "--test", "0", "--json")
    assert done.json["classes"] == {"cat": 4, "rocket": 4}, done.err


def test_labels_that_somebody_changed_stay(site: Site) -> None:
    Path("pets-labels.csv").write_text("n01,kitten\nn02,kitten\n")
    fetch_set(pets())
    assert Path("pets-labels.csv").read_text() == "n01,kitten\nn02,kitten\n"


def test_folders_that_are_named_for_classes_need_no_labels(site: Site) -> None:
    fetched = fetch_set(pets(classes=(("n01", "n01"), ("n02", "n02"))))
    assert fetched.labels is None and names() == ["pets"]


def test_it_tells_its_stages_and_bytes(site: Site) -> None:
    told: list[Event] = []
    fetch_set(pets(), on_event=told.append)
    stages = [event for event in told if isinstance(event, Stage)]
    assert [(stage.name, stage.total) for stage in stages] == [
        ("download", len(ARCHIVE)), ("verify", 0), ("unpack", 0)
    ]  # fmt: skip
    assert [event.done for event in told if isinstance(event, Progress)][-1] == len(ARCHIVE)
    assert [event.summary for event in told if isinstance(event, Done)][1:] == [pets().checksum, "12 photos"]


def test_a_break_in_the_middle_goes_on_where_it_was(site: Site) -> None:
    site.answers = [breaks_off, as_it_should]
    told: list[Event] = []
    fetch_set(pets(), on_event=told.append)
    assert is_whole()
    assert site.asked[1:] == [("/mirror/pets.tgz", f"bytes={HALF}-", '"one"')]
    assert [event.text for event in told if isinstance(event, Note)] == [
        f"the connection ended early; trying again in 0 s, from {HALF / 1e6:.1f} MB"
    ]


def test_a_server_that_ignores_range_is_read_from_the_beginning(site: Site) -> None:
    site.answers = [breaks_off, without_ranges]
    fetch_set(pets())
    assert is_whole() and site.ranges() == [None, f"bytes={HALF}-"]


def test_a_file_that_is_replaced_between_two_attempts_is_not_mixed_with_the_old_one(site: Site) -> None:
    def older(handler: BaseHTTPRequestHandler, site: Site) -> None:
        send(handler, 200, bytes(len(ARCHIVE)), cut=HALF, ETag='"zero"')

    site.answers = [older, as_it_should]
    fetch_set(pets())
    assert is_whole() and site.asked[1][1:] == (f"bytes={HALF}-", '"zero"')


def test_a_server_that_ignores_if_range_is_found_out_by_its_etag(site: Site) -> None:
    def older(handler: BaseHTTPRequestHandler, site: Site) -> None:
        send(handler, 200, bytes(len(ARCHIVE)), cut=HALF, ETag='"zero"')

    def part_of_another(handler: BaseHTTPRequestHandler, site: Site) -> None:
        where = f"bytes {HALF}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"
        send(handler, 206, ARCHIVE[HALF:], ETag='"one"', Content_Range=where)

    site.answers = [older, part_of_another, as_it_should]
    fetch_set(pets())
    assert is_whole() and site.ranges() == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("where", ["bytes 0-9/{n}", "bytes {m}-9/*", "bytes", None])
def test_another_part_than_was_asked_for_is_not_written(site: Site, where: str | None) -> None:
    def wrong_part(handler: BaseHTTPRequestHandler, site: Site) -> None:
        text = where and where.format(n=len(ARCHIVE), m=HALF + 1)
        send(handler, 206, ARCHIVE[:10], ETag=site.etag, Content_Range=text)

    site.answers = [breaks_off, wrong_part, as_it_should]
    fetch_set(pets())
    assert is_whole()


def test_a_part_that_is_longer_than_the_file_is_thrown_away(site: Site, fresh_cache: Path) -> None:
    (fresh_cache / "downloads").mkdir(parents=True)
    (fresh_cache / "downloads" / "pets.tgz").write_bytes(bytes(len(ARCHIVE) + 1))
    fetch_set(pets())
    assert is_whole() and site.ranges() == [None]


def test_a_range_that_the_server_refuses_begins_again(site: Site) -> None:
    site.answers = [breaks_off, answers(416), as_it_should]
    fetch_set(pets())
    assert is_whole() and site.ranges()[-1] is None


def test_what_was_there_from_before_and_does_not_fit_is_fetched_again_once(site: Site, fresh_cache: Path) -> None:
    (fresh_cache / "downloads").mkdir(parents=True)
    (fresh_cache / "downloads" / "pets.tgz").write_bytes(bytes(HALF))
    fetch_set(pets())
    assert is_whole() and site.ranges() == [f"bytes={HALF}-", None]


def test_another_checksum_is_refused_and_nothing_stays(site: Site, listed: PublicSet) -> None:
    site.data = bytes(len(ARCHIVE))
    assert_clear(run_heeler("get", "pets"), 3, "pets.tgz is not the published file", listed.checksum)
    assert names() == [] and downloads() == ["pets.tgz.lock"] and len(site.asked) == 1


def test_another_length_is_refused_before_a_byte_is_read(site: Site, listed: PublicSet) -> None:
    site.data = ARCHIVE + b"more"
    assert_clear(run_heeler("get", "pets"), 3, f"has {len(ARCHIVE) + 4} bytes", f"{len(ARCHIVE)} were published")
    assert len(site.asked) == 1 and names() == []


def test_bytes_behind_the_file_are_not_read(site: Site) -> None:
    site.answers = [lambda handler, site: send(handler, 200, ARCHIVE + bytes(10**6), Content_Length=None)]
    fetch_set(pets())
    assert is_whole()


def test_a_longer_file_of_unknown_length_is_not_the_published_one(site: Site, listed: PublicSet) -> None:
    site.answers = [lambda handler, site: send(handler, 200, bytes(len(ARCHIVE) * 3), Content_Length=None)]
    assert_clear(run_heeler("get", "pets"), 3, "is not the published file")
    assert downloads() == ["pets.tgz.lock"]


def test_fewer_bytes_than_were_announced_end_in_an_error_and_what_came_stays(site: Site, listed: PublicSet) -> None:
    def never_past_half(handler: BaseHTTPRequestHandler, site: Site) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        as_it_should(handler, site, cut=max(0, HALF - int(asked[1])) if asked else HALF)

    site.answers = [never_past_half]
    assert_clear(run_heeler("get", "pets"), 1, "the connection ended early, 6 times in a row")
    assert len(site.asked) == 1 + download.MAX_ATTEMPTS
    assert downloads() == ["pets.tgz", "pets.tgz.etag", "pets.tgz.lock"]
    site.answers = []
    assert run_heeler("get", "pets").code == 0
    assert is_whole() and site.ranges()[-1] == f"bytes={HALF}-"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_asked_for_once(site: Site, listed: PublicSet, status: int) -> None:
    site.answers = [answers(status)]
    done = run_heeler("get", "pets")
    assert_clear(done, 1, f"{site.url}/mirror/pets.tgz cannot be fetched: the server answered {status}")
    assert "HEELER_GET_URL" in done.err and len(site.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_s_own_troubles_are_waited_for(site: Site, status: int) -> None:
    site.answers = [answers(status), answers(status), as_it_should]
    fetch_set(pets())
    assert is_whole() and len(site.asked) == 3


def test_waits_grow_and_the_server_s_wish_is_heard(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 1.0)
    asks = answers(503, Retry_After=20)
    site.answers = [answers(500), answers(500), answers(500), asks, answers(503, Retry_After=9999), answers(500)]
    with pytest.raises(ResourceError, match="the server answered 500 Internal Server Error, 6 times in a row"):
        fetch_set(pets())
    assert waited == [1, 2, 4, 20, 60]


def test_a_server_that_falls_silent_is_left_and_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    silent = threading.Event()

    def falls_silent(handler: BaseHTTPRequestHandler, site: Site) -> None:
        as_it_should(handler, site, cut=HALF)
        handler.wfile.flush()
        silent.wait(5)

    site.answers = [falls_silent, as_it_should]
    fetch_set(pets())
    silent.set()
    assert is_whole() and len(site.asked) == 2


def test_a_server_that_is_not_there(site: Site, listed: PublicSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEELER_GET_URL", "http://127.0.0.1:9/")
    assert_clear(run_heeler("get", "pets"), 1, "http://127.0.0.1:9/pets.tgz cannot be fetched: the connection failed")


def test_redirects_are_followed(site: Site) -> None:
    site.answers = [answers(302, Location="/elsewhere/pets.tgz"), as_it_should]
    fetch_set(pets())
    assert is_whole() and [path for path, _, _ in site.asked] == ["/mirror/pets.tgz", "/elsewhere/pets.tgz"]


def test_redirects_in_a_circle_end(site: Site, listed: PublicSet) -> None:
    site.answers = [answers(302, Location="/mirror/pets.tgz")]
    assert_clear(run_heeler("get", "pets"), 1, "it redirects in a circle")
    assert len(site.asked) < 20


@pytest.mark.parametrize("place", ["http://example.org/pets.tgz", "file:///etc/passwd", "ftp://127.0.0.1/pets.tgz"])
def test_a_redirect_to_what_is_not_https_is_refused(site: Site, listed: PublicSet, place: str) -> None:
    site.answers = [answers(302, Location=place)]
    # urllib itself refuses what is no web address at all.
    assert_clear(run_heeler("get", "pets"), 1, "redirects" if place.startswith("file") else place)
    assert names() == [] and len(site.asked) == 1


@pytest.mark.parametrize(
    "mirror", ["http://example.org/sets", "ftp://example.org", "/srv/sets", "file:///srv", "https://"]
)
def test_a_mirror_that_is_not_https_is_wrong_usage(
    site: Site, listed: PublicSet, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("HEELER_GET_URL", mirror)
    assert_clear(run_heeler("get", "pets"), 2, "HEELER_GET_URL", mirror, "not https")


def test_what_counts_as_safe() -> None:
    for url in ("https://a.org/x", "http://localhost/x", "http://127.0.0.5:80/x", "http://[::1]:80/x"):
        assert download.is_safe(url), url
    for url in ("http://a.org/x", "http://localhost.a.org/x", "http://10.0.0.1/x", "https:///x", "http://[::1/x", "x"):
        assert not download.is_safe(url), url


def test_the_environment_s_proxy_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("HEELER_GET_URL", "http://localhost:9/sets")
    fetch_set(pets())
    assert [path for path, _, _ in site.asked] == ["http://localhost:9/sets/pets.tgz"]


def test_an_interrupt_keeps_what_came_and_the_next_call_goes_on(site: Site) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Note):
            raise KeyboardInterrupt

    site.answers = [breaks_off, as_it_should]
    with pytest.raises(Interrupted, match=r"stopped with 0\.2 of 0\.5 MB") as caught:
        fetch_set(pets(), on_event=stop)
    assert caught.value.exit_code == 130 and caught.value.hint == "the same command goes on from there"
    assert fetch_set(pets()).downloaded_bytes == len(ARCHIVE) - HALF
    assert is_whole() and site.ranges() == [None, f"bytes={HALF}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_command_that_is_stopped_goes_on_from_there(site: Site, signum: int, code: int) -> None:
    begun, over = threading.Event(), threading.Event()

    def waits(handler: BaseHTTPRequestHandler, site: Site) -> None:
        as_it_should(handler, site, cut=HALF)
        handler.wfile.flush()
        begun.set()
        over.wait(20)

    site.answers = [waits, as_it_should]
    code_of_child = (
        "import signal, sys\nfrom heeler.cli import main\nfrom heeler.data import sets\n"
        "from heeler.data.sets import PublicSet\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sets.SETS = ({pets()!r},)\nsys.exit(main(['get', 'pets']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code_of_child], stderr=subprocess.PIPE, text=True)
    assert begun.wait(20)
    part = Path(os.environ["HEELER_CACHE"]) / "downloads" / "pets.tgz"
    while not part.is_file() or part.stat().st_size == 0:
        over.wait(0.01)
    child.send_signal(signum)
    _, err = child.communicate(timeout=20)
    over.set()
    assert child.returncode == code, err
    if code > 0:
        assert err.splitlines()[-1] == "  hint: the same command goes on from there"
    assert names() == []
    fetched = fetch_set(pets())
    assert is_whole() and 0 < fetched.downloaded_bytes < len(ARCHIVE)


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, size
        if size:
            file.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        else:
            file.addfile(info, io.BytesIO())
    return data.getvalue()


def zip_of(name: str, content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return data.getvalue()


HOSTILE = {
    "an absolute path": (entry("/tmp/evil.txt"), "is an absolute name"),
    "a climbing path": (entry("pets/../../evil.txt"), "climbs out of its folder"),
    "a link out": (entry("pets/train", tarfile.SYMTYPE, "../../.."), "is a link that leaves its folder"),
    "an absolute link": (entry("pets/train", tarfile.SYMTYPE, "/etc"), "is a link that leaves its folder"),
    "a hard link out": (entry("pets/passwd", tarfile.LNKTYPE, "/etc/passwd"), "is an absolute name"),
    "a hard link up": (entry("pets/passwd", tarfile.LNKTYPE, "../../../etc/passwd"), "climbs out of its folder"),
    "a device": (entry("pets/null", tarfile.CHRTYPE), "is a pipe, socket or device"),
    "a pipe": (entry("pets/pipe", tarfile.FIFOTYPE), "is a pipe, socket or device"),
    "ten gigabytes": (entry("pets/bomb.jpg", size=10 * 10**9), "unpacks to more than 0.01 GB"),
    "a zip bomb": (zip_of("pets/bomb.jpg", bytes(30_000_000)), "unpacks to more than 0.01"),
    "no archive": (b"<html>sorry</html>" * 9, "is damaged or not whole"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_whole(site: Site, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    site.data, words = HOSTILE[what]
    monkeypatch.setattr(sets, "SETS", (pets(site.data),))
    assert_clear(run_heeler("get", "pets"), 3, "pets.tgz", words)
    assert names() == [] and downloads() == ["pets.tgz.lock"]
    assert names("..") == ["fresh-cache", "here"]
    assert not Path("/tmp/evil.txt").exists()


def test_an_archive_without_a_folder_around_it(site: Site) -> None:
    site.data = tgz({name.removeprefix("pets/"): data for name, data in FILES.items()})
    fetch_set(pets(site.data), Path("data/elsewhere"))
    assert is_whole(Path("data/elsewhere")) and names("data") == ["elsewhere", "elsewhere-labels.csv"]
    assert Path("data/elsewhere").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled_and_another_is_not_touched(site: Site, listed: PublicSet) -> None:
    Path("pets").mkdir()
    Path("pets/mine.txt").write_text("mine")
    assert_clear(run_heeler("get", "pets"), 2, "pets is there, with 0 of the 12 photos of pets")
    assert names("pets") == ["mine.txt"] and site.asked == []
    Path("pets/mine.txt").rename("pets.txt")
    assert_clear(run_heeler("get", "pets", "--out", "pets.txt"), 2, "pets.txt is there and is no folder")
    assert run_heeler("get", "pets").code == 0
    next(Path("pets").rglob("2.jpg")).unlink()
    assert_clear(run_heeler("get", "pets"), 2, "with 11 of the 12 photos")


def test_what_a_killed_call_had_unpacked_is_cleared_away(site: Site) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    leftover, of_a_living = Path(f".pets-{ended.pid}-partial-x1"), Path(f".pets-{os.getpid()}-partial-x2")
    (leftover / "pets").mkdir(parents=True)
    of_a_living.mkdir()
    fetch_set(pets())
    assert not leftover.exists() and of_a_living.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no lock there")
def test_two_at_once_do_not_write_into_one_file(site: Site, fresh_cache: Path) -> None:
    refused = pytest.raises(ResourceError, match=r"another heeler is fetching pets\.tgz")
    with fetch._alone(fresh_cache / "downloads" / "pets.tgz"), refused:
        fetch_set(pets())
    assert fetch_set(pets()).n_photos == 12


def test_a_disk_that_is_too_small_is_told_before_a_byte_comes(
    site: Site, listed: PublicSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 2 * len(ARCHIVE)))
    done = run_heeler("get", "pets")
    assert_clear(done, 1, "GB are needed", "GB are free")
    assert "HEELER_CACHE" in done.err and site.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 3 * len(ARCHIVE)))
    assert run_heeler("get", "pets").code == 0


def test_a_disk_that_fills_up_keeps_what_came(site: Site, mount: Callable[..., Path], listed: PublicSet) -> None:
    small = mount("-t", "tmpfs", "-o", "size=300k", "tmpfs")
    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
        patch.setenv("HEELER_CACHE", str(small))
        assert_clear(run_heeler("get", "pets"), 1, "the disk is full")
    assert names() == []


@pytest.mark.parametrize("name", ["imagewoof", "imagewoof2_320", "IMAGEWOOF2-32"])
def test_an_unknown_name_gets_those_that_are_like_it(name: str) -> None:
    done = run_heeler("get", name)
    assert_clear(done, 2, f"there is no public set {name!r}")
    assert "did you mean" in done.err and "imagewoof2-320" in done.err
    with pytest.raises(UsageError) as caught:
        find_set("xyz")
    assert caught.value.hint == "heeler get --list names all"


def test_no_name_is_wrong_usage() -> None:
    assert_clear(run_heeler("get"), 2, "NAME")


def test_the_list_has_size_photos_classes_and_licence() -> None:
    done = run_heeler("get", "--list")
    lines = done.out.splitlines()
    assert done.code == 0 and lines[0].split() == ["name", "download", "photos", "classes", "what", "licence"]
    assert re.search(r"^imagewoof2-320 +328 MB +12,954 +10 +ten dog", done.out, re.MULTILINE)
    listed = run_heeler("get", "--list", "--json").json["sets"]
    assert [each["name"] for each in listed] == [each.name for each in SETS]
    assert set(listed[0]) == {"name", "about", "url", "size_bytes", "checksum", "n_photos", "classes", "licence"}


def test_the_sets_are_complete() -> None:
    assert len({each.name for each in SETS}) == len({each.archive for each in SETS}) == len(SETS)
    for each in SETS:
        assert each.url.startswith("https://") and each.archive.endswith((".tgz", ".zip"))
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", each.checksum)
        assert len({folder for folder, _ in each.classes}) == len({name for _, name in each.classes}) >= 2
        assert each.size_bytes > 10**7 and each.n_photos > 1000 and each.licence and each.about
        assert find_set(each.name.upper()) == each
