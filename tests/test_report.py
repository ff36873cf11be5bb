"""The page holds every number, runs its own script alone, and asks for nothing outside the file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heeler.fixes import Fix
from heeler.judge.advice import kept_weights
from heeler.judge.figures import duration
from heeler.judge.gallery import MOST_OF_A_CELL, Answers, Pictures
from heeler.judge.prospects import CurvePoint
from heeler.judge.report import MAX_LEFT_OUT_ROWS, ReportContext, Twin, render_report, write_report
from heeler.judge.scores import score, softmax
from heeler.records import ByteArray, RunResult

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
    "</script><script>alert(1)</script><!--",
)
EMPTY_TAGS = ("meta", "img", "br", "input", "wbr")


class Page(HTMLParser):
    """Everything that a browser would make of the page: elements, attributes, text; data and script apart."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.style = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def squares_of(paths: Sequence[str]) -> ByteArray:
    """Plain squares, each path its own colour: small to keep and easy to tell apart."""
    colours = [np.frombuffer(hashlib.sha256(path.encode("utf-8", "replace")).digest()[:3], np.uint8) for path in paths]
    return np.stack([np.broadcast_to(colour, (32, 32, 3)) for colour in colours])


def context_of(classes: tuple[str, ...], n: int = 300, sharpness: float = 3.0, **changes: object) -> ReportContext:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(0, 1, (n, len(classes)))
    logits[np.arange(n), labels] += sharpness
    paths = [f"{classes[label]}/photo {i}.jpg" for i, label in enumerate(labels)]
    probabilities = softmax(logits.astype(np.float32))
    scores = score(probabilities, labels, classes, paths)
    result = RunResult(
        run=Path("run"), model=Path("run/model"), report=Path("run/report.html"), predictions=Path("run/p.csv"),
        chosen="tuned", scores=scores, n_train=2111, n_valid=222, n_test=n, classes=classes, temperature=1.3456,
        seconds={"read": 12.34, "features": 131.0, "total": 150.0}, rates_per_s={"features": 347.2, "train_step": 98.0},
        notes=("A note with 77 in it.",), planned_s={"decode": 11.5, "tune": 99.0},
    )  # fmt: skip
    context = ReportContext(
        title="Leaves", result=result, n_found=2718, left_out=[("notes.txt", "not a photo")], n_unreadable=4,
        n_by_class={name: 40 + k for k, name in enumerate(classes)},
        answers=Answers(paths, labels, probabilities, probabilities[: n // 2], labels[: n // 2]),
        pictures=Pictures(squares_of), maps=rng.random((len(scores.top_losses), 3, 3)).astype(np.float32),
        sheet=[(jpeg(100 + i, 128), classes[i % len(classes)]) for i in range(12)],
        command="heeler train leaves/ --epochs 2", versions={"torch": "9.8.7"}, settings={"image_px": "219"}, seed=4242,
        hardware={"processor": "Abacus 3000"}, n_epochs=2.0,
        split_key="0123abcd", history=[
            {"epoch": 1, "epochs": 2, "phase": "head", "train_loss": 1.2345, "valid_loss": 0.9876, "valid_error": 0.321,
             "best_error": 0.321, "seconds": 31.5, "rate_per_s": 88.0},
            {"epoch": 2, "epochs": 2, "phase": "all", "train_loss": 0.7654, "valid_loss": 0.6543, "valid_error": 0.123,
             "best_error": 0.123, "seconds": 33.5, "rate_per_s": 87.0},
        ],
    )  # fmt: skip
    return replace(context, **changes)  # type: ignore[arg-type]


def hostile_context(names: tuple[str, ...] = HOSTILE, **changes: object) -> ReportContext:
    """The same name wherever a name can stand."""
    context = context_of(
        names, title=names[1], left_out=[(name, name) for name in names], command=" ".join(names),
        versions={names[0]: names[1]}, settings={names[2]: names[3]}, hardware={names[4]: names[5]}, split_key=names[6],
        fixes=[Fix(name, name, name, other) for name, other in zip(names, names[1:] + names[:1], strict=True)],
        twins=[Twin((name, name), ("train", "test"), (name, names[0])) for name in names], **changes,
    )  # fmt: skip
    return replace(context, result=replace(context.result, notes=names))


def jpeg(seed: int, side_px: int = 224) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def text_of(context: ReportContext) -> str:
    return " ".join(Page(render_report(context)).text.replace("\u00a0", " ").split())


def data_of(context: ReportContext) -> dict[str, object]:
    found: dict[str, object] = json.loads(Page(render_report(context)).scripts[0])
    return found


def test_hostile_names_stay_inert_and_readable() -> None:
    html = render_report(hostile_context())
    html.encode("utf-8")
    page = Page(html)
    assert page.open == []
    assert {"html", "table", "img", "details", "dialog"} <= set(page.tags)
    assert page.tags.count("script") == 2 and page.tags.count("style") == 1
    assert not {"iframe", "object", "embed", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {value.split(",")[0] for value in page.values("src")} <= {
        "data:image/jpeg;base64", "data:image/webp;base64"
    }  # fmt: skip
    assert not page.values("href") + page.values("action") + page.values("srcset") + page.values("style")
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 191 }}" in page.text
    assert "1337" not in page.text
    assert "two\\nlines\\tand a tab" in page.text
    assert "bad byte \\udce9 and a half pair \\ud800" in page.text
    assert "\u202e" not in html
    assert "&lt;b&gt; &amp;" in page.text
    data = json.loads(page.scripts[0])
    assert data["classes"][0] == "<script>alert(1)</script>"
    assert data["classes"][5] == "bad byte \\udce9 and a half pair \\ud800"
    assert "<" not in page.scripts[0]


def test_page_allows_its_own_script_and_style_by_their_hashes_and_nothing_else() -> None:
    html = render_report(context_of(("a", "b")))
    page = Page(html)
    policy = next(value for value in page.values("content") if "default-src" in value)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def hash_of(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "style-src": hash_of(page.style), "script-src": hash_of(page.scripts[1]),
    }  # fmt: skip
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", page.scripts[1])


def test_blocks_come_in_their_order() -> None:
    fixes = [Fix("a/1.jpg", "label", "a", "b"), Fix("a/2.jpg", "blurred", "a")]
    context = context_of(
        ("a", "b"), fixes=fixes, twins=[Twin(("a/1", "b/2"), ("train", "test"), ("a", "b"))], curve=curve_of()
    )
    sections = Page(render_report(context)).values("id")
    wanted = ["next", "sheet", "results", "matrix", "classes", "trust", "curves", "time", "worst", "suspects", "twins",
              "left-out", "again"]  # fmt: skip
    assert [name for name in sections if name in wanted] == wanted


def test_every_number_is_on_the_page() -> None:
    context = context_of(("ash", "elm", "oak"))
    scores, text = context.result.scores, text_of(context)
    low, high = scores.interval
    wanted = [
        f"{100 * scores.error:.1f} %", f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %", "300 photos",
        f"{scores.n_wrong} of them were given the wrong class", f"right for {100 - 100 * scores.baseline_error:.1f} %",
        f"wrong for {100 * scores.baseline_error:.1f} %", "19 times in 20 the true rate is between",
        f"{100 * scores.ece:.1f} points", "2,111, 222, 300", "2,718", "4 files are not a whole photo", "“ash” (40)",
        "A note with 77 in it.", "12.3 s", "2 min 11 s", "2 min 30 s", "347/s", "98/s", "1.346",
        f"{scores.loss:.4f}", "9.8.7", "219", "4242", "0123abcd", "heeler train leaves/ --epochs 2", "Abacus 3000",
        "1.2345", "0.9876", "32.1 %", "0.7654", "0.6543", "12.3 %", "last layer", "all layers", "31.5 s", "88",
        "notes.txt", "not a photo", "planned 11.5 s", "95.0 % of its answers",
    ]  # fmt: skip
    wanted += [f"{100 * row.recall:.1f} %" for row in scores.per_class] + [f"{row.f1:.3f}" for row in scores.per_class]
    wanted += [f"{100 * row.precision:.1f} %" for row in scores.per_class]
    wanted += [f"{100 * row.probability:.1f} %" for row in scores.top_losses] + [row.path for row in scores.top_losses]
    assert [number for number in wanted if number not in text] == []


@pytest.mark.parametrize("answered", [True, False])
def test_confusion_table_holds_the_counts_in_order(answered: bool) -> None:
    context = context_of(("ash", "elm", "oak"), sharpness=1.0, **({} if answered else {"answers": None}))
    html = render_report(context)
    table = html[html.index('<table class="matrix">') : html.index("</table>", html.index('<table class="matrix">'))]
    rows = table.split("<tr>")[2:]
    found = [[re.findall(r'class="count">(\d+)<', cell) for cell in row.split("<td")[1:]] for row in rows]
    counts = [list(row) for row in context.result.scores.confusion]
    assert [[int(cell[0]) if cell else 0 for cell in row] for row in found] == counts
    shares = [int(share) for share in re.findall(r'class="share">(\d+)<', rows[0])]
    assert shares == [round(100 * count / sum(counts[0])) for count in counts[0] if count]


def test_a_cell_lists_its_photos_and_each_picture_is_there_once() -> None:
    context = context_of(("ash", "elm", "oak"), n=900, sharpness=1.5)
    answers = context.answers
    assert answers
    html, data = render_report(context), data_of(context)
    predicted = answers.probabilities.argmax(1)
    on_page = {int(row) for row in Page(html).values("data-photo")}
    assert isinstance(data["cells"], dict) and isinstance(data["thumbs"], dict) and isinstance(data["photos"], dict)
    for name, (n, rows) in data["cells"].items():
        given, said = map(int, name.split(","))
        inside = (answers.labels == given) & (predicted == said)
        assert n == inside.sum() == context.result.scores.confusion[given][said]
        assert len(rows) == min(n, MOST_OF_A_CELL) and inside[rows].all() and len(set(rows)) == len(rows)
        for row in rows:
            assert data["photos"][str(row)][0] == answers.paths[row]
            assert (str(row) in data["thumbs"]) != (row in on_page)
    assert len(set(data["thumbs"].values())) == len(data["thumbs"])
    picture = Image.open(io.BytesIO(base64.b64decode(next(iter(data["thumbs"].values())))))
    assert picture.format == "WEBP" and not picture.getexif() and "icc_profile" not in picture.info


def curve_of(n_judged: int = 2000) -> list[CurvePoint]:
    chance = np.random.default_rng(3).random(n_judged)
    return [CurvePoint(n, chance < 2 * n**-0.4) for n in (400, 800, 1600, 2800, 4000)]


def test_what_to_do_next_speaks_of_suspects_photos_and_minutes() -> None:
    fixes = [Fix(f"a/{i}.jpg", "label", "a", "b") for i in range(30)] + [Fix("a/0.jpg", "label", "a", "b", "keep")]
    text = text_of(context_of(("a", "b"), fixes=[*fixes, Fix("a/99.jpg", "nearly black", "a")], curve=curve_of()))
    assert "The labels of 30 photos are in doubt" in text
    assert "31 in all, the first 24 here" in text and "decided: keep" not in text  # it is the last of them
    assert "1 other problem was found" in text and "nearly black" in text
    assert re.search(r"Twice as many photos would take the error of the last layer from 8.1 % to about 6.\d % \(", text)
    assert "More minutes may help" in text
    few = text_of(context_of(("a", "b"), curve=curve_of()[:2]))
    assert "too few points" in few and "Twice as many" not in few


def test_near_duplicates_across_parts_are_shown_with_both_classes() -> None:
    text = text_of(context_of(("a", "b"), twins=[Twin(("a/1.jpg", "b/2.jpg"), ("train", "test"), ("a", "b"))]))
    assert "1 pair of near duplicates" in text and "train: a a/1.jpgtest: b b/2.jpg" in text


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
    assert len(sources) == 24 + 24 + 12 + 12
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            image.load()
            assert image.format in ("JPEG", "WEBP") and not image.getexif()


def test_out_of_fold_and_probe_are_told_as_such() -> None:
    context = context_of(("a", "b"))
    scores = replace(context.result.scores, estimate="out-of-fold")
    assert context.answers
    alone = replace(context.answers, valid_probabilities=None, valid_labels=None)
    text = text_of(
        replace(context, answers=alone, result=replace(context.result, scores=scores, chosen="probe"))
    )  # fmt: skip
    assert "judged by a model that did not see it (out-of-fold)" in text
    assert "no part in training" not in text
    assert "the figures flatter a little" in text
    assert "the last layer" in text
    assert "Tuning all layers was tried" in text
    assert "no part in training the model or in choosing it" in text_of(context)
    last = replace(context, history=[{**epoch, "phase": "last"} for epoch in context.history])
    assert "What was trainedthe last stages" in text_of(last)


def test_the_page_says_which_photos_taught_and_which_set_the_temperature() -> None:
    tuned = context_of(("a", "b"))
    probe = replace(tuned, result=replace(tuned.result, chosen="probe"))
    scores = replace(tuned.result.scores, estimate="out-of-fold")
    assert tuned.answers
    alone = replace(tuned.answers, valid_probabilities=None, valid_labels=None)
    few = replace(tuned, answers=alone, result=replace(tuned.result, chosen="probe", scores=scores))
    text = text_of(tuned)
    assert "all layers, on 2,111 photos" in text and "to train, choose, test2,111, 222, 300" in text
    assert "fitted on the 222 photos that choose; the photos judged here had no part in it" in text
    text = text_of(probe)
    assert "the last layer, on 2,333 photos" in text
    assert "Once everything was chosen, the last layer also learnt from the 222 photos that choose." in text
    assert "fitted on the 222 photos that choose, by the answers of a last layer that had not seen them." in text
    assert "set on the 222 photos that choose, by the answers of a last layer that had not seen them" in text
    text = text_of(few)
    assert "the last layer, on all 300 photos" in text and "kept has learnt from all of them" in text
    assert "fitted on the very answers that are judged here" in text
    assert "photos that choose" not in text.partition("How it learnt")[0] and "2,111" not in text


@pytest.mark.parametrize(("kept_epoch", "bold"), [(0, None), (1, "0.9876"), (2, "0.5432")])
def test_the_row_in_bold_is_the_epoch_that_was_kept_not_the_least_error(kept_epoch: int, bold: str | None) -> None:
    context = context_of(("a", "b"))
    first, second = context.history
    # Judged twice in the second epoch; the average of the later weights has the lowest loss, the first the least error.
    later = {**second, "valid_loss": 0.5432, "valid_error": 0.234, "ema_loss": 0.4}
    words = kept_weights("ema", kept_epoch, 0.4, 0.111)
    context = replace(context, history=[first, second, later], kept=words, kept_epoch=kept_epoch)
    html = render_report(context)
    marked = re.findall(r'<tr class="best">(.*?)</tr>', html)
    assert (bold is None and marked == []) or (bold and len(marked) == 1 and bold in marked[0])
    text = text_of(context)
    assert words.replace("\u00a0", " ") in text and ("Its row is in bold." in text) == bool(kept_epoch)


def test_a_loss_judged_once_is_a_row_and_no_chart() -> None:
    context = context_of(("a", "b"))
    text = text_of(replace(context, history=context.history[:1]))
    assert "Each time that it was judged" in text and "Would more minutes help?" not in text
    assert "Would more minutes help?" in text_of(context)


def test_names_break_where_a_person_would_break_them_and_stay_whole_in_attributes() -> None:
    html = render_report(context_of(("Gray_Leaf_Spot", "<b>_i")))
    assert "Gray_<wbr>Leaf_<wbr>Spot/<wbr>photo" in html and "&lt;b&gt;_<wbr>i" in html
    assert not [value for _, _, value in Page(html).attributes if "wbr" in value]


def test_what_was_looked_for_and_not_found_is_said() -> None:
    text = text_of(context_of(("a", "b")))
    assert "no label is in doubt" in text and "no near duplicates lie in different parts" in text
    context = hostile_context()
    assert "no label is in doubt" not in text_of(context) and "no near duplicates" not in text_of(context)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.25 s"), (59.9, "59.9 s"), (97.6, "1 min 38 s"), (120, "2 min 00 s")]
)
def test_durations_are_said_as_in_the_terminal(seconds: float, said: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == said


def test_sparse_context_still_makes_a_page() -> None:
    context = ReportContext(title="Bare", result=context_of(("a", "b")).result, n_found=300)
    text = text_of(context)
    assert "Nothing: all 300 files took part." in text
    assert "no picture" in text
    for title in ("How it learnt", "What the network sees", "Labels to check", "Can its probabilities", "Some answers"):
        assert title not in text
    assert "dialog" not in Page(render_report(context)).tags


def test_no_mistakes_and_only_mistakes_make_a_page() -> None:
    perfect = text_of(context_of(("a", "b"), sharpness=50.0))
    assert "None of the 300 photos was wrong" in perfect
    hopeless = text_of(context_of(("a", "b"), sharpness=-50.0))
    assert "All 300 photos were wrong" in hopeless


def test_long_list_of_left_out_files_is_folded_and_cut() -> None:
    few = render_report(context_of(("a", "b"), history=()))
    assert "<details open>" in few
    many = render_report(
        context_of(("a", "b"), history=(), left_out=[(f"x{i}.txt", "not a photo") for i in range(1234)])
    )
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
