"""Jupyter, VS Code and Colab: progress that stays in one place, figures shown where they are made, pages in frames.

All of them understand a display that is updated in place, which needs no widgets and no extension.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from heeler.records import Done, Epoch, Event, Note, OnEvent, Planned, Progress, Stage
from heeler.terminal import duration, line_of, listener, printable

if TYPE_CHECKING:
    from heeler.judge.plots import Chart

__all__ = ["framed_page", "is_notebook", "progress", "shown"]

REFRESH_S = 0.25
# Lines of a long run that stay in sight.
MAX_LINES = 60
PAGE_HEIGHT_PX = 720


def is_notebook() -> bool:
    """Whether this code runs in a notebook's kernel. IPython is asked only where something else has loaded it."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def shown(chart: Chart) -> Chart:
    """Show a figure right away in a notebook, so that several calls in one cell show several; return it everywhere."""
    if is_notebook():
        chart.show_in_notebook()
    return chart


@contextmanager
def progress(*, quiet: bool) -> Iterator[OnEvent]:
    """Turn events into talk that suits where the code runs: a notebook, a terminal, or neither (a line a stage).

    Args:
        quiet: tell warnings only.
    """
    if quiet or not is_notebook():
        with listener(quiet=quiet) as on_event:
            yield on_event
        return
    display = _Display()
    try:
        with warnings.catch_warnings():
            # Bars of libraries, which nobody sees here, ask for widgets that a kernel may lack.
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield display.tell
    finally:
        display.end()


def framed_page(page: str) -> str:
    """HTML of a frame that shows a whole page; what is in the page can reach nothing of the notebook around it."""
    return (
        f'<iframe sandbox="allow-scripts" style="width:100%;height:{PAGE_HEIGHT_PX}px;border:1px solid #ccc" '
        f'srcdoc="{escape(page)}"></iframe>'
    )


class _Display:
    """One output of a cell: a line for each stage that ended, and the bar of the one that runs."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._stage: Stage | None = None
        self._began_s = self._drawn_s = 0.0
        self._share: float | None = None
        self._figures = ""
        self._handle: Any = None

    def tell(self, event: Event) -> None:
        """Take an event down, and draw where it is time to."""
        match event:
            case Stage():
                self._stage, self._share, self._figures, self._began_s = event, None, "", time.perf_counter()
            case Progress():
                self._step(event)
            case Done() | Epoch() | Note():
                self._lines.append(line_of(event))
                if isinstance(event, Done):
                    self._stage = None
            case Planned():
                stages = ", ".join(f"{one.name} {duration(one.seconds)}" for one in event.plan.stages)
                self._lines.append(f"plan for {duration(event.plan.budget_s)}: {stages}")
        self._draw(at_once=not isinstance(event, Progress))

    def end(self) -> None:
        """Leave the lines alone."""
        self._stage = None
        self._draw(at_once=True)

    def _step(self, event: Progress) -> None:
        if self._stage is None:
            return
        elapsed_s, stage = time.perf_counter() - self._began_s, self._stage
        total = stage.budget_s or stage.total
        self._share = min(1.0, (elapsed_s if stage.budget_s else event.done) / total) if total else None
        rate = f"{event.done / elapsed_s:,.0f}/s" if elapsed_s > 1 and stage.unit == "photos" else ""
        loss = "" if event.loss is None else f"loss {event.loss:.3f}"
        self._figures = "  ".join(text for text in (rate, loss) if text)

    def _draw(self, *, at_once: bool) -> None:
        now_s = time.perf_counter()
        if not at_once and now_s - self._drawn_s < REFRESH_S:
            return
        self._drawn_s = now_s
        content = {"text/html": self._html(), "text/plain": "\n".join(map(printable, self._shown()))}
        from IPython.display import display

        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)

    def _shown(self) -> list[str]:
        hidden = len(self._lines) - MAX_LINES
        return [f"({hidden:,} earlier lines)", *self._lines[hidden:]] if hidden > 0 else self._lines

    def _html(self) -> str:
        lines = "\n".join(escape(printable(line)) for line in self._shown())
        text = f"<pre style='margin:0;line-height:1.35;white-space:pre-wrap'>{lines}</pre>"
        if self._stage is None:
            return text
        value = "" if self._share is None else f" value='{self._share:.3f}'"
        name, figures = escape(printable(self._stage.name)), escape(self._figures)
        return f"{text}<div><code>{name}</code> <progress max='1'{value}></progress> <code>{figures}</code></div>"
