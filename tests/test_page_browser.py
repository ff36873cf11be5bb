"""The page of ``heeler serve`` in a real browser: photos come in by every way, answers are told, nothing leaves."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import heeler
from browser import axe, launch
from conftest import TrainedRun, scene
from heeler.ship.page import render
from images import HOSTILE_NAMES, astronaut, cat, claiming_png, encode
from serving import Served, serving
from test_report import HOSTILE

pytestmark = pytest.mark.usefixtures("one_thread")

# Looks, 30 ms apart, at what should become so: a machine that tests on all its cores may take seconds.
PATIENCE = 600
DONE = "!document.querySelector('tr.waiting, tr.sent') && document.querySelectorAll('#rows tr').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def model(trained_run: TrainedRun) -> heeler.Classifier:
    return heeler.load(trained_run.model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos that the model has not seen, and three files that it cannot read or take."""
    folder = tmp_path_factory.mktemp("new")
    for name in ("cat", "coffee", "rocket"):
        scene(name, 100).save(folder / f"{name}.jpg", quality=92)
    (folder / "person.png").write_bytes(encode(astronaut(), "PNG"))
    (folder / "cut.jpg").write_bytes(encode(cat())[:3000])
    (folder / "notes.txt").write_text("no photo")
    (folder / "huge.png").write_bytes(claiming_png(8000, 5000))
    return folder


@contextmanager
def opened(browser: Any, served: Served, fragment: str = "", **options: Any) -> Iterator[Any]:
    """The page in a tab of its own; it complains of nothing and asks nobody else."""
    context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
    tab = context.new_page()
    tab.asked, tab.said = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    # Asked for late, a busy browser opens a chooser of its own, which nobody sees.
    tab.on("filechooser", lambda _: None)
    tab.goto(served.address + fragment)
    try:
        yield tab
        # That a server refuses something stands in the console; it is no fault of the page.
        assert [line for line in tab.said if not line.startswith("Failed to load resource: the server")] == []
        assert [
            url for url in tab.asked if not url.startswith((served.address, f"blob:{served.address}", "data:,"))
        ] == []
    finally:
        context.close()


@pytest.fixture
def served(model: heeler.Classifier) -> Iterator[Served]:
    with serving(model) as served:
        yield served


@pytest.fixture
def tab(browser: Any, served: Served) -> Iterator[Any]:
    with opened(browser, served) as tab:
        expect(tab, "!document.getElementById('about').hidden")
        yield tab


def expect(tab: Any, condition: str) -> None:
    """Wait until a condition holds; the page's policy forbids playwright's own way."""
    for _ in range(PATIENCE):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(30)
    raise AssertionError(f"{condition}\n{tab.inner_text('body')}")


def pick(tab: Any, *files: Path) -> None:
    with tab.expect_file_chooser() as chosen:
        tab.click("#choose")
    chosen.value.set_files(files)


def drop(tab: Any, *paths: Path) -> None:
    """Files and folders of the disk, dropped as a person drops them."""
    session = tab.context.new_cdp_session(tab)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def answered(tab: Any, n_photos: int) -> list[list[str]]:
    """Name, answer and probability of each row, as soon as none is open."""
    expect(tab, f"({DONE}) === {n_photos}")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return [[text.strip() for text in row[1:4]] for row in rows]


def is_on_stage(tab: Any, name: str) -> bool:
    expect(tab, f"document.getElementById('file').textContent === {json.dumps(name)}")
    return True


def saved(tab: Any, way: Callable[[], object]) -> tuple[str, bytes]:
    with tab.expect_download() as download:
        way()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_photos_that_are_picked_get_the_model_s_answers(
    tab: Any, served: Served, photos: Path, model: heeler.Classifier
) -> None:
    names = ("cat.jpg", "coffee.jpg", "person.png", "rocket.jpg")
    pick(tab, *(photos / name for name in names))
    rows = answered(tab, 4)
    for row, photo in zip(rows, model.predict([photos / name for name in names]), strict=True):
        assert row[1].startswith("not sure\nperhaps " + photo.label if photo.probability < 0.5 else photo.label)
        assert row[2] in (f"{100 * photo.probability:.1f}\u00a0%", "> 99.9\u00a0%")
    assert [row[0] for row in rows] == list(names) and is_on_stage(tab, "cat.jpg")
    assert sorted(served.kinds) == ["image/jpeg"] * 3 + ["image/png"]
    assert tab.locator("#odds i").count() == 100
    best = model.predict(photos / "cat.jpg")[0].probability
    assert abs(tab.locator("#odds i.on").count() - 100 * best) <= 1
    assert tab.inner_text("#said").startswith("Of 100 answers as sure as this one, ")
    expect(tab, "[...document.querySelectorAll('#rows img, #photo')].filter(image => image.naturalWidth).length === 5")


