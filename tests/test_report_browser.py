"""The report in a browser: its matrix opens, hostile names run nothing, nothing is fetched, nothing sticks out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import axe, launch
from heeler.fixes import Fix
from heeler.judge.report import ReportContext, Twin, render_report
from test_report import HOSTILE, context_of, curve_of, hostile_context

WIDTHS_PX = (390, 1440)
CLASSES = ("ash", "elm", "oak")
FIFTY = (
    *HOSTILE,
    "</script><img src=http://127.0.0.1:9/a onerror=document.title='broken'>",
    "{{ self.__init__.__globals__ }}",
    "${alert(1)}",
    "`; alert(1); //",
    "\\u003cscript\\u003ealert(1)",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "]]><script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<base href=http://127.0.0.1:9/>",
    "<style>*{display:none}</style>",
    "\u202eevil\u2066\u2069",
    "שלום עולם",
    "مرحبا",
    "long " * 200,
    "W" * 4000,
    "\u0300" * 300,
    "a\x00b\x07c",
    "__proto__",
    "constructor",
    "toString",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "\U0001f436" * 40,
    "<!--",
    "-->",
    "<textarea>",
    "<plaintext>",
    "<table><tr><td>",
    "\" autofocus onfocus=alert(1) x=\"",
    "{% include '/etc/passwd' %}",
    "{# a comment #}",
    "&#60;script&#62;",
    "\ufeffmark",
    "\u2028line\u2029",
    " ",
    "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as found:
        yield found


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report as a file, and watches it: afterwards nothing was asked of a network, said or thrown."""
    opened, requests, said = [], [], []

    def open_report(context: ReportContext, width_px: int = 1440, **options: Any) -> Any:
        path = tmp_path / f"report {len(opened)}.html"
        path.write_text(render_report(context), encoding="utf-8")
        page = browser.new_page(viewport={"width": width_px, "height": 900}, **options)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield open_report
    for page in opened:
        page.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in requests) == len(opened)
    assert said == []


def full_context() -> ReportContext:
    context = context_of(CLASSES, n=900, sharpness=2.0, curve=curve_of())
    worst = [row.path for row in context.result.scores.top_losses]
    fixes = [Fix(path, "label", "ash", "elm") for path in worst[:5]] + [Fix(worst[6], "nearly black", "oak")]
    twins = [Twin((worst[0], worst[1]), ("train", "test"), ("ash", "elm"))]
    return context_of(CLASSES, n=900, sharpness=2.0, curve=curve_of(), fixes=fixes, twins=twins)


def cell(page: Any, given: int, predicted: int) -> Any:
    return page.locator(f'.matrix button[data-given="{given}"][data-predicted="{predicted}"]')


def test_a_click_on_a_cell_opens_its_photos(show: Callable[..., Any]) -> None:
    context = full_context()
    page, confusion = show(context), context.result.scores.confusion
    assert not page.locator("#photos").is_visible()
    cell(page, 0, 1).click()
    assert page.locator("#photos").is_visible()
    assert page.locator("#photos-title").inner_text() == "ash → elm"
    assert f"{confusion[0][1]} photos" in page.locator("#photos-text").inner_text()
    figures = page.locator("#photos-grid figure")
    assert figures.count() == confusion[0][1]
    assert page.evaluate("[...document.querySelectorAll('#photos-grid img')].every(i => i.complete && i.naturalWidth)")
    assert page.locator("#photos-grid img").count() == confusion[0][1]
    assert re.search(r"ash/photo \d+\.jpg", figures.first.inner_text())
    page.locator("#photos-close").click()
    assert not page.locator("#photos").is_visible()
    cell(page, 2, 2).click()
    assert page.locator("#photos-grid figure").count() == 60
    assert f"the first 60 of {confusion[2][2]} photos" in page.locator("#photos-text").inner_text()


