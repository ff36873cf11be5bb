"""A look at the machine: what a run would use, and what to do about each thing that is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import heeler
from heeler.errors import HeelerError
from heeler.files import cache_root
from heeler.machine import cpu_limit, memory_bytes, text_of

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
# What is imported, what pip calls it, and whether training needs it.
PACKAGES = (
    ("torch", "torch", True),
    ("torchvision", "torchvision", True),
    ("timm", "timm", True),
    ("onnxruntime", "onnxruntime", True),
    ("PIL", "pillow", True),
    ("simplejpeg", "simplejpeg", True),
    ("openvino", "openvino", False),
)
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
LOW_DISK_BYTES, MIN_DISK_BYTES = 2_000_000_000, 200_000_000
LOW_MEMORY_BYTES, MIN_MEMORY_BYTES = 3_000_000_000, 1_000_000_000
HUB_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do where ``status`` is not ``ok``."""

    name: str
    value: str
    status: Literal["ok", "warn", "fail"] = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Doctor:
    """Everything that was found, and the backbone, engine and precision that a run would use."""

    findings: tuple[Finding, ...]
    backbone: str
    engine: str
    precision: str

    @property
    def works(self) -> bool:
        """Whether training could work on this machine."""
        return all(finding.status != "fail" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler doctor --json`` prints."""
        return {
            "works": self.works,
            "will_use": {"backbone": self.backbone, "engine": self.engine, "precision": self.precision},
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine() -> Doctor:
    """Look at versions, processor, GPU, memory, disk, hub and weights.

    Returns:
        The findings, in the order people read them. Nothing is changed on the machine beyond a probe file in the
        cache, which is removed again.
    """
    versions = list(_versions())
    broken = {finding.name for finding in versions if finding.status == "fail"}
    findings = [*versions, *_processor("torch" not in broken), *_memory(), *_disk(), *_environment(), _hub_as_set()]
    if broken:
        return Doctor(tuple(findings), DEFAULT_BACKBONE, "none", "none")
    findings += [_gpu(), _weights()]
    faulty = any(finding.name == "openvino" and finding.status != "ok" for finding in versions)
    has_openvino = importlib.util.find_spec("openvino") is not None and not faulty
    engine, precision = _choice(has_openvino)
    return Doctor(tuple(findings), DEFAULT_BACKBONE, engine, precision)


def hardware() -> dict[str, str]:
    """What this machine computes with, name -> value, for a report."""
    return {finding.name: finding.value for finding in (*_processor(True), *_memory(), _gpu())}


def print_doctor(doctor: Doctor, *, console: Console | None = None) -> None:
    """Print the findings as a table that is readable at 80 columns, then what a run would use."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from heeler.terminal import printable

    console = console or Console(highlight=False)
    marks = {"ok": ("ok", "green"), "warn": ("look", "yellow"), "fail": ("wrong", "bold red")}
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in doctor.findings:
        word, style = marks[finding.status]
        value = Text(printable(finding.value))
        if finding.advice:
            value.append(f"\n{printable(finding.advice)}", style=style)
        table.add_row(Text(word, style=style), Text(finding.name), value)
    console.print(table)
    console.print()
    if doctor.works:
        used = f"{doctor.backbone} with {doctor.engine} in {doctor.precision}"
        console.print(Text(f"Training can work here. A run would use {used}.", style="bold green"))
    else:
        wrong = ", ".join(finding.name for finding in doctor.findings if finding.status == "fail")
        console.print(Text(f"Training could not work here. First put right: {wrong}.", style="bold red"))


def _versions() -> Iterator[Finding]:
    yield Finding("heeler", heeler.__version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for module, package, needed in PACKAGES:
        yield _package(module, package, needed)


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # another package brought the module, as onnxruntime-gpu does
        return "of unknown version"


def _package(module: str, package: str, needed: bool) -> Finding:
    try:
        importlib.import_module(module)
        return Finding(package, _version_of(package))
    except ModuleNotFoundError as error:
        if error.name == module and not needed:
            return Finding(package, "not installed (optional; faster on many processors: heeler[openvino])")
        advice = f"run: pip install {package}"
        return Finding(package, f"cannot be imported: {error}", "fail" if needed else "warn", advice)
    except Exception as error:  # a broken library can raise anything while it loads
        advice = f"run: pip install --force-reinstall {package}"
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(package, f"cannot be loaded: {said}", "fail" if needed else "warn", advice)


def _processor(with_torch: bool) -> Iterator[Finding]:
    lines = text_of(Path("/proc/cpuinfo")).splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    yield Finding("processor", facts.get("model name") or platform.processor() or platform.machine())
    yield Finding("instructions", ", ".join(flag for flag in CPU_FLAGS if flag in flags) or "none that matter here")
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not with_torch:
        yield Finding("threads", f"{n_cpus} processors")
        return
    import torch

    from heeler.learn.engines import has_fast_bf16

    fast = has_fast_bf16()
    yield Finding("bf16 on processor", "yes" if fast else "no: fine-tuning without a GPU computes in fp32")
    yield judge_threads(torch.get_num_threads(), n_cpus, cpu_limit())


def judge_threads(n_threads: int, n_cpus: int, limit: float | None) -> Finding:
    """Whether torch's threads fit the processors that this process may use.

    Args:
        n_threads: threads that torch starts.
        n_cpus: processors that the system lets this process run on.
        limit: processors that a container grants, None where it sets no limit.
    """
    granted = n_cpus if limit is None else min(float(n_cpus), limit)
    value = f"{n_threads} of torch, {granted:g} processors for this process"
    if n_threads > max(1, round(granted)):
        return Finding(
            "threads", value, "warn", f"set OMP_NUM_THREADS={max(1, round(granted))}: more threads are slower"
        )
    return Finding("threads", value)


def _gpu() -> Finding:
    import torch

    if torch.backends.mps.is_available():
        return Finding("GPU", "Apple GPU seen by torch; heeler computes on the processor beside it")
    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    bytes_ = torch.cuda.get_device_properties(0).total_memory if names else 0
    driver = text_of(Path("/proc/driver/nvidia/version")).partition("\n")[0]
    rocm = getattr(torch.version, "hip", None)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {rocm}" if rocm else None
    has_device = bool(driver) or Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    return judge_gpu(names, bytes_, build=build, driver=driver, has_device=has_device)


def judge_gpu(names: Sequence[str], memory_bytes: int, *, build: str | None, driver: str, has_device: bool) -> Finding:
    """What torch makes of the GPU.

    Args:
        names: GPUs that torch can compute on.
        memory_bytes: memory of the first of them.
        build: what torch was built for, such as ``CUDA 13.0``; None for a build for processors.
        driver: what the NVIDIA driver says of itself, empty where there is none.
        has_device: whether the machine shows an NVIDIA device, driver or tool.
    """
    version = re.search(r"\d+(?:\.\d+)+", driver)
    said = f"; driver {version[0] if version else ' '.join(driver.split())}" if driver else ""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return Finding("GPU", f"{names[0]}{more}, {memory_bytes / 1e9:.0f} GB, torch built for {build}{said}")
    if not has_device:
        return Finding("GPU", "none: the processor does the work")
    if build is None:
        advice = "this torch was built without CUDA: pick the CUDA build at https://pytorch.org/get-started/locally"
    else:
        advice = f"torch wants {build}: run nvidia-smi, and update the driver or restart the machine if it fails"
    return Finding("GPU", f"an NVIDIA GPU that torch cannot use{said}", "warn", advice)


def _memory() -> Iterator[Finding]:
    import psutil

    system, total = psutil.virtual_memory(), memory_bytes()
    yield judge_memory(total, min(system.available, total), limited=total < system.total)


def judge_memory(total_bytes: int, free_bytes: int, *, limited: bool) -> Finding:
    """Whether the memory is enough to train in; ``limited`` says that a container set the total."""
    value = (
        f"{total_bytes / 1e9:.1f} GB{' (limit of this container)' if limited else ''}, {free_bytes / 1e9:.1f} GB free"
    )
    if total_bytes < MIN_MEMORY_BYTES:
        return Finding("memory", value, "fail", f"training needs at least {MIN_MEMORY_BYTES / 1e9:.0f} GB")
    if free_bytes < LOW_MEMORY_BYTES:
        return Finding("memory", value, "warn", "close other programs before a large run")
    return Finding("memory", value)


def _disk() -> Iterator[Finding]:
    for name, folder in (("disk, cache", cache_root()), ("disk, here", Path.cwd())):
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        yield judge_disk(name, folder, shutil.disk_usage(existing).free)
    yield _cache()


def judge_disk(name: str, folder: Path, free_bytes: int) -> Finding:
    """Whether a disk has room for what a run writes there."""
    value = f"{free_bytes / 1e9:.1f} GB free in {folder}"
    move = "set HEELER_CACHE to a folder on a larger disk" if "cache" in name else "work on a larger disk, or use --out"
    if free_bytes < MIN_DISK_BYTES:
        return Finding(name, value, "fail", f"free some space, or {move}")
    if free_bytes < LOW_DISK_BYTES:
        return Finding(name, value, "warn", f"enough for small sets only; {move}")
    return Finding(name, value)


def _cache() -> Finding:
    folder = cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"heeler")
    except OSError as error:
        advice = "set HEELER_CACHE to a folder that you may write to"
        return Finding("cache", f"{folder} cannot be written: {error.strerror}", "fail", advice)
    return Finding("cache", f"{folder} can be written")


def _environment() -> Iterator[Finding]:
    value = os.environ.get("OPENBLAS_CORETYPE")
    if value:
        yield Finding(
            "OPENBLAS_CORETYPE", value, "warn", "numpy then uses code for another processor and is slower: unset it"
        )


def _hub_as_set() -> Finding:
    try:
        from huggingface_hub import constants
    except Exception as error:  # a broken library can raise anything while it loads
        return Finding("hub", f"huggingface_hub cannot be loaded: {error}", "warn", "run: pip install huggingface_hub")
    return look_for_hub(constants.ENDPOINT, offline=constants.HF_HUB_OFFLINE)


def look_for_hub(endpoint: str, *, offline: bool = False, timeout_s: float = HUB_TIMEOUT_S) -> Finding:
    """Whether the model hub answers; only backbones that are not embedded need it.

    Args:
        endpoint: address of the hub, http or https.
        offline: the user has said not to ask.
        timeout_s: how long to wait in all, the look-up of the name included.
    """
    embedded = "only --backbone names that are not embedded need it; for those, --weights FILE works too"
    if offline:
        return Finding("hub", "not asked, since HF_HUB_OFFLINE is set", "warn", embedded)
    if not endpoint.startswith(("http://", "https://")):
        return Finding("hub", f"{endpoint} is not an address", "warn", "set HF_ENDPOINT to https://..., or unset it")
    answer: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the scheme was checked above
        try:
            with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
                answer.append("")
        except urllib.error.HTTPError:
            answer.append("")  # a refusal is an answer too
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)))

    # The look-up of a name has no time limit of its own, so the wait is on a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    if answer == [""]:
        return Finding("hub", f"{endpoint} answers")
    said = answer[0] if answer else f"no answer in {timeout_s:g} s"
    return Finding("hub", f"{endpoint} cannot be reached: {said}", "warn", embedded)


def _weights() -> Finding:
    from heeler.learn.backbone import embedded_weights

    try:
        path = embedded_weights(DEFAULT_BACKBONE)
    except HeelerError as error:
        return Finding("weights", error.message, "fail", error.hint)
    return Finding("weights", f"{DEFAULT_BACKBONE} embedded and whole ({path.stat().st_size / 1e6:.0f} MB)")


def _choice(has_openvino: bool) -> tuple[str, str]:
    import torch

    from heeler.learn.engines import has_fast_bf16

    if torch.cuda.is_available():
        return "torch", "bf16"
    if has_openvino and has_fast_bf16():
        return "openvino", "bf16"
    return "onnxruntime", "fp32"
