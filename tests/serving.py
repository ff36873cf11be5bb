"""A server for the tests of the page: real answers of a real model on loopback, and trouble on demand."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import numpy as np
from PIL import Image

import heeler
from heeler.data.decode import decode
from heeler.judge.explain import class_activation, overlay
from heeler.learn.backbone import head_of
from heeler.learn.network import last_maps
from heeler.ship.page import render

BODY_BYTES, PIXELS = 20_000_000, 25_000_000


@dataclass
class Served:
    """A page that is being served, what it was asked, and what it is to refuse.

    Args:
        model: that answers.
        threshold: answers below it are unsure; None answers always.
        token: that requests must carry; "" wants none.
        explains: whether there are maps.
        names: of the classes as they are told, where they are not the model's own.
        n_busy: so many photos are refused as busy.
        gate: photos are answered while it is set.
        asked: method and path of each request.
        kinds: content type of each photo.
        most_at_once: photos that were in the works at the same time.
    """

    model: heeler.Classifier
    threshold: float | None = 0.5
    token: str = ""
    explains: bool = True
    name: str = "photos"
    names: tuple[str, ...] = ()
    n_busy: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    most_at_once: int = 0
    n_now: int = 0
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self, label: str) -> str:
        return self.names[self.model.classes.index(label)] if self.names else label

    def about(self) -> dict[str, Any]:
        scores = self.model.bundle.manifest["scores"]
        return {
            "name": self.name,
            "classes": [self.told(label) for label in self.model.classes],
            "threshold": self.threshold,
            "error": scores["error"],
            "interval": scores["interval"],
            "n_test": scores["n"],
            "spec": asdict(self.model.bundle.spec),
            "limits": {"body_bytes": BODY_BYTES, "pixels": PIXELS, "batch_photos": 64},
            "explains": self.explains,
        }

    def predict(self, photo: bytes, top: int) -> tuple[int, dict[str, Any]]:
        (row,) = self.model.predict(photo, top=top)
        if row.status != "ok":
            return 422, {"error": {"code": "unreadable", "message": row.reason}}
        ranked = [{"label": self.told(label), "probability": share} for label, share in row.ranked]
        is_sure = self.threshold is None or row.ranked[0][1] >= self.threshold
        return 200, {"status": "ok" if is_sure else "unsure", **ranked[0], "ranked": ranked}

    def explain(self, photo: bytes) -> bytes:
        bundle = self.model.bundle
        square = decode(photo, bundle.spec).pixels
        maps = last_maps(bundle.model, bundle.spec, square[None])
        assert maps is not None
        label = self.model.predict(photo, top=1)[0].ranked[0][0]
        activation = class_activation(maps, head_of(bundle.model).weight, np.array([self.model.classes.index(label)]))
        file = io.BytesIO()
        Image.fromarray(overlay(square, activation[0])).save(file, "PNG")
        return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        ours = self._note()
        if self.path == "/":
            page = render()
            self._send(200, page.html, "text/html; charset=utf-8", {"Content-Security-Policy": page.policy})
        elif self.path == "/model" and self._is_allowed(ours):
            self._json(200, ours.about())
        elif self.path != "/model":
            self._json(404, {"error": {"code": "not-found", "message": "there is nothing here"}})

    def do_POST(self) -> None:
        ours = self._note()
        photo = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_allowed(ours):
            return
        with ours.lock:
            ours.kinds.append(self.headers["Content-Type"])
            ours.n_now += 1
            ours.most_at_once = max(ours.most_at_once, ours.n_now)
            is_busy = ours.n_busy > 0 and self.path.startswith("/predict")
            ours.n_busy -= is_busy
        try:
            ours.gate.wait(60)
            self._answer(ours, photo, is_busy)
        finally:
            with ours.lock:
                ours.n_now -= 1

    def _answer(self, ours: Served, photo: bytes, is_busy: bool) -> None:
        if is_busy:
            self._json(503, {"error": {"code": "busy", "message": "the queue is full"}}, {"Retry-After": "1"})
        elif not self.headers["Content-Type"].startswith("image/"):
            self._json(
                415, {"error": {"code": "unsupported-type", "message": "is not an image of a kind that is read"}}
            )
        elif self.path == "/predict?top=3":
            self._json(*ours.predict(photo, 3))
        elif self.path == "/explain" and ours.explains:
            self._send(200, ours.explain(photo), "image/png")
        else:
            self._json(404, {"error": {"code": "no-map", "message": "there is no map"}})

    def _note(self) -> Served:
        ours: Served = self.server.ours
        ours.asked.append(f"{self.command} {self.path}")
        return ours

    def _is_allowed(self, ours: Served) -> bool:
        if ours.token and self.headers["Authorization"] != f"Bearer {ours.token}":
            self._json(401, {"error": {"code": "unauthorized", "message": "a token is wanted"}})
            return False
        return True

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextmanager
def serving(model: heeler.Classifier, **options: Any) -> Iterator[Served]:
    """Serve the page and answers while the block runs; ``options`` are fields of ``Served``."""
    ours = Served(model, **options)
    ours.gate.set()
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.ours = ours  # type: ignore[attr-defined]
        ours.address = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield ours
        finally:
            ours.gate.set()
            server.shutdown()
            thread.join()
