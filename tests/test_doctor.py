"""What doctor says of this machine, and of machines with something wrong."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from conftest import run_heeler
from heeler import doctor
from heeler.doctor import (
    Doctor,
    Finding,
    judge_disk,
    judge_gpu,
    judge_memory,
    judge_threads,
    look_for_hub,
    print_doctor,
)

GB = 1_000_000_000


def _doctor(cache: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heeler", "doctor", *options],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "HEELER_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip


def test_this_machine_works_and_every_finding_is_there(tmp_path: Path) -> None:
    done = _doctor(tmp_path / "cache", "--json", OPENBLAS_CORETYPE="Haswell")
    value = json.loads(done.stdout)
    assert done.returncode == 0, value
    assert value["works"] is True
    assert value["will_use"]["backbone"] == "tf_efficientnet_lite0"
    assert value["will_use"]["engine"] in {"torch", "onnxruntime", "openvino"}
    assert value["will_use"]["precision"] in {"fp32", "bf16"}
    found = {finding["name"]: finding for finding in value["findings"]}
    assert {
        "heeler", "Python", "torch", "torchvision", "timm", "onnxruntime", "openvino", "pillow", "simplejpeg",
        "processor", "instructions", "bf16 on processor", "threads", "GPU", "memory", "disk, cache", "disk, here",
        "cache", "hub", "weights", "OPENBLAS_CORETYPE",
    } == set(found)  # fmt: skip
    assert found["weights"]["status"] == "ok"
    assert found["hub"]["status"] == found["OPENBLAS_CORETYPE"]["status"] == "warn"
    assert all(bool(finding["advice"]) == (finding["status"] != "ok") for finding in found.values())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_a_folder_fails_with_advice_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEELER_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(doctor, "look_for_hub", lambda *_, **__: Finding("hub", "not asked"))
    done = run_heeler("doctor")
    assert done.code == 1
    assert "Training could not work here. First put right: cache." in " ".join(done.out.split())
    assert "set HEELER_CACHE" in done.out
    assert "Traceback" not in done.err
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_broken_and_a_missing_library_are_findings_not_tracebacks(tmp_path: Path) -> None:
    for name, code in (("timm", "raise OSError('libfoo.so: cannot open')"), ("torch", "import no_such_part")):
        (tmp_path / f"{name}.py").write_text(code)
    done = _doctor(tmp_path / "cache", "--json", PYTHONPATH=str(tmp_path))
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert "libfoo.so: cannot open" in found["timm"]["value"]
    assert "no_such_part" in found["torch"]["value"]
    assert found["timm"]["status"] == found["torch"]["status"] == "fail"
    assert "pip install" in found["torch"]["advice"]


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_that_answers_is_reachable_even_if_it_refuses(hub: str) -> None:
    assert look_for_hub(hub) == Finding("hub", f"{hub} answers")
    assert look_for_hub(hub, offline=True).status == "warn"


def test_a_hub_that_is_silent_costs_no_more_than_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        finding = look_for_hub(address, timeout_s=0.3)
        assert time.monotonic() - started < 2
    assert (finding.status, "--weights FILE" in finding.advice) == ("warn", True)
    assert "refused" in look_for_hub(address).value


def test_an_address_that_is_none_is_not_opened(tmp_path: Path) -> None:
    assert look_for_hub((tmp_path / "x").as_uri()).advice.startswith("set HF_ENDPOINT")


def test_more_threads_than_processors_is_told_with_the_number_to_set() -> None:
    assert judge_threads(2, 2, None).status == "ok"
    assert "OMP_NUM_THREADS=2" in judge_threads(16, 16, 1.5).advice
    assert "OMP_NUM_THREADS=1" in judge_threads(4, 4, 0.25).advice


# As /proc/driver/nvidia/version has it.
DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (builder@)"


def test_a_gpu_that_torch_cannot_use_has_a_reason_and_a_way_out() -> None:
    def gpu(names: tuple[str, ...] = (), *, build: str | None = None, has_device: bool = True) -> Finding:
        return judge_gpu(names, 80 * GB, build=build, driver=DRIVER, has_device=has_device)

    assert "without CUDA" in gpu().advice
    assert "nvidia-smi" in gpu(build="CUDA 12.4").advice
    assert gpu().status == gpu(build="CUDA 12.4").status == "warn"
    seen = gpu(("H100", "H100"), build="CUDA 12.4")
    assert (seen.status, seen.value) == (
        "ok", "H100 and 1 more, 80 GB, torch built for CUDA 12.4; driver 580.159.04",
    )  # fmt: skip
    assert gpu(has_device=False).status == "ok"


def test_little_memory_and_little_disk_are_told_before_a_run_finds_out(tmp_path: Path) -> None:
    assert judge_memory(GB // 2, GB // 4, limited=True).status == "fail"
    assert "container" in judge_memory(GB // 2, GB // 4, limited=True).value
    assert judge_memory(8 * GB, 1 * GB, limited=False).status == "warn"
    assert judge_memory(8 * GB, 6 * GB, limited=False).status == "ok"
    assert judge_disk("disk, cache", tmp_path, GB // 10).status == "fail"
    assert "HEELER_CACHE" in judge_disk("disk, cache", tmp_path, GB).advice
    assert judge_disk("disk, here", tmp_path, 50 * GB).status == "ok"


def test_the_table_is_readable_at_80_columns_and_ends_with_what_a_run_would_use() -> None:
    findings = (Finding("hub", "x" * 100, "warn", "do this"), Finding("cache", "[red]fine\x1b[2J"))
    text = io.StringIO()
    print_doctor(Doctor(findings, "lite0", "onnxruntime", "fp32"), console=Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["do", "this"] for line in lines)
    assert "[red]fine" in text.getvalue()
    assert "\x1b" not in text.getvalue()
    assert lines[-1] == "Training can work here. A run would use lite0 with onnxruntime in fp32."


def test_a_library_that_another_package_brought_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._package("json", "no-such-package", True) == Finding("no-such-package", "of unknown version")
