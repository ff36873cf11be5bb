"""How the server says no: a status, a code for programs, a sentence for people; and the headers of every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

JSON = "application/json"
# What any answer allows; the page has a policy of its own.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
RETRY_AFTER_S = 1

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": NOTHING,
        "cache-control": "no-store",
        # Not no-referrer: browsers would then hide the Origin of the page's own requests.
        "referrer-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
)
CODES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "bad-request": (400,),
        "unauthorized": (401,),
        "forbidden": (403,),
        "not-found": (404,),
        "no-map": (404,),
        "not-allowed": (405,),
        "timeout": (408, 503),
        "too-large": (413, 431),
        "unsupported-type": (415,),
        "unreadable": (422,),
        "internal": (500,),
        "busy": (503,),
    }
)


@dataclass(frozen=True)
class Refusal:
    """Why a request gets no answer.

    Args:
        status: of HTTP.
        code: one of ``CODES``.
        message: one sentence; never a path, and nothing of what went on inside.
        headers: that go with this status.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The JSON that is sent."""
        return json.dumps({"error": {"code": self.code, "message": self.message}}).encode()

    @property
    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """All headers of the answer but those of the connection."""
        own = {"content-type": JSON, "content-length": str(len(self.body))}
        return [(name.encode(), value.encode()) for name, value in {**SECURITY_HEADERS, **own, **self.headers}.items()]


class Refused(Exception):  # noqa: N818 - it carries a refusal
    """Raised where a request is refused.

    Args:
        status: of HTTP.
        code: one of ``CODES``.
        message: one sentence.
        headers: that go with this status.
    """

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, code, message, {name.replace("_", "-"): v for name, v in headers.items()})


def busy(what: str) -> Refused:
    """There is no room now; there may be soon."""
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{what}; try again soon", retry_after=str(RETRY_AFTER_S))
