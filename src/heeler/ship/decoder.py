"""The process that decodes what strangers send: it may use so much memory, write no file, and be killed at any time.

``python -m heeler.ship.decoder FD`` is the nursery: it loads the decoders once, stays without threads, and forks a
child of a few milliseconds' making for each socket that it is sent over ``FD``. A child reads photos from its socket
and answers with squares of pixels or with a reason. When the server goes away, so do they.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from heeler import collecting
from heeler.errors import UnreadableError
from heeler.records import ByteArray, Preprocessing

LENGTH = struct.Struct("!Q")
ANSWER = struct.Struct("!cI")
SQUARE, REASON = b"s", b"r"
# Orders to the nursery: fork a child for the socket that comes along, as so many bytes of JSON say; or end the child of
# that number.
FORK, KILL = b"f", b"k"
ORDER = struct.Struct("!cI")
# Enough for what a decoder has open when it begins; no photo needs a file.
MAX_FILES = 64
NO_MEMORY = "needs more memory than one photo may have"


def receive(connection: socket.socket, n_bytes: int) -> bytearray:
    """Exactly so many bytes.

    Raises:
        EOFError: the other side ended before.
    """
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        n = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        if not n:
            raise EOFError
        view = view[n:]
    return data


def nursery(control: socket.socket) -> None:
    """Fork and end children as ordered, until the server is gone."""
    _load_decoders()
    children: set[int] = set()
    try:
        while True:
            order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
            if not order:
                return
            what, number = ORDER.unpack(order)
            if what == FORK:
                asked = json.loads(bytes(receive(control, number)))
                number = _fork(control, descriptors[0], asked)
                children.add(number)
                os.close(descriptors[0])
            elif number in children:
                _end(number)
                children.remove(number)
            control.sendall(ORDER.pack(what, number))
    finally:
        for number in children:
            _end(number)


def decode_within(data: bytes, spec: Preprocessing, max_pixels: int) -> ByteArray:
    """The square (S, S, 3) uint8 of a photo of at most ``max_pixels``, as ``predict`` makes it.

    Raises:
        UnreadableError: it cannot be decoded, or its header claims more pixels.
    """
    from heeler.data.decode import decode, open_image

    try:
        opened = open_image(data)
        if opened.width_px * opened.height_px > max_pixels:
            raise UnreadableError(
                f"has {opened.width_px:,} x {opened.height_px:,} pixels; the limit is {max_pixels / 1e6:g} megapixels"
            )
        return decode(data, spec).pixels
    except UnreadableError:
        raise
    except Exception as error:  # torch has a RuntimeError of its own for memory
        is_memory = isinstance(error, MemoryError) or "alloc" in str(error)
        raise UnreadableError(NO_MEMORY if is_memory else "cannot be decoded") from error


def _fork(control: socket.socket, descriptor: int, asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        control.close()
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in asked["spec"].items()}
        spec = Preprocessing(**fields)
        with socket.socket(fileno=descriptor) as connection:
            _limit(asked["memory_bytes"])
            _work(connection, spec, asked["pixels"])
        code = 0
    finally:
        os._exit(code)


def _work(connection: socket.socket, spec: Preprocessing, max_pixels: int) -> None:
    while True:
        try:
            n_bytes = LENGTH.unpack(receive(connection, LENGTH.size))[0]
        except EOFError:
            return
        try:
            square = decode_within(bytes(receive(connection, n_bytes)), spec, max_pixels)
            connection.sendall(ANSWER.pack(SQUARE, square.nbytes))
            connection.sendall(square.data.cast("B"))
        except UnreadableError as error:
            reason = error.message.encode("utf-8", "replace")
            connection.sendall(ANSWER.pack(REASON, len(reason)) + reason)


def _limit(memory_bytes: int) -> None:
    """Take from this process whatever decoding does not need."""
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, MAX_FILES)]
    with contextlib.suppress(OSError):  # where the system does not tell, it also does not keep to such a limit
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes))
    for which, most in limits:
        resource.setrlimit(which, (most, most))


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _load_decoders() -> None:
    """Load before the forks what every child needs, on one thread: a fork takes no other thread along."""
    import io

    with collecting.paused():
        import torch
    from PIL import Image

    from heeler.data.decode import decode

    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif")
    for kind in ("JPEG", "PNG"):
        file = io.BytesIO()
        Image.new("RGB", (300, 300)).save(file, kind)
        decode(file.getvalue(), Preprocessing())


def main(argv: list[str]) -> int:
    """Be the nursery for the server that passed on its socket."""
    # Ctrl-C reaches all processes of a terminal; the server decides when its decoders end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arguments: dict[str, Any] = {"fileno": int(argv[1])}
    with socket.socket(**arguments) as control, contextlib.suppress(EOFError, ConnectionError):
        nursery(control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
