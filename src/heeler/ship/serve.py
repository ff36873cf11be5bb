"""The ASGI application of ``heeler serve``: photos in as bodies, never as names or addresses; answers out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from heeler.errors import HeelerError
from heeler.limits import ServeLimits
from heeler.records import ByteArray, FloatArray
from heeler.ship.access import Access
from heeler.ship.batching import Answer, BusyError, Works
from heeler.ship.bundle import Bundle
from heeler.ship.metrics import Metrics
from heeler.ship.openapi import docs_page, document
from heeler.ship.page import Page, render
from heeler.ship.refusals import JSON, SECURITY_HEADERS, Refused, busy

# What is still read of a refused request, so that its client gets to hear why.
DRAIN_S = 2.0

# A square and the number of a class -> a PNG of where the network looked; None where it cannot tell.
Explain = Callable[[ByteArray, int], bytes | None]


@dataclass
class Service:
    """All that the handlers share.

    Args:
        bundle: the model.
        works: decoders and engine.
        explain: makes the overlay.
        explains: whether it can.
        access: who may ask.
        limits: of a request.
        metrics: what is counted.
        tell: told of errors inside, for the operator.
        n_held_bytes: of bodies that are being read or worked on.
        slow: the one thread that makes overlays.
    """

    bundle: Bundle
    works: Works
    explain: Explain
    explains: bool
    access: Access
    limits: ServeLimits
    metrics: Metrics
    tell: Callable[[Exception], object] = lambda error: None
    n_held_bytes: int = 0
    slow: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def threshold(self) -> float:
        """Probability below which the answer is "unsure"; 0 where there is always one."""
        return self.bundle.threshold


def application(service: Service) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application."""
    described = document(service.limits, has_token=bool(service.access.token))
    served = json.dumps(described).encode()
    about = json.dumps(about_model(service)).encode()
    front, docs = render(), docs_page(described, service.limits)

    async def predict(request: Request) -> Response:
        return await _predict(service, request)

    async def batch(request: Request) -> Response:
        return await _batch(service, request)

    async def explain(request: Request) -> Response:
        return await _explain(service, request)

    async def model(request: Request) -> Response:
        return Response(about, media_type=JSON)

    async def health(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type=JSON)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(request: Request) -> Response:
        return Response(served, media_type=JSON)

    async def page(request: Request) -> Response:
        return _html(front if request.url.path == "/" else docs)

    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/predict/batch", batch, methods=["POST"]),
        Route("/explain", explain, methods=["POST"]),
        *(Route(path, each, methods=["GET"]) for path, each in
          {"/": page, "/docs": page, "/model": model, "/healthz": health, "/metrics": metrics,
           "/openapi.json": openapi}.items()),
    ]  # fmt: skip
    return _guarded(service, Router(routes, redirect_slashes=False), frozenset(route.path for route in routes))


def about_model(service: Service) -> dict[str, Any]:
    """The answer of ``GET /model``."""
    bundle, limits = service.bundle, service.limits
    scores: Mapping[str, Any] = bundle.manifest.get("scores") or {}
    folder = bundle.path.resolve()
    return {
        "name": folder.parent.name if folder.name == "model" else folder.name,
        "classes": list(bundle.classes),
        "threshold": service.threshold or None,
        "error": scores.get("error"),
        "interval": list(scores["interval"]) if scores.get("interval") else None,
        "n_test": int(scores.get("n", 0)),
        "spec": asdict(bundle.spec),
        "limits": asdict(limits),
        "explains": service.explains,
    }


async def _predict(service: Service, request: Request) -> Response:
    top = _top(request, service.limits)
    _need_photo(request)
    async with _body(service, request) as body:
        answer = (await _classified(service, [body]))[0]
    if answer.probabilities is None:
        raise Refused(422, "unreadable", f"the photo {answer.reason}")
    return _json(_told(service, answer.probabilities, top))


async def _batch(service: Service, request: Request) -> Response:
    top = _top(request, service.limits)
    async with _body(service, request, kind="multipart/form-data") as body:
        names, photos = await _parts(request, body, service.limits)
        answers = await _classified(service, photos)
    return _json({"rows": [_row(service, name, answer, top) for name, answer in zip(names, answers, strict=True)]})


async def _explain(service: Service, request: Request) -> Response:
    _only(request, frozenset())
    _need_photo(request)
    async with _body(service, request) as body:
        if not service.explains:
            raise Refused(404, "no-map", "this network keeps no map of where it looked")
        try:
            async with service.works.admitted():
                answer = (await service.works.classify([body]))[0]
                if answer.probabilities is None or answer.square is None:
                    raise Refused(422, "unreadable", f"the photo {answer.reason}")
                best, loop = int(answer.probabilities.argmax()), asyncio.get_running_loop()
                png = await loop.run_in_executor(service.slow, service.explain, answer.square, best)
        except BusyError:
            raise busy("too many requests wait") from None
    if png is None:
        raise Refused(404, "no-map", "this network keeps no map of where it looked")
    return Response(png, media_type="image/png")


async def _classified(service: Service, photos: list[bytes]) -> list[Answer]:
    try:
        async with service.works.admitted():
            return await service.works.classify(photos)
    except BusyError:
        raise busy("too many requests wait") from None


def _told(service: Service, probabilities: FloatArray, top: int) -> dict[str, Any]:
    best = np.argsort(-probabilities, kind="stable")[:top]
    ranked = [{"label": service.bundle.classes[k], "probability": float(probabilities[k])} for k in best]
    is_sure = ranked[0]["probability"] >= service.threshold
    return {"status": "ok" if is_sure else "unsure", **ranked[0], "ranked": ranked}


