"""Notebooks: progress in one place, figures where they are made, the report in a frame, the example as a whole."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import TrainedRun
from heeler import notebook
from heeler.demo import prepare_demo
from heeler.records import Done, Note, Progress, Stage

EXAMPLE = Path(__file__).parents[1] / "examples" / "five_minutes.ipynb"


def executed(folder: Path, cells: Sequence[str] | Any, timeout_s: int = 300) -> list[list[Any]]:
    """The outputs of each code cell, run in a kernel of its own."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=timeout_s, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in book.cells]


def kinds(outputs: Sequence[Any]) -> list[str]:
    """The richest kind of each output."""
    found = []
    for output in outputs:
        data = output.get("data", {})
        found.append(
            next((kind for kind in ("image/png", "text/html", "text/plain") if kind in data), output.output_type)
        )
    return found


def text_of(output: Any) -> str:
    return str(output.get("data", {}).get("text/plain", output.get("text", "")))


def example() -> Any:
    """The example, and its cells of code."""
    book = nbformat.read(EXAMPLE, as_version=4)
    return [cell for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def outputs(
    trained_run: TrainedRun, one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[list[Any]], list[list[Any]]]:
    """What a kernel says to a training with its figures, and then to the example on a few photos."""
    folder = tmp_path_factory.mktemp("kernel")
    training = [
        f"import heeler\nphotos = heeler.open_folder({str(trained_run.source)!r})\nphotos",
        "run = heeler.train(photos, epochs=2, frozen_epochs=0, batch_size=12, image_px=64)",
        "run.show_results(4); run.plot_confusion_matrix(); run.plot_curves()",
        "chart = run.plot_reliability()",
        "chart",
        "run",
        "run.report",
        "again = heeler.train(photos, epochs=0, image_px=64, quiet=True)",
        "import sys; print('matplotlib.pyplot' in sys.modules)",
    ]
    following = []
    if importlib.util.find_spec("elpv_dataset") is not None:
        rows = prepare_demo(folder / "all").read_text().splitlines()
        few = folder / "elpv.csv"
        few.write_text("\n".join([rows[0], *rows[1::12]]) + "\n")
        few_lines = f"from pathlib import Path\nimport heeler\nsource, minutes, steps = {str(few)!r}, 0.2, 10"
        # The kernel is an old one by then: what the example does not define itself must not be there.
        forget = "del heeler, photos, run, chart, again, sys"
        following = [forget, few_lines, *(cell.source for cell in example()[1:])]
    found = executed(folder, [*training, *following])
    return found[: len(training)], found[len(training) + 1 :]


def test_a_training_and_its_figures_in_a_kernel(outputs: tuple[list[list[Any]], list[list[Any]]]) -> None:
    folder, training, figures, made, chart, run, report, quiet, loaded = outputs[0]
    assert kinds(folder) == ["text/html"] and "51 photos in 4 classes" in folder[0]["data"]["text/html"]
    # One output, which was updated in place, with a line for each stage, epoch and note.
    assert kinds(training) == ["text/html"]
    lines = text_of(training[0]).splitlines()
    assert lines[0].startswith("list files") and lines[-1].startswith("write report")
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert 10 < len(lines) < 30
    assert "<progress" not in training[0]["data"]["text/html"]
    assert kinds(figures) == 3 * ["image/png"]
    assert kinds(made) == kinds(chart) == ["image/png"]
    assert kinds(run) == ["text/html"] and "error " in run[0]["data"]["text/html"]
    assert report[0]["data"]["text/html"].startswith('<iframe sandbox="allow-scripts"')
    assert [text for output in quiet for text in re.findall("unreadable", str(output))] != []
    assert len(quiet) == 1
    assert loaded[0]["text"] == "False\n"
    assert not any("widget" in kind for each in outputs[0] for output in each for kind in output.get("data", {}))


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the extra demo")
def test_the_example_does_what_it_says_on_a_few_photos(outputs: tuple[list[list[Any]], list[list[Any]]]) -> None:
    code = example()
    assert code[0].metadata.tags == ["parameters"]
    found = {cell.source.splitlines()[0].split("(")[0]: each for cell, each in zip(code, outputs[1], strict=True)}
    for name in ("photos.show_batch", "run.show_results", "run.plot_top_losses", "run.plot_confusion_matrix",
                 "run.plot_reliability", "run.plot_curves"):  # fmt: skip
        assert kinds(found[name]) == ["image/png"], name
    assert "plan for 12 s" in text_of(found["run = heeler.train"][0])
    assert "training can start" in found["found = photos.check"][0]["text"]
    assert kinds(found["found = run.find_lr"]) == ["text/html", "image/png", "text/plain"]
    assert "no-such-photo.jpg unreadable does not exist" in found["path = run.judged.paths[0]"][0]["text"]
    assert "('defective', 'functional')" in text_of(found["again = heeler.open_run"][0])
    assert kinds(found["run.report"]) == ["text/html"]


def test_the_example_is_kept_without_outputs_and_in_lines_that_can_be_read() -> None:
    book = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        assert max(map(len, cell.source.splitlines())) <= 120
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


class Handle:
    """What IPython gives for a display that can be updated."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(content)


def test_progress_is_drawn_now_and_then_and_names_cannot_become_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle()

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        handle.shown.append(content)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(notebook, "is_notebook", lambda: True)
    with notebook.progress(quiet=False) as tell:
        tell(Stage("decode", 10_000))
        for done in range(10_000):
            tell(Progress(done, loss=0.5))
        assert len(handle.shown) < 20
        monkeypatch.setattr(notebook, "REFRESH_S", 0.0)
        tell(Progress(5_000))
        assert "<progress max='1' value='0.500'>" in handle.shown[-1]["text/html"]
        tell(Note("<b>bold\x1b</b>", "warning"))
        tell(Done("decode", 2.0, "10,000 photos"))
    last = handle.shown[-1]
    assert last["text/plain"].splitlines() == [
        "warning: <b>bold\ufffd</b>",
        "decode               2.0 s  10,000 photos",
    ]
    assert "&lt;b&gt;" in last["text/html"] and "<b>" not in last["text/html"] and "<progress" not in last["text/html"]


def test_only_so_many_lines_stay_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle()
    monkeypatch.setattr("IPython.display.display", lambda content, **_: handle)
    monkeypatch.setattr(notebook, "is_notebook", lambda: True)
    with notebook.progress(quiet=False) as tell:
        for i in range(500):
            tell(Note(f"note {i}"))
    lines = handle.shown[-1]["text/plain"].splitlines()
    assert len(lines) <= notebook.MAX_LINES + 1
    assert (lines[0], lines[-1]) == ("(440 earlier lines)", "note 499")


def test_outside_of_a_kernel_nothing_is_a_notebook() -> None:
    assert not notebook.is_notebook()
