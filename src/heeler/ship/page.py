"""The page of ``heeler serve``: one file that runs its own script, asks its own server, and may do nothing else.

It is the same for everyone and holds no fact of the model, so it may be sent before a token is asked for: what it shows
it gets from ``GET /model``, ``POST /predict`` and ``POST /explain``, and puts down as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

SCRIPTS = ("page_send.js", "page_table.js", "page.js")


@dataclass(frozen=True)
class Page:
    """The page and the policy under which it must be sent.

    Args:
        html: the whole document, UTF-8.
        policy: value of the header ``Content-Security-Policy``. It names the hashes of the one style and the one script
            that are in the document, lets it show pictures of its own making and ask the server it came from, and
            keeps text from becoming markup (Trusted Types), where the browser knows how.
    """

    html: bytes
    policy: str


@cache
def render() -> Page:
    """The page, put together once from the files beside this one."""
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(_asset("page.html.j2")).render(
        style=Markup(style),  # noqa: S704 - this package's own files, whose hashes the policy names
        script=Markup(script),  # noqa: S704
    )
    return page_of(html)


def page_of(html: str) -> Page:
    """A page with the policy that its own scripts and styles need."""
    scripts, styles = (
        " ".join(_hash(text) for text in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)) or "'none'"
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Page(html.encode(), policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("heeler.ship").joinpath(name).read_text(encoding="utf-8")
