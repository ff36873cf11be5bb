"""One connection: a head that is whole in time and not too long, readers that read, and refusals in the one form.

uvicorn bounds none of that. Whoever is slow is let go without touching anybody else's request.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from heeler.limits import ServeLimits
from heeler.ship.refusals import Refusal, busy

# How long a refused client may go on sending before the connection is closed; at once, and it would not see why.
LINGER_S = 1.0


class Connection(HttpToolsProtocol):
    """uvicorn's connection with these limits; made with ``functools.partial``, as uvicorn gives it the rest."""

    def __init__(self, *args: Any, limits: ServeLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._why: Refusal | None = None
        self._n_head = 0
        self._in_head = self._is_refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(busy("too many connections").refusal)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._stuck):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        # Behind a request that is still at work, this may be the next one's head; that is counted when it is whole.
        begins, before = self._in_head or self.cycle is None or self.cycle.response_complete, self.cycle
        super().data_received(data)
        if self._in_head and begins and self.cycle is before:
            self._n_head += len(data)
            if self._n_head > self._limits.header_bytes:
                self._refuse(_too_long(self._limits))
        elif self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # blank lines begin no request, and uvicorn has just stopped its own clock

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._n_head = True, 0
        if self._late is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._late:
            self._late.cancel()
            self._late = None
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._limits.header_bytes:
            self._why = _too_long(self._limits)
        elif not self.url.startswith(b"/"):
            self._why = Refusal(HTTPStatus.BAD_REQUEST, "bad-request", "ask for a path of this server")
        if self._why:
            raise ValueError(self._why.message)
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._why or Refusal(HTTPStatus.BAD_REQUEST, "bad-request", "this is no valid HTTP request"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self._stuck or self.loop.call_later(self._limits.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()
            self._stuck = None

    def _await_head(self) -> None:
        self._late = self.loop.call_later(self._limits.read_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._late = None
        if self._in_head:
            self._refuse(
                Refusal(
                    HTTPStatus.REQUEST_TIMEOUT, "timeout", f"the request took longer than {self._limits.read_s:g} s"
                )
            )
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, then hear nothing more."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        # A request of this connection that is at work has nobody to answer any more.
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in refusal.all_headers]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", refusal.body]))
        self._stuck = self.loop.call_later(LINGER_S, self.transport.close)


def _too_long(limits: ServeLimits) -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too-large", f"the head has more than {limits.header_bytes:,} bytes"
    )
