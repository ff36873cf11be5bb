"""The site in docs/: it builds, its links hold, it asks nobody for anything, and what it says of commands is so."""

from __future__ import annotations

import html.parser
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import typer

import heeler
from heeler import errors, options
from heeler.cli import build_app
from heeler.data import archives, claims, decode, download, fetch, jpeg, split
from heeler.data.sets import SETS
from heeler.errors import HeelerError
from heeler.files import MAX_FILE_BYTES
from heeler.judge import advice
from heeler.limits import ServeLimits

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SOURCES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
MAIN: Any = typer.main.get_command(build_app())
VERBS = list(MAIN.commands)


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_verbs", DOCS / "verbs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = load_hook()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if importlib.util.find_spec("material") is None:
        pytest.skip('mkdocs-material is not installed: pip install "heeler[docs]"')
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class Page(html.parser.HTMLParser):
    """What a built page links to, what it loads, its anchors, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("prev", "next", "canonical"):
            self.loads.append(given.get("href", ""))
        self.loads += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def built(site: Path) -> dict[str, Page]:
    """Each built page by its address below the site."""
    return {
        path.relative_to(site).as_posix().removesuffix("index.html"): Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }


def test_every_page_is_there(built: dict[str, Page]) -> None:
    notes = {f"verbs/{path.stem}" for path in (DOCS / "verbs").glob("*.md")}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES} - notes
    expected = {f"{page}/" for page in pages if page != "index"} | {f"verbs/{verb}/" for verb in VERBS}
    assert set(built) == expected | {"", "404.html", "verbs/"}


def test_links_and_anchors_hold(site: Path, built: dict[str, Page]) -> None:
    for address, page in built.items():
        for link in page.links:
            parts = urlsplit(urljoin(f"https://site/{address}", link))
            if parts.netloc != "site" or address == "404.html":
                continue
            target = unquote(parts.path.lstrip("/"))
            assert target in built or (site / target).is_file(), (address, link)
            if parts.fragment and target in built:
                assert unquote(parts.fragment) in built[target].anchors, (address, link)


def test_no_page_loads_anything_from_elsewhere(site: Path, built: dict[str, Page]) -> None:
    for address, page in built.items():
        for load in page.loads:
            assert not urlsplit(load).netloc and not load.startswith("data:text"), (address, load)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        found = re.findall(r"(?:url\(|@import)\s*['\"]?([^)'\"\s;]+)", text)
        assert [where for where in found if urlsplit(where).netloc] == [], sheet.name


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_page_that_says_what_its_help_says(verb: str, built: dict[str, Page]) -> None:
    words = " ".join(built[f"verbs/{verb}/"].words.split())
    shown = subprocess.run(
        [sys.executable, "-m", "heeler", verb, "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for parameter in MAIN.commands[verb].params:
        names = parameter.opts if parameter.param_type_name == "option" else ()
        for name in (*names, " ".join((parameter.help or "").split())):
            assert name in words, (verb, name)
    for line in shown.splitlines():
        if line.startswith("    heeler "):
            assert line.strip() in words, (verb, line)
    first = shown.split("\n\n")[1]
    assert " ".join(first.split()) in words


def test_notes_without_their_verb_make_no_page(built: dict[str, Page]) -> None:
    notes = {path.stem for path in (DOCS / "verbs").glob("*.md")} - {"index"}
    assert [f"verbs/{note}/" in built for note in sorted(notes)] == [note in VERBS for note in sorted(notes)]


def commands() -> list[tuple[str, str]]:
    """(where, line) of each heeler command in a code block of the docs, the verbs' pages and the README."""
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "README.md"]
    }
    texts |= {f"page of {verb}": HOOK.page(verb) for verb in VERBS}
    found = []
    for where, text in texts.items():
        if where == "docs/verbs/fix.md" and "fix" not in VERBS:
            continue
        for block in re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                command = re.search(r"(?:^|\| |^[A-Z_]+=\S+ |^ {2})(heeler [a-z-].*)", line)
                if command and "[OPTIONS]" not in line:
                    found.append((where, command[1]))
    return found


@pytest.mark.parametrize(("where", "line"), commands())
def test_each_command_that_is_shown_would_be_understood(where: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in (">", "|", "<")), len(words))]
    context = MAIN.make_context("heeler", list(words), obj=()) if words[0] not in ("--help", "-h") else None
    if context is None:
        return
    verb, rest = words[0], words[1:]
    assert verb in VERBS, (where, line)
    if "--help" not in rest:
        MAIN.commands[verb].make_context(verb, list(rest), parent=context)
    if verb == "get":
        names = {each.name for each in SETS}
        assert names & set(rest) or "--list" in rest, (where, line)


