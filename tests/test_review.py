"""The review: who may ask, what a click leaves on disk, and what survives a kill."""

from __future__ import annotations

import http.client
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from conftest import assert_clear, run_heeler, scene, snapshot
from heeler.deciding import Decisions
from heeler.errors import DataError, HeelerError, UnreadableError, UsageError
from heeler.files import write_json
from heeler.fixes import Fix, read_fixes, write_fixes
from heeler.review import _split_problem, clean_copy, open_review, summary
from heeler.serve_review import MAX_BODY_BYTES
from heeler.thumbs import LARGE_PX, SMALL_PX, Thumbs
from images import HOSTILE_NAMES, cat, encode, stored_turned
from reviewing import Page, make_run, page_of

FIXES = [
    Fix("cat/0.jpg", "label suspect", "cat", "coffee"),
    Fix("cat/1.jpg", "near duplicate of coffee/2.jpg (coffee)", "cat"),
    Fix("coffee/0.jpg", "blurred", "coffee"),
    Fix("cat/0.jpg", "near duplicate of cat/2.jpg", "cat"),
    Fix("cat/gone.jpg", "dark", "cat"),
]


@pytest.fixture
def run(tmp_path: Path, photo_folder: Callable[..., Path]) -> Path:
    return make_run(tmp_path / "run", photo_folder(cat=3, coffee=3, rocket=3), FIXES)


@pytest.fixture
def page(run: Path) -> Iterator[Page]:
    with page_of(run) as page:
        yield page


def actions(run: Path) -> list[tuple[str, str, str]]:
    return [(fix.path, fix.action, fix.suggested) for fix in read_fixes(run / "fixes.csv")]


# What there is to decide


def test_photos_classes_kinds_and_twins_are_found(run: Path) -> None:
    opened = open_review(run)
    assert opened.name == "photos" and opened.classes == ("cat", "coffee", "rocket")
    assert [opened.decisions.suspect(n).path for n in range(4)] == [
        "cat/0.jpg", "cat/1.jpg", "coffee/0.jpg", "cat/gone.jpg"
    ]  # fmt: skip
    assert opened.decisions.suspect(0).problems == ("label suspect", "near duplicate of cat/2.jpg")
    assert opened.kinds == (("label suspect", "near duplicate"), ("near duplicate",), ("blurred",), ("dark",))
    assert [twin and twin[:2] for twin in opened.twins] == [
        ("cat/2.jpg", "cat"),
        ("coffee/2.jpg", "coffee"),
        None,
        None,
    ]
    assert [file and file.name for file in opened.files] == ["0.jpg", "1.jpg", "0.jpg", None]


def test_photos_in_an_archive_are_found_again(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2, coffee=2)
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for photo in sorted(source.rglob("*.jpg")):
            file.write(photo, f"wrapped/{photo.relative_to(source)}")
    opened = open_review(make_run(tmp_path / "run", archive, FIXES[:1]))
    assert opened.files[0] is not None and opened.files[0].read_bytes() == (source / "cat/0.jpg").read_bytes()


def test_photos_of_a_table_are_found_with_its_classes(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2)
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\nphotos/cat/0.jpg,a\n{source / 'cat/1.jpg'},b\n")
    opened = open_review(make_run(tmp_path / "run", table, [Fix("photos/cat/0.jpg", "dark", "a")]))
    assert opened.files == (source / "cat/0.jpg",) and opened.classes == ("a", "b")


