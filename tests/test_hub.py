"""Weights from a model hub: those that it serves, kept for later, and a clear answer in seconds where there is none."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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


# The hub's client reads its environment when it is imported, so each load is a process of its own: a fork of one that
# has imported what takes long and nothing of the hub's.
LOADER = """
import gc, json, os, signal, sys, time
import scipy.optimize, torch, torchvision

def load(environment, name, out, answer):
    for key in [key for key in os.environ if key.startswith(("HF_", "HUGGINGFACE"))]:
        del os.environ[key]
    os.environ.update(environment)
    signal.alarm(180)
    from heeler.errors import HeelerError
    from heeler.learn.backbone import load_backbone
    from safetensors.torch import save_file
    start = time.monotonic()
    try:
        save_file(load_backbone(name).model.state_dict(), out)
        found = {"error": None}
    except HeelerError as error:
        seconds = time.monotonic() - start
        found = {"error": type(error).__name__, "said": str(error), "hint": error.hint, "seconds": seconds}
    with open(answer, "w") as file:
        json.dump(found, file)

assert not [name for name in sys.modules if name.startswith(("huggingface_hub", "timm", "heeler"))]
gc.freeze()
for line in sys.stdin:
    process = os.fork()
    if process == 0:
        os.dup2(2, 1)
        try:
            load(*json.loads(line))
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""

Load = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def load_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """``load_elsewhere(name, out, endpoint, home)``: load a backbone where that is the hub, and save its weights."""
    log = tmp_path_factory.mktemp("loader") / "stderr"
    with log.open("w") as stderr, subprocess.Popen(
        [sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as process:  # fmt: skip
        told, asked = process.stdout, process.stdin
        assert told is not None and asked is not None

        def load(name: str, out: Path, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
            settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
            answer = out.with_suffix(".json")
            job = settings | {"NO_PROXY": "127.0.0.1"} | environment, name, str(out), str(answer)
            print(json.dumps(job), file=asked, flush=True)
            assert told.readline() == "0\n", log.read_text()
            found: dict[str, Any] = json.loads(answer.read_text())
            return found

        yield load
        asked.close()
        assert process.wait(60) == 0


def files_asked_for(serving: type[Hub]) -> set[str]:
    """Names of the files that a hub was asked for; its client also asks for matters of its own."""
    return {path.rpartition("/")[2] for path in serving.seen if "/resolve/" in path}


def test_weights_from_a_hub_and_then_without_it(
    hub: tuple[str, type[Hub]], load_elsewhere: Load, tmp_path: Path
) -> None:
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


def test_no_hub_is_told_in_seconds(load_elsewhere: Load, tmp_path: Path) -> None:
    found = load_elsewhere(TINY, tmp_path / "out", "http://127.0.0.1:9", tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert TINY in found["said"]
    assert "--weights" in found["hint"]
    assert "tf_efficientnet_lite0" in found["hint"]
    assert found["seconds"] < 30


def test_a_hub_that_says_nothing_is_told_in_seconds(load_elsewhere: Load, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as silent:  # listens, and is never asked to answer
        port = silent.server_address[1]
        found = load_elsewhere(TINY, tmp_path / "out", f"http://127.0.0.1:{port}", tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert HUB_TIMEOUT_S <= found["seconds"] < HUB_TIMEOUT_S + 30


def test_a_hub_without_safetensors_is_not_asked_for_pickles(
    hub: tuple[str, type[Hub]], load_elsewhere: Load, tmp_path: Path
) -> None:
    endpoint, serving = hub
    found = load_elsewhere("test_resnet", tmp_path / "out", endpoint, tmp_path / "home")
    assert found["error"] == "ResourceError"
    assert "model.safetensors" in found["said"]
    assert files_asked_for(serving) == {"model.safetensors"}
