"""Requests that nobody means well with, each with the status that it must get; for the tests and for bench/."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from images import cat, claiming_jpeg, claiming_png, encode
from server import CRLF, MULTIPART, multipart, photo, request

# No answer may have any of these in it.
TELLTALES = (b"Traceback", b'File "', b".py", b"site-packages", b"/root", b"/home", b"/usr", b"/tmp", b"/work", b"0x7f")


@dataclass(frozen=True)
class Case:
    """One hostile request.

    Args:
        name: what it tries.
        status: that it must get.
        pieces: makes the bytes to send, with pauses where it is a slow one.
        is_slow: whether the server's patience is what is tried.
    """

    name: str
    status: int
    pieces: Callable[[], Iterator[bytes]]
    is_slow: bool = False


def cases() -> list[Case]:
    """All of them."""
    return [*_pages(), *_bodies(), *_lengths(), *_heads(), *_paths(), *_batches(), *_slow()]


def _whole(name: str, status: int, data: bytes) -> Case:
    return Case(name, status, lambda: iter((data,)))


def _pages() -> list[Case]:
    good = photo()

    def post(*lines: str, host: str = "127.0.0.1") -> bytes:
        return request("POST", "/predict", good, *lines, host=host, kind="image/jpeg")

    evil = "Origin: http://evil.example"
    return [
        _whole("a name of somebody else's in Host (DNS rebinding)", 403, post(host="evil.example")),
        _whole("a name that begins with this server's", 403, post(host="127.0.0.1.evil.example")),
        _whole("a name that ends with this server's", 403, post(host="evil-localhost")),
        _whole("another address in Host", 403, post(host="10.0.0.1")),
        _whole("no Host", 400, post(host="")),
        _whole("two Hosts", 400, post("Host: evil.example")),
        _whole("a Host with a user in it", 400, post(host="127.0.0.1@evil.example")),
        _whole("a Host with a path in it", 400, post(host="127.0.0.1/evil")),
        _whole("the Origin of another page", 403, post(evil)),
        _whole("the Origin null", 403, post("Origin: null")),
        _whole("the Origin of another port", 403, post("Origin: http://127.0.0.1:1", host="127.0.0.1:8000")),
        _whole("two Origins", 400, post("Origin: http://127.0.0.1", evil)),
        _whole("Sec-Fetch-Site: cross-site", 403, post("Sec-Fetch-Site: cross-site")),
        _whole("Sec-Fetch-Site: same-site", 403, post("Sec-Fetch-Site: same-site")),
        _whole("Sec-Fetch-Site: none, of a POST", 403, post("Sec-Fetch-Site: none")),
        _whole("another page that reads /model", 403, request("GET", "/model", b"", "Sec-Fetch-Site: cross-site")),
        _whole(
            "a CORS preflight", 403, request("OPTIONS", "/predict", b"", evil, "Access-Control-Request-Method: POST")
        ),
    ]


def _bodies() -> list[Case]:
    good = photo()

    def post(body: bytes, kind: str = "image/jpeg", *lines: str, path: str = "/predict") -> bytes:
        return request("POST", path, body, *lines, kind=kind)

    svg = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    return [
        _whole("a pickle, as such", 415, post(pickle.dumps(print), "application/x-python-pickle")),
        _whole("a pickle, as a photo", 422, post(pickle.dumps(print))),
        _whole("a photo without a kind", 415, post(good, "")),
        _whole("a photo as text", 415, post(good, "text/plain")),
        _whole("a photo as a form", 415, post(multipart(("a.jpg", good)), MULTIPART)),
        _whole("a form with an address", 415, post(b"url=http://evil.example/", "application/x-www-form-urlencoded")),
        _whole("JSON with an address", 415, post(b'{"url":"http://169.254.169.254/"}', "application/json")),
        _whole("an address in the query", 400, post(good, path="/predict?url=http://169.254.169.254/")),
        _whole("a file's name in the query", 400, post(good, path="/predict?path=/etc/passwd")),
        _whole("an address in place of a photo", 422, post(b"http://169.254.169.254/latest/meta-data")),
        _whole("a file's name in place of a photo", 422, post(b"/etc/passwd", "image/png")),
        _whole("a file's address in place of a photo", 422, post(b"file:///etc/passwd", "image/png")),
        _whole("an SVG that includes a file", 422, post(svg, "image/svg+xml")),
        _whole("a web page", 422, post(b"<!doctype html><script>alert(1)</script>")),
        _whole("a JPEG that claims 400 megapixels", 422, post(claiming_jpeg())),
        _whole("a JPEG that claims 26 megapixels", 422, post(claiming_jpeg(6500, 4000))),
        _whole("a PNG that claims 10,000 megapixels", 422, post(claiming_png(100_000, 100_000))),
        _whole("a PNG that claims 26 megapixels", 422, post(claiming_png(6500, 4000), "image/png")),
        _whole("half a photo", 422, post(good[: len(good) // 2])),
        _whole("zero bytes, 100,000 of them", 422, post(bytes(100_000))),
        _whole("no bytes", 422, post(b"")),
        _whole("a TIFF that is cut", 422, post(_tiff()[:5000], "image/tiff")),
        _whole("a compressed body", 415, post(good, "image/jpeg", "Content-Encoding: gzip")),
    ]  # fmt: skip


def _lengths() -> list[Case]:
    good = photo()

    def post(*lines: str, body: bytes = good) -> bytes:
        return request("POST", "/predict", body, *lines, kind="image/jpeg")

    chunked = "Transfer-Encoding: chunked"
    megabyte = b"100000\r\n" + bytes(1 << 20) + CRLF
    return [
        _whole("a length above the limit", 413, post("Content-Length: 20000001", body=b"")),
        _whole("a length of 10^15", 413, post(f"Content-Length: {10**15}", body=b"")),
        _whole("a length of 10^30", 400, post(f"Content-Length: {10**30}", body=b"")),
        _whole("a negative length", 400, post("Content-Length: -1")),
        _whole("a length that is no number", 400, post("Content-Length: 12abc")),
        _whole("two lengths", 400, post("Content-Length: 5", "Content-Length: 6")),
        _whole("a length and chunks", 400, post("Content-Length: 5", chunked, body=b"5\r\nabcde\r\n0\r\n\r\n")),
        _whole("a chunk whose size is no number", 400, post(chunked, body=b"xyz\r\nabc\r\n0\r\n\r\n")),
        _whole("a chunk of 2^68 bytes", 400, post(chunked, body=b"100000000000000000\r\nabc")),
        Case("chunks without an end", 413, lambda: iter([post(chunked, body=b""), *[megabyte] * 24])),
        _whole("a length too large that waits to be asked on", 413,
               post("Content-Length: 30000000", "Expect: 100-continue", body=b"")),
        _whole("a length that is missing", 422, b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
               b"Content-Type: image/jpeg\r\n\r\n"),
    ]  # fmt: skip


def _heads() -> list[Case]:
    many = [f"X-{k}: {'a' * 80}" for k in range(1000)]
    hello = bytes.fromhex("16030100a5010000a10303") + bytes(150)
    return [
        _whole("a header of 100 kB", 431, request("GET", "/healthz", b"", f"X: {'a' * 100_000}")),
        _whole("1,000 headers", 431, request("GET", "/healthz", b"", *many)),
        _whole("an address of 20 kB", 431, request("GET", f"/{'a' * 20_000}")),
        _whole("a header of 64 kB without an end", 431, b"GET / HTTP/1.1\r\nX: " + b"a" * 65_536),
        _whole("a NUL in a header", 400, request("GET", "/healthz", b"", "X: a\0b")),
        _whole("a space before a colon", 400, request("GET", "/healthz", b"", "X : a")),
        _whole("a method that is none", 400, request("PWN", "/healthz")),
        _whole("CONNECT", 400, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        _whole("another server's address", 400, request("GET", "http://evil.example/")),
        _whole("OPTIONS of everything", 400, request("OPTIONS", "*")),
        _whole("the beginning of HTTP/2", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        _whole("the beginning of TLS", 400, hello),
        _whole("noise", 400, bytes(range(256)) * 4),
    ]


def _paths() -> list[Case]:
    return [
        _whole("TRACE", 405, request("TRACE", "/healthz")),
        _whole("PUT", 405, request("PUT", "/predict", b"", "Content-Length: 0")),
        _whole("DELETE of the model", 405, request("DELETE", "/model")),
        _whole("GET of a photo's answer", 405, request("GET", "/predict")),
        _whole("a WebSocket", 405, request("GET", "/predict", b"", "Upgrade: websocket", "Connection: Upgrade")),
        _whole("a path that climbs", 404, request("GET", "/../../../../etc/passwd")),
        _whole("a path that climbs in code", 404, request("GET", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd")),
        _whole("a path with a NUL in it", 404, request("GET", "/docs%00.html")),
        _whole("a path with two slashes", 404, request("GET", "//evil.example/..")),
        _whole("a path that is almost right", 404, request("POST", "/predict/", photo(), kind="image/jpeg")),
        *[
            _whole(f"top={top}", 400, request("POST", f"/predict?top={top}", photo(), kind="image/jpeg"))
            for top in ("0", "-1", "1001", "99999999999999999999", "abc", "1.5", "", "3&top=4")
        ],
    ]


def _batches() -> list[Case]:
    good = photo()

    def post(body: bytes, kind: str = MULTIPART) -> bytes:
        return request("POST", "/predict/batch", body, kind=kind)

    field = b'--xYz\r\nContent-Disposition: form-data; name="url"\r\n\r\nhttp://evil.example/a.jpg\r\n--xYz--\r\n'
    nameless = b"--xYz\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xYz--\r\n"
    bomb = b"--xYz\r\n" + b"X: " + b"a" * 10_000 + b"\r\n\r\nabc\r\n--xYz--\r\n"
    return [
        _whole("a batch without a boundary", 400, post(multipart(("a.jpg", good)), "multipart/form-data")),
        _whole("a batch of 33", 400, post(multipart(*[("a.jpg", b"x")] * 33))),
        _whole("a batch of none", 400, post(multipart())),
        _whole("a batch with an address", 400, post(field)),
        _whole("a batch whose part has no name", 400, post(nameless)),
        _whole("a batch whose part has a long header", 400, post(bomb)),
        _whole("a batch that is cut", 400, post(multipart(("a.jpg", good))[:9000])),
        _whole("a batch that is a photo", 415, post(good, "image/jpeg")),
        _whole("a batch in no charset", 400, post(multipart(("a.jpg", good)), f"{MULTIPART}; charset=undefined")),
        _whole(
            "a batch of a million boundaries",
            400,
            post(b"--a" + 1_000_000 * b"\r\n--a?" + b"--", "multipart/form-data; boundary=a"),
        ),
    ]


def _slow() -> list[Case]:
    head = request("POST", "/predict", b"", "Content-Length: 30000", kind="image/jpeg")

    def dripping(first: bytes, drop: bytes) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            yield first
            for _ in range(400):
                time.sleep(0.05)
                yield drop

        return pieces

    chunked = request("POST", "/predict", b"", "Transfer-Encoding: chunked", kind="image/jpeg")
    return [
        Case("a body that is shorter than its length", 408, lambda: iter((head + photo()[:9000],)), is_slow=True),
        Case("a body of one byte now and then", 408, dripping(head, b"a"), is_slow=True),
        Case("chunks of one byte now and then", 408, dripping(chunked, b"1\r\na\r\n"), is_slow=True),
        Case("a head of one byte now and then", 408, dripping(b"GET / HTTP/1.1\r\nX: ", b"a"), is_slow=True),
        Case("half a head", 408, lambda: iter((b"GET / HTTP/1.1\r\nHo",)), is_slow=True),
    ]


def _tiff() -> bytes:
    file = io.BytesIO()
    cat().save(file, "TIFF")
    return file.getvalue()


def wrong(case: Case, status: int, body: bytes, codes: dict[str, tuple[int, ...]], code: str) -> str:
    """What is wrong with an answer; empty where it is right."""
    if status != case.status:
        return f"{status}, not {case.status}"
    if status not in codes.get(code, ()):
        return f"code {code!r} with {status}"
    found = [word for word in TELLTALES if word in body]
    return f"tells {found[0]!r}" if found else ""


def good_as_tiny_chunks() -> bytes:
    """A good photo in chunks of six bytes: odd, and allowed."""
    data = encode(cat(), quality=82)
    chunks = b"".join(b"6\r\n" + data[at : at + 6] + CRLF for at in range(0, len(data) - len(data) % 6, 6))
    rest = data[len(data) - len(data) % 6 :]
    chunks += (f"{len(rest):x}\r\n".encode() + rest + CRLF if rest else b"") + b"0\r\n\r\n"
    return request("POST", "/predict", chunks, "Transfer-Encoding: chunked", kind="image/jpeg")
