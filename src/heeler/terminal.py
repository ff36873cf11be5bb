"""What people see: progress while a run goes on, and its result as headline, table and next command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from heeler.records import (
    ClassScore,
    Done,
    Epoch,
    Event,
    Note,
    OnEvent,
    Planned,
    Progress,
    RunResult,
    Stage,
    planned_and_actual,
)

if TYPE_CHECKING:
    from pathlib import Path

    from heeler.check import CheckResult
    from heeler.deep import DeepResult
    from heeler.plans import Plan

MAX_CLASSES_SHOWN = 20
MAX_LINES_SHOWN = 20
STAGE_WIDTH = 16


@contextmanager
def listener(*, quiet: bool = False, console: Console | None = None) -> Iterator[OnEvent]:
    """Turn events into talk: a live display on a terminal, one plain line per stage, epoch and note elsewhere.

    Args:
        quiet: tell warnings only.
        console: where to talk; the standard error stream by default.

    Returns:
        A context manager that gives the function to call with each event. It is safe to call from one thread.
    """
    console = console or Console(stderr=True, highlight=False)
    if quiet:
        yield lambda event: _tell_warning(console, event)
    elif console.is_terminal and not console.is_dumb_terminal:
        with _live(console) as on_event:
            yield on_event
    else:
        yield lambda event: _tell_plain(console, event)


def print_result(result: RunResult, *, console: Console | None = None) -> None:
    """Print the error with its interval, the classes, what was written and how to use it, on standard output."""
    console = console or Console(highlight=False)
    scores = result.scores
    _tell(console, headline(result), style="bold")
    _tell(console, f"{scores.n_wrong:,} of {scores.n:,} wrong; always answering the largest class would be wrong for "
                  f"{percent(scores.baseline_error)}")  # fmt: skip
    console.print(_class_table(scores.per_class))
    hidden = len(scores.per_class) - MAX_CLASSES_SHOWN
    if hidden > 0:
        _say(console, f"and {hidden:,} more classes that are recognised better: see the report")
    if result.planned_s:
        console.print(_times_table(result))
    for note in result.notes:
        _tell(console, f"note: {note}")
    for name in ("model", "report", "predictions"):
        _say(console, f"{name:<12} {getattr(result, name)}")
    _say(console, "")
    _say(console, "classify new photos with:")
    _say(console, f"  {predict_command(result.model)}", style="bold")


def headline(result: RunResult) -> str:
    """The one sentence a run comes down to: the error, its 95 % interval and the photos it was measured on."""
    scores = result.scores
    low, high = (f"{100 * share:.1f}" for share in scores.interval)
    measured = f"error {percent(scores.error)} (95 % interval {low} to {high} %) on {scores.n:,} photos"
    if scores.estimate == "test":
        return f"{measured} kept out of training"
    return f"{measured}, out-of-fold: each was judged by a model that had not learned from it"


def predict_command(model: Path) -> str:
    """The command that classifies new photos with a model, quoted for a shell."""
    return shlex.join(["heeler", "predict", os.fspath(model), "new-photos/", "--out", "predictions.csv"])


def print_plan(plan: Plan, *, console: Console | None = None) -> None:
    """Print what a run will do with its minutes, on standard output."""
    console = console or Console(highlight=False)
    _say(console, f"plan for {duration(plan.budget_s)}, {plan.n_found:,} photos", style="bold")
    console.print(_plan_table(plan))
    for setting in plan.candidates:
        _say(console, f"may choose: {setting}")


def print_check(result: CheckResult, *, console: Console | None = None) -> None:
    """Print what a source holds and what is wrong with it; long lists are cut on a terminal only."""
    console = console or Console(highlight=False)
    limit = MAX_LINES_SHOWN if console.is_terminal else sys.maxsize
    _tell(console, f"{result.n_usable:,} of {result.n_found:,} files in {result.source} are photos to train with, "
                  f"in {len(result.classes):,} {_plural(len(result.classes), 'class', 'classes')}",
         style="bold")  # fmt: skip
    if result.size_px:
        low, middle, high = (f"{width} x {height}" for width, height in result.size_px)
        _say(console, f"photo sizes in pixels: smallest {low}, median {middle}, largest {high}")
    if result.classes:
        table = _table(("class", "left"), ("photos", "right"))
        for name, count in result.classes[:limit]:
            table.add_row(Text(printable(name)), f"{count:,}")
        console.print(table)
        _tell_rest(console, len(result.classes) - limit)
    for title, lines in _findings(result):
        _say_list(console, title, lines, limit)
    if result.problems:
        _say_list(console, "training cannot start:", result.problems, limit, style="bold red")
    else:
        _say(console, "training can start", style="bold green")


def print_deep(result: DeepResult, *, console: Console | None = None) -> None:
    """Print what a check found, then what a network made of the photos, and what to do with it."""
    from heeler.flaws import KINDS, OF_PAIRS, counted

    console = console or Console(highlight=False)
    print_check(result.check, console=console)
    if result.fixes is None:
        _say(console, "a deep check needs photos that training could start with")
        return
    limit = MAX_LINES_SHOWN if console.is_terminal else sys.maxsize
    for kind in KINDS:
        if kind not in OF_PAIRS:  # these the check has told
            fixes = [flaw.fix for flaw in result.flaws if flaw.kind == kind]
            lines = [f"{fix.path} ({fix.given}): {fix.problem.removeprefix(f'{kind}: ')}" for fix in fixes]
            _say_list(console, f"{counted(kind, len(lines))}:", lines, limit)
    _say(console, f"fixes        {result.fixes} ({len(result.flaws):,} rows, the most important first)")
    _say(console, "")
    source, table = result.check.source, os.fspath(result.fixes)
    _say(console, "decide about them in the browser, then train with what you decided:")
    train = ["heeler", "train", source, *result.read_with, "--fixes", table]
    for command in (["heeler", "fix", table, "--photos", source, *result.named_with], train):
        _say(console, f"  {shlex.join(command)}", style="bold")


def _findings(result: CheckResult) -> Iterator[tuple[str, Sequence[str]]]:
    left_out, exact, near = result.left_out, result.exact_duplicates, result.near_duplicates
    conflicts, across, small = result.label_conflicts, result.across_parts, result.too_small
    yield (
        f"{len(left_out):,} {_plural(len(left_out), 'file')} left out:",
        [f"{path}: {reason or status}" for path, status, reason in left_out],
    )
    yield (
        f"{len(exact):,} {_plural(len(exact), 'group')} of identical files (each group counts once):",
        [" = ".join(group) for group in exact],
    )
    yield (
        f"{len(near):,} {_plural(len(near), 'pair')} of photos that look the same (kept in the same part):",
        [f"{path_a} ~ {path_b}" for path_a, path_b in near],
    )
    yield (
        f"{len(conflicts):,} {_plural(len(conflicts), 'pair')} of photos that look the same in different classes:",
        [f"{path_a} ({label_a}) ~ {path_b} ({label_b})" for path_a, label_a, path_b, label_b in conflicts],
    )
    yield (
        f"{len(across):,} {_plural(len(across), 'pair')} of photos that look the same in different parts:",
        [f"{path_a} ({part_a}) ~ {path_b} ({part_b})" for path_a, part_a, path_b, part_b in across],
    )
    yield (
        f"{len(small):,} {_plural(len(small), 'class', 'classes')} with too few photos:",
        [f"{name}: {count:,} {_plural(count, 'photo')}" for name, count in small],
    )


def percent(share: float) -> str:
    """A share in [0, 1] as people write it: ``4.2 %``."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.8 s``, ``12 s``, ``1 min 23 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """Text with everything a terminal could take as a command replaced, so that a file's name cannot give one."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _class_table(classes: Iterable[ClassScore]) -> Table:
    table = _table(
        ("class", "left"), ("found (recall)", "right"), ("right when named (precision)", "right"), ("photos", "right")
    )
    worst_first = sorted(classes, key=lambda row: (row.support == 0, row.recall, row.name))
    for row in worst_first[:MAX_CLASSES_SHOWN]:
        recall = percent(row.recall) if row.support else "-"
        table.add_row(Text(printable(row.name)), recall, percent(row.precision), f"{row.support:,}")
    return table


