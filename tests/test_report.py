"""The page holds every number, nothing active, and nothing that leaves the file."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heeler.judge.report import MAX_LEFT_OUT_ROWS, ReportContext, render_report, write_report
from heeler.judge.scores import score, softmax
from heeler.records import RunResult

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "}}{{ 7 * 191 }}{% raw %}",
    "two\nlines\tand a tab",
    "bad byte \udce9 and a half pair \ud800",
    "</style></title><svg onload=alert(1)>",
    "gpj.\u202eexe",
    "javascript:alert(1)",
    "&lt;b&gt; &amp;",
)


class Page(HTMLParser):
    """Everything that a browser would make of the page: elements, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def jpeg(seed: int, side_px: int = 224) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def context_of(classes: tuple[str, ...], n: int = 300, sharpness: float = 3.0, **changes: object) -> ReportContext:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(0, 1, (n, len(classes)))
    logits[np.arange(n), labels] += sharpness
    paths = [f"{classes[label]}/photo {i}.jpg" for i, label in enumerate(labels)]
    scores = score(softmax(logits.astype(np.float32)), labels, classes, paths)
    result = RunResult(
        run=Path("run"), model=Path("run/model"), report=Path("run/report.html"), predictions=Path("run/p.csv"),
        chosen="tuned", scores=scores, n_train=2111, n_valid=222, n_test=n, classes=classes, temperature=1.3456,
        seconds={"read": 12.34, "features": 131.0, "total": 150.0}, rates_per_s={"features": 347.2, "train_step": 98.0},
        notes=("A note with 77 in it.",),
    )  # fmt: skip
    context = ReportContext(
        title="Leaves", result=result, n_found=2718, left_out=[("notes.txt", "not a photo")], n_unreadable=4,
        n_by_class={name: 40 + k for k, name in enumerate(classes)},
        thumbnails={row.path: jpeg(i) for i, row in enumerate(scores.top_losses)},
        sheet=[(jpeg(100 + i, 128), classes[i % len(classes)]) for i in range(32)],
        command="heeler train leaves/ --epochs 2", versions={"torch": "9.8.7"}, settings={"image_px": "219"}, seed=4242,
        split_key="0123abcd", history=[
            {"epoch": 1, "epochs": 2, "phase": "head", "train_loss": 1.2345, "valid_loss": 0.9876, "valid_error": 0.321,
             "best_error": 0.321, "seconds": 31.5, "rate_per_s": 88.0},
            {"epoch": 2, "epochs": 2, "phase": "all", "train_loss": 0.7654, "valid_loss": 0.6543, "valid_error": 0.123,
             "best_error": 0.123, "seconds": 33.5, "rate_per_s": 87.0},
        ],
    )  # fmt: skip
    return replace(context, **changes)  # type: ignore[arg-type]


def text_of(context: ReportContext) -> str:
    return " ".join(Page(render_report(context)).text.replace("\u00a0", " ").split())


def test_hostile_names_stay_inert_and_readable() -> None:
    context = context_of(
        HOSTILE, title=HOSTILE[1], left_out=[(name, name) for name in HOSTILE], command=" ".join(HOSTILE),
        versions={HOSTILE[0]: HOSTILE[1]}, settings={HOSTILE[2]: HOSTILE[3]}, split_key=HOSTILE[6],
    )  # fmt: skip
    html = render_report(replace(context, result=replace(context.result, notes=HOSTILE)))
    html.encode("utf-8")
    page = Page(html)
    assert page.open == []
    assert {"html", "table", "img", "details"} <= set(page.tags)
    assert not {"script", "svg", "iframe", "object", "embed", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {value[:23] for _, name, value in page.attributes if name == "src"} == {"data:image/jpeg;base64,"}
    assert not [value for _, name, value in page.attributes if name in ("href", "action", "srcset")]
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 191 }}" in page.text
    assert "1337" not in page.text
    assert "two\\nlines\\tand a tab" in page.text
    assert "bad byte \\udce9 and a half pair \\ud800" in page.text
    assert "\u202e" not in html
    assert "&lt;b&gt; &amp;" in page.text


def test_page_forbids_itself_everything_but_its_own_style_and_images() -> None:
    page = Page(render_report(context_of(("a", "b"))))
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    html = render_report(context_of(("a", "b")))
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html