def test_a_table_of_problems_alone_takes_the_photos_with_it(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.csv"
    (run / "fixes.csv").rename(alone)
    with pytest.raises(UsageError, match="does not say where the photos are"):
        open_review(alone)
    assert open_review(alone, tmp_path / "photos").files[0] == tmp_path / "photos/cat/0.jpg"


def test_photos_that_have_moved_are_asked_for(run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="no longer in") as caught:
        open_review(run)
    assert "--photos" in caught.value.hint
    assert open_review(run, tmp_path / "moved").files[2] == tmp_path / "moved/coffee/0.jpg"
    (tmp_path / "other/dog").mkdir(parents=True)
    scene("cat", 1).save(tmp_path / "other/dog/1.jpg")
    with pytest.raises(DataError, match="has none of the"):
        open_review(run, tmp_path / "other")


def test_a_catalogue_cannot_open_what_the_source_does_not(tmp_path: Path, photo_folder: Callable[..., Path]) -> None:
    source = photo_folder(cat=2, coffee=2)
    secret = tmp_path / "secret.jpg"
    cat().save(secret)
    fixes = [Fix("../secret.jpg", "dark", "cat"), Fix(str(secret), "dark", "cat"), FIXES[0]]
    run = make_run(tmp_path / "run", source, fixes)
    text = (run / "catalogue.csv").read_text()
    (run / "catalogue.csv").write_text(text + f"../secret.jpg,cat,,,,,,,ok,\n{secret},cat,,,,,,,ok,\n")
    assert open_review(run).files[:2] == (None, None)


@pytest.mark.parametrize(
    ("problem", "kind", "twin"),
    [
        ("label: a at 97 %, near duplicate of b/1.jpg at 2 %", "label", ""),
        ("near duplicate: looks like b/1.jpg", "near duplicate", "b/1.jpg"),
        ("across parts: looks like b/1.jpg (valid, dog) (test photo)", "across parts", "b/1.jpg"),
        ("two classes: same file as b/a (1) of 2.jpg (dog)", "two classes", "b/a (1) of 2.jpg"),
        ("near duplicate of b/1.jpg", "near duplicate", "b/1.jpg"),
        ("blurred: sharper ones are 12 times as sharp", "blurred", ""),
        ("dark (test photo)", "dark", ""),
        ("", "", ""),
    ],
)
def test_a_problem_has_a_kind_and_may_name_another_photo(problem: str, kind: str, twin: str) -> None:
    assert _split_problem(problem, {"b/1.jpg", "b/a (1) of 2.jpg"}) == (kind, twin)


# Decisions


def test_each_decision_is_on_disk_as_the_table_is_always_written(page: Page, run: Path, tmp_path: Path) -> None:
    assert page.decide(2, "drop").status == 200
    assert page.decide(0, "relabel").status == 200
    assert page.decide(1, "relabel", 2).json["suspect"] | {"kinds": 0, "twin": 0} == {
        "path": "cat/1.jpg", "problems": [FIXES[1].problem], "given": "cat", "suggested": "rocket",
        "action": "relabel", "kinds": 0, "twin": 0,
    }  # fmt: skip
    assert actions(run) == [
        ("cat/0.jpg", "relabel", "coffee"), ("cat/1.jpg", "relabel", "rocket"), ("coffee/0.jpg", "drop", ""),
        ("cat/0.jpg", "", ""), ("cat/gone.jpg", "", ""),
    ]  # fmt: skip
    write_fixes(tmp_path / "again.csv", read_fixes(run / "fixes.csv"))
    assert (tmp_path / "again.csv").read_bytes() == (run / "fixes.csv").read_bytes()


def test_undo_goes_back_step_by_step_to_the_beginning(page: Page, run: Path) -> None:
    before = (run / "fixes.csv").read_bytes()
    steps = [(0, "relabel", 2), (0, "keep", None), (1, "drop", None), (0, "", None), (2, "keep", None)]
    tables = []
    for step in steps:
        tables.append((run / "fixes.csv").read_bytes())
        assert page.decide(*step).json["n_undo"] == len(tables)
    for photo, table in zip([2, 0, 1, 0, 0], reversed(tables), strict=True):
        assert page.undo().json["photo"] == photo
        assert (run / "fixes.csv").read_bytes() == table
    assert page.undo().json == {"photo": None, "suspect": None, "n_undo": 0}
    assert (run / "fixes.csv").read_bytes() == before


def test_the_suggestion_returns_when_another_class_is_given_up(page: Page) -> None:
    assert page.decide(0, "relabel", 2).json["suspect"]["suggested"] == "rocket"
    assert page.decide(0, "keep").json["suspect"]["suggested"] == "coffee"


def test_a_page_that_is_loaded_again_knows_what_was_decided(page: Page) -> None:
    page.decide(1, "drop")
    state = page.ask("state").json
    assert [suspect["action"] for suspect in state["suspects"]] == ["", "drop", "", ""] and state["n_undo"] == 1


def test_a_table_that_another_program_changed_is_not_overwritten(page: Page, run: Path) -> None:
    page.decide(0, "keep")
    write_fixes(run / "fixes.csv", FIXES[:1])
    changed = (run / "fixes.csv").read_bytes()
    for reply in (page.decide(1, "drop"), page.undo()):
        assert reply.status == 409 and b"another program" in reply.body
    assert (run / "fixes.csv").read_bytes() == changed
    assert page.ask("state").json["suspects"][1]["action"] == ""


def test_a_decision_that_cannot_be_saved_is_not_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Decisions(run / "fixes.csv")
    before = (run / "fixes.csv").read_bytes()

    def fails(*_: object) -> None:
        raise HeelerError("the disk is full")

    monkeypatch.setattr("heeler.deciding.write_bytes", fails)
    with pytest.raises(HeelerError, match="full"):
        desk.decide(0, "drop")
    assert desk.suspect(0).action == "" and desk.n_undo == 0
    assert (run / "fixes.csv").read_bytes() == before


def test_clicks_at_once_are_all_kept(page: Page, run: Path) -> None:
    threads = [threading.Thread(target=page.decide, args=(n, "drop")) for n in (0, 1, 2, 3) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [action for _, action, _ in actions(run)] == ["drop", "drop", "drop", "", "drop"]
    assert page.ask("state").json["n_undo"] == 20


def test_a_table_without_problems_is_nothing_to_decide(run: Path) -> None:
    write_fixes(run / "fixes.csv", [])
    with pytest.raises(DataError, match="lists no problem"):
        open_review(run)


# Who may ask


def test_without_the_token_there_is_nothing(page: Page) -> None:
    for path in (
        "/",
        "/state",
        "/wrong/state",
        page.root[:-2] + "/state",
        "/x" + page.root + "state",
        "http://x/",
        "*",
    ):
        reply = Page(page.opened, page.host, page.port, "").ask(path)
        assert (reply.status, reply.body) == (404, b"open the address that heeler fix printed\n"), path
    assert len(page.root) > 30
    with page_of(page.opened.decisions.file) as other:
        assert other.root != page.root


@pytest.mark.parametrize("host", [None, "", "evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}"])
def test_another_name_for_this_machine_opens_nothing(page: Page, host: str | None) -> None:
    reply = page.ask("state", Host=host and host.format(port=page.port))
    assert reply.status in (400, 403) and b"cat" not in reply.body


def test_localhost_is_this_machine_too(page: Page) -> None:
    name = f"localhost:{page.port}"
    assert page.ask("state", Host=name).status == 200
    assert page.ask("undo", "POST", b"{}", Host=name, Origin=f"http://{name}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": None},
        {"Content_Length": None},
        {"Content_Length": "-1"},
        {"Content_Length": "+5"},
        {"Content_Length": str(MAX_BODY_BYTES + 1)},
        {"Content_Length": "9" * 5000},
        {"Transfer_Encoding": "chunked"},
    ],
)
def test_another_page_and_a_broken_request_decide_nothing(
    page: Page, run: Path, headers: dict[str, str | None]
) -> None:
    sent = {name: value and value.replace("{port}", str(page.port)) for name, value in headers.items()}
    body = json.dumps({"photo": 0, "action": "drop"}).encode()
    reply = page.ask("decide", "POST", body, **({"Content_Length": str(len(body))} | sent))
    assert reply.status in (403, 411, 413, 415) and reply.headers["Connection"] == "close"
    assert read_fixes(run / "fixes.csv") == FIXES


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_not_even_look(page: Page, site: str) -> None:
    for path in ("", "state", "photo/0/small"):
        assert page.ask(path, Sec_Fetch_Site=site).status == 403
        assert page.ask(path, Sec_Fetch_Site="same-origin").status == 200
    assert page.ask("", Sec_Fetch_Site="none").status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "NONSENSE"])
