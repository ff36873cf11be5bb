"""The review page in a real browser: keys decide, undo goes back, a reload keeps, names run nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser import axe, launch
from conftest import scene
from heeler.fixes import Fix, read_fixes
from heeler.records import Catalogue, Photo
from images import HOSTILE_NAMES
from reviewing import Page, make_run, page_of
from test_report import HOSTILE

# Looks, 30 ms apart, at what should become so: a machine that tests on all its cores may take seconds.
PATIENCE = 400
FIXES = [
    Fix("cat/0.jpg", "label suspect", "cat", "coffee"),
    Fix("cat/1.jpg", "near duplicate of coffee/2.jpg", "cat"),
    Fix("coffee/0.jpg", "blurred", "coffee"),
    Fix("coffee/1.jpg", "label suspect", "coffee", "rocket"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as browser:
        yield browser


@contextmanager
def opened(browser: Any, page: Page, **options: Any) -> Iterator[Any]:
    """The page in a tab of its own, with all that it asked for and all that it complained of."""
    context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
    tab = context.new_page()
    tab.asked, tab.said = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.goto(f"http://{page.host}{page.root}")
    tab.wait_for_selector(".card.now")
    try:
        yield tab
    finally:
        context.close()


@pytest.fixture
def run(tmp_path: Path, photo_folder: Callable[..., Path]) -> Path:
    return make_run(tmp_path / "run", photo_folder(cat=3, coffee=3, rocket=3), FIXES)


@pytest.fixture
def page(run: Path) -> Iterator[Page]:
    with page_of(run) as page:
        yield page


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Any]:
    with opened(browser, page) as tab:
        yield tab
        assert tab.said == []
        assert {url.partition("/")[2].lstrip("/").partition("/")[0] for url in tab.asked} <= {page.host, ""}


def saved(tab: Any, run: Path, *wanted: tuple[str, str]) -> None:
    """Wait until the table says of each photo, in order, this action and this suggestion."""
    for _ in range(PATIENCE):
        found = [(fix.action, fix.suggested) for fix in read_fixes(run / "fixes.csv")]
        if found == list(wanted):
            return
        tab.wait_for_timeout(30)
    assert found == list(wanted)


def expect(tab: Any, condition: str) -> None:
    """Wait until a condition holds; the page's policy forbids playwright's own way."""
    for _ in range(PATIENCE):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(30)
    raise AssertionError(condition)


def is_at(tab: Any, number: int) -> bool:
    """Whether keys are for this photo, as soon as the page has nothing else to do."""
    expect(tab, f"document.activeElement.closest('.card.now')?.dataset.number === '{number}'")
    return True


def test_keys_decide_and_go_on_to_the_next_photo(tab: Any, run: Path) -> None:
    assert is_at(tab, 0)
    tab.keyboard.press("r")
    assert is_at(tab, 1)
    tab.keyboard.press("d")
    tab.keyboard.press("k")
    assert is_at(tab, 3)
    saved(tab, run, ("relabel", "coffee"), ("drop", ""), ("keep", ""), ("", "rocket"))
    assert tab.inner_text("#count") == "3 decided, 1 to go"
    assert tab.get_attribute(".card.now", "aria-label").endswith("class coffee, perhaps rocket; undecided")
    assert "relabel as coffee" in tab.get_attribute("[data-number='0']", "aria-label")


def test_undo_takes_many_steps_back(tab: Any, run: Path) -> None:
    for key in "rdkd":
        tab.keyboard.press(key)
    saved(tab, run, ("relabel", "coffee"), ("drop", ""), ("keep", ""), ("drop", "rocket"))
    for key in ("u", "Control+z", "u", "u"):
        tab.keyboard.press(key)
    saved(tab, run, ("", "coffee"), ("", ""), ("", ""), ("", "rocket"))
    tab.wait_for_selector("#undo[disabled]")
    assert is_at(tab, 0) and tab.inner_text("#count") == "0 decided, 4 to go"


def test_another_class_is_chosen_by_typing(tab: Any, run: Path) -> None:
    tab.keyboard.press("c")
    tab.keyboard.type("ROC")
    assert tab.locator("#choices button").all_inner_texts() == ["rocket"]
    tab.keyboard.press("Enter")
    saved(tab, run, ("relabel", "rocket"), ("", ""), ("", ""), ("", "rocket"))
    tab.keyboard.press("r")  # nothing is suggested here, so it asks
    assert tab.locator("#choices button").all_inner_texts() == ["coffee", "rocket"]
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    saved(tab, run, ("relabel", "rocket"), ("relabel", "rocket"), ("", ""), ("", "rocket"))
    tab.keyboard.press("c")
    tab.keyboard.press("Escape")
    expect(tab, "!document.querySelector('dialog[open]')")
    assert is_at(tab, 2)


def test_a_reload_keeps_progress_and_the_way_back(tab: Any, run: Path) -> None:
    tab.keyboard.press("d")
    saved(tab, run, ("drop", "coffee"), ("", ""), ("", ""), ("", "rocket"))
    tab.reload()
    tab.wait_for_selector(".card.now")
    assert tab.inner_text("#count") == "1 decided, 3 to go" and is_at(tab, 1)
    assert tab.locator(".card.drop").count() == 1
    tab.keyboard.press("u")
    saved(tab, run, ("", "coffee"), ("", ""), ("", ""), ("", "rocket"))


def test_mouse_and_touch_decide_too(tab: Any, run: Path) -> None:
    tab.click("[data-number='2'] [data-action='drop']")
    tab.click("[data-number='3'] [data-action='relabel']")
    saved(tab, run, ("", "coffee"), ("", ""), ("drop", ""), ("relabel", "rocket"))
    tab.click("#undo")
    saved(tab, run, ("", "coffee"), ("", ""), ("drop", ""), ("", "rocket"))


def test_problems_and_decisions_filter_the_grid(tab: Any) -> None:
    kinds = tab.locator("#kind option").all_inner_texts()
    assert kinds == ["all problems (4)", "label suspect (2)", "near duplicate (1)", "blurred (1)"]
    tab.select_option("#kind", "label suspect")
    assert [card.get_attribute("data-number") for card in tab.query_selector_all(".card")] == ["0", "3"]
    tab.click("[data-number='0'] [data-action='keep']")
    tab.select_option("#state", "open")
    assert [card.get_attribute("data-number") for card in tab.query_selector_all(".card")] == ["3"]
    tab.select_option("#state", "drop")
    assert tab.locator(".card").count() == 0 and tab.inner_text("#empty") == "No photo here."


def test_a_photo_is_enlarged_and_decided_there(tab: Any, run: Path) -> None:
    pictures, none_open = (
        "document.querySelectorAll('#large[open] img').length",
        "!document.querySelector('dialog[open]')",
    )
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    expect(tab, f"{pictures} === 2")  # and the photo that it is like
    tab.keyboard.press("Enter")  # on Close, not on a decision
    expect(tab, none_open)
    assert is_at(tab, 1)
    tab.keyboard.press("Enter")
    expect(tab, f"{pictures} === 2")
    tab.keyboard.press("d")
    expect(tab, f"{pictures} === 1")
    assert "coffee" in tab.inner_text("#large-title")
    tab.keyboard.press("Escape")
    expect(tab, none_open)
    saved(tab, run, ("", "coffee"), ("drop", ""), ("", ""), ("", "rocket"))
    assert is_at(tab, 2)


def test_a_key_that_is_held_down_decides_once(tab: Any, run: Path) -> None:
    for _ in range(3):
        tab.keyboard.down("d")  # the second and third are repeats
    tab.keyboard.up("d")
    saved(tab, run, ("drop", "coffee"), ("", ""), ("", ""), ("", "rocket"))


def test_what_is_not_saved_is_told_and_taken_back(browser: Any, run: Path) -> None:
    with page_of(run) as page, opened(browser, page) as tab:
        changed = [Fix("cat/0.jpg", "label suspect", "cat", "coffee")]
        (run / "fixes.csv").write_text("path,problem,given,suggested,action\ncat/0.jpg,label suspect,cat,coffee,\n")
        tab.keyboard.press("d")
        tab.wait_for_selector("#alert:not([hidden])")
        assert "Not saved" in tab.inner_text("#alert") and "another program" in tab.inner_text("#alert")
        assert tab.locator(".card.drop").count() == 0 and read_fixes(run / "fixes.csv") == changed


def test_an_ended_server_is_told(browser: Any, run: Path) -> None:
    with page_of(run) as page:
        context = opened(browser, page)
        tab = context.__enter__()
    tab.keyboard.press("d")
    tab.wait_for_selector("#alert:not([hidden])")
    assert "start it again" in tab.inner_text("#alert") and tab.locator(".card.drop").count() == 0
    context.__exit__(None, None, None)


def test_thousands_of_photos_come_a_page_at_a_time(browser: Any, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    (source / "cat").mkdir(parents=True)
    scene("cat", 1).save(source / "cat/0.jpg")
    fixes = [Fix(f"cat/{n}.jpg", "label suspect", "cat", "dog") for n in range(1000)]
    with page_of(make_run(tmp_path / "run", source, fixes)) as page, opened(browser, page) as tab:
        assert tab.locator(".card").count() == 60
        tab.keyboard.press("]")
        assert tab.inner_text("#page") == "61 to 120 of 1,000" and is_at(tab, 60)
        tab.keyboard.press("End")
        assert tab.inner_text("#page") == "961 to 1,000 of 1,000" and is_at(tab, 999)
        tab.keyboard.press("d")
        assert is_at(tab, 999)  # the last one
        tab.keyboard.press("Home")
        for _ in range(60):
            tab.keyboard.press("k")
        assert tab.inner_text("#page") == "61 to 120 of 1,000" and is_at(tab, 60)


def test_fifty_hostile_names_run_nothing_and_no_request_leaves(browser: Any, tmp_path: Path) -> None:
    scene("cat", 1).save(tmp_path / "photo.jpg")
    words = (*HOSTILE, *HOSTILE_NAMES)
    names = [f"{word}{number}" for number in range(3) for word in words if "\ud800" not in word][:50]
    assert len(names) == 50
    table = tmp_path / "list.csv"
    table.write_text("path,label\nphoto.jpg,a\n")
    fixes = [Fix(f"{name}/{name}.jpg", f"{name} of {name}", name, names[0]) for name in names]
    fixes.append(Fix("photo.jpg", "dark", "a"))
    photos = [Photo(fix.path, tmp_path / "photo.jpg", fix.given) for fix in fixes]
    run = make_run(tmp_path / "run", table, fixes, Catalogue("", "", tuple(photos)))
    with page_of(run) as page, opened(browser, page) as tab:
        tab.evaluate("() => { window.alert = text => console.log('ran: ' + text); }")
        for _ in names:
            tab.keyboard.press("Enter")
            tab.keyboard.press("r" if _ != names[0] else "d")
            tab.keyboard.press("Escape")
            if tab.locator("#choose[open]").count():
                tab.keyboard.press("Escape")
        tab.keyboard.press("c")
        assert tab.locator("#choices button").count() == len({fix.given for fix in fixes}) - 1
        tab.keyboard.press("Escape")
        assert tab.locator(".card.drop").count() == 1 and tab.locator(".card.relabel").count() == 49
        assert [line for line in tab.said if "404" not in line] == []  # photos that are not there are told as that
        assert tab.locator("script").count() == 1 and tab.locator("main svg, main iframe, main a").count() == 0
        own = f"http://{page.host}{page.root}"
        assert all(url.startswith((own, "data:,")) for url in tab.asked)
        assert "\u202e" not in tab.inner_text("main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_in_the_grid_and_in_what_opens(browser: Any, page: Page, scheme: str) -> None:
    with opened(browser, page, color_scheme=scheme, bypass_csp=True) as tab:
        tab.add_script_tag(content=axe())
        for key in ("", "Enter", "c", "?"):
            if key:
                tab.keyboard.press(key)
                expect(tab, "document.querySelector('dialog[open]')")
            found = tab.evaluate("axe.run()")["violations"]
            assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == [], key
            tab.keyboard.press("Escape")
            expect(tab, "!document.querySelector('dialog[open]')")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_pictures_show(
    browser: Any, page: Page, width: int, height: int, scheme: str
) -> None:
    with opened(browser, page, viewport={"width": width, "height": height}, color_scheme=scheme) as tab:
        expect(tab, "[...document.images].slice(0, 2).every(image => image.complete && image.naturalWidth > 0)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(
            "[...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)"
        )
        dark = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert dark == ("rgb(23, 25, 22)" if scheme == "dark" else "rgb(252, 251, 248)")


def test_a_key_right_after_a_dialog_has_closed_is_for_the_page(tab: Any) -> None:
    # Chromium tells of a closed dialog a little later, and until then the dialog's own field has the focus.
    for key, dialog in (("d", None), ("?", "keys"), ("c", "choose")):
        tab.evaluate(
            """key => {
                const press = (target, key) => target.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
                press(document.body, 'c');
                document.getElementById('choose').close();
                press(document.getElementById('wanted'), key);
            }""",
            key,
        )
        if dialog is None:
            expect(tab, "document.querySelector('#count').textContent.startsWith('1 decided')")
        else:
            assert tab.locator(f"#{dialog}[open]").count() == 1
            tab.evaluate(f"document.getElementById('{dialog}').close()")
        tab.wait_for_timeout(100)