def _plan_table(plan: Plan) -> Table:
    table = _table(("stage", "left"), ("time", "right"), ("why", "left"))
    for stage in plan.stages:
        table.add_row(stage.name, duration(stage.seconds), Text(printable(stage.why)))
    table.add_row("in all", duration(sum(stage.seconds for stage in plan.stages)), "")
    return table


def _times_table(result: RunResult) -> Table:
    """Seconds that were planned beside those that it took."""
    table = _table(("stage", "left"), ("planned", "right"), ("took", "right"))
    for name, (planned, actual) in planned_and_actual(result).items():
        table.add_row(name, duration(planned), duration(actual))
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, header_style="bold", show_edge=False)
    for title, side in columns:
        table.add_column(title, justify="right" if side == "right" else "left", overflow="fold")
    return table


def _say(console: Console, text: str, *, style: str = "") -> None:
    # soft_wrap: a path or a command that was wrapped could not be copied; Text: a name such as [red] is no markup.
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _tell(console: Console, text: str, *, style: str = "") -> None:
    """Say prose: on a terminal its lines end between words; elsewhere it is one line, for programs that read lines."""
    indent = len(text) - len(text.lstrip())
    words = Padding(Text(printable(text.lstrip()), style=style), (0, 0, 0, indent), expand=False)
    if console.is_terminal:
        console.print(words)
    else:
        _say(console, text, style=style)