def test_other_methods_are_refused(page: Page, method: str) -> None:
    assert page.ask("state", method).status == 405


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"nonsense", b"\xff", b"[" * 1000, b'{"photo": 0}', b'{"photo": 0, "action": "burn"}',
        b'{"photo": 4, "action": "drop"}', b'{"photo": -1, "action": "drop"}', b'{"photo": true, "action": "drop"}',
        b'{"photo": "0", "action": "drop"}', b'{"photo": 0, "action": ["drop"]}', b'{"photo": 0, "action": {}}',
        b'{"photo": 0, "action": "relabel", "class": 3}', b'{"photo": 0, "action": "relabel", "class": "dog"}',
        b'{"photo": 0, "action": "relabel", "class": 0}', b'{"photo": 2, "action": "relabel"}',
    ],
)  # fmt: skip
def test_nonsense_decides_nothing(page: Page, run: Path, body: bytes) -> None:
    assert page.ask("decide", "POST", body).status == 400
    assert read_fixes(run / "fixes.csv") == FIXES


@pytest.mark.parametrize(
    "path",
    ["photo/8/small", "photo/-1/small", "photo/x/small", "photo/0/huge", "photo/../small", "photo/0", "cat/0.jpg",
     "../state", "photo/%30/small", "photo/\u0660/small", "static/../../etc/passwd", "state/", "decide"],
)  # fmt: skip
def test_photos_are_asked_for_by_number_alone(page: Page, path: str) -> None:
    assert page.ask(path.encode().decode("latin-1") if path.isascii() else "photo/9999999999/small").status == 404


