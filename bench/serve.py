"""How fast ``heeler serve`` answers, and whether it lasts: ``python bench/serve.py MODEL PHOTOS``.

One server is started as a user starts it. Beside it on the same cores runs the client, whose work counts against the
server. Measured are: start to first answer; a lone request; the rate at 16 connections beside the bare forward pass on
ready squares, by ONNX Runtime as it comes and as the server arranges it, a few photos to each core, timed in the same
minute; and with ``--soak N``, N requests at 16 connections: wrong answers, memory, descriptors, and the slowest
hundredth with and without 100 slow clients beside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from predict_steps import by_itself
from processes import machine, warn_if_busy

CONNECTIONS, SLOW_CLIENTS = 16, 100
RATE_S = 10.0
N_PHOTOS = 512
# Of the soak's beginning, before its memory is looked at: caches and pools fill.
WARM_SHARE = 0.1
TOLERANCE = 1e-3
GOALS = {"start": 4.0, "lone_ms": 40.0, "share": 0.8, "growth": 0.02}


@dataclass(frozen=True)
class Server:
    """A ``heeler serve`` in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    started_s: float

    def all_processes(self) -> list[psutil.Process]:
        """The server, the nursery and its decoders."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def own_bytes(self) -> int:
        """Memory of all its processes, what they share counted once."""
        return sum(each.memory_full_info().pss for each in self.all_processes())

    def n_descriptors(self) -> int:
        return sum(each.num_fds() for each in self.all_processes())


@contextlib.contextmanager
def served(model: Path) -> Iterator[Server]:
    """A server on a free port of loopback while the block runs."""
    command = [sys.executable, "-m", "heeler", "serve", str(model), "--port", "0", "--json"]
    began_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    try:
        told = ""
        while not told.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                sys.exit("the server did not start")
            told += line
        yield Server(process, urlsplit(json.loads(told)["address"]).port or 80, began_s)
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection that is kept, and the request line by line as bytes, since the client's work counts too."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def classify(self, message: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a whole request."""
        self._socket.sendall(message)
        answer = self._socket.recv(65_536)
        head, _, body = answer.partition(b"\r\n\r\n")
        n_bytes = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < n_bytes:
            body += self._socket.recv(65_536)
        return int(head[9:12]), body

    def close(self) -> None:
        self._socket.close()


def message_of(photo: bytes) -> bytes:
    """The whole request of one photo."""
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(photo)}\r\n\r\n".encode() + photo


@dataclass
class Load:
    """What came of a load: seconds of each answer, and how many were wrong."""

    seconds: list[float]
    n_wrong: int
    wall_s: float

    @property
    def rate_per_s(self) -> float:
        return len(self.seconds) / self.wall_s

    def at(self, share: float) -> float:
        """Milliseconds that this share of the answers kept within."""
        return 1e3 * float(np.quantile(self.seconds, share))


