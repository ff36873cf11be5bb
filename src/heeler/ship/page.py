"""The page of ``heeler serve`` and the policy that it is sent under; it holds no fact of the model."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Page:
    """The page and the policy under which it must be sent.

    Args:
        html: the whole document, UTF-8.
        policy: value of the header ``Content-Security-Policy``; it names the hashes of the document's own style and
            script, and lets nothing else run.
    """

    html: bytes
    policy: str


@cache
def render() -> Page:
    """The page, read once from the file beside this one."""
    return page_of(files("heeler.ship").joinpath("page.html").read_text(encoding="utf-8"))


def page_of(html: str) -> Page:
    """A page with the policy that its own scripts and styles need."""
    scripts, styles = (
        " ".join(_hash(text) for text in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)) or "'none'"
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html.encode(), policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