def test_a_photo_that_is_gone_or_broken_is_a_plain_404(page: Page, tmp_path: Path) -> None:
    (tmp_path / "photos/coffee/0.jpg").write_text("no photo")
    assert page.ask("photo/3/small").status == page.ask("photo/2/small").status == 404
    assert page.ask("photo/0/small").status == 200


def test_nothing_is_remembered_framed_or_loaded_from_elsewhere(page: Page) -> None:
    for path in ("", "state", "photo/0/small", "nothing"):
        headers = page.ask(path).headers
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    html = page.ask("").body.decode()
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", page.ask("").headers["Content-Security-Policy"])
    assert nonce and nonce[1] not in html  # a new one each time
    assert html.count("<script") == 1 == html.count("<style") and "http" not in html.replace("http-equiv", "")


def test_the_server_listens_on_loopback_alone(page: Page) -> None:
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not str(address).startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((address, page.port), timeout=2)


def test_a_broken_request_line_ends_its_connection_and_no_more(page: Page) -> None:
    for nonsense in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x00\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G" * 70_000,
    ):
        with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert page.ask("state").status == 200


def test_one_connection_serves_many_requests(page: Page) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
    for _ in range(3):
        connection.request("GET", page.root + "state", headers={"Host": page.host})
        assert len(connection.getresponse().read()) > 100
    connection.close()


def test_names_come_as_data_that_no_page_takes_for_markup(tmp_path: Path) -> None:
    source = tmp_path / 'ph"><script>alert(1)'
    names = [name for name in HOSTILE_NAMES if "/" not in name]
    for name in names:
        (source / name).mkdir(parents=True)
        scene("cat", 1).save(source / name / f"{name}.jpg".replace("\n", " "))
    fixes = [Fix(f"{name}/{name}.jpg".replace("\n", " "), name, name, names[0]) for name in names if "\n" not in name]
    with page_of(make_run(tmp_path / "run", source, fixes)) as page:
        html, state = page.ask("").body.decode(), page.ask("state")
        assert "<script>alert" not in html and "&lt;script&gt;" in html
        assert state.headers["Content-Type"] == "application/json"
        assert [suspect["given"] for suspect in state.json["suspects"]] == [fix.given for fix in fixes]
        last = len(fixes) - 1
        assert page.decide(last, "relabel").json["suspect"]["action"] == "relabel"
        assert read_fixes(tmp_path / "run/fixes.csv")[last].path == fixes[last].path