def _say_list(console: Console, title: str, lines: Sequence[str], limit: int, *, style: str = "bold") -> None:
    if lines:
        _say(console, title, style=style)
        for line in lines[:limit]:
            _tell(console, f"  {line}")
        _tell_rest(console, len(lines) - limit)


def _tell_rest(console: Console, n_hidden: int) -> None:
    if n_hidden > 0:
        _say(console, f"  and {n_hidden:,} more (--json lists all)")


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"


def line_of(event: Event) -> str:
    """The line that stays of an event; empty where none does."""
    match event:
        case Done(name=name, seconds=seconds, summary=summary):
            return f"{name:<{STAGE_WIDTH}} {duration(seconds):>9}  {summary}".rstrip()
        case Epoch():
            what = f"epoch {event.epoch}/{event.epochs} {event.phase}"
            return (
                f"{what:<{STAGE_WIDTH}} {duration(event.seconds):>9}  loss {event.train_loss:.3f}  valid "
                f"{event.valid_loss:.3f}  error {percent(event.valid_error)}  best {percent(event.best_error)}"
            )
        case Note(text=text, level=level):
            return f"warning: {text}" if level == "warning" else text
        case _:
            return ""


def _tell_plain(console: Console, event: Event) -> None:
    if isinstance(event, Planned):
        print_plan(event.plan, console=console)
    line = line_of(event)
    if line:
        _say(console, line)


def _tell_warning(console: Console, event: Event) -> None:
    if isinstance(event, Note) and event.level == "warning":
        _tell(console, line_of(event), style="yellow")


@contextmanager
def _live(console: Console) -> Iterator[OnEvent]:
    # Standard output belongs to the results: rich would send it through this display, to standard error.
    columns: tuple[bars.ProgressColumn, ...] = (
        bars.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        bars.BarColumn(bar_width=12),
        bars.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        bars.TextColumn("{task.fields[left]}{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with bars.Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as display:
        yield _live_teller(display)


def _live_teller(display: bars.Progress) -> Callable[[Event], None]:
    running: dict[str, tuple[Stage, bars.TaskID]] = {}
    figures: dict[str, str] = {}

    def step(event: Progress) -> None:
        if not running:
            return
        stage, task_id = next(reversed(running.values()))
        task = next(task for task in display.tasks if task.id == task_id)
        elapsed_s = task.elapsed or 0.0
        if elapsed_s > 0.2 and stage.unit in ("photos", "files"):
            figures["rate"] = f"{event.done / elapsed_s:,.0f}/s"
        elif elapsed_s > 0.2 and stage.unit == "bytes":
            figures["rate"] = f"{event.done / elapsed_s / 1e6:,.1f} MB/s"
        if event.loss is not None:
            figures["loss"] = f"loss {event.loss:.3f}"
        completed = elapsed_s if stage.budget_s else event.done
        display.update(task_id, completed=completed, figures="  ".join(figures.values()))

    def on_event(event: Event) -> None:
        match event:
            case Stage():
                figures.clear()
                total = event.budget_s or event.total or None
                left = "left " if total else ""
                running[event.name] = event, display.add_task(printable(event.name), total=total, left=left, figures="")
            case Progress():
                step(event)
            case Epoch():
                figures["error"] = f"error {percent(event.valid_error)}"
                figures["best"] = f"best {percent(event.best_error)}"
                _say(display.console, f"  {line_of(event)}", style="dim")
            case Done():
                if event.name in running:
                    display.remove_task(running.pop(event.name)[1])
                _say(display.console, f"✓ {line_of(event)}", style="green")
            case Planned():
                print_plan(event.plan, console=display.console)
            case Note():
                _tell(display.console, line_of(event), style="yellow" if event.level == "warning" else "")

    return on_event
