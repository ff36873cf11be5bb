"""The page of each verb, written by the build from what ``heeler VERB --help`` knows; see ``hooks`` in mkdocs.yml.

A file ``docs/verbs/VERB.md`` holds what help is too short for; it is put below the options. A verb without such a file
has its page all the same, and a file without its verb makes no page.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import typer

from heeler.cli import build_app
from heeler.data.sets import SETS
from heeler.limits import ServeLimits

FOLDER = "verbs"
NOTES = Path(__file__).parent / FOLDER
PLACE_OF_SETS = "<!-- the public sets -->"
PLACE_OF_VERBS = "<!-- the verbs -->"
PLACE_OF_LIMITS = "<!-- the limits of the server -->"


def on_config(config: Any) -> Any:
    """Give each verb its place in the navigation."""
    for section in config.nav:
        if "Commands" in section:
            section["Commands"] += [{f"heeler {verb}": f"{FOLDER}/{verb}.md"} for verb in verbs()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Put the page of each verb in place of its notes."""
    from mkdocs.structure.files import File

    for file in [file for file in files.documentation_pages() if file.src_uri.startswith(f"{FOLDER}/")]:
        if file.src_uri != f"{FOLDER}/index.md":
            files.remove(file)
    for verb in verbs():
        files.append(File.generated(config, f"{FOLDER}/{verb}.md", content=page(verb)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """List the verbs, or the limits of the server, where a page asks for it."""
    if page.file.src_uri == "serve.md":
        return markdown.replace(PLACE_OF_LIMITS, _limits())
    return markdown.replace(PLACE_OF_VERBS, _verbs()) if page.file.src_uri == f"{FOLDER}/index.md" else markdown


def verbs() -> list[str]:
    """The verbs of the ``heeler`` command, in the order of its help."""
    return list(typer.main.get_command(build_app()).commands)  # type: ignore[attr-defined]


def page(verb: str) -> str:
    """One verb's page, as Markdown."""
    command: Any = typer.main.get_command(build_app())
    context = command.make_context("heeler", [], resilient_parsing=True)
    found = command.commands[verb]
    inner = found.make_context(verb, [], parent=context, resilient_parsing=True)
    usage = f"heeler {verb} {' '.join(found.collect_usage_pieces(inner)).replace('{', '').replace('}', '')}"
    records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in found.get_params(inner):
        record = parameter.get_help_record(inner)
        if record:
            records[parameter.param_type_name].append(record)
    parts = [f"# heeler {verb}", _text(found.help), f"```text\n{usage}\n```", _examples(found.help)]
    for title, kind in (("What it takes", "argument"), ("Options", "option")):
        if records[kind]:
            parts += [f"## {title}", *(_entry(*record) for record in records[kind])]
    notes = NOTES / f"{verb}.md"
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8").strip().replace(PLACE_OF_SETS, _sets()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(help_text: str) -> str:
    """The paragraphs of a verb's help but its examples."""
    kept = [block.replace("\b", "") for block in help_text.split("\n\n") if "Examples:" not in block]
    return "\n\n".join(html.escape(" ".join(block.split()), quote=False) for block in kept)


def _examples(help_text: str) -> str:
    _, _, below = help_text.partition("Examples:\n")
    lines = [line.strip() for line in below.split("\n\n")[0].splitlines()]
    return "## Examples\n\n```\n" + "\n".join(lines) + "\n```" if lines else ""


def _entry(name: str, text: str) -> str:
    """An option and what it does, as a list of definitions, which fits a phone."""
    name = re.sub(r"<(path|str|int|float)>", "", name).strip()
    text = html.escape(re.sub(r"\s+\[required\]", "", " ".join(text.split())), quote=False)
    return f"`{name}`\n:   {text}"


def _verbs() -> str:
    commands: Any = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    rows = [
        f"| [heeler {name}]({name}.md) | {_text(command.help).splitlines()[0]} |" for name, command in commands.items()
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def _sets() -> str:
    rows = ["| name | download | photos | classes | what | licence of the photos |", "|---|--:|--:|--:|---|---|"]
    rows += [
        f"| `{each.name}` | {each.size_bytes / 1e6:,.0f} MB | {each.n_photos:,} | {len(each.classes)} | {each.about} | "
        f"{each.licence} |"
        for each in SETS
    ]
    return "\n".join(rows)


def _limits() -> str:
    rows = [f"| {what} | {most} | {beyond} |" for what, most, beyond in ServeLimits().rows()]
    return "\n".join(["| what | limit | beyond it |", "|---|---|---|", *rows])