def _row(service: Service, name: str, answer: Answer, top: int) -> dict[str, Any]:
    if answer.probabilities is None:
        return {"name": name, "status": "unreadable", "reason": answer.reason}
    return {"name": name, "reason": "", **_told(service, answer.probabilities, top)}


def _top(request: Request, limits: ServeLimits) -> int:
    _only(request, frozenset({"top"}))
    text = request.query_params.get("top", "3")
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= limits.top:
        raise Refused(400, "bad-request", f"top is a number from 1 to {limits.top:,}")
    return int(text)


def _only(request: Request, names: frozenset[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    if len(given) > len(set(given)) or not names.issuperset(given):
        raise Refused(400, "bad-request", "the address has a parameter that is not taken here, or one twice")


def _need_photo(request: Request) -> None:
    if not re.match(r"image/[\w.+-]+ *(;|$)", request.headers.get("content-type", ""), re.ASCII):
        raise Refused(415, "unsupported-type", "send the photo itself, with a Content-Type such as image/jpeg")


@contextlib.asynccontextmanager
async def _body(service: Service, request: Request, kind: str = "") -> AsyncIterator[bytes]:
    """The whole body, counted as long as the block runs."""
    if kind and request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise Refused(415, "unsupported-type", f"send {kind}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "unsupported-type", "send the body as it is, without an encoding")
    limits, chunks, n = service.limits, [], 0
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or not length.isdigit() or int(length) > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.read_s):
            async for chunk in request.stream():
                n += len(chunk)
                service.n_held_bytes += len(chunk)
                if n > limits.body_bytes:
                    raise _too_large(limits)
                if service.n_held_bytes > limits.held_bytes:
                    raise busy("other requests fill the memory")
                chunks.append(chunk)
        yield b"".join(chunks)
    except TimeoutError:
        # Of the reading, or of the work that was done in the block.
        if request.scope.get("heeler.is_read"):
            raise Refused(503, "timeout", f"the work took longer than {limits.work_s:g} s", retry_after="1") from None
        raise Refused(408, "timeout", f"the body took longer than {limits.read_s:g} s") from None
    finally:
        service.n_held_bytes -= n


def _too_large(limits: ServeLimits) -> Refused:
    return Refused(413, "too-large", f"the body has more than {limits.body_bytes / 1e6:g} MB")


async def _parts(request: Request, body: bytes, limits: ServeLimits) -> tuple[list[str], list[bytes]]:
    """Names and contents of the photos of a batch, in order."""

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers,
        once(),
        max_files=limits.batch_photos,
        max_fields=0,
        max_part_size=limits.body_bytes,
    )
    parser.spool_max_size = limits.body_bytes  # nothing of a stranger's is written to a disk
    if not body.rstrip().endswith(b"--"):
        raise Refused(400, "bad-request", "the batch is cut short")
    unfit = f"send photos as parts with a name and a filename, at most {limits.batch_photos} of them"
    boundary = parse_options_header(request.headers.get("content-type"))[1].get(b"boundary", b"")
    if body.count(b"\r\n--" + boundary) > limits.batch_photos + 1:  # millions of them would keep the parser busy
        raise Refused(400, "bad-request", unfit)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # of charsets, too, that do not exist
        raise Refused(400, "bad-request", unfit) from error
    names, photos = [], []
    for _, part in form.multi_items():
        assert not isinstance(part, str)  # without a filename it is a field, of which the parser takes none
        names.append(part.filename or "")
        photos.append(part.file.read())
        part.file.close()
    if not photos:
        raise Refused(400, "bad-request", "there is no photo in the batch")
    return names, photos


def _guarded(
    service: Service, router: Router, paths: frozenset[str]
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The router behind the checks; every answer with its headers, every error in its one form, all counted."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        began_s, status = time.perf_counter(), 0
        scope["app"] = service
        announced = {name for name, _ in scope["headers"]} & {b"content-length", b"transfer-encoding"}
        scope["heeler.is_read"] = not announced

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                scope["heeler.is_read"] = True
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in _SECURE if pair[0] not in own]
            await send(message)

        try:
            service.access.check(scope["method"], scope["path"], scope["headers"])
            await router(scope, received, sent)
        except ClientDisconnect:
            return
        except Exception as error:
            if status:
                raise
            refused = _refused(error, service)
            status = refused.refusal.status
            await _refuse(refused, scope, received, send)
        finally:
            service.metrics.count(scope["path"] if scope["path"] in paths else "other", status, began_s)

    return guarded


_SECURE = tuple((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())


def _refused(error: Exception, service: Service) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return Refused(405, "not-allowed", "not with this method", allow=(error.headers or {}).get("Allow", "GET"))
        return Refused(404, "not-found", "there is nothing here")
    service.tell(error)
    if isinstance(error, HeelerError | MemoryError):
        return busy("the machine has no room")
    return Refused(500, "internal", "something went wrong in the server; its log says what")


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a refusal. What was not read must not be taken for the next request, and goes nowhere."""
    refusal, headers = refused.refusal, refused.refusal.all_headers
    is_read = scope["heeler.is_read"]
    if not is_read:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body, "more_body": not is_read})
    if not is_read:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _json(value: object) -> Response:
    return Response(json.dumps(value).encode(), media_type=JSON)


def _html(page: Page) -> Response:
    headers = {"content-security-policy": page.policy}
    return Response(page.html, media_type="text/html", headers=headers)
