"""Who may ask: names in ``Host``, pages in ``Origin`` and ``Sec-Fetch-Site``, and the token.

A page of somebody else's in the user's browser can reach this server too. Its requests are told by ``Origin`` and
``Sec-Fetch-Site``, which pages cannot change; and where its own name is made to lead here (DNS rebinding), by ``Host``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heeler.errors import UnreadableError, UsageError
from heeler.files import read_regular
from heeler.ship.refusals import Refused

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({"localhost", LOOPBACK, "[::1]"})
# The page and what it says of itself: they hold nothing of the model, and a browser sends no token with an address.
OPEN_PATHS = frozenset({"/", "/docs", "/healthz"})
# Where a link from elsewhere may lead.
LINKED_PATHS = frozenset({"/", "/docs"})
MIN_TOKEN, MAX_TOKEN = 16, 512
TOKEN_HINT = 'make one: python -c "import secrets; print(secrets.token_urlsafe(24))"'  # noqa: S105
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Access:
    """What a request must show.

    Args:
        names: that ``Host`` may have, lower case.
        takes_addresses: whether it may also be any IP address; nobody can make an address lead elsewhere.
        token: that ``Authorization`` must have; empty where none is asked for.
    """

    names: frozenset[str] = LOOPBACK_NAMES
    takes_addresses: bool = False
    token: str = ""

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Let a request pass.

        Raises:
            Refused: it comes from elsewhere, under another name or without the token.
        """
        host = self._host(values(headers, b"host"))
        self._check_page(method, path, host, headers)
        if self.token and path not in OPEN_PATHS:
            self._check_token(values(headers, b"authorization"))

    def _host(self, hosts: list[str]) -> str:
        found = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if not found:
            raise Refused(400, "bad-request", "one Host header is needed, with a name or an address")
        # Any port: it may be forwarded from another one, and a name alone is what can be made to lead here.
        if found[1] not in self.names and not (self.takes_addresses and _is_address(found[1])):
            raise Refused(403, "forbidden", "this is not the name of this server")
        return found[0]

    def _check_page(self, method: str, path: str, host: str, headers: Headers) -> None:
        sites, origins = values(headers, b"sec-fetch-site"), values(headers, b"origin")
        asks = method not in ("GET", "HEAD")
        if asks and origins and origins[0].lower() not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "forbidden", "another page may not ask")
        if len(origins) > 1 or len(sites) > 1:
            raise Refused(400, "bad-request", "Origin and Sec-Fetch-Site may be there once")
        if sites and sites[0] != "same-origin" and (asks or (sites[0] != "none" and path not in LINKED_PATHS)):
            raise Refused(403, "forbidden", "another page may not ask")

    def _check_token(self, given: list[str]) -> None:
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), self.token.encode()):
            raise Refused(
                401, "unauthorized", "a token is needed: Authorization: Bearer TOKEN", www_authenticate="Bearer"
            )


def values(headers: Headers, name: bytes) -> list[str]:
    """All values of a header, which may be there more than once."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def access_for(host: str, token: str) -> Access:
    """The access that goes with an address to listen on.

    Raises:
        UsageError: others could reach it and there is no token, or the token is weak.
    """
    if token and not (MIN_TOKEN <= len(token) <= MAX_TOKEN and re.fullmatch(r"[!-~]+", token)):
        raise UsageError(f"a token has {MIN_TOKEN} to {MAX_TOKEN} letters, digits or signs, no spaces", hint=TOKEN_HINT)
    named = f"[{host}]" if ":" in host else host
    if is_loopback(host):
        return Access(LOOPBACK_NAMES | {named.lower()}, token=token)
    if not token:
        raise UsageError(f"--host {host} lets other machines in, and there is no --token", hint=TOKEN_HINT)
    return Access(LOOPBACK_NAMES | {named.lower(), socket.gethostname().lower()}, takes_addresses=True, token=token)


def token_from(token: str | None, file: Path | None) -> str:
    """The token, given as it is or as the first line of a file; empty where there is none.

    Raises:
        UsageError: both are given, or the file cannot be read.
    """
    if file is None:
        if token == "":
            raise UsageError("--token is empty", hint=TOKEN_HINT)
        return token or ""
    if token is not None:
        raise UsageError("--token and --token-file are both given", hint="give one; a file is seen by fewer")
    try:
        lines = read_regular(file, 65_536).decode("latin-1").strip().splitlines()
    except UnreadableError as error:
        raise UsageError(f"--token-file {file} {error.message}", hint="name a file with the token in it") from error
    if not lines:
        raise UsageError(f"--token-file {file} is empty", hint=TOKEN_HINT)
    return lines[0].rstrip()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