# Pictures


def test_a_picture_is_small_upright_and_without_metadata(tmp_path: Path) -> None:
    stored, exif = stored_turned(cat(), 6)
    exif[0x010E] = "where I live"
    (tmp_path / "turned.jpg").write_bytes(encode(stored, exif=exif.tobytes(), comment=b"secret"))
    thumbs = Thumbs([tmp_path / "turned.jpg", None])
    for side_px, longest in ((SMALL_PX, SMALL_PX), (LARGE_PX, 451)):
        data = thumbs.jpeg(0, side_px)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG" and image.size == (longest, round(longest * 300 / 451))
            assert not image.getexif() and "comment" not in image.info
        assert b"live" not in data and b"secret" not in data
    assert thumbs.jpeg(0, SMALL_PX) is thumbs.jpeg(0, SMALL_PX)
    with pytest.raises(UnreadableError):
        thumbs.jpeg(1, SMALL_PX)


def test_pictures_are_kept_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        scene("cat", number).save(tmp_path / f"{number}.jpg")
    thumbs = Thumbs([tmp_path / f"{number}.jpg" for number in range(6)])
    first = thumbs.jpeg(0, SMALL_PX)
    monkeypatch.setattr("heeler.thumbs.MAX_CACHED_BYTES", 3 * len(first))
    for number in range(6):
        thumbs.jpeg(number, SMALL_PX)
    assert sum(map(len, thumbs._made.values())) == thumbs._n_bytes <= 3 * len(first)
    assert (0, SMALL_PX) not in thumbs._made and (5, SMALL_PX) in thumbs._made


# The command


