"""How fast the review page answers with thousands of suspects: ``python bench/review.py``.

A run with 5,000 suspects is made up; its page is served as ``heeler fix`` serves it. Measured are the server's answer
to a decision, which is on disk by then, and in a headless Chromium the time from a key to the painted card and to the
answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from processes import machine, warn_if_busy

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import launch
from heeler.fixes import Fix
from heeler.machine import n_cores
from reviewing import Page, make_run, page_of

GOAL_MS = 100.0
CLASSES = tuple(f"class {k}" for k in range(10))
# Answers of the page to a key: when its card had changed and was painted, and when the server had it on disk.
WATCH = """() => {
  window.times = [];
  const answer = window.fetch;
  window.fetch = async (...asked) => {
    const got = await answer(...asked);
    if (window.pressed) window.times.push({saved: performance.now() - window.pressed});
    return got;
  };
  document.addEventListener('keydown', event => {
    window.pressed = performance.now();
    const begun = window.pressed;
    requestAnimationFrame(() => setTimeout(() => window.times.push({painted: performance.now() - begun}), 0));
  }, true);
}"""


def make_suspects(folder: Path, n_suspects: int, n_files: int = 200) -> Path:
    """A run that lists so many suspects; the photos are noise and gradients, many of them links to one file."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 640, dtype=np.float32)[None, :, None]
    for number in range(n_suspects):
        home = folder / "photos" / CLASSES[number % len(CLASSES)]
        home.mkdir(parents=True, exist_ok=True)
        file = home / f"IMG_{number:05d}.jpg"
        if number < n_files:
            pixels = 0.6 * ramp + rng.uniform(0, 100, (480, 1, 3)) + rng.uniform(0, 20, (480, 640, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=85)
        else:
            file.hardlink_to(folder / "photos" / CLASSES[number % n_files % 10] / f"IMG_{number % n_files:05d}.jpg")
    fixes = []
    for number in range(n_suspects):
        given, other = CLASSES[number % 10], CLASSES[(number + 3) % 10]
        twin = f"{CLASSES[(number + 1) % 10]}/IMG_{(number + 1) % n_suspects:05d}.jpg"
        problem = ("label suspect", f"near duplicate of {twin}", "blurred")[number % 3]
        fixes.append(Fix(f"{given}/IMG_{number:05d}.jpg", problem, given, other if number % 3 < 2 else ""))
    return make_run(folder / "run", folder / "photos", fixes)


def server_ms(page: Page, n_keys: int) -> list[float]:
    """Milliseconds of a decision, connection and writing included."""
    found = []
    for number in range(n_keys):
        begun = time.perf_counter()
        assert page.decide(number, ("keep", "drop", "relabel")[number % 3], None if number % 3 < 2 else 0).status in (
            200,
            400,
        )
        found.append(1e3 * (time.perf_counter() - begun))
    return found


def browser_ms(page: Page, n_keys: int) -> dict[str, list[float]]:
    """Milliseconds until the page could be used, and from each key to the painted card and to the saved decision."""
    with launch() as browser:
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        begun = time.perf_counter()
        tab.goto(f"http://{page.host}{page.root}")
        tab.wait_for_selector(".card.now")
        loaded = 1e3 * (time.perf_counter() - begun)
        tab.evaluate(WATCH)
        for number in range(n_keys):
            tab.keyboard.press("kdu"[number % 3])
            tab.wait_for_timeout(60)
        times = json.loads(tab.evaluate("JSON.stringify(window.times)"))
    found = {name: [each[name] for each in times if name in each] for name in ("painted", "saved")}
    return {"page ready": [loaded], "key to paint": found["painted"], "key to saved": found["saved"]}


def told(name: str, values: Sequence[float]) -> bool:
    """Print one row; whether its slowest value keeps the goal."""
    ordered = sorted(values)
    late = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(
        f"{name:<16} n {len(values):>4}  median {statistics.median(values):7.1f} ms  99 % {late:7.1f}  "
        f"most {ordered[-1]:7.1f}"
    )
    return name == "page ready" or late < GOAL_MS


def main() -> int:
    """Print the table; 1 where a key is not answered in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suspects", type=int, default=5000, help="photos to decide [5000]")
    parser.add_argument("--keys", type=int, default=300, help="keys that are pressed [300]")
    given = parser.parse_args()
    warn_if_busy()
    print(f"{given.suspects:,} suspects; {machine(n_cores())}")
    with tempfile.TemporaryDirectory() as folder:
        run = make_suspects(Path(folder), given.suspects)
        with page_of(run) as page:
            rows = {"decision, server": server_ms(page, given.keys), **browser_ms(page, given.keys)}
    in_time = [told(name, values) for name, values in rows.items()]
    return 0 if all(in_time) else 1


if __name__ == "__main__":
    sys.exit(main())
