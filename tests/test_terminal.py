"""What a run says while it goes on, and how its result is printed."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from heeler.check import CheckResult
from heeler.records import (
    ClassScore,
    Done,
    Epoch,
    Event,
    Note,
    Progress,
    RunResult,
    Scores,
    Stage,
)
from heeler.terminal import duration, headline, listener, predict_command, print_check, print_result, printable

EPOCH = Epoch(2, 3, "all", train_loss=0.5, valid_loss=0.4, valid_error=0.125, best_error=0.1, seconds=83, rate_per_s=88)
EVENTS: tuple[Event, ...] = (
    Stage("read photos", 100),
    Progress(50),
    Done("read photos", 4.06, "100 photos"),
    Stage("fine-tune", 10),
    Progress(5, loss=0.75),
    EPOCH,
    Note("the colour profile was ignored", "warning"),
    Note("nothing to see"),
    Done("fine-tune", 83.2, "best epoch 2"),
)
SCORES = Scores(
    n=2590,
    n_wrong=109,
    error=0.0421,
    interval=(0.0333, 0.0529),
    loss=0.1,
    ece=0.02,
    baseline_error=0.31,
    per_class=(
        ClassScore("good", 0.9, 0.95, 0.92, 2000),
        ClassScore("never judged", 0.0, 0.0, 0.0, 0),
        ClassScore("bad", 0.8, 0.61, 0.7, 590),
    ),
    confusion=(),
    top_losses=(),
)
RUN = Path("runs/my run")
RESULT = RunResult(
    run=RUN, model=RUN / "model", report=RUN / "report.html", predictions=RUN / "predictions.csv", chosen="probe",
    scores=SCORES, n_train=9000, n_valid=1000, n_test=2590, classes=("bad", "good", "never judged"), temperature=1.0,
    seconds={"total": 9.0}, rates_per_s={}, notes=("2 photos could not be read",),
)  # fmt: skip
CHECK = CheckResult(
    source="photos", n_found=103, n_usable=100, classes=(("a", 99), ("b", 1)),
    size_px=((10, 20), (300, 200), (4000, 3000)),
    left_out=tuple((f"a/{n}.jpg", "unreadable", f"reason {n}") for n in range(30)),
    exact_duplicates=(("a/1.jpg", "a/2.jpg"),), near_duplicates=(("a/1.jpg", "a/3.jpg"),),
    label_conflicts=(("a/4.jpg", "a", "b/5.jpg", "b"),), across_parts=(("a/6.jpg", "train", "a/7.jpg", "test"),),
    too_small=(("b", 1),), problems=("the class b has 1 photo; at least 2 are needed",), seconds=1.0, rates_per_s={},
)  # fmt: skip


def _console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=width, highlight=False, color_system=None), text


def _result_text(result: RunResult) -> str:
    console, text = _console()
    print_result(result, console=console)
    return text.getvalue()


def _check_text(result: CheckResult, *, terminal: bool = False) -> str:
    console, text = _console(terminal=terminal)
    print_check(result, console=console)
    return text.getvalue()


def test_elsewhere_than_a_terminal_each_stage_epoch_and_note_is_one_line() -> None:
    console, text = _console()
    with listener(console=console) as on_event:
        for event in EVENTS:
            on_event(event)
    assert text.getvalue().splitlines() == [
        "read photos          4.1 s  100 photos",
        "epoch 2/3 all    1 min 23 s  loss 0.500  valid 0.400  error 12.5 %  best 10.0 %",
        "warning: the colour profile was ignored",
        "nothing to see",
        "fine-tune        1 min 23 s  best epoch 2",
    ]


def test_quiet_tells_warnings_alone() -> None:
    console, text = _console()
    with listener(quiet=True, console=console) as on_event:
        for event in EVENTS:
            on_event(event)
    assert text.getvalue() == "warning: the colour profile was ignored\n"


def test_a_long_line_is_not_wrapped_so_that_it_can_be_searched_and_copied() -> None:
    console, text = _console(width=20)
    with listener(console=console) as on_event:
        on_event(Note("word " * 50 + "end"))
    assert len(text.getvalue().splitlines()) == 1


def test_on_a_terminal_prose_ends_its_lines_between_words_and_what_is_copied_stays_whole() -> None:
    console, text = _console(terminal=True, width=44)
    words = "2 photos left out because the same photo stands in two classes, such as cat/photograph.jpg"
    with listener(console=console) as on_event:
        on_event(Note(words, "warning"))
    bare = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text.getvalue())  # without what moves the cursor
    lines = [line.strip() for line in bare.splitlines() if line.strip()]
    assert " ".join(lines) == f"warning: {words}" and len(lines) == 3
    assert all(len(line) <= 44 for line in lines)
    console, text = _console(terminal=True, width=44)
    print_check(CHECK, console=console)
    assert "  a/4.jpg (a) ~ b/5.jpg (b)\n" in text.getvalue()
    run = Path("/a/folder/with a name/that is longer than the terminal is wide/run-1")
    print_result(replace(RESULT, model=run / "model", notes=(words,)), console=console)
    assert predict_command(run / "model") in text.getvalue()


def test_progress_before_any_stage_and_an_end_without_a_beginning_are_no_error() -> None:
    console, text = _console(terminal=True)
    with listener(console=console) as on_event:
        on_event(Progress(3))
        on_event(Done("head", 1.0, "fitted"))
    assert "fitted" in text.getvalue()


def test_a_stage_with_a_budget_counts_down_and_one_without_an_end_says_nothing_of_it() -> None:
    console, text = _console(terminal=True)
    with listener(console=console) as on_event:
        for stage, words in ((Stage("tune", budget_s=90), "01:"), (Stage("calibrate", unit=""), "")):
            text.truncate(text.seek(0))
            on_event(stage)
            for done in (10, 20, 30):
                time.sleep(0.25)
                on_event(Progress(done))
            assert words in text.getvalue()
            assert ("left" in text.getvalue()) == ("/s" in text.getvalue()) == bool(words)
            on_event(Done(stage.name, 0.75))


def test_a_download_shows_how_fast_it_comes_in_megabytes() -> None:
    console, text = _console(terminal=True)
    with listener(console=console) as on_event:
        on_event(Stage("download", 40_000_000, "bytes"))
        for done in (1_000_000, 2_000_000):
            time.sleep(0.25)
            on_event(Progress(done))
    assert " MB/s" in text.getvalue() and "000/s" not in text.getvalue()


TALKER = """
import sys, time
from heeler.records import Done, Epoch, Progress, Stage
from heeler.terminal import listener
with listener() as on_event:
    on_event(Stage("fine-tune", 1000))
    for done in (100, 300, 500):
        on_event(Progress(done, loss=0.75))
        time.sleep(0.25)
    on_event(Epoch(1, 2, "head", 0.5, 0.4, 0.125, 0.1, 3.0, 88.0))
    on_event(Progress(600, loss=0.5))
    print("result", flush=True)
    time.sleep(0.3)
    on_event(Done("fine-tune", 3.0, "best epoch 1"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_bar_rate_time_left_loss_and_errors_and_keeps_standard_output_clean() -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", TALKER], stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux ends a pseudo-terminal with EIO
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.communicate()[0] == b"result\n"
    assert process.returncode == 0
    text = shown.decode()
    for words in ("fine-tune", "━", " left ", "/s", "loss 0.750", "loss 0.500", "error 12.5 %", "best 10.0 %"):
        assert words in text, words
    assert "best epoch 1" in text.partition("loss 0.500")[2]
    assert "result" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (83, "1 min 23 s"), (7500, "2 h 05 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_headline_says_error_interval_and_on_what() -> None:
    assert headline(RESULT) == "error 4.2 % (95 % interval 3.3 to 5.3 %) on 2,590 photos kept out of training"
    fold = headline(replace(RESULT, scores=replace(SCORES, estimate="out-of-fold", n=430)))
    assert "on 430 photos, out-of-fold" in fold
    assert "kept out of training" not in fold


def test_the_result_has_classes_worst_first_paths_notes_and_a_command_that_a_shell_reads() -> None:
    text = _result_text(RESULT)
    assert text.index("bad ") < text.index("good ") < text.index("never judged")
    assert "109 of 2,590 wrong" in text
    assert "31.0 %" in text
    assert "2 photos could not be read" in text
    for path in (RESULT.model, RESULT.report, RESULT.predictions):
        assert str(path) in text
    command = next(line for line in text.splitlines() if line.startswith("  heeler predict"))
    assert shlex.split(command)[:3] == ["heeler", "predict", str(RESULT.model)]
    assert max(map(len, text.splitlines())) <= 80


def test_at_most_twenty_classes_are_shown_and_the_rest_is_counted() -> None:
    classes = tuple(ClassScore(f"class {n:02}", 0.5, n / 100, 0.5, 10) for n in range(25))
    text = _result_text(replace(RESULT, scores=replace(SCORES, per_class=classes)))
    assert "class 19" in text
    assert "class 20" not in text
    assert "5 more classes" in text


def test_names_cannot_steer_the_terminal_or_the_markup() -> None:
    evil = "[bold]x\x1b[31m\udcff\n"
    assert printable(evil) == "[bold]x�[31m��"
    text = _result_text(replace(RESULT, scores=replace(SCORES, per_class=(ClassScore(evil, 1, 1, 1, 1),))))
    assert "[bold]x" in text
    assert "\x1b" not in text
    checked = _check_text(replace(CHECK, left_out=((evil, "unreadable", "broken"),)))
    assert "[bold]x" in checked
    assert "\x1b" not in checked


def test_a_check_names_every_kind_of_finding() -> None:
    text = _check_text(CHECK)
    for words in (
        "100 of 103 files in photos", "in 2 classes", "10 x 20", "4000 x 3000", "a/29.jpg: reason 29",
        "a/1.jpg = a/2.jpg", "a/1.jpg ~ a/3.jpg", "a/4.jpg (a) ~ b/5.jpg (b)", "a/6.jpg (train) ~ a/7.jpg (test)",
        "b: 1 photo", "training cannot start:", "the class b has 1 photo; at least 2 are needed",
    ):  # fmt: skip
        assert words in text, words


def test_a_terminal_gets_the_first_files_left_out_and_the_number_of_the_rest() -> None:
    text = _check_text(CHECK, terminal=True)
    assert "a/19.jpg: reason 19" in text
    assert "a/20.jpg" not in text
    assert "and 10 more" in text


def test_a_clean_check_says_that_training_can_start() -> None:
    clean = replace(
        CHECK, left_out=(), exact_duplicates=(), near_duplicates=(), label_conflicts=(), across_parts=(),
        too_small=(), problems=(), size_px=None,
    )  # fmt: skip
    text = _check_text(clean)
    assert "training can start" in text
    assert "left out" not in text
    assert clean.to_json()["size_px"] is None


def test_a_check_as_json_names_its_fields() -> None:
    value = CHECK.to_json()
    assert value["classes"] == {"a": 99, "b": 1}
    assert value["size_px"] == {"min": [10, 20], "median": [300, 200], "max": [4000, 3000]}
    assert value["left_out"][0] == {"path": "a/0.jpg", "status": "unreadable", "reason": "reason 0"}
    assert value["label_conflicts"] == [{"path_a": "a/4.jpg", "label_a": "a", "path_b": "b/5.jpg", "label_b": "b"}]