class Fixing:
    """``heeler fix`` in a process of its own."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, "-m", "heeler", "fix", *map(str, args), "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        self.line = self.process.stderr.readline()
        found = re.search(r"http://(127\.0\.0\.1:(\d+))(/[\w-]+/)", self.line)
        assert found, self.line + self.process.stderr.read()
        self.page = Page(None, found[1], int(found[2]), found[3])  # type: ignore[arg-type]

    def end(self, signum: int) -> tuple[int, str, str]:
        self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_what_was_decided_before_a_kill_is_there_afterwards(run: Path) -> None:
    fixing = Fixing(run)
    for photo, action in ((0, "relabel"), (1, "keep"), (2, "drop")):
        assert fixing.page.decide(photo, action).status == 200
    fixing.end(signal.SIGKILL)
    decided = actions(run)
    assert decided[:3] == [("cat/0.jpg", "relabel", "coffee"), ("cat/1.jpg", "keep", ""), ("coffee/0.jpg", "drop", "")]
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
    with page_of(run) as page:
        assert [suspect["action"] for suspect in page.ask("state").json["suspects"]] == ["relabel", "keep", "drop", ""]


def test_ctrl_c_ends_it_with_the_counts_and_the_next_command(run: Path, tmp_path: Path) -> None:
    photos = snapshot(tmp_path / "photos")
    fixing = Fixing(run)
    assert fixing.line.startswith("4 photos to check: http://127.0.0.1:")
    fixing.page.decide(0, "relabel")
    fixing.page.decide(2, "drop")
    fixing.page.ask("photo/0/large")
    code, out, _ = fixing.end(signal.SIGINT)
    assert code == 0
    assert out.splitlines() == [
        f"0 kept, 1 relabelled, 1 dropped, 2 undecided: {run / 'fixes.csv'}", "next:",
        f"  heeler train {(tmp_path / 'photos').resolve()} --fixes {run / 'fixes.csv'}",
    ]  # fmt: skip
    assert snapshot(tmp_path / "photos") == photos


def test_the_next_command_reads_the_photos_as_the_run_did(run: Path) -> None:
    begun = json.loads((run / "run.json").read_bytes())
    asked = {
        "labels": "my labels.csv",
        "nested": True,
        "group_by": r"(\d+)_",
        "test": 0.2,
        "valid": 0.2,
        "minutes": 5.0,
    }
    write_json(run / "run.json", {**begun, "asked": asked})
    words = shlex.split(summary(open_review(run)).next)
    assert words == [
        "heeler", "train", begun["source"], "--labels", "my labels.csv", "--nested", "--group-by", r"(\d+)_",
        "--valid", "0.2", "--fixes", str(run / "fixes.csv"),
    ]  # fmt: skip
    write_json(run / "run.json", {**begun, "asked": None})
    assert len(shlex.split(summary(open_review(run)).next)) == 5


def test_json_is_printed_at_the_end_alone(run: Path) -> None:
    code, out, _ = Fixing(run, "--json").end(signal.SIGTERM)
    assert code == 143
    found = json.loads(out)
    assert {key: found[key] for key in found if key.startswith("n_")} == {
        "n_keep": 0, "n_relabel": 0, "n_drop": 0, "n_undecided": 4
    }  # fmt: skip


def test_what_cannot_be_reviewed_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    assert_clear(run_heeler("fix", tmp_path / "none"), 2, "none does not exist")
    assert_clear(run_heeler("fix", tmp_path / "photos"), 2, "fixes.csv")
    (run / "run.json").unlink()
    assert_clear(run_heeler("fix", run, "--no-browser"), 2, "where the photos are")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_heeler("fix", run, "--photos", tmp_path / "photos", "--port", port)
        assert_clear(done, 2, f"port {port} is not free")


def test_a_table_alone_wants_the_names_that_the_check_had(photo_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, table = photo_folder(cat=3, coffee=3), tmp_path / "fixes.csv"
    write_fixes(table, [Fix("cat/0.jpg", "label", "Tom", "Mocha"), Fix("coffee/0.jpg", "dark", "Mocha")])
    (tmp_path / "names.csv").write_text("folder,class\ncat,Tom\ncoffee,Mocha\n")
    with pytest.raises(DataError, match="'Tom', and here it is 'cat'") as caught:
        open_review(table, source)
    assert "--labels" in caught.value.hint
    with pytest.raises(UsageError, match="knows its classes"):
        open_review(make_run(tmp_path / "run", source, FIXES[:1]), nested=True)
    opened = open_review(table, source, labels=tmp_path / "names.csv")
    assert opened.classes == ("Mocha", "Tom")
    words = shlex.split(summary(opened).next)
    assert words == ["heeler", "train", str(source), "--labels", str(tmp_path / "names.csv"), "--fixes", str(table)]
    copy = clean_copy(opened, tmp_path / "clean")
    assert {path.name for path in (tmp_path / "clean").iterdir()} == {"Mocha", "Tom"} and copy.n_relabelled == 0


def test_columns_of_the_users_own_stay(run: Path) -> None:
    lines = (run / "fixes.csv").read_text().splitlines()
    mine = [lines[0] + ",note", *(f"{line},mine {n}" for n, line in enumerate(lines[1:-1])), lines[-1]]
    (run / "fixes.csv").write_text("\n".join(mine) + "\n")
    desk = open_review(run).decisions
    desk.decide(0, "drop")
    desk.decide(len(desk) - 1, "keep")
    after = (run / "fixes.csv").read_text().splitlines()
    assert after[0] == mine[0] and [line.rpartition(",")[2] for line in after[1:]] == [
        *(f"mine {n}" for n in range(len(lines) - 2)), ""
    ]  # fmt: skip
    while desk.undo() is not None:
        pass
    assert (run / "fixes.csv").read_text().splitlines()[1:-1] == mine[1:-1]
