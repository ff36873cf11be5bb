"""One URL -> one file on disk, gone on with after a break; knows nothing of archives or photos."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from heeler.errors import DataError, ResourceError
from heeler.files import disk_errors, write_text
from heeler.records import Note, OnEvent, Progress

__all__ = ["MAX_ATTEMPTS", "bytes_there", "download", "forget", "is_safe", "matches"]

MAX_ATTEMPTS = 6
"""Attempts in a row that bring no byte, before it gives up."""

TIMEOUT_S = 30.0
FIRST_WAIT_S = 1.0  # doubled after each attempt that brought nothing
MAX_WAIT_S = 60.0
CHUNK_BYTES = 1 << 18
# Too early, too slow, too many at once: what a server says that may work later, beside its own errors (5xx).
PASSING = (408, 425, 429)
HINT = "HEELER_GET_URL can name a mirror; what was fetched so far stays, and the same command goes on from there"


class _PassingError(Exception):
    """What may work at the next attempt; ``wait_s`` is how long the server asked to wait, 0 where it did not."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects as urllib follows them, but never to a place that anyone on the way could answer for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not is_safe(newurl):
            raise ResourceError(f"{req.full_url} leads to {newurl!r}, which is not https", hint=HINT)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_safe(url: str) -> bool:
    """Whether a URL is https, or http on this machine itself, where nobody is on the way."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return (parts.scheme == "https" and host != "") or (parts.scheme == "http" and _is_loopback(host))


def download(url: str, file: Path, size_bytes: int, on_event: OnEvent) -> None:
    """Fetch a file whose size is known, from where an earlier attempt stopped; errors that pass are waited for.

    Proxies are those of the environment, as urllib reads them.

    Args:
        url: a safe one, see ``is_safe``.
        file: what was fetched so far, and in the end all of it; its name with ``.etag`` keeps which edition it is of.
        size_bytes: of the whole.
        on_event: told ``Progress`` in bytes of this call, and a ``Note`` for each wait.

    Raises:
        ResourceError: the server does not have it or cannot be reached, or the disk is full; what is there stays.
        DataError: the server offers a file of another size.
    """
    opener = urllib.request.build_opener(_SafeRedirects())
    began_at, n_failed = bytes_there(file, size_bytes), 0
    while (had := bytes_there(file, size_bytes)) < size_bytes:
        wait_s = 0.0
        try:
            _go_on(opener, url, file, had, size_bytes, lambda at: on_event(Progress(max(0, at - began_at))))
            why = "the connection ended early"
        except _PassingError as problem:
            why, wait_s = str(problem), problem.wait_s
        there = bytes_there(file, size_bytes)
        if there == size_bytes:
            return
        n_failed = 0 if there > had else n_failed + 1
        if n_failed >= MAX_ATTEMPTS:
            raise ResourceError(f"{url} cannot be fetched: {why}, {n_failed} times in a row", hint=HINT)
        wait_s = min(max(wait_s, FIRST_WAIT_S * 2 ** max(0, n_failed - 1)), MAX_WAIT_S)
        on_event(Note(f"{why}; trying again in {wait_s:.0f} s, from {there / 1e6:,.1f} MB", "warning"))
        time.sleep(wait_s)


def bytes_there(file: Path, size_bytes: int) -> int:
    """Bytes of a download that are there; more than there should be count as none."""
    n = file.stat().st_size if file.is_file() else 0
    return n if n <= size_bytes else 0


def forget(file: Path) -> None:
    """Remove what was fetched, so that the next attempt begins at the beginning."""
    file.unlink(missing_ok=True)
    _edition_of(file).unlink(missing_ok=True)


def matches(file: Path, checksum: str) -> bool:
    """Whether a file has a checksum, written ``md5:`` or ``sha256:`` and hex digits."""
    kind, _, digits = checksum.partition(":")
    with file.open("rb") as data:
        # MD5 is what its publisher gives; it guards against accidents, and https against others.
        return hashlib.file_digest(data, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest() == digits


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _edition_of(file: Path) -> Path:
    return file.with_name(file.name + ".etag")


def _go_on(
    opener: urllib.request.OpenerDirector, url: str, file: Path, had: int, size_bytes: int, tell: Callable[[int], None]
) -> None:
    """One request: what is missing, or all of it where the server cannot give a part or has another edition."""
    # Compressed on its way, the bytes that are missing would be others than those that were asked for.
    headers = {"Accept-Encoding": "identity", "User-Agent": "heeler"}
    edition_file = _edition_of(file)
    edition = edition_file.read_text(encoding="utf-8") if had and edition_file.is_file() else ""
    if had:
        headers["Range"] = f"bytes={had}-"
    if edition:
        headers["If-Range"] = edition
    with _opened(opener, url, headers, file) as response:
        start = _start(response, url, had, size_bytes)
        if start and edition and _edition(response) not in ("", edition):
            forget(file)
            raise _PassingError("the file was replaced while it was fetched")
        with disk_errors(file):
            if start == 0:
                write_text(edition_file, _edition(response))
            with file.open("r+b" if start else "wb") as part:
                at = part.seek(start)
                while chunk := _read(response, min(CHUNK_BYTES, size_bytes - at)):
                    part.write(chunk)
                    part.flush()  # what a kill would lose would be fetched twice
                    at += len(chunk)
                    tell(at)


def _opened(opener: urllib.request.OpenerDirector, url: str, headers: dict[str, str], file: Path) -> Any:
    """The response; ``_PassingError`` or ``ResourceError`` in place of what urllib raises."""
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)  # noqa: S310 - see is_safe
    except HTTPError as error:
        error.close()
        said = f"the server answered {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            forget(file)
            raise _PassingError(said) from None
        if error.code in PASSING or error.code >= http.client.INTERNAL_SERVER_ERROR:
            asked = error.headers.get("Retry-After", "")
            raise _PassingError(said, float(asked) if asked.isdecimal() else 0.0) from None
        if error.code < http.client.BAD_REQUEST:
            said = "it redirects in a circle, or to what is no web address"
        raise ResourceError(f"{url} cannot be fetched: {said}", hint=HINT) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ResourceError(
                f"{url} cannot be trusted: {reason.verify_message}", hint="a proxy that opens https, or a wrong clock?"
            ) from None
        raise _PassingError(_words(reason)) from None


def _start(response: Any, url: str, had: int, size_bytes: int) -> int:
    """Where in the file the answer begins."""
    total: str | None
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != had:
            raise _PassingError("the server sent another part than it was asked for")
        start, total = had, found[2]
    elif response.status == http.client.OK:
        start, total = 0, response.headers.get("Content-Length")
    else:
        raise _PassingError(f"the server answered {response.status}")
    if total not in (None, "*") and total != str(size_bytes):
        raise DataError(f"{url} has {total} bytes, and {size_bytes} were published: it is another file", hint=HINT)
    return start


def _edition(response: Any) -> str:
    """What the server calls this edition of the file, where it can be trusted to mean these very bytes."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _read(response: Any, n_bytes: int) -> bytes:
    """What has come, at most so many bytes; none at the end."""
    try:
        chunk: bytes = response.read1(n_bytes) if n_bytes else b""
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_words(error)) from None
    return chunk


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"the server said nothing for {TIMEOUT_S:.0f} s"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(error, OSError) and error.errno:
        return f"the connection failed: {os.strerror(error.errno) if error.errno > 0 else error.strerror}"
    return f"the connection failed: {error}"
