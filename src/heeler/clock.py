"""What a run tells while it goes: stages with their seconds, rates, notes; forwarded, and kept in history.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from heeler.errors import ResourceError
from heeler.files import disk_errors
from heeler.records import Done, Epoch, Event, Note, OnEvent, Planned, Stage


class Clock:
    """Times the stages of one run; it is itself the listener that the stages tell.

    Args:
        on_event: whom to forward every event to.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._start = time.perf_counter()
        self._log: Path | None = None
        self._kept: list[Event] = []
        self._counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.rates_per_s: dict[str, float] = {}
        self.notes: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int = 0, unit: str = "photos", *, budget_s: float = 0.0) -> Iterator[OnEvent]:
        """Announce a stage, time it, and tell when it ended; an error ends it without a word."""
        self.tell(Stage(name, total, unit, budget_s))
        start = time.perf_counter()
        yield self.tell
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        summary = ""
        if name in self._counts:
            n = self._counts.pop(name)
            self.rates_per_s[name] = n / seconds if n else 0.0
            summary = f"{n:,} photos, {n / seconds:,.0f}/s" if n else "all of them already known"
        self.tell(Done(name, seconds, summary))

    def count(self, name: str, n_photos: int) -> None:
        """How many photos the running stage really worked on; its rate follows when it ends."""
        self._counts[name] = n_photos

    def count_earlier(self, seconds: float) -> None:
        """Add what a run had used before it was stopped, so that its minutes are all counted."""
        self._start -= seconds

    def tell(self, event: Event) -> None:
        """Forward an event, and keep it where it is more than progress."""
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, Done | Epoch | Note | Planned):
            self._kept.append(event)
            with contextlib.suppress(ResourceError):  # a full disk may have room again; the run does not hang on it
                self._flush()
        self._on_event(event)

    def log_to(self, path: Path) -> None:
        """From now on, and for what was told before, add a line of JSON to ``path`` for each kept event."""
        self._log = path
        self._flush()

    @property
    def total_s(self) -> float:
        """Seconds of the whole run until now."""
        return time.perf_counter() - self._start

    def totals(self) -> dict[str, float]:
        """Seconds of each stage that ended, and of the whole run until now."""
        return {**self.seconds, "total": self.total_s}

    def _flush(self) -> None:
        if self._log is None or not self._kept:
            return
        lines = [json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) for event in self._kept]
        with disk_errors(self._log), self._log.open("ab", buffering=0) as file:
            size, data = file.seek(0, os.SEEK_END), "".join(line + "\n" for line in lines).encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)  # half a line would hide what comes after it
                raise
        self._kept.clear()
