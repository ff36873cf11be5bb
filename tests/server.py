"""What the tests of the server share: a client on a raw socket, which may lie, and a good photo."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from images import cat, encode

TIMEOUT_S = 60
CRLF = b"\r\n"


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error in the one form that errors have."""
        assert self.headers["content-type"] == "application/json"
        (error,) = self.json.values()
        assert sorted(error) == ["code", "message"] and error["message"], error
        return str(error["code"])


def port_of(address: str) -> int:
    return urlsplit(address).port or 80


def photo() -> bytes:
    """A real photo of 27 kB."""
    return encode(cat(), quality=82)


def request(method: str, path: str, body: bytes = b"", *lines: str, host: str = "127.0.0.1", kind: str = "") -> bytes:
    """A whole request; ``lines`` are further headers."""
    head = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *lines]
    head += [f"Content-Type: {kind}"] if kind else []
    if method == "POST" and not any(line.lower().startswith(("content-length", "transfer-enc")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def multipart(*files: tuple[str, bytes], boundary: str = "xYz") -> bytes:
    """The body of a batch: (filename, content) of each part."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'.encode()
        + data
        + CRLF
        for name, data in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


MULTIPART = "multipart/form-data; boundary=xYz"


def ask(port: int, *pieces: bytes, then: Iterable[bytes] = ()) -> Reply:
    """Send bytes as they are and read one answer; ``then`` goes on until the server has had enough."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        try:
            for piece in chain(pieces, then):
                connection.sendall(piece)
                if select.select([connection], [], [], 0)[0]:
                    break
        except ConnectionError:
            pass  # the server has answered and closed
        return answer_on(connection)


def answer_on(connection: socket.socket, method: str = "POST") -> Reply:
    """The next answer of a connection."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def classify(port: int, data: bytes, *lines: str, path: str = "/predict") -> Reply:
    """Ask for the class of a photo."""
    return ask(port, request("POST", path, data, *lines, kind="image/jpeg"))


def get(port: int, path: str, *lines: str) -> Reply:
    return ask(port, request("GET", path, b"", *lines))
