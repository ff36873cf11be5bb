"""The page of ``heeler serve`` on the real server: what it shows is what ``heeler predict`` says."""

from __future__ import annotations

from pathlib import Path

import pytest

import heeler
from browser import launch
from conftest import TrainedRun, scene
from heeler.serving import running
from heeler.ship.access import Access
from test_page_browser import DONE, expect, opened

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_page_and_the_command_say_the_same(trained_run: TrainedRun, tmp_path: Path) -> None:
    files = []
    for name in ("cat", "rocket"):
        files.append(tmp_path / f"{name}.jpg")
        scene(name, 100).save(files[-1], quality=92)
    (tmp_path / "cut.jpg").write_bytes(files[0].read_bytes()[:3000])
    rows = heeler.load(trained_run.model).predict(files, top=1)
    access = Access(token="a-token-of-this-test")
    with (
        running(trained_run.model, access) as serving,
        launch() as browser,
        opened(browser, serving, f"#token={access.token}") as tab,
    ):
        tab.set_input_files("input[type=file]", [*map(str, files), str(tmp_path / "cut.jpg")])
        expect(tab, f"{DONE} === 3")
        told = {row.inner_text().split()[0]: row.inner_text() for row in tab.query_selector_all("#rows tr")}
        assert sorted(told) == ["cat.jpg", "cut.jpg", "rocket.jpg"]
        for file, row in zip(files, rows, strict=True):
            assert row.label in told[file.name].removeprefix(file.name), told
        answers = told["cut.jpg"].replace("cut.jpg", "").split()
        assert answers and not set(answers) & {row.label for row in rows}, told
        assert "token" not in tab.url