def test_every_number_is_on_the_page() -> None:
    context = context_of(("ash", "elm", "oak"))
    scores, text = context.result.scores, text_of(context)
    low, high = scores.interval
    wanted = [
        f"{100 * scores.error:.1f} %", f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %", "300 photos",
        f"{scores.n_wrong} of them were given the wrong class", f"wrong for {100 * scores.baseline_error:.1f} %",
        f"{100 * scores.ece:.1f} points", "2,111, 222, 300", "2,718", "4 files are not a whole photo", "“ash” (40)",
        "A note with 77 in it.", "12.3 s", "2 min 11 s", "2 min 30 s", "347 per second", "98 per second", "1.346",
        f"{scores.loss:.4f}", "9.8.7", "219", "4242", "0123abcd", "heeler train leaves/ --epochs 2",
        "1.2345", "0.9876", "32.1 %", "0.7654", "0.6543", "12.3 %", "last layer", "all layers", "31.5 s", "88",
        "notes.txt", "not a photo",
    ]  # fmt: skip
    wanted += [f"{100 * row.recall:.1f} %" for row in scores.per_class] + [f"{row.f1:.3f}" for row in scores.per_class]
    wanted += [f"{100 * row.precision:.1f} %" for row in scores.per_class]
    wanted += [f"{100 * row.probability:.1f} %" for row in scores.top_losses] + [row.path for row in scores.top_losses]
    assert [number for number in wanted if number not in text] == []


def test_confusion_table_holds_the_counts_in_order() -> None:
    context = context_of(("ash", "elm", "oak"), sharpness=1.0)
    html = render_report(context)
    table = html[html.index('<table class="matrix">') : html.index("</table>", html.index('<table class="matrix">'))]
    rows = table.split("<tr>")[2:]
    found = [[cell.split("<")[0].split(">")[-1] for cell in row.split("<td")[1:]] for row in rows]
    assert [[int(cell or 0) for cell in row] for row in found] == [list(row) for row in context.result.scores.confusion]


@pytest.mark.parametrize("n_classes", [2, 14, 50])
def test_page_is_whole_for_two_to_fifty_classes(n_classes: int) -> None:
    page = Page(render_report(context_of(tuple(f"kind {i:02d}" for i in range(n_classes)), n=1000)))
    assert page.open == []
    columns = [name for tag, name, value in page.attributes if tag == "th" and name == "title"]
    assert len(columns) == 2 * n_classes


def test_images_are_inside_and_the_page_is_small(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "report.html"
    context = context_of(tuple(f"kind {i}" for i in range(10)))
    write_report(path, context)
    assert path.stat().st_size < 8_000_000
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    sources = [value for tag, name, value in Page(html).attributes if (tag, name) == ("img", "src")]
    assert len(sources) == 24 + 32
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            image.load()
            assert image.format == "JPEG"


def test_out_of_fold_and_probe_are_told_as_such() -> None:
    context = context_of(("a", "b"))
    scores = replace(context.result.scores, estimate="out-of-fold")
    text = text_of(replace(context, result=replace(context.result, scores=scores, chosen="probe")))
    assert "judged by a model that did not see it (out-of-fold)" in text
    assert "no part in training" not in text
    assert "the last layer" in text
    assert "Tuning all layers was tried" in text
    assert "no part in training the model or in choosing it" in text_of(context)
    last = replace(context, history=[{**epoch, "phase": "last"} for epoch in context.history])
    assert "What was trainedthe last stages" in text_of(last) and "all layers" not in text_of(last)


def test_sparse_context_still_makes_a_page() -> None:
    text = text_of(ReportContext(title="Bare", result=context_of(("a", "b")).result, n_found=300))
    assert "Nothing: all 300 files took part." in text
    assert "no picture" in text
    assert "How training went" not in text
    assert "What the network sees" not in text


def test_no_mistakes_and_only_mistakes_make_a_page() -> None:
    perfect = text_of(context_of(("a", "b"), sharpness=50.0))
    assert "None of the 300 photos was wrong" in perfect
    hopeless = text_of(context_of(("a", "b"), sharpness=-50.0))
    assert "All 300 photos were wrong" in hopeless


def test_long_list_of_left_out_files_is_folded_and_cut() -> None:
    few = render_report(context_of(("a", "b")))
    assert "<details open>" in few
    many = render_report(context_of(("a", "b"), left_out=[(f"x{i}.txt", "not a photo") for i in range(1234)]))
    assert "<details>" in many
    assert many.count("not a photo</td>") == MAX_LEFT_OUT_ROWS
    assert "234 more are in catalogue.csv" in many


def test_failed_write_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(tmp_path / "report.html", context_of(("a", "b")))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_importing_the_report_is_cheap() -> None:
    code = "import sys, heeler.judge.report; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