def test_there_are_commands_to_look_at() -> None:
    assert len(commands()) > 40
    assert {line.split()[1] for _, line in commands()} >= set(VERBS)


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert [name for name in heeler.__all__ if f"`heeler.{name}`" not in text] == []
    for name in heeler.__all__:
        value = getattr(errors, name, None)
        if isinstance(value, type) and issubclass(value, HeelerError) and name != "Interrupted":
            assert re.search(rf"`heeler\.{name}` \| {value.exit_code} \|", text), name


def row_of(words: str) -> str:
    """The line of the limits' page that has these words."""
    lines = (DOCS / "limits.md").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if words in line]
    assert len(found) == 1, (words, found)
    return found[0]


def test_limits_are_those_of_the_code() -> None:
    assert f" {decode.MAX_PIXELS / 1e6:.0f} megapixels" in row_of("| one photo |")
    assert f" {MAX_FILE_BYTES / (1 << 30):.0f} GB " in row_of("| one photo's file |")
    assert f" {jpeg.MAX_SCANS} " in row_of("progressive JPEG")
    assert f" {claims.MAX_PIECES:,} " in row_of("| pieces of one photo's file")
    texts = f"{claims.MAX_TEXT_BYTES >> 20} MB, {claims.MAX_RUNS_BYTES >> 20} MB"
    assert texts in row_of("| a PPM in numbers")
    assert f"| {claims.MAX_COMMENT_BYTES >> 20} MB |" in row_of("| comments of a GIF")
    assert f"at least {split.MIN_PHOTOS_PER_CLASS} different ones" in row_of("different ones")
    assert f"| {advice.FEW_PHOTOS_OF_A_CLASS} |" in row_of("asks for more")
    archive = f"{archives.MAX_ENTRIES:,} entries, {archives.MAX_BYTES / 1e9:.0f} GB unpacked"
    assert archive in row_of("| an archive |")
    unpacked = f"at most {fetch.MAX_UNPACKED} times that and {fetch.MARGIN_BYTES / 1e6:.0f} MB"
    assert unpacked in row_of("`heeler get` fetches |")
    assert f"after {download.MAX_ATTEMPTS} attempts in a row" in (DOCS / "limits.md").read_text(encoding="utf-8")
    few = re.search(r"^FEW_PHOTOS = (\d+)", SOURCES, re.MULTILINE)
    assert few
    for page in ("how-it-works.md", "report.md"):
        text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
        assert f"Below {few[1]} photos" in text, page


def test_the_servers_limits_are_on_its_page(built: dict[str, Page]) -> None:
    words = " ".join(built["serve/"].words.split())
    for row in ServeLimits().rows():
        assert " ".join(cell.replace("`", "") for cell in row) in words, row


@pytest.mark.parametrize(
    "line", [line for line in (DOCS / "limits.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `--")]
)
def test_ranges_and_defaults_of_options_are_those_of_the_code(line: str) -> None:
    option, limits, default = (cell.strip() for cell in line.strip("|").split("|"))
    verb = re.search(r" of (\w+)$", option)
    names = re.findall(r"--[a-z-]+", option)
    low, high = (value.replace(",", "") for value in re.match(r"([\d.,]+) to ([\d.,]+)", limits).groups())  # type: ignore[union-attr]
    command = MAIN.commands[verb[1] if verb else "train"]
    for name, said in zip(names, default.split("; "), strict=True):
        parameter = next(each for each in command.params if name in each.opts)
        for value in (low, high):
            command.make_context(command.name, [*needed(command), name, value])
        for beyond in (float(low) - 1, float(high) * 1.01 + 1):
            with pytest.raises(typer.BadParameter):
                command.make_context(command.name, [*needed(command), name, f"{beyond:.0f}"])
        stated = re.fullmatch(r"[\d.]+", said)
        if stated and parameter.default is not None:
            assert float(stated[0]) == float(parameter.default), line
        elif name == "--minutes":
            assert float(said) == options.DEFAULT_MINUTES


def needed(command: Any) -> list[str]:
    """A word for each argument that the verb demands."""
    return ["x" for each in command.params if each.param_type_name == "argument" and each.required]


def test_exit_codes_and_variables_are_those_of_the_code() -> None:
    text = (DOCS / "limits.md").read_text(encoding="utf-8")
    kinds = [HeelerError, *HeelerError.__subclasses__()]
    for code in {0, *(kind.exit_code for kind in kinds)}:
        assert re.search(rf"^\| {code}[ ,]", text, re.MULTILINE), code
    for name in sorted(set(re.findall(r"HEELER_[A-Z_]+", SOURCES))):
        assert f"`{name}`" in text, name


def test_the_docs_give_no_figure_that_was_not_measured() -> None:
    sources = (ROOT / "README.md", DOCS / "recipe.md", DOCS / "reliability.md")
    measured = "".join(path.read_text(encoding="utf-8") for path in sources)
    for path in PAGES:
        for figure in re.findall(r"\d+\.\d+ (?:%|s|photos)", path.read_text(encoding="utf-8")):
            assert figure.split()[0] in measured, (path.name, figure)
