"""A headless browser for the tests of pages; where there is none, they say so and are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Debian's and Ubuntu's names of the same program, and Google's own build of it.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# `make test-browser` fetches it here with npm.
AXE = Path(__file__).parent.parent / ".cache" / "node_modules" / "axe-core" / "axe.min.js"


@contextmanager
def launch() -> Iterator[Any]:
    """Playwright's: the Chromium of the system or of ``HEELER_CHROMIUM``; where there is none, the test is skipped."""
    found = os.environ.get("HEELER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed; make test-browser installs one")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.skip("no browser: playwright is not installed; make test-browser installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def axe() -> str:
    """The script of axe-core, which looks for faults that shut people out; skips where it was not fetched."""
    if not AXE.is_file():
        pytest.skip(f"axe-core is not at {AXE}; make test-browser fetches it with npm")
    return AXE.read_text(encoding="utf-8")
