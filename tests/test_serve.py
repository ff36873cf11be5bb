"""A real server on loopback: predict's answers, limits, crashes, a full queue, and an end that loses nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import heeler
from conftest import TrainedRun, assert_clear, run_heeler, scene
from heeler.errors import UnreadableError, UsageError
from heeler.limits import ServeLimits
from heeler.ship.access import Access, access_for, token_from
from heeler.ship.page import page_of
from heeler.ship.sandbox import Decoder, Nursery
from images import astronaut, cat, claiming_jpeg, encode, stored_turned
from server import MULTIPART, Reply, answer_on, ask, classify, get, multipart, photo, port_of, request

pytest.importorskip("uvicorn")
from heeler.serving import Serving, running
from heeler.ship.serve import Service

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN = "a-token-of-these-tests"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def serving(trained_run: TrainedRun) -> Iterator[Serving]:
    with running(trained_run.model) as found:
        yield found


@pytest.fixture(scope="module")
def port(serving: Serving) -> int:
    return port_of(serving.address)


@pytest.fixture(scope="module")
def narrow(trained_run: TrainedRun) -> Iterator[Serving]:
    """A server with room for one request, for whoever has its token."""
    limits = ServeLimits(queue=1, connections=8, held_bytes=1_000_000, body_bytes=900_000)
    with running(trained_run.model, Access(token=TOKEN), limits=limits) as found:
        yield found


def until(holds: Callable[[], Any]) -> Any:
    """Wait for a condition."""
    end_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < end_s, "it did not come to be"
        time.sleep(0.01)
    return found


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that stand still, so that what they were given stays at work."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def figure(port: int, name: str, *lines: str) -> float:
    """One of the figures at /metrics."""
    text = get(port, "/metrics", *lines).body.decode()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def odd_photos() -> list[bytes]:
    turned = [stored_turned(astronaut(), k) for k in range(1, 9)]
    found = [encode(image, exif=exif) for image, exif in turned]
    found += [encode(cat().convert("L")), encode(cat().convert("CMYK")), encode(cat().quantize(16), "PNG")]
    return [*found, encode(cat(), "WEBP"), encode(cat().resize((1, 90)), "PNG"), encode(cat().resize((3000, 2000)))]


def test_it_answers_as_predict_does(trained_run: TrainedRun, port: int) -> None:
    model, photos = heeler.load(trained_run.model), odd_photos()
    rows = model.predict(photos, top=4)
    replies = [classify(port, data, path="/predict?top=4").json for data in photos]
    names = [f"{k}.jpg" for k in range(len(photos))]
    body = multipart(*zip(names, photos, strict=True))
    many = ask(port, request("POST", "/predict/batch?top=4", body, kind=MULTIPART)).json["rows"]
    assert [row["name"] for row in many] == names
    for row, one, of_many in zip(rows, replies, many, strict=True):
        for answer in (one, of_many):
            assert answer["status"] in ("ok", "unsure") and len(answer["ranked"]) == 4
            assert answer["label"] == row.label == answer["ranked"][0]["label"]
            assert answer["probability"] == answer["ranked"][0]["probability"]
            shares = {each["label"]: each["probability"] for each in answer["ranked"]}
            assert shares == pytest.approx(dict(row.ranked), abs=1e-4)


def test_many_at_once_are_not_mixed_up(port: int) -> None:
    photos = [encode(scene(label, k)) for k in range(4) for label in ("cat", "coffee", "person", "rocket")]
    alone = [classify(port, data).json["ranked"] for data in photos]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            together = list(pool.map(lambda data: classify(port, data).json["ranked"], photos))
            for one, other in zip(alone, together, strict=True):
                assert [each["label"] for each in one] == [each["label"] for each in other]
                assert [each["probability"] for each in one] == pytest.approx(
                    [each["probability"] for each in other], abs=1e-4
                )
    assert figure(port, "heeler_batch_photos_sum") > figure(port, "heeler_batch_photos_count")


def test_a_batch_tells_of_each_photo(port: int) -> None:
    body = multipart(("a.jpg", photo()), ("../b.txt", b"text"), ("a.jpg", claiming_jpeg()), ("ü 'x'.png", photo()))
    rows = ask(port, request("POST", "/predict/batch", body, kind=MULTIPART)).json["rows"]
    assert [row["name"] for row in rows] == ["a.jpg", "../b.txt", "a.jpg", "ü 'x'.png"]
    assert [row["status"] == "unreadable" for row in rows] == [False, True, True, False]
    assert "not an image" in rows[1]["reason"] and "20,000 x 20,000" in rows[2]["reason"]
    assert rows[0]["label"] == rows[3]["label"] and rows[0]["reason"] == ""


def test_the_overlay_is_a_picture_of_the_photo(serving: Serving, port: int) -> None:
    reply = ask(port, request("POST", "/explain", photo(), kind="image/jpeg"))
    assert reply.status == 200 and reply.headers["content-type"] == "image/png"
    side = serving.bundle.spec.image_px
    overlay = np.asarray(Image.open(io.BytesIO(reply.body)))
    assert overlay.shape == (side, side, 3) and overlay.std() > 5
    assert ask(port, request("POST", "/explain", b"text", kind="image/jpeg")).code == "unreadable"


def test_what_the_model_is(serving: Serving, port: int, trained_run: TrainedRun) -> None:
    about = get(port, "/model").json
    scores = serving.bundle.manifest["scores"]
    assert about["name"] == trained_run.run.name
    assert tuple(about["classes"]) == serving.bundle.classes
    assert (about["error"], about["interval"], about["n_test"]) == (scores["error"], scores["interval"], scores["n"])
    assert about["spec"]["image_px"] == 64 and about["limits"]["body_bytes"] == 20_000_000
    assert about["explains"] is True
    assert str(trained_run.run.parent) not in json.dumps(about)


def test_below_the_threshold_it_is_not_sure(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sure = classify(port, photo()).json
    monkeypatch.setattr(Service, "threshold", sure["probability"] + 1e-3)
    assert classify(port, photo()).json == sure | {"status": "unsure"}
    monkeypatch.setattr(Service, "threshold", sure["probability"] - 1e-3)
    assert classify(port, photo()).json == sure | {"status": "ok"}


@pytest.mark.parametrize("path", ["/", "/docs", "/model", "/healthz", "/metrics", "/openapi.json", "/nothing"])
def test_every_answer_keeps_browsers_from_mischief(path: str, port: int) -> None:
    reply = get(port, path)
    assert reply.status == (404 if path == "/nothing" else 200)
    assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["cache-control"] == "no-store"
    assert reply.headers["referrer-policy"] == "same-origin" and "server" not in reply.headers
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    if "text/html" in reply.headers["content-type"]:
        assert "'sha256-" in policy
        assert "http://" not in reply.body.decode() and "https://" not in reply.body.decode()


def test_a_policy_names_what_is_on_the_page_alone() -> None:
    policy = page_of("<style>a</style><script>b</script><script>c</script>").policy
    assert policy.count("'sha256-") == 3
    assert "script-src 'none'" in page_of("<p>nothing").policy


def test_a_killed_decoder_is_replaced(serving: Serving, port: int) -> None:
    before = classify(port, photo()).json
    for decoder in serving.decoders:
        os.kill(decoder.pid, signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: classify(port, photo()).json, range(8))) == [before] * 8
    assert figure(port, "heeler_decoder_restarts") >= 1


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


def soon() -> float:
    return time.monotonic() + PATIENCE_S


def test_a_decoder_that_hangs_is_killed(nursery: Nursery, serving: Serving) -> None:
    decoder = Decoder(nursery, serving.bundle.spec, ServeLimits())
    first, pid = decoder.decode(photo(), soon()), decoder.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        decoder.decode(photo(), time.monotonic() + 0.2)
    assert decoder.pid != pid and not psutil.pid_exists(pid)
    assert np.array_equal(decoder.decode(photo(), soon()), first)
    with pytest.raises(TimeoutError):
        decoder.decode(photo(), time.monotonic() - 1)
    assert decoder.n_restarts == 1
    decoder.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's size")
def test_a_decoder_may_not_fill_the_memory(nursery: Nursery, serving: Serving) -> None:
    large = encode(Image.new("RGB", (5000, 4900)), "PNG")
    decoder = Decoder(nursery, serving.bundle.spec, ServeLimits(decoder_bytes=50_000_000))
    with pytest.raises(UnreadableError, match="memory"):
        decoder.decode(large, soon())
    assert decoder.decode(photo(), soon()).shape == (64, 64, 3)
    decoder.close()
    # Of the kinds that take most.
    wide = np.arange(5000 * 4900, dtype=np.int32).reshape(4900, 5000)
    decoder = Decoder(nursery, serving.bundle.spec, ServeLimits())
    for data in (large, encode(Image.fromarray(wide), "TIFF"), encode(Image.new("CMYK", (5000, 4900)))):
        assert decoder.decode(data, soon()).shape == (64, 64, 3)
    assert decoder.n_restarts == 0
    decoder.close()


def test_a_nursery_that_was_killed_is_started_again(serving: Serving) -> None:
    nursery = Nursery()
    decoder = Decoder(nursery, serving.bundle.spec, ServeLimits())
    nursery._process.kill()
    nursery._process.wait()
    os.kill(decoder.pid, signal.SIGKILL)
    assert decoder.decode(photo(), soon()).shape == (64, 64, 3)
    nursery.close()
    decoder.close()
    until(lambda: not psutil.pid_exists(decoder.pid))


def test_without_its_token_it_tells_nothing(narrow: Serving) -> None:
    port, right = port_of(narrow.address), f"Authorization: Bearer {TOKEN}"
    wrong, basic = "Authorization: Bearer wrong-token-of-these", f"Authorization: Basic {TOKEN}"
    for lines in ((), (wrong,), (basic,), (right, right)):
        for reply in (classify(port, photo(), *lines), get(port, "/model", *lines), get(port, "/metrics", *lines)):
            assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    assert classify(port, photo(), right).status == get(port, "/model", right).status == 200
    # What a browser opens before it has the token holds nothing of the model.
    for path in ("/", "/docs", "/healthz"):
        assert not any(name in get(port, path).body for name in (b"coffee", b"rocket"))


def test_a_full_queue_says_when_to_come_again(narrow: Serving) -> None:
    port, right = port_of(narrow.address), f"Authorization: Bearer {TOKEN}"
    with ThreadPoolExecutor(1) as pool:
        with stopped([decoder.pid for decoder in narrow.decoders]):
            first = pool.submit(classify, port, photo(), right)
            until(lambda: figure(port, "heeler_waiting", right) == 1)
            reply = classify(port, photo(), right)
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "busy", "1")
            assert get(port, "/healthz").status == 200
        assert first.result().status == 200
    assert classify(port, photo(), right).status == 200


def test_bodies_that_fill_the_memory_are_refused(narrow: Serving) -> None:
    port, right = port_of(narrow.address), f"Authorization: Bearer {TOKEN}"
    begun = request("POST", "/predict", bytes(600_000), right, "Content-Length: 700000", kind="image/jpeg")
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as slow:
        slow.sendall(begun)
        until(lambda: classify(port, bytes(800_000), right).status == 503)
        assert classify(port, photo(), right).status == 200
    until(lambda: classify(port, bytes(800_000), right).status == 422)


def test_too_many_connections_are_refused(narrow: Serving) -> None:
    port = port_of(narrow.address)
    with ThreadPoolExecutor(1):
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(8)]
        try:
            reply = until(lambda: (found := get(port, "/healthz")).status == 503 and found)
            assert reply.code == "busy"
        finally:
            for each in waiting:
                each.close()
    until(lambda: get(port, "/healthz").status == 200)


def test_one_connection_takes_many_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        for data, status in ((photo(), 200), (b"text", 422), (photo(), 200), (b"", 422), (photo(), 200)):
            connection.sendall(request("POST", "/predict", data, kind="image/jpeg"))
            assert answer_on(connection).status == status


def test_the_next_head_may_come_with_a_long_request(port: int) -> None:
    """More than a head may have, all in one piece: the first request is whole."""
    first, second = request("POST", "/predict", photo(), kind="image/jpeg"), request("GET", "/healthz")
    assert len(first) > 16_384
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(first + second[:20])
        assert answer_on(connection).status == 200
        connection.sendall(second[20:])
        assert answer_on(connection, "GET").status == 200


def test_an_end_finishes_what_was_taken(trained_run: TrainedRun) -> None:
    command = [sys.executable, "-m", "heeler", "serve", str(trained_run.model), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            told = ""
            while not told.rstrip().endswith("}"):
                line = process.stdout.readline()
                assert line, process.stderr.read()
                told += line
            port = port_of(json.loads(told)["address"])
            (nursery,) = psutil.Process(process.pid).children()
            decoders = nursery.children()
            with ThreadPoolExecutor(1) as pool:
                with stopped([each.pid for each in decoders]):
                    first = pool.submit(classify, port, photo())
                    until(lambda: figure(port, "heeler_waiting") == 1)
                    process.send_signal(signal.SIGTERM)
                    until(lambda: is_closed(port))
                    assert not first.done()
                assert first.result().status == 200
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    until(lambda: not any(each.is_running() for each in (nursery, *decoders)))


def is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionError:
        return True
    return False


def test_errors_inside_are_the_operators_to_read(trained_run: TrainedRun) -> None:
    told: list[str] = []
    with running(trained_run.model, tell=told.append) as serving, pytest.MonkeyPatch.context() as patch:

        def broken(*_: Any) -> None:
            raise RuntimeError("/a/path/of/this/machine")

        patch.setattr("heeler.ship.serve._told", broken)
        reply: Reply = classify(port_of(serving.address), photo())
    assert (reply.status, reply.code) == (500, "internal") and b"/a/path" not in reply.body
    assert len(told) == 1 and "Traceback" in told[0] and "/a/path/of/this/machine" in told[0]


def test_slow_clients_take_nothing_from_good_ones(port: int) -> None:
    head = request("POST", "/predict", b"", "Content-Length: 30000", kind="image/jpeg")
    slow = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(100)]
    try:
        for number, each in enumerate(slow):
            each.sendall((b"GET / HTTP/1.1\r\nX", head, head + photo()[:20_000])[number % 3])
        with ThreadPoolExecutor(8) as pool:
            assert {reply.status for reply in pool.map(lambda _: classify(port, photo()), range(40))} == {200}
    finally:
        for each in slow:
            each.close()


def test_who_may_listen_where() -> None:
    assert access_for("127.0.0.1", "") == access_for("localhost", "") == access_for("::1", "") == Access()
    for host in ("0.0.0.0", "192.168.1.5", "::", "photos.example"):
        with pytest.raises(UsageError, match="other machines"):
            access_for(host, "")
    for token in ("short", "with a space in it", "x" * 600, "ünïcödé-ünïcödé-x"):
        with pytest.raises(UsageError, match="16 to 512"):
            access_for("127.0.0.1", token)
    access_for("127.0.0.2", "").check("GET", "/model", [(b"host", b"127.0.0.2:8000")])
    open_to_all = access_for("0.0.0.0", TOKEN)
    headers = [(b"host", b"192.168.1.5:8000"), (b"authorization", f"Bearer {TOKEN}".encode())]
    open_to_all.check("POST", "/predict", headers)
    for host in (b"evil.example", b"1.2.3.4.evil.example", b"[::1", b"a b"):
        with pytest.raises(Exception, match=r"Host|name"):
            open_to_all.check("POST", "/predict", [(b"host", host), headers[1]])


def test_tokens_come_from_one_place(tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(f"{TOKEN}\n")
    assert token_from(None, file) == token_from(TOKEN, None) == TOKEN
    assert token_from(None, None) == ""
    for token, path, words in ((TOKEN, file, "both"), ("", None, "empty"), (None, tmp_path / "no", "does not exist")):
        with pytest.raises(UsageError, match=words):
            token_from(token, path)
    file.write_text(f"  {TOKEN}\nmade on Monday\n")
    assert token_from(None, file) == TOKEN
    file.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        token_from(None, file)


def test_wrong_usage_is_told_in_a_line(trained_run: TrainedRun, port: int, tmp_path: Path) -> None:
    model = trained_run.model
    assert_clear(run_heeler("serve", model, "--host", "0.0.0.0"), 2, "0.0.0.0", "--token")
    assert_clear(run_heeler("serve", model, "--token", "short"), 2, "16")
    assert_clear(run_heeler("serve", tmp_path / "none"), 2, "does not exist")
    assert_clear(run_heeler("serve", model, "--port", port), 2, str(port))
    assert_clear(run_heeler("serve", tmp_path, "--port", "0"), 4, "not a heeler model")


def test_nothing_is_left_behind(trained_run: TrainedRun) -> None:
    before = {thread.name for thread in threading.enumerate()}
    n_files = psutil.Process().num_fds()
    with running(trained_run.model) as serving:
        assert classify(port_of(serving.address), photo()).status == 200
        children = psutil.Process().children(recursive=True)
    until(lambda: not any(child.is_running() for child in children if child.pid in {d.pid for d in serving.decoders}))
    engine_threads = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in engine_threads if "decode" in name or "compute" in name]
    assert psutil.Process().num_fds() <= n_files + 4
