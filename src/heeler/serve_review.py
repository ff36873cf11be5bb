"""The server of the review page: on loopback alone, for whoever has its address, and deaf to every other page.

An address holds a token that cannot be guessed. Names in ``Host`` are checked, so that a name of somebody else's that
is made to lead here (DNS rebinding) opens nothing; ``Origin`` and ``Sec-Fetch-Site`` are checked, so that no other page
can decide. Photos are asked for by number: a client never names a file.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jinja2 import Environment, StrictUndefined, Template

from heeler.errors import HeelerError, UnreadableError, UsageError
from heeler.fixes import ACTIONS
from heeler.thumbs import LARGE_PX, SMALL_PX, Thumbs

if TYPE_CHECKING:
    from heeler.review import Review

LOOPBACK = "127.0.0.1"
# A decision is some fifty bytes.
MAX_BODY_BYTES = 1024
# Seconds that a connection may say nothing.
IDLE_S = 30
JSON = "application/json"
# What any answer allows; the page itself allows its own style, script, pictures and requests.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Refused(NamedTuple):
    """Why a request gets no answer."""

    status: HTTPStatus
    reason: str


@contextmanager
def serve(opened: Review, port: int = 0) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        opened: what there is to decide.
        port: to listen on; 0 takes a free one.

    Returns:
        A context manager that gives the page's address.

    Raises:
        UsageError: the port is taken or not allowed.
    """
    try:
        server = _Server(opened, port)
    except OSError as error:
        raise UsageError(f"port {port} is not free: {error.strerror}", hint="choose another --port") from error
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True),
        threading.Thread(target=server.thumbs.begin, daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.port}/{server.token}/"
    finally:
        server.has_ended = True
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()


def refusal(method: str, target: str, headers: Message, port: int, token: str) -> Refused | None:
    """Why a request is not answered; None where it is.

    Args:
        method: ``GET`` or ``POST``.
        target: of the request line.
        headers: of the request.
        port: that the server listens on.
        token: that the address has to begin with.
    """
    hosts = headers.get_all("Host") or []
    if len(hosts) != 1 or hosts[0] not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
        return Refused(HTTPStatus.FORBIDDEN, "this is not the name of this server")
    # Nothing more is told to those who lack the token, not even what there is.
    if not secrets.compare_digest(target.split("/")[1 if target.startswith("/") else 0].encode(), token.encode()):
        return Refused(HTTPStatus.NOT_FOUND, "open the address that heeler fix printed")
    site = headers.get("Sec-Fetch-Site", "same-origin")
    if site != "same-origin" and not (method == "GET" and site == "none"):
        return Refused(HTTPStatus.FORBIDDEN, "another page may not ask")
    if method == "POST":
        if headers.get_all("Origin") != [f"http://{hosts[0]}"]:
            return Refused(HTTPStatus.FORBIDDEN, "another page may not decide")
        if headers.get_content_type() != JSON or "Content-Type" not in headers:
            return Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {JSON}")
        length = headers.get("Content-Length", "")
        if "Transfer-Encoding" in headers or not (length.isascii() and length.isdigit()):
            return Refused(HTTPStatus.LENGTH_REQUIRED, "say how many bytes follow")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY_BYTES} bytes")
    return None


def page_html(name: str, nonce: str) -> str:
    """The page; photos and decisions come to it as JSON, and become text there, never markup."""
    return _template().render(name=name, nonce=nonce)


def state_of(opened: Review) -> dict[str, Any]:
    """All that the page shows but the pictures; a suspect's place in the list is its number."""
    return {
        "name": opened.name,
        "classes": list(opened.classes),
        "suspects": [suspect_of(opened, number) for number in range(len(opened.decisions))],
        "n_undo": opened.decisions.n_undo,
    }


def suspect_of(opened: Review, number: int) -> dict[str, Any]:
    """One photo as the page knows it."""
    suspect, twin = opened.decisions.suspect(number), opened.twins[number]
    return {
        "path": suspect.path,
        "problems": suspect.problems,
        "kinds": opened.kinds[number],
        "given": suspect.given,
        "suggested": suspect.suggested,
        "action": suspect.action,
        "twin": {"path": twin[0], "given": twin[1]} if twin else None,
    }


