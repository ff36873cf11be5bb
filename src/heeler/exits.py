"""How a command ends: what is told of an error, with which exit code, and streams that may break."""

from __future__ import annotations

import errno
import json as json_format
import os
import signal
import sys
import threading
import warnings
from itertools import islice

import typer

from heeler.errors import HeelerError, UsageError
from heeler.stopping import raise_interrupted

CHUNKS_AT_ONCE = 10_000


def prepare_process(debug: bool) -> None:
    """Warnings are for those who debug; names of files pass through streams as they are."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, raise_interrupted)
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file's name may hold bytes that are no text; it must come out as it went in.
            odd = "surrogateescape" if stream.encoding.lower().replace("-", "") == "utf8" else "backslashreplace"
            stream.reconfigure(errors=odd)


def explain(error: BaseException) -> tuple[str, str, int]:
    """Message, hint and exit code of an error."""
    usage_error = typer.BadParameter.__base__ or typer.BadParameter
    if isinstance(error, HeelerError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, usage_error):
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "heeler"
        return error.format_message(), f"{verb} --help lists what it takes", UsageError.exit_code  # type: ignore[attr-defined]
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped before the end", "earlier results are as they were; the same command with --resume goes on", 130
    if isinstance(error, MemoryError):
        return "the memory of this machine is full", "close other programs, or use a smaller --image-px", 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: {error.filename or 'a file could not be written'}",
            "free some space and run it again",
            1,
        )
    said = f"something went wrong inside heeler: {type(error).__name__}: {error}"
    return said, "run the same command with --debug to see where, and report it", HeelerError.exit_code


def tell_error(message: str, hint: str, code: int, *, json: bool) -> None:
    """One line of what, one line of what next; with ``json`` as an object too."""
    message, hint = " ".join(message.split()), " ".join(hint.split())
    print(f"heeler: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
    try:
        if json:
            print_json({"error": {"message": message, "hint": hint, "exit_code": code}})
        sys.stdout.flush()
    except OSError:
        give_up_stdout()


def give_up_stdout() -> None:
    """Let go of a standard output that nobody reads any more."""
    # What is left in the buffer cannot be written; Python would try again at its end, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """One JSON object on standard output."""
    # Not as one text, which for half a million rows takes a gigabyte.
    chunks = json_format.JSONEncoder(indent=2, allow_nan=False).iterencode(value)
    while text := "".join(islice(chunks, CHUNKS_AT_ONCE)):
        sys.stdout.write(text)
    print()