def test_the_keyboard_alone_opens_and_closes_a_cell(show: Callable[..., Any]) -> None:
    page = show(full_context())
    page.locator("#as-count").focus()
    page.keyboard.press("Tab")  # the matrix can be scrolled by keys
    page.keyboard.press("Tab")
    focused = "[document.activeElement.dataset.given, document.activeElement.dataset.predicted]"
    assert page.evaluate(focused) == ["0", "0"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == ["1", "1"]
    page.keyboard.press("Enter")
    assert page.locator("#photos-title").inner_text() == "elm"
    page.keyboard.press("Escape")
    page.wait_for_selector("#photos", state="hidden")
    assert page.evaluate(focused) == ["1", "1"]
    page.keyboard.press("Tab")
    assert page.evaluate("!document.activeElement.closest('.matrix')")


def test_a_tap_opens_a_cell_on_a_phone(show: Callable[..., Any]) -> None:
    page = show(full_context(), 390, has_touch=True, is_mobile=True)
    cell(page, 1, 0).tap()
    assert page.locator("#photos-title").inner_text() == "elm → ash"
    box = page.locator("#photos").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_counts_or_per_cent_tables_and_slider_answer(show: Callable[..., Any]) -> None:
    context = full_context()
    page, confusion = show(context), context.result.scores.confusion
    assert cell(page, 0, 0).inner_text() == str(confusion[0][0])
    page.locator("#as-share").check()
    assert cell(page, 0, 0).inner_text() == f"{100 * confusion[0][0] / sum(confusion[0]):.0f}"
    column = "[...document.querySelectorAll('.sortable tbody tr')].map(row => parseFloat(row.cells[3].textContent))"
    head = page.locator(".sortable th", has_text="Found")
    head.locator("button").click()
    assert page.evaluate(column) == sorted(page.evaluate(column))
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert page.evaluate(column) == sorted(page.evaluate(column), reverse=True)
    page.locator("#sure-from").fill("0")
    assert "It answers 900 of 900 photos (100" in page.locator("#sure-text").inner_text()
    page.locator("#sure-from").fill("95")
    assert page.locator("#sure-value").inner_text() == "95\u00a0%"
    assert re.search(r"It answers \d+ of 900", page.locator("#sure-text").inner_text())


def test_fifty_hostile_names_run_nothing(show: Callable[..., Any]) -> None:
    assert len(set(FIFTY)) >= 50
    context = hostile_context(FIFTY, n=1200, sharpness=2.5)
    for width_px in WIDTHS_PX:
        page = show(context, width_px)
        assert page.evaluate("document.documentElement.dataset.ready") == "yes"
        assert page.locator("script").count() == 2 and page.locator("style").count() == 1
        assert page.locator("iframe, object, embed, link, base, textarea, plaintext").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        buttons = page.locator(".matrix button")
        for i in range(0, buttons.count(), 9):
            buttons.nth(i).evaluate("button => button.click()")
            title = page.locator("#photos-title").inner_text()
            assert title or page.locator("#photos-title").text_content()
            assert page.evaluate("document.getElementById('photos').scrollWidth <= innerWidth")
            page.locator("#photos").evaluate("dialog => dialog.close()")
        assert page.locator("#photos script, #photos svg, #photos iframe").count() == 0
        assert page.title().startswith('"><img src=x onerror=alert(1)>')


@pytest.mark.parametrize("width_px", WIDTHS_PX)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_axe_finds_no_serious_fault(
    show: Callable[..., Any], tmp_path: Path, width_px: int, scheme: str
) -> None:
    page = show(full_context(), width_px, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(page.screenshot(path=tmp_path / "page.png", full_page=True)) > 50_000
    page.evaluate(axe())
    for is_open in (False, True):
        if is_open:
            cell(page, 0, 1).click()
        found = page.evaluate("axe.run()")["violations"]
        bad = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
        assert bad == []


def test_without_script_the_page_is_still_whole(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(full_context()), encoding="utf-8")
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    for name in ("next", "matrix", "classes", "trust", "curves", "worst", "suspects", "again"):
        assert page.locator(f"#{name} .body").is_visible()
    assert not page.locator("#sure").is_visible() and not page.locator("#photos").is_visible()
    page.locator("#as-share").check()
    assert cell(page, 0, 0).inner_text() != str(full_context().result.scores.confusion[0][0])
    page.close()


def test_it_prints_with_folded_parts_open_and_controls_gone(show: Callable[..., Any], tmp_path: Path) -> None:
    context = context_of(CLASSES, left_out=[(f"notes {i}.txt", "not a photo") for i in range(40)])
    page = show(context)
    page.emulate_media(media="print")
    assert not page.locator(".sure").is_visible() and not page.locator(".choice").is_visible()
    assert page.locator("#left-out tbody tr").last.is_visible()
    assert page.pdf(path=tmp_path / "report.pdf", format="A4").startswith(b"%PDF")
    page.set_viewport_size({"width": 673, "height": 900})  # between the margins of A4
    sticking_out = """[...document.querySelectorAll("table, svg.chart, img, pre")]
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 90))"""
    assert page.evaluate(sticking_out) == []
