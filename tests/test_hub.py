"""Weights from a model hub: those that it serves, kept for later, and a clear answer in seconds where there is none."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from heeler.learn.backbone import HUB_TIMEOUT_S

TINY = "test_efficientnet"


def random_state(name: str) -> dict[str, torch.Tensor]:
    """The same random weights each time."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = timm.create_model(name).state_dict()
    return state


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hugging Face hub's layout that a download uses."""

    files: dict[str, bytes]
    seen: list[str]

    def do_GET(self) -> None:
        body = self.head()
        if body is not None:
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.head()

    def head(self) -> bytes | None:
        self.seen.append(self.path)
        body = self.files.get(self.path)
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    """A hub on loopback that holds random weights of the tiny model."""
    save_file(random_state(TINY), tmp_path / "served.safetensors")
    data = (tmp_path / "served.safetensors").read_bytes()
    repository = timm.models.get_pretrained_cfg(TINY).hf_hub_id
    serving = type("Serving", (Hub,), {"files": {f"/{repository}/resolve/main/model.safetensors": data}, "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", serving
        server.shutdown()
        thread.join()


# The hub's client reads its environment when it is imported, so each load is a process of its own.
LOADER = """
import json, sys, time
from heeler.errors import HeelerError
from heeler.learn.backbone import load_backbone
from safetensors.torch import save_file
name, out = sys.argv[1:]
start = time.monotonic()
try:
    save_file(load_backbone(name).model.state_dict(), out)
    print(json.dumps({"error": None}))
except HeelerError as error:
    seconds = time.monotonic() - start
    print(json.dumps({"error": type(error).__name__, "said": str(error), "hint": error.hint, "seconds": seconds}))
"""


def load_elsewhere(name: str, out: Path, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    """Load a backbone in a process whose hub is ``endpoint``, and save its weights."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run(
        [sys.executable, "-c", LOADER, name, str(out)],
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def files_asked_for(serving: type[Hub]) -> set[str]:
    """Names of the files that a hub was asked for; its client also asks for matters of its own."""
    return {path.rpartition("/")[2] for path in serving.seen if "/resolve/" in path}


def test_weights_from_a_hub_and_then_without_it(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, serving = hub
    out, home = tmp_path / "loaded.safetensors", tmp_path / "home"
    assert load_elsewhere(TINY, out, endpoint, home)["error"] is None
    loaded, served = load_file(out), random_state(TINY)
    assert loaded.keys() == served.keys()
    assert all(torch.equal(loaded[key], served[key]) for key in served)
    assert files_asked_for(serving) == {"model.safetensors"}

    serving.seen.clear()
    for gone in ("http://127.0.0.1:9", endpoint):
        again = tmp_path / "again.safetensors"
        assert load_elsewhere(TINY, again, gone, home, HF_HUB_OFFLINE="01"[gone != endpoint])["error"] is None
        assert again.read_bytes() == out.read_bytes()
    assert not files_asked_for(serving), "what is in the hub's own cache is not asked for again"


def test_no_hub_is_told_in_seconds(tmp_path: Path) -> None:
    found = load_elsewhere(TINY, tmp_path / "out", "http://127.0.0.1:9", tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert TINY in found["said"]
    assert "--weights" in found["hint"]
    assert "tf_efficientnet_lite0" in found["hint"]
    assert found["seconds"] < 30


def test_a_hub_that_says_nothing_is_told_in_seconds(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as silent:  # listens, and is never asked to answer
        port = silent.server_address[1]
        found = load_elsewhere(TINY, tmp_path / "out", f"http://127.0.0.1:{port}", tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert HUB_TIMEOUT_S <= found["seconds"] < HUB_TIMEOUT_S + 30


def test_a_hub_without_safetensors_is_not_asked_for_pickles(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, serving = hub
    found = load_elsewhere("test_resnet", tmp_path / "out", endpoint, tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert "model.safetensors" in found["said"]
    assert files_asked_for(serving) == {"model.safetensors"}