def load(port: int, messages: Sequence[bytes], truths: Sequence[Any], n_requests: int, n_connections: int) -> Load:
    """So many requests over so many connections, each sending its next when it has its answer."""
    found, lock, numbers = Load([], 0, 0.0), threading.Lock(), iter(range(n_requests))

    def one() -> None:
        client, seconds, n_wrong = Client(port), [], 0
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            which = number % len(messages)
            began_s = time.perf_counter()
            status, body = client.classify(messages[which])
            seconds.append(time.perf_counter() - began_s)
            n_wrong += not is_right(status, body, truths[which])
        client.close()
        with lock:
            found.seconds += seconds
            found.n_wrong += n_wrong

    threads = [threading.Thread(target=one) for _ in range(n_connections)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.wall_s = time.perf_counter() - began_s
    return found


def is_right(status: int, body: bytes, truth: Any) -> bool:
    """Whether an answer names the class and the probability of ``predict``."""
    if status != 200:
        return False
    answer = json.loads(body)
    return answer["label"] == truth[0] and abs(answer["probability"] - truth[1]) < TOLERANCE


@contextlib.contextmanager
def slow_clients(port: int, n: int) -> Iterator[None]:
    """So many clients that send a byte now and then, in a process of their own, beside the good ones."""
    context = multiprocessing.get_context("spawn")
    is_over = context.Event()
    process = context.Process(target=_be_slow, args=(port, n, is_over), daemon=True)
    process.start()
    try:
        yield
    finally:
        is_over.set()
        process.join()


def _be_slow(port: int, n: int, is_over: Any) -> None:
    """A byte of each twice a second; who was let go comes again."""
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 90000\r\n\r\n"
    connections: dict[int, socket.socket] = {}
    while not is_over.wait(0.5):
        for number in range(n):
            try:
                if number not in connections:
                    connections[number] = socket.create_connection(("127.0.0.1", port), timeout=60)
                    connections[number].sendall(head)
                connections[number].sendall(b"a")
            except OSError:
                if number in connections:
                    connections.pop(number).close()
    for connection in connections.values():
        connection.close()


def bare_rates(model: Path, photos: Sequence[bytes]) -> tuple[float, float, str]:
    """Photos a second of the forward pass alone, on ready squares in batches of 32, for ``RATE_S`` seconds each.

    ``bench/predict.py`` has the rates of the other engines.

    Returns:
        The rate of ONNX Runtime by itself, that of the server's own engine, and this one's name.
    """
    from heeler.data.decode import decode
    from heeler.learn.engines import BATCH, export_onnx
    from heeler.learn.network import LogitNet, logit_engine
    from heeler.ship.bundle import open_bundle

    bundle = open_bundle(model)
    squares = np.stack([decode(photo, bundle.spec).pixels for photo in photos[:BATCH]])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bare.onnx"
        export_onnx(LogitNet(bundle.model, bundle.spec).eval(), file, bundle.spec.image_px)
        alone = by_itself(file.read_bytes())
    engine = logit_engine(bundle.model, bundle.spec, squares)
    return rate_of(alone, squares), rate_of(engine.forward, squares), f"{engine.name} {engine.precision}"


def rate_of(forward: Callable[[Any], Any], squares: Any) -> float:
    """Photos a second."""
    forward(squares)
    began_s, n = time.perf_counter(), 0
    while (wall_s := time.perf_counter() - began_s) < RATE_S:
        n += len(forward(squares))
    return n / wall_s


def row(what: str, value: str, goal: str, is_met: bool) -> bool:
    """Print one row of the table; whether its goal is met."""
    print(f"| {what} | {value} | {goal} | {'yes' if is_met else 'NO'} |", flush=True)
    return is_met


def measure(given: argparse.Namespace, photos: Sequence[bytes], truths: Sequence[Any]) -> list[bool]:
    """The rows of speed, and of the soak where it is asked for."""
    messages = [message_of(photo) for photo in photos]
    bare, own, engine = bare_rates(given.model, photos)
    with served(given.model) as server:
        first = load(server.port, messages[:1], truths[:1], 1, 1)
        start_s = time.perf_counter() - server.started_s
        lone = load(server.port, messages, truths, 200, 1)
        load(server.port, messages, truths, 500, CONNECTIONS)
        busy = load(server.port, messages, truths, given.requests, CONNECTIONS)
        n_wrong = first.n_wrong + lone.n_wrong + busy.n_wrong
        share = busy.rate_per_s / bare
        told = [
            row("start to first answer", f"{start_s:.1f} s", "<= 4 s", start_s <= GOALS["start"]),
            row("lone request, half of them within", f"{lone.at(0.5):.1f} ms", "<= 40 ms",
                lone.at(0.5) <= GOALS["lone_ms"]),
            row("lone request, 99 % within", f"{lone.at(0.99):.1f} ms", "", True),
            row("bare forward pass, ONNX Runtime by itself", f"{bare:.0f} photos/s", "", True),
            row(f"rate at {CONNECTIONS} connections", f"{busy.rate_per_s:.0f} photos/s, {share:.2f} of it", ">= 0.8",
                share >= GOALS["share"]),
            row(f"forward pass as the server arranges it, {engine}",
                f"{own:.0f} photos/s; the rate is {busy.rate_per_s / own:.2f} of it", "", True),
            row("wrong answers of these", f"{n_wrong} of {201 + given.requests:,}", "0", n_wrong == 0),
        ]  # fmt: skip
        if given.soak:
            told += soak(server, messages, truths, given.soak)
    return told


def soak(server: Server, messages: Sequence[bytes], truths: Sequence[Any], n_requests: int) -> list[bool]:
    """Many requests, half of them beside slow clients."""
    n_files = server.n_descriptors()
    load(server.port, messages, truths, int(WARM_SHARE * n_requests), CONNECTIONS)
    before = server.own_bytes()
    half = n_requests // 2
    alone = load(server.port, messages, truths, half, CONNECTIONS)
    with slow_clients(server.port, SLOW_CLIENTS):
        beside = load(server.port, messages, truths, n_requests - half, CONNECTIONS)
    growth = server.own_bytes() / before - 1
    time.sleep(3)  # refused slow clients are let go
    left = server.n_descriptors() - n_files
    n_wrong = alone.n_wrong + beside.n_wrong
    p99 = beside.at(0.99)
    return [
        row(f"soak: wrong answers of {n_requests:,}", str(n_wrong), "0", n_wrong == 0),
        row("soak: memory growth", f"{100 * growth:.1f} % of {before / 1e6:.0f} MB", "< 2 %",
            growth < GOALS["growth"]),
        row("soak: descriptors left", str(left), "0", left <= 0),
        row("soak: 99 % within", f"{alone.at(0.99):.0f} ms", "", True),
        row(f"soak: the same beside {SLOW_CLIENTS} slow clients", f"{p99:.0f} ms", "no more than 1.2 times",
            p99 <= 1.2 * alone.at(0.99)),
        row("soak: rate alone, beside slow clients", f"{alone.rate_per_s:.0f}, {beside.rate_per_s:.0f} photos/s", "",
            True),
    ]  # fmt: skip


def main() -> int:
    """Print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("photos", type=Path, help="a folder of JPEGs to send, at any depth")
    parser.add_argument("--requests", type=int, default=4000, help="for the rate [4000]")
    parser.add_argument("--soak", type=int, default=0, help="requests of the soak; 20000 is the promise [0: none]")
    given = parser.parse_args()
    found = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = found[:: max(1, len(found) // N_PHOTOS)][:N_PHOTOS]
    if not files:
        sys.exit(f"no JPEGs in {given.photos}")
    from heeler.ship.predict import load as open_model

    photos = [file.read_bytes() for file in files]
    truths = [(row.label, row.ranked[0][1]) for row in open_model(given.model).predict(photos, top=1)]
    warn_if_busy()
    size_kb = np.mean([len(each) for each in photos]) / 1e3
    print(f"{len(photos)} photos, {size_kb:.0f} kB on average; {machine(len(os.sched_getaffinity(0)))}\n")
    print("| what | measured | goal | met |\n|---|--:|--:|---|")
    return 0 if all(measure(given, photos, truths)) else 1


if __name__ == "__main__":
    sys.exit(main())
