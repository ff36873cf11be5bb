"""The command line without any training: help, versions, exit codes, one clear line for each thing that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import heeler
from conftest import assert_clear, run_heeler
from heeler import cli, doctor
from heeler.errors import BundleError
from heeler.options import parse_colour
from heeler.plans import TrainOptions

VERBS = ("train", "plan", "predict", "export", "check", "fix", "preview", "get", "demo", "doctor")
DATA_OPTIONS = {"--labels", "--nested", "--test", "--valid", "--seed", "--group-by", "--alpha"}
TRAIN_OPTIONS = DATA_OPTIONS | {
    "--out", "--backbone", "--weights", "--image-px", "--fit", "--epochs", "--frozen-epochs", "--batch-size", "--lr",
    "--augment", "--quiet", "--minutes", "--resume", "--fixes",
}  # fmt: skip
OPTIONS = {
    "train": TRAIN_OPTIONS,
    "export": {"--to", "--int8", "--max-loss", "--photos", "--out", "--quiet"},
    "predict": {
        "--out",
        "--top",
        "--sort-into",
        "--unsure-below",
        "--resume",
        "--engine",
        "--shards",
        "--image-column",
    },
    "plan": DATA_OPTIONS - {"--test", "--valid", "--seed", "--alpha"}
    | {"--minutes", "--backbone", "--weights", "--image-px", "--fit"},
    "check": DATA_OPTIONS | {"--deep", "--out"},
    "fix": {"--photos", "--labels", "--nested", "--write-clean", "--no-browser", "--port"},
    "preview": DATA_OPTIONS - {"--test", "--valid"}
    | {"--out", "--augment", "--photos", "--variants", "--image-px", "--fit"},
    "get": {"--out", "--list", "--quiet"},
    "demo": {"--out", "--quiet", "--minutes"},
    "doctor": set(),
}


def _heeler(*args: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heeler", *args],
        capture_output=True, text=True, errors="surrogateescape", timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def _one_clear_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) in (1, 2), done.stderr
    assert lines[0].startswith("heeler: ")
    assert all(line.startswith("  hint: ") for line in lines[1:])
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_help_answers_in_under_300_ms_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert _heeler("--help").returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3, seconds
    code = (
        "import sys; from heeler.cli import main; code = main(['--help']); "
        "print([name for name in ('torch', 'numpy', 'PIL', 'rich', 'timm') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout
    assert "130 interrupted" in " ".join(done.stdout.split())
    assert "..." not in done.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_has_examples_and_all_its_options(verb: str) -> None:
    done = _heeler(verb, "--help", COLUMNS="80")
    assert done.returncode == 0
    shown = {word for line in done.stdout.splitlines() if line.startswith("  -") for word in line.split()[:2]}
    shown = {word.rstrip(",") for word in shown if word.startswith("--")}
    assert shown == OPTIONS[verb] | {"--json", "--debug", "--help"}
    examples = [line for line in done.stdout.splitlines() if line.startswith("    ") and "heeler " in line]
    assert len([line for line in examples if f"heeler {verb}" in line]) in (2, 3)
    assert done.stderr == ""


def test_the_demo_s_help_names_the_licence_and_the_papers() -> None:
    text = _heeler("demo", "--help").stdout
    for words in ("CC BY-NC-SA 4.0", "Buerhop-Lutz et al. 2018", "Deitsch et al. 2019", "Deitsch et al. 2021"):
        assert words in text


def test_the_version_is_told_to_people_and_to_programs() -> None:
    assert _heeler("--version").stdout == f"heeler {heeler.__version__}\n"
    assert json.loads(_heeler("--version", "--json").stdout) == {"version": heeler.__version__}


def test_no_verb_shows_the_help_on_standard_error_and_is_wrong_usage() -> None:
    done = _heeler()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("train", ".", "--epoch", "3"), ("--epoch", "--epochs")),
        (("trian", "."), ("trian",)),
        (("train",), ("FOLDER",)),
        (("predict", "."), ("PATHS",)),
        (("train", ".", "--test", "1.5"), ("--test", "1.5", "0.9")),
        (("train", ".", "--test", "nan"), ("--test", "nan")),
        (("train", ".", "--valid", "0"), ("--valid", "0.01")),
        (("train", ".", "--image-px", "3"), ("--image-px", "3", "32", "1024")),
        (("train", ".", "--epochs", "-1"), ("--epochs", "-1")),
        (("train", ".", "--epochs", "three"), ("--epochs",)),
        (("train", ".", "--batch-size", "0"), ("--batch-size", "0")),
        (("train", ".", "--lr", "inf"), ("--lr", "inf")),
        (("train", ".", "--augment", "all"), ("--augment", "overhead")),
        (("train", ".", "--fit", "stretch"), ("--fit", "squash")),
        (("check", ".", "--alpha", "white"), ("--alpha", "white", "#ffffff")),
        (("check", ".", "--seed", "4294967296"), ("--seed", "4294967296", "4294967295")),
        (("predict", ".", "x.jpg", "--top", "0"), ("--top", "0")),
        (("predict", ".", "x.jpg", "--json", "--out", "-"), ("--json", "--out -")),
        (("--json", "check", "."), ("--json goes after the verb",)),
        (("train", "no/such/folder"), ("no/such/folder does not exist",)),
        (("check", "no/such/folder"), ("no/such/folder does not exist",)),
        (("train", ".", "--labels", "none.csv"), ("none.csv does not exist",)),
        (("train", ".", "--weights", "none.safetensors"), ("none.safetensors does not exist",)),
        (("predict", "no/such/model", "x.jpg"), ("no/such/model does not exist",)),
        (("get",), ("NAME", "--list")),
        (("get", "imagewof2-320"), ("imagewof2-320", "did you mean imagewoof2-320")),
    ],
)
def test_wrong_usage_is_one_line_a_hint_and_exit_code_2(args: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = run_heeler(*args)
    _one_clear_line(subprocess.CompletedProcess(args, done.code, done.out, done.err), 2, *words)
    assert done.out == "" or "--json" in args


def test_an_error_is_one_json_object_where_json_was_asked_for() -> None:
    done = _heeler("train", "no/such/folder", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == done.returncode == 2
    assert f"heeler: {error['message']}\n  hint: {error['hint']}\n" == done.stderr
    unknown = json.loads(_heeler("train", ".", "--json", "--epoch", "3").stdout)
    assert "--epoch" in unknown["error"]["message"]


def test_a_name_after_two_dashes_is_a_name() -> None:
    done = _heeler("check", "--", "--json")
    _one_clear_line(done, 2, "--json does not exist")
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_comes_back_as_it_went_in() -> None:
    done = _heeler("train", b"caf\xe9")
    _one_clear_line(done, 2, "caf\udce9 does not exist")


def test_a_folder_without_files_is_unusable_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _one_clear_line(_heeler("predict", str(tmp_path), str(tmp_path / "empty")), 3, "no files", "empty")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("--version",), ("train", "--help"), ("train", "nowhere", "--json")])
def test_a_full_disk_under_standard_output_is_one_line(args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "heeler", *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    done.stdout = ""
    if "nowhere" in args:
        _one_clear_line(done, 2, "nowhere does not exist")
    else:
        _one_clear_line(done, 1, "disk is full")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "heeler", "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
def test_an_interrupt_is_one_line_and_130(tmp_path: Path) -> None:
    # Interrupted where it waits; a shell that put the tests into the background has taught them to ignore that.
    code = (
        "import io, os, signal, sys, threading\nfrom heeler.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Waited(io.TextIOWrapper):\n"
        "    def readline(self, *size):\n"
        "        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "        return super().readline(*size)\n"
        "sys.stdin = Waited(sys.stdin.buffer)\n"
        f"sys.exit(main(['predict', {str(tmp_path)!r}, '-']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Standard input stays open until the command has ended, so that it waits for the list of photos.
    process.wait(60)
    out, err = process.communicate()
    _one_clear_line(subprocess.CompletedProcess([], process.returncode, out, err), 130, "stopped")
    assert out == ""


def _fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine() -> None:
        raise error

    monkeypatch.setattr(doctor, "examine", examine)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            BundleError("model/heeler.json: 3 files are missing", hint="copy the folder again"),
            4,
            "copy the folder again",
        ),
        (ZeroDivisionError("division\nby zero"), 1, "inside heeler: ZeroDivisionError: division by zero"),
        (MemoryError(), 1, "memory"),
        (OSError(28, "No space left on device", "runs/1/model.bin"), 1, "disk is full: runs/1/model.bin"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_every_failure_has_its_exit_code_and_no_traceback(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HEELER_DEBUG", raising=False)
    _fail_with(error, monkeypatch)
    assert cli.main(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    _one_clear_line(subprocess.CompletedProcess([], code, out, err), code, words)
    assert json.loads(out)["error"]["exit_code"] == code


@pytest.mark.parametrize("words", [["doctor", "--debug"], ["--debug", "doctor"], ["doctor"]])
def test_debug_shows_the_traceback_before_the_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_with(ZeroDivisionError("division by zero"), monkeypatch)
    if "--debug" not in words:
        monkeypatch.setenv("HEELER_DEBUG", "1")
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert err.index("Traceback (most recent call last)") < err.index("\nheeler: something went wrong")


def test_colours_are_read_with_and_without_a_hash() -> None:
    assert parse_colour("#ff8000") == parse_colour("FF8000") == (255, 128, 0)


def test_the_installed_command_is_the_module() -> None:
    installed = Path(sys.executable).parent / ("heeler.exe" if sys.platform == "win32" else "heeler")
    if not installed.exists():
        pytest.skip("heeler is not installed as a command beside this Python")
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"heeler {heeler.__version__}\n"


@pytest.mark.parametrize("verb", ["train", "check", "plan", "preview"])
def test_a_name_too_long_for_any_file_does_not_exist(verb: str) -> None:
    assert_clear(run_heeler(verb, "x" * 5000), 2, "does not exist")


def test_options_may_name_files_whose_names_are_no_text() -> None:
    assert TrainOptions(labels=Path("caf\udce9.csv")).key != TrainOptions(labels=Path("cafe.csv")).key