def test_dropped_files_and_folders_are_taken_and_other_things_are_told(tab: Any, photos: Path, tmp_path: Path) -> None:
    drop(tab, photos / "cat.jpg", photos / "coffee.jpg")
    assert [row[0] for row in answered(tab, 2)] == ["cat.jpg", "coffee.jpg"]
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "set/b.jpg").write_bytes((photos / "rocket.jpg").read_bytes())
    (tmp_path / "set/deep/a.jpg").write_bytes((photos / "cat.jpg").read_bytes())
    (tmp_path / "set/.hidden.jpg").write_bytes(b"x")
    drop(tab, tmp_path / "set")
    assert [row[0] for row in answered(tab, 4)][2:] == ["set/b.jpg", "set/deep/a.jpg"]
    assert is_on_stage(tab, "set/b.jpg") and not tab.locator("body.dragging").count()
    tab.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.setData('text/uri-list', 'http://127.0.0.1:9/x.jpg');
            const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
            document.body.dispatchEvent(new DragEvent('drop', options));
        }"""
    )
    expect(tab, "document.getElementById('alert').textContent.includes('Links are not fetched')")


def test_what_is_pasted_is_answered(tab: Any, served: Served, photos: Path) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.evaluate(
        """async text => {
            const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
            await navigator.clipboard.write([new ClipboardItem({'image/png': new Blob([bytes], {type: 'image/png'})})]);
        }""",
        base64.b64encode((photos / "person.png").read_bytes()).decode(),
    )
    tab.keyboard.press("Control+v")
    assert answered(tab, 1)[0][0] == "pasted 1.png"
    tab.evaluate("navigator.clipboard.writeText('http://127.0.0.1:9/x.jpg')")
    tab.keyboard.press("Control+v")
    expect(tab, "document.getElementById('alert').textContent.includes('no photo in the clipboard')")
    assert len(served.kinds) == 1


def test_a_phone_has_a_button_for_its_camera(browser: Any, served: Served, photos: Path) -> None:
    with opened(browser, served, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844}) as tab:
        with tab.expect_file_chooser() as chosen:
            tab.tap("#take")
        assert chosen.value.element.get_attribute("capture") == "environment" and not chosen.value.is_multiple()
        chosen.value.set_files(photos / "coffee.jpg")
        answered(tab, 1)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
    with opened(browser, served) as tab:
        assert not tab.is_visible("#take")


def test_all_works_with_keys_alone(tab: Any, served: Served, photos: Path) -> None:
    with tab.expect_file_chooser() as chosen:
        tab.keyboard.press("o")
    chosen.value.set_files([photos / name for name in ("cat.jpg", "coffee.jpg", "rocket.jpg")])
    answered(tab, 3)
    tab.keyboard.press("ArrowRight")
    assert is_on_stage(tab, "coffee.jpg")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")  # there is no fourth
    assert is_on_stage(tab, "rocket.jpg")
    tab.focus("tr[aria-current] button")
    tab.keyboard.press("Home")
    assert is_on_stage(tab, "cat.jpg")
    expect(tab, "document.activeElement.textContent === 'cat.jpg'")
    tab.keyboard.press("ArrowDown")
    assert is_on_stage(tab, "coffee.jpg") and tab.locator("#rows button[tabindex='0']").count() == 1
    tab.keyboard.press("Delete")
    assert is_on_stage(tab, "rocket.jpg") and tab.inner_text("#count") == "2 photos"
    tab.keyboard.press("u")
    assert is_on_stage(tab, "coffee.jpg") and tab.inner_text("#count") == "3 photos"
    tab.keyboard.press("?")
    expect(tab, "document.getElementById('keys').open")
    tab.keyboard.press("Delete")  # keys are the dialog's while it is open
    tab.keyboard.press("Escape")
    expect(tab, "!document.querySelector('dialog[open]')")
    tab.keyboard.press("e")
    expect(tab, "document.querySelector('#map img')?.naturalWidth > 0")
    name, _ = saved(tab, lambda: tab.keyboard.press("s"))
    assert name == "photos-answers.csv" and tab.inner_text("#count") == "3 photos"
    assert served.asked.count("POST /predict?top=3") == 3  # what was brought back is not asked for again


def test_below_the_threshold_it_says_that_it_is_not_sure(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    with serving(model, threshold=1.0) as served, opened(browser, served) as tab:
        pick(tab, photos / "cat.jpg")
        label = model.predict(photos / "cat.jpg")[0].label
        assert answered(tab, 1)[0][1] == f"not sure\nperhaps {label}"
        assert tab.inner_text("#label") == "Not sure"
        assert f"Perhaps {label}, but of 100 guesses like this one only " in tab.inner_text("#said")
        assert tab.inner_text("#count") == "1 photo, 1 not sure"


def test_what_cannot_be_read_or_is_too_big_is_told_and_the_rest_is_answered(
    tab: Any, served: Served, photos: Path
) -> None:
    pick(tab, *(photos / name for name in ("cut.jpg", "huge.png", "notes.txt", "coffee.jpg")))
    rows = answered(tab, 4)
    assert [row[1].partition("\n")[0] for row in rows[:3]] == ["not readable", "not answered", "not answered"]
    assert rows[1][1].endswith("has 40.0 megapixels; this server takes 25") and rows[3][2]
    assert len(served.kinds) == 3 and "text/plain" in served.kinds  # the huge one was not sent
    assert tab.inner_text("#label") == "No answer" and tab.inner_text("#said").startswith("This file ")
    assert tab.inner_text("#count") == "4 photos, 3 without an answer" and not tab.is_visible("#again")


def test_a_file_that_is_too_big_is_not_sent(browser: Any, model: heeler.Classifier, tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(encode(cat()) + bytes(20_000_000))
    with serving(model) as served, opened(browser, served) as tab:
        pick(tab, tmp_path / "big.jpg")
        assert answered(tab, 1)[0][1] == "not answered\nhas 20.0 MB; this server takes 20"
        assert served.kinds == []


def test_a_busy_server_is_asked_again(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    with serving(model, n_busy=2, threshold=None) as served, opened(browser, served) as tab:
        pick(tab, photos / "cat.jpg")
        expect(tab, "document.getElementById('said').textContent.startsWith('the server is busy; again in ')")
        assert answered(tab, 1)[0][1] == model.predict(photos / "cat.jpg")[0].label
        assert len(served.kinds) == 3


def test_many_photos_are_sent_four_at_a_time_and_what_is_removed_is_not_sent(
    browser: Any, model: heeler.Classifier, photos: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_bytes((photos / "cat.jpg").read_bytes())
    with serving(model) as served, opened(browser, served) as tab:
        served.gate.clear()
        drop(tab, *sorted(tmp_path.glob("*.jpg")))
        expect(tab, "document.querySelectorAll('tr.sent').length === 4")
        for _ in range(PATIENCE):
            if served.n_now == 4:
                break
            tab.wait_for_timeout(30)
        assert served.n_now == 4 and "12 to go" in tab.inner_text("#count")
        tab.keyboard.press("End")  # outside of the table it means nothing
        tab.focus("tr[aria-current] button")
        tab.keyboard.press("End")
        assert is_on_stage(tab, "11.jpg")
        tab.keyboard.press("Delete")
        served.gate.set()
        answered(tab, 11)
        assert (served.most_at_once, len(served.kinds)) == (4, 11)
        tab.keyboard.press("u")
        answered(tab, 12)
        assert len(served.kinds) == 12


def test_the_table_is_saved_as_csv_that_runs_nothing(
    browser: Any, model: heeler.Classifier, photos: Path, tmp_path: Path
) -> None:
    names = ["=1+1,2.jpg", '+a "b".jpg', "-x;=2*3.jpg", "@x\ty\nz.jpg", "\uff1dwide.jpg", "ünï 日本.jpg", "plain-1.jpg"]
    for name in names:
        (tmp_path / name).write_bytes((photos / "cat.jpg").read_bytes())
    (tmp_path / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes())
    classes = ("=HYPERLINK(1)", 'say "b", c', "line\nbreak", "\t@SUM(1)")
    with serving(model, names=classes, name="=a/../b: c") as served, opened(browser, served) as tab:
        pick(tab, *(tmp_path / name for name in names), tmp_path / "cut.jpg")
        answered(tab, 8)
        file, data = saved(tab, lambda: tab.click("#save"))
    assert file == "a-..-b-c-answers.csv" and data.startswith(b"\xef\xbb\xbf")
    text = data.decode("utf-8-sig")
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == [
        "path",
        "status",
        "reason",
        "label",
        "probability",
        *("label_2", "probability_2", "label_3", "probability_3"),
    ]
    assert {len(row) for row in rows} == {9}
    assert [row[0] for row in rows[:7]] == [
        "'=1+1,2.jpg", "'+a \"b\".jpg", "'-x;'=2*3.jpg", "'@x\ty\nz.jpg", "'\uff1dwide.jpg", "ünï 日本.jpg",
        "plain-1.jpg",
    ]  # fmt: skip
    assert rows[7][:2] == ["cut.jpg", "unreadable"] and rows[7][2] and rows[7][3:] == [""] * 6
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d")) for row in rows for cell in row)
    best = model.predict(photos / "cat.jpg")[0].ranked
    found = {cell.lstrip("'\t") for row in rows[:7] for cell in row[3::2]}
    assert found <= {name.lstrip("\t") for name in classes} | {"\t'@SUM(1)"} and len(found) == 3
    assert rows[0][4::2] == [f"{share:.6f}" for _, share in best[:3]]


def test_where_it_looked_is_shown_on_request(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    with serving(model) as served, opened(browser, served) as tab:
        pick(tab, photos / "cat.jpg", photos / "coffee.jpg")
        answered(tab, 2)
        assert "POST /explain" not in served.asked and not tab.is_visible("#map")
        tab.click("#explain")
        expect(tab, f"document.querySelector('#map img')?.naturalWidth === {model.bundle.spec.image_px}")
        assert model.predict(photos / "cat.jpg")[0].label in tab.inner_text("#caption")
        tab.keyboard.press("ArrowRight")
        expect(
            tab, "document.querySelector('#map img')?.alt.endsWith(document.querySelector('#ranked bdi').textContent)"
        )
        for key in ("e", "e", "ArrowLeft"):  # what is known is not asked for again
            tab.keyboard.press(key)
        expect(tab, "document.querySelector('#map img')?.naturalWidth > 0")
        assert served.asked.count("POST /explain") == 2
        served.explains = False  # found out later: told in words
        pick(tab, photos / "rocket.jpg")
        expect(tab, "document.getElementById('map').textContent.includes('cannot tell where it looked')")
    with serving(model, explains=False) as served, opened(browser, served) as tab:
        expect(tab, "document.getElementById('explain').hidden = !document.getElementById('about').hidden")
        pick(tab, photos / "cat.jpg")
        answered(tab, 1)
        assert not tab.is_visible("#explain")


def test_a_token_is_taken_from_the_address_or_asked_for(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    with serving(model, token="a+b/c=") as served:
        with opened(browser, served, "#token=a%2Bb/c%3D") as tab:
            pick(tab, photos / "cat.jpg")
            answered(tab, 1)
            assert tab.url == served.address and not tab.locator("dialog[open]").count()
        with opened(browser, served) as tab:
            expect(tab, "document.getElementById('token').open")
            tab.keyboard.type("wrong")
            tab.keyboard.press("Enter")
            expect(tab, "document.getElementById('token-wrong').textContent.includes('not the token')")
            tab.keyboard.press("Escape")
            expect(tab, "!document.getElementById('token').open && !document.getElementById('alert').hidden")
            pick(tab, photos / "cat.jpg", photos / "coffee.jpg")
            expect(tab, "document.getElementById('token').open")
            tab.keyboard.press("Escape")
            assert [row[1] for row in answered(tab, 2)] == ["not answered\nthe server wants a token"] * 2
            tab.click("#alert button")
            expect(tab, "document.getElementById('token').open")
            tab.keyboard.type("a+b/c=")
            tab.keyboard.press("Enter")
            expect(tab, "!document.querySelector('tr.failed')")
            answered(tab, 2)
            assert tab.is_visible("#about") and served.token not in tab.content()


def test_a_server_that_has_ended_is_told_and_found_again(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    with serving(model) as served, opened(browser, served) as tab:
        expect(tab, "!document.getElementById('about').hidden")
        tab.context.set_offline(True)
        pick(tab, photos / "cat.jpg")
        assert answered(tab, 1)[0][1].endswith("the server does not answer; heeler serve may have ended")
        tab.context.set_offline(False)
        tab.click("#again")
        expect(tab, "!document.querySelector('tr.failed')")
        answered(tab, 1)
        assert not tab.is_visible("#alert")
        tab.said[:] = [line for line in tab.said if "ERR_INTERNET_DISCONNECTED" not in line]


def test_hostile_names_run_nothing(browser: Any, model: heeler.Classifier, photos: Path) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in (*HOSTILE, *HOSTILE_NAMES, "W" * 4000)]
    data = base64.b64encode((photos / "cat.jpg").read_bytes()).decode()
    with serving(model, names=tuple(words[:4]), name=words[1]) as served, opened(browser, served) as tab:
        served.names = (words[0], words[6], words[7], words[10])
        tab.evaluate("() => { window.alert = text => console.log('ran: ' + text); }")
        tab.evaluate(
            """([names, text]) => {
                const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0)), transfer = new DataTransfer();
                for (const name of names) transfer.items.add(new File([bytes], name, {type: 'image/jpeg'}));
                document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));
            }""",
            [words, data],
        )
        answered(tab, len(words))
        tab.keyboard.press("e")
        for _ in words:
            tab.keyboard.press("ArrowRight")
        expect(tab, "document.querySelector('#map img')?.naturalWidth > 0")
        assert tab.locator("script").count() == 1
        assert tab.locator("main svg, main iframe, main a, img[src='x']").count() == 0
        assert "\u202e" not in tab.inner_text("body") and "\\u202e" in tab.inner_text("#rows")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1440


def test_thousands_of_rows_come_a_hundred_at_a_time(browser: Any, served: Served) -> None:
    with opened(browser, served) as tab:
        served.gate.clear()
        tab.evaluate(
            """() => {
                const transfer = new DataTransfer();
                for (let n = 0; n < 1000; n++) transfer.items.add(new File([], `${n}.jpg`, {type: 'image/jpeg'}));
                document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));
            }"""
        )
        expect(tab, "document.getElementById('count').textContent === '1,000 photos, 1,000 without an answer'")
        assert tab.locator("#rows tr").count() == 100
        tab.click("#more")
        assert tab.locator("#rows tr").count() == 200 and served.kinds == []
        tab.focus("tr[aria-current] button")
        tab.keyboard.press("End")
        assert is_on_stage(tab, "999.jpg") and tab.locator("#rows tr").count() == 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_before_and_after_and_in_what_opens(
    browser: Any, model: heeler.Classifier, photos: Path, scheme: str
) -> None:
    with (
        serving(model, threshold=0.9, token="t") as served,
        opened(browser, served, "#token=t", color_scheme=scheme, bypass_csp=True) as tab,
    ):
        expect(tab, "!document.getElementById('about').hidden")
        tab.add_script_tag(content=axe())

        def faults() -> list[Any]:
            return [(one["id"], one["nodes"][0]["html"][:200]) for one in tab.evaluate("axe.run()")["violations"]]

        assert faults() == []
        pick(tab, *(photos / name for name in ("cut.jpg", "cat.jpg", "coffee.jpg", "person.png")))
        answered(tab, 4)
        assert faults() == []
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("e")
        expect(tab, "document.querySelector('#map img')?.naturalWidth > 0")
        assert faults() == []
        tab.keyboard.press("?")
        assert faults() == []
        tab.keyboard.press("Escape")
        expect(tab, "!document.querySelector('dialog[open]')")
        served.token = "other"
        pick(tab, photos / "cat.jpg")
        expect(tab, "document.getElementById('token').open")
        assert faults() == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(
    browser: Any, served: Served, photos: Path, width: int, height: int, scheme: str
) -> None:
    size = {"width": width, "height": height}
    with opened(browser, served, viewport=size, color_scheme=scheme) as tab:
        expect(tab, "!document.getElementById('about').hidden")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        pick(tab, photos / "cut.jpg", photos / "cat.jpg", photos / "coffee.jpg")
        answered(tab, 3)
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("e")
        expect(tab, "document.querySelector('#map img')?.naturalWidth > 0")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        dark = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert dark == ("rgb(23, 25, 22)" if scheme == "dark" else "rgb(252, 251, 248)")


def test_the_policy_allows_what_is_in_the_page_and_nothing_more() -> None:
    page = render()
    rules = {rule.split()[0]: rule.split()[1:] for rule in page.policy.split("; ")}
    assert rules["default-src"] == ["'none'"] and rules["connect-src"] == ["'self'"]
    assert all(source.startswith("'sha256-") for name in ("script-src", "style-src") for source in rules[name])
    html = page.html.decode()
    assert "http://" not in html and "https://" not in html and "innerHTML" not in html
    assert render() is page