class _Server(ThreadingTCPServer):
    """Not http.server's own: that one asks the network for the machine's name."""

    daemon_threads = True
    # On Windows this would let another program take the port over.
    allow_reuse_address = os.name != "nt"
    request_queue_size = 64

    def __init__(self, opened: Review, port: int) -> None:
        self.opened = opened
        self.has_ended = False
        self.token = secrets.token_urlsafe(24)
        # Photos, then their twins.
        self.thumbs = Thumbs([*opened.files, *(twin[2] if twin else None for twin in opened.twins)])
        super().__init__((LOOPBACK, port), _Handler)
        self.port = int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server_version, sys_version = "heeler", ""

    @property
    def _ours(self) -> _Server:
        return cast("_Server", self.server)

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses: broken requests, and methods that are not here."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._refuse(Refused(status, status.phrase))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's, and the address is a secret."""

    def handle(self) -> None:
        # A page that is closed while its pictures load is no error.
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _respond(self, answer: Callable[[list[str]], None]) -> None:
        if self._ours.has_ended:  # connections outlive the server that they were made to
            self.close_connection = True
            return
        refused = refusal(self.command, self.path, self.headers, self._ours.port, self._ours.token)
        if refused:
            self._refuse(refused)
            return
        try:
            answer(self.path.split("/")[2:])
        except ConnectionError:
            raise
        except HeelerError as error:
            self._refuse(Refused(HTTPStatus.CONFLICT, f"{error.message}: {error.hint}"))
        except OSError as error:
            self._refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, f"not saved: {error.strerror}"))

    def _get(self, steps: list[str]) -> None:
        opened = self._ours.opened
        match steps:
            case [""]:
                nonce = secrets.token_urlsafe(16)
                self._send(page_html(opened.name, nonce).encode("utf-8", "replace"), "text/html; charset=utf-8", nonce)
            case ["state"]:
                self._send_json(state_of(opened))
            case ["photo", number, ("small" | "large") as size] if _is_number(number, len(self._ours.thumbs)):
                px = SMALL_PX if size == "small" else LARGE_PX
                try:
                    self._send(self._ours.thumbs.jpeg(int(number), px), "image/jpeg")
                except UnreadableError as error:
                    self._refuse(Refused(HTTPStatus.NOT_FOUND, error.message), close=False)
            case _:
                self._refuse(Refused(HTTPStatus.NOT_FOUND, "there is nothing here"), close=False)

    def _post(self, steps: list[str]) -> None:
        asked = _object_of(self.rfile.read(int(self.headers["Content-Length"])))
        number: Any
        opened, decisions = self._ours.opened, self._ours.opened.decisions
        match steps:
            case ["decide"]:
                number, action, label = (asked.get(name) for name in ("photo", "action", "class"))
                if not _is_row(number, len(decisions)) or action not in ACTIONS:
                    return self._refuse(Refused(HTTPStatus.BAD_REQUEST, "say which photo, and which action"))
                if label is not None and not _is_row(label, len(opened.classes)):
                    return self._refuse(Refused(HTTPStatus.BAD_REQUEST, "there is no such class"))
                try:
                    decisions.decide(number, action, "" if label is None else opened.classes[label])
                except ValueError as error:
                    return self._refuse(Refused(HTTPStatus.BAD_REQUEST, str(error)))
            case ["undo"]:
                number = decisions.undo()
            case _:
                return self._refuse(Refused(HTTPStatus.NOT_FOUND, "there is nothing here"))
        changed = None if number is None else suspect_of(opened, number)
        return self._send_json({"photo": number, "suspect": changed, "n_undo": decisions.n_undo})

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), JSON)

    def _refuse(self, refused: Refused, *, close: bool = True) -> None:
        # What was not read of a refused request must not be taken for the next one.
        self.close_connection = self.close_connection or close
        self._send(f"{refused.reason}\n".encode("utf-8", "replace"), "text/plain; charset=utf-8", status=refused.status)

    def _send(self, body: bytes, kind: str, nonce: str = "", status: HTTPStatus = HTTPStatus.OK) -> None:
        own = f"; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self'"
        headers: Mapping[str, str] = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": NOTHING + (own if nonce else ""),
            "Cache-Control": "no-store",
            # Not no-referrer: browsers would then hide the Origin of the page's own requests.
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _object_of(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_row(value: Any, n_rows: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n_rows


def _is_number(text: str, n_rows: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < n_rows


@cache
def _template() -> Template:
    text = files("heeler").joinpath("review.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
