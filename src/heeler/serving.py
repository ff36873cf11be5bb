"""The story of ``heeler serve``: decoders, model, engine, server; and at the end what was taken is finished."""

from __future__ import annotations

import contextlib
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler import collecting
from heeler.errors import ResourceError, UsageError
from heeler.judge.explain import class_activation, overlay
from heeler.judge.images import png_bytes
from heeler.judge.scores import softmax
from heeler.limits import ServeLimits
from heeler.machine import n_cores
from heeler.records import ByteArray, FloatArray
from heeler.ship.access import LOOPBACK, Access
from heeler.ship.sandbox import Decoder, Nursery

if TYPE_CHECKING:
    from heeler.learn.engines import Engine
    from heeler.ship.batching import Computing
    from heeler.ship.bundle import Bundle

NEEDED = ("httptools", "prometheus_client", "starlette", "uvicorn")
TICK_S = 0.2


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Args:
        address: of its page.
        bundle: the model.
        engine: what computes.
        decoders: one child each.
    """

    address: str
    bundle: Bundle
    engine: Engine
    decoders: tuple[Decoder, ...]


def serve(
    model: Path,
    access: Access,
    on_start: Callable[[Serving], object],
    should_end: Callable[[], bool],
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    tell: Callable[[str], object] = lambda text: None,
) -> None:
    """Serve a model until it is told to end, and finish what was taken.

    Args:
        model: a bundle's folder.
        access: who may ask.
        on_start: told of the server when it answers.
        should_end: asked five times a second.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        tell: told of errors inside, for the operator.

    Raises:
        UsageError: the port is taken, or a package that serving needs is not installed.
        BundleError: the model is damaged or not a bundle.
    """
    with running(model, access, host=host, port=port, tell=tell) as serving:
        on_start(serving)
        waiter = threading.Event()
        while not should_end():
            waiter.wait(TICK_S)


@contextlib.contextmanager
def running(
    model: Path,
    access: Access | None = None,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    limits: ServeLimits | None = None,
    tell: Callable[[str], object] = lambda text: None,
) -> Iterator[Serving]:
    """A server on a thread of its own while the block runs; see ``serve``."""
    require_packages()
    limits = limits or ServeLimits()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        # First, since it loads for seconds what this process loads too.
        nursery = Nursery()
        stack.callback(nursery.close)
        with collecting.paused():
            from heeler.ship.bundle import open_bundle

        yield from _run(stack, listening, nursery, open_bundle(model), access or Access(), host, limits, tell)


def require_packages() -> None:
    """Refuse to begin where something is missing.

    Raises:
        UsageError: a package is not installed, or the system cannot fork.
    """
    import importlib.util
    import os

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"serving needs {', '.join(missing)}", hint='pip install "heeler[serve]"')
    if not hasattr(os, "fork"):
        raise UsageError("this system cannot keep decoders apart", hint="serve on Linux or macOS, or in WSL")


def _run(
    stack: contextlib.ExitStack,
    listening: socket.socket,
    nursery: Nursery,
    bundle: Bundle,
    access: Access,
    host: str,
    limits: ServeLimits,
    tell: Callable[[str], object],
) -> Iterator[Serving]:
    from heeler.learn.engines import BATCH
    from heeler.learn.network import logit_engine
    from heeler.ship.batching import Works
    from heeler.ship.metrics import Metrics
    from heeler.ship.serve import Service, application

    side = bundle.spec.image_px
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    engine = logit_engine(bundle.model, bundle.spec, noise)
    explain = partial(_explained, bundle)
    explains = explain(noise[0], 0) is not None
    decoders = tuple(Decoder(nursery, bundle.spec, limits) for _ in range(n_cores()))
    metrics = Metrics()
    works = Works(decoders, _computing(bundle, engine), limits, metrics.count_batch)
    metrics.waiting.set_function(lambda: works.n_requests)
    metrics.restarts.set_function(lambda: works.n_restarts)
    works.start()
    stack.callback(works.close)

    def tell_error(error: Exception) -> None:
        tell("".join(traceback.format_exception(error)))

    service = Service(bundle, works, explain, explains, access, limits, metrics, tell_error)
    stack.callback(service.slow.shutdown)
    stack.callback(_start_server(application(service), listening, limits))
    named = f"[{host}]" if ":" in host else host
    yield Serving(f"http://{named}:{listening.getsockname()[1]}/", bundle, engine, decoders)


def _start_server(app: Any, listening: socket.socket, limits: ServeLimits) -> Callable[[], None]:
    """Start uvicorn on a thread; what ends it."""
    import uvicorn

    from heeler.ship.connection import Connection

    connection: Any = partial(Connection, limits=limits)
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(limits.read_s) or 1,
        timeout_graceful_shutdown=int(limits.read_s + limits.work_s) + 1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            raise ResourceError("the server could not be started", hint="run the same command with --debug to see why")

    def end() -> None:
        server.should_exit = True
        thread.join()

    return end


def _computing(bundle: Bundle, engine: Engine) -> Computing:
    """As many calls at once as there are cores, where a call keeps one of them busy."""
    from heeler.learn.engines import BATCH
    from heeler.learn.memory import AtOnce
    from heeler.ship.batching import Computing

    at_once = AtOnce(BATCH)

    def forward(squares: ByteArray) -> FloatArray:
        return softmax(at_once.compute(engine.forward, squares), bundle.temperature)

    return Computing(forward, engine.at_once, n_cores() if engine.at_once < BATCH else 1)


def _explained(bundle: Bundle, square: ByteArray, k: int) -> bytes | None:
    """A PNG of where the network looked for class ``k``; None where it cannot tell."""
    from heeler.learn.backbone import head_of
    from heeler.learn.network import last_maps

    maps = last_maps(bundle.model, bundle.spec, square[None])
    if maps is None:
        return None
    activation = class_activation(maps, head_of(bundle.model).weight, np.array([k]))[0]
    return png_bytes(overlay(square, activation))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        said = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise UsageError(said, hint="choose another --port, or an address of this machine as --host") from error
    return listening
