"""Decoding out of harm's way: in children with little memory and time, replaced when they crash or are killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from functools import partial

import numpy as np

from heeler.errors import ResourceError, UnreadableError
from heeler.limits import ServeLimits
from heeler.records import ByteArray, Preprocessing
from heeler.ship.decoder import ANSWER, FORK, KILL, LENGTH, ORDER, SQUARE, receive

# Torch is loaded in it, on a busy machine beside the server that loads torch too.
START_S = 120
ORDER_S = 20
CRASHED = "made its decoder crash"


class Nursery:
    """The process whose children decode; started at once, and ready when it is first asked for a child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._start()

    def fork(self, spec: Preprocessing, limits: ServeLimits) -> tuple[socket.socket, int]:
        """A new child; a nursery that died is started again.

        Args:
            spec: the preprocessing of its squares.
            limits: pixels and memory.

        Returns:
            The socket to it, and its number.

        Raises:
            ResourceError: there is no memory for it, or the server is being closed.
        """
        asked = {"spec": asdict(spec), "pixels": limits.pixels, "memory_bytes": limits.decoder_bytes}
        with self._lock:
            while not self._is_closed:
                ours, theirs = socket.socketpair()
                was_ready = self._is_ready
                try:
                    with theirs:
                        return ours, self._order_fork(theirs, json.dumps(asked).encode())
                except (OSError, EOFError):
                    ours.close()
                    if not was_ready:
                        break
                    self._start_again()
        raise ResourceError("no decoder could be started", hint="close other programs, and start the server again")

    def kill(self, pid: int) -> None:
        """End a child, whatever it does; its number is free only after that."""
        with self._lock:
            try:
                if not self._is_closed:
                    self._control.sendall(ORDER.pack(KILL, pid))
                    receive(self._control, ORDER.size)
            except (OSError, EOFError):
                self._start_again()

    def close(self) -> None:
        """End all children and the nursery."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _start(self) -> None:
        self._is_ready = False
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_S)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # Modules come from where this process has them, and not from whatever folder it happens to be in.
        environment = os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "heeler.ship.decoder", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )

    def _order_fork(self, theirs: socket.socket, asked: bytes) -> int:
        socket.send_fds(self._control, [ORDER.pack(FORK, len(asked))], [theirs.fileno()])
        self._control.sendall(asked)
        _, pid = ORDER.unpack(receive(self._control, ORDER.size))
        self._is_ready = True
        self._control.settimeout(ORDER_S)
        return int(pid)

    def _start_again(self) -> None:
        self._stop()
        self._start()

    def _stop(self) -> None:
        self._control.close()
        try:
            self._process.wait(ORDER_S if self._is_ready else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Decoder:
    """One child and its replacements; for one thread.

    Args:
        nursery: where children come from.
        spec: the preprocessing of the squares.
        limits: pixels and memory of a child.
    """

    def __init__(self, nursery: Nursery, spec: Preprocessing, limits: ServeLimits) -> None:
        self.n_restarts = 0
        self._fork = partial(nursery.fork, spec, limits)
        self._kill = nursery.kill
        self._shape = (spec.image_px, spec.image_px, 3)
        self._connection, self.pid = self._fork()

    def decode(self, data: bytes, deadline_s: float) -> ByteArray:
        """The square of a photo.

        Args:
            data: content of an image file.
            deadline_s: on ``time.monotonic``'s clock; a child that takes longer is killed.

        Returns:
            (S, S, 3) uint8.

        Raises:
            UnreadableError: it is no whole photo within the limits, or its decoder crashed on it, twice.
            TimeoutError: the deadline has passed.
        """
        for attempt in (1, 2):
            if time.monotonic() > deadline_s:
                raise TimeoutError
            try:
                return self._ask(data, deadline_s)
            except UnreadableError:
                raise
            except TimeoutError:
                self._replace()
                raise
            except (OSError, EOFError):
                self._replace()
                # The first may have been killed for what it did before, or by somebody.
                if attempt == 2:
                    raise UnreadableError(CRASHED) from None
        raise AssertionError("not reached")

    def close(self) -> None:
        """Let the child end."""
        self._connection.close()

    def _ask(self, data: bytes, deadline_s: float) -> ByteArray:
        connection = self._connection
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        connection.sendall(LENGTH.pack(len(data)))
        connection.sendall(data)
        kind, n_bytes = ANSWER.unpack(receive(connection, ANSWER.size))
        # Not what the child claims, which may be a stranger's by now: at most a square is read.
        square_bytes = int(np.prod(self._shape))
        if n_bytes > square_bytes or (kind == SQUARE) != (n_bytes == square_bytes):
            raise EOFError
        answer = receive(connection, n_bytes)
        if kind == SQUARE:
            return np.frombuffer(answer, np.uint8).reshape(self._shape)
        raise UnreadableError(answer.decode("utf-8", "replace"))

    def _replace(self) -> None:
        self.n_restarts += 1
        self._connection.close()
        self._kill(self.pid)
        self._connection, self.pid = self._fork()
