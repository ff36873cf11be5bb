"""One forward pass, three engines: torch, ONNX Runtime, OpenVINO; timed on the user's photos, and the fastest taken.

An engine turns (B, S, S, 3) uint8 pixels into (B, D) float32 outputs. Exporting a network costs seconds, so the ONNX
file is kept in the cache under the hash of its weights. Nothing else about the forward pass is pluggable.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from heeler.errors import HeelerError, UsageError
from heeler.files import atomic_write, cache_root, sha256_file, write_text
from heeler.learn.memory import AtOnce, is_out_of_memory
from heeler.records import ByteArray, FloatArray, IntArray, OnEvent, ignore_events

EngineName = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]
BATCH = 32
# Photos that one core computes at once on a CPU: what passes from layer to layer stays in its cache. On two cores Lite0
# does 410 photos/s in OpenVINO and 212 in ONNX Runtime so, and 340 and 189 with both cores on a batch of 32.
PIECE = 4
# Relative distance to the fp32 features from which a faster precision is not trusted: one below which the probe's error
# does not change. Lite0's bf16 features in OpenVINO against fp32 ones, the same 5 folds, errors in % (photos that only
# fp32, only bf16 got wrong):
#     set         photos  distance   fp32   bf16
#     ELPV         2,624     0.081  14.63  14.41  (27, 21)
#     clothing     3,068     0.047  12.91  12.91  (7, 7)
#     corn leaves    600     0.045   7.50   7.00  (5, 2)
#     Imagewoof    2,257     0.036   5.80   5.85  (2, 3)
# A head fitted on either and used on the other differs as little. With ELPV's differences multiplied, its error is
# 14.79 at a distance of 0.16 (45, 49), 15.13 at 0.24 (63, 76), and first clearly worse at 0.32: 16.35 (65, 110). Taking
# away the features' common mean, which a head ignores, raises all four distances alike and so decides nothing.
MAX_RELATIVE_ERROR = 0.12
# The same for fp32: engines differ by the order of their additions only, by 1e-6 as measured.
MAX_EXACT_ERROR = 1e-4
# Photos that an exported network is checked on: another number than it was exported with.
N_CHECKED = 3
# Raise when the exported graph changes.
EXPORT_VERSION = 1


@dataclass(frozen=True)
class Engine:
    """A compiled forward pass.

    Args:
        name: which runtime computes.
        precision: of the multiplications; outputs are float32 always.
        forward: (B, S, S, 3) uint8 -> (B, D) float32, for any B from 1 to ``BATCH``; several threads may call it.
        rate_per_s: photos a second, as timed; 0 where not timed.
        at_once: photos that a call computes best; ``PIECE`` where it keeps one core busy, ``BATCH`` where all of them.
    """

    name: EngineName
    precision: Precision
    forward: Callable[[ByteArray], FloatArray]
    rate_per_s: float = 0.0
    at_once: int = BATCH

    def run(self, batches: Iterable[ByteArray], on_event: OnEvent = ignore_events) -> Iterator[FloatArray]:
        """Outputs of each batch, in order; a batch may be larger than ``BATCH``, and than memory has room for.

        The next batch is read and the last outputs are used while the engine computes, so neither makes it wait.
        ``on_event`` is told where memory ran out.
        """
        at_once = AtOnce(BATCH)
        with ThreadPoolExecutor(1) as worker:
            waiting: deque[Future[FloatArray]] = deque()
            for batch in batches:
                waiting.append(worker.submit(at_once.compute, self.forward, batch))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
                    at_once.tell(on_event)
            while waiting:
                yield waiting.popleft().result()
                at_once.tell(on_event)


def spread(n_photos: int) -> IntArray:
    """``BATCH`` places from the first of some photos to the last: photos that lie side by side are alike.

    Of solar cells at 288 px, 32 in a row had distances of 0.08 to 0.13 from fp32 in Lite2, and all 2,624 have 0.083.
    """
    return np.linspace(0, n_photos - 1, BATCH).astype(np.int64)


def pick_engine(net: nn.Module, key: str, sample: ByteArray, *, exact: bool = False, name: str = "") -> Engine:
    """The fastest engine of this machine, by a short timing where there is a choice.

    Args:
        net: (B, S, S, 3) uint8 -> (B, D); in evaluation mode.
        key: names the network's weights and its preprocessing, for the cache of exported files.
        sample: (B, S, S, 3) uint8 real photos to time on.
        exact: only fp32 engines, whose answers agree to 1e-4 on every machine.
        name: the one engine that may be picked; any where empty.

    Returns:
        An engine whose outputs on the sample are within ``MAX_RELATIVE_ERROR`` of fp32 ones, ``MAX_EXACT_ERROR`` where
        it is fp32 itself.

    Raises:
        UsageError: the one that was asked for is not there, or does not compute what it should.
    """
    usable = _gpu_engines(net, exact) if torch.cuda.is_available() else _cpu_engines(net, key, sample, exact, name)
    reference = usable[0]
    engines = [reference]
    for engine in usable[1:]:
        limit = MAX_EXACT_ERROR if engine.precision == "fp32" else MAX_RELATIVE_ERROR
        if relative_error(engine, reference, sample) <= limit:
            engines.append(engine)
    engines = [engine for engine in engines if name in ("", engine.name)]
    if not engines:
        raise UsageError(f"the engine {name} is not there any more", hint=f"install {name}, or begin again")
    if exact and len(engines) == 1:
        return engines[0]  # nobody plans by its rate
    return max((_timed(engine, sample) for engine in engines), key=lambda engine: engine.rate_per_s)


def _gpu_engines(net: nn.Module, exact: bool) -> list[Engine]:
    precisions: tuple[Precision, ...] = ("fp32",) if exact else ("fp32", "bf16")
    return [torch_engine(net, "cuda", precision) for precision in precisions]


def _cpu_engines(net: nn.Module, key: str, sample: ByteArray, exact: bool, name: str) -> list[Engine]:
    """The engines worth a try on this CPU, the one that the others are measured by first.

    In fp32, OpenVINO is faster than ONNX Runtime by less than a tenth (Lite0: 364 to 399 photos/s, and 340 to 381); to
    compile it and to time both costs most of a second of a server's start, so there it has to be asked for.
    """
    faster: Precision = "bf16" if has_fast_bf16() and not exact else "fp32"
    exported = _exported(net, key, sample)
    if exported is None:
        engines = [torch_engine(net, "cpu", "fp32")]
        return engines if faster == "fp32" else [*engines, torch_engine(net, "cpu", faster)]
    path, engine = exported
    if (not exact or name == "openvino") and importlib.util.find_spec("openvino") is not None:
        with contextlib.suppress(RuntimeError):  # a network that OpenVINO cannot compile
            return [engine, openvino_engine(path, faster)]
    return [engine]


def relative_error(engine: Engine, exact: Engine, sample: ByteArray) -> float:
    """Root mean square distance of two engines' outputs on the sample, relative to the second's size."""
    other, truth = (next(one.run([sample])) for one in (engine, exact))
    return float(np.sqrt(np.mean((other - truth) ** 2) / max(float(np.mean(truth**2)), 1e-12)))


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware and this torch makes it do so: builds for Macs have no oneDNN."""
    has_onednn: Any = torch.backends.mkldnn.is_available
    return bool(has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def torch_engine(net: nn.Module, device: str, precision: Precision) -> Engine:
    """The network as torch runs it, for GPUs and for networks that cannot be exported; ``net`` stays where it is."""
    on_gpu = device != "cpu"
    net = (copy.deepcopy(net).to(device).to(memory_format=torch.channels_last) if on_gpu else net).eval()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    alone = threading.Lock()

    def forward(pixels: ByteArray) -> FloatArray:
        batch = torch.from_numpy(pixels).to(device, non_blocking=True)
        with contextlib.ExitStack() as modes:
            modes.enter_context(alone)  # each pass takes all cores, or the GPU
            modes.enter_context(torch.inference_mode())
            modes.enter_context(torch.autocast(device, dtype=dtype, enabled=precision != "fp32"))
            if device == "cuda" and precision == "fp32":
                # Convolutions round to TF32 on GPUs unless told otherwise, a thousand times coarser than fp32.
                modes.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            out: FloatArray = net(batch).float().cpu().numpy()
        return out

    return Engine("torch", precision, _in_one_size(forward) if on_gpu else forward)


def onnxruntime_engine(file: Path | bytes) -> Engine:
    """An exported network, a file or its content, in ONNX Runtime on the CPU; fp32, or as it was quantised."""
    # Photos one at a time, on several cores: 6 ms of Lite0 on two, where a piece that is filled up for one takes 41.
    alone = _onnxruntime_pass(file, 1, min(PIECE, torch.get_num_threads()))
    return Engine("onnxruntime", "fp32", _in_pieces(_onnxruntime_pass(file, PIECE, 1), alone), at_once=PIECE)


def _onnxruntime_pass(file: Path | bytes, n_photos: int, n_threads: int) -> Callable[[ByteArray], FloatArray]:
    """The forward pass of so many photos at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their cores
    options.log_severity_level = 3
    # With a free batch, TensorFlow-style padding is computed anew in each pass and stays apart from the convolutions:
    # 124 photos/s of Lite0 where a fixed batch gives 190.
    options.add_free_dimension_override_by_name("batch", n_photos)
    model = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward(photos: ByteArray) -> FloatArray:
        out: FloatArray = session.run(None, {name: photos})[0]
        return out

    return forward


def openvino_engine(path: Path, precision: Precision) -> Engine:
    """An exported network in OpenVINO on the CPU."""
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    _, *shape = network.inputs[0].get_partial_shape()
    network.reshape([PIECE, *shape])  # a free batch costs a third of the speed
    n_threads = torch.get_num_threads()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": n_threads,
        "INFERENCE_NUM_THREADS": n_threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "CACHE_DIR": str(cache_root() / "openvino"),
    }
    compiled = core.compile_model(network, "CPU", settings)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(n_threads):
        requests.put(compiled.create_infer_request())
    # The first answer sets up something in OpenVINO's Python layer that two threads at once can wait for forever.
    photos = np.zeros([PIECE, *(size.get_length() for size in shape)], np.uint8)
    compiled.create_infer_request().infer([photos], share_inputs=True)[0].copy()

    def forward(piece: ByteArray) -> FloatArray:
        request = requests.get()
        try:
            result: FloatArray = request.infer([piece], share_inputs=True)[0].copy()
        finally:
            requests.put(request)
        return result

    return Engine("openvino", precision, _in_pieces(forward), at_once=PIECE)


def _in_one_size(forward: Callable[[ByteArray], FloatArray]) -> Callable[[ByteArray], FloatArray]:
    """A forward pass for any number of photos, of ``BATCH`` at a time or of half as many where memory is too short.

    On a GPU the first batch of each size takes seconds: cuDNN plans every convolution for it.
    """
    size = BATCH

    def whole(pixels: ByteArray) -> FloatArray:
        nonlocal size
        while True:
            try:
                return forward(_padded(pixels, size))[: len(pixels)]
            except RuntimeError as error:
                if not is_out_of_memory(error) or size <= len(pixels):
                    raise
            size //= 2

    return whole


def _in_pieces(
    forward: Callable[[ByteArray], FloatArray], alone: Callable[[ByteArray], FloatArray] | None = None
) -> Callable[[ByteArray], FloatArray]:
    """A forward pass for any number of photos, on all cores, out of one that takes ``PIECE`` on one core.

    Fewer than these are computed one by one where there is a pass for a photo ``alone``.
    """
    pool = ThreadPoolExecutor(torch.get_num_threads())

    def whole(pixels: ByteArray) -> FloatArray:
        if alone and len(pixels) < PIECE:
            return np.concatenate([alone(pixels[i : i + 1]) for i in range(len(pixels))])
        pixels_and_padding = _padded(pixels, PIECE)
        if len(pixels) <= PIECE:
            return forward(pixels_and_padding)[: len(pixels)]
        starts = range(0, len(pixels_and_padding), PIECE)
        outputs = list(pool.map(lambda start: forward(pixels_and_padding[start : start + PIECE]), starts))
        return np.concatenate(outputs)[: len(pixels)]

    return whole


def _padded(pixels: ByteArray, multiple: int) -> ByteArray:
    """Photos, and black ones after them up to a multiple of so many."""
    n_missing = -len(pixels) % multiple
    return np.concatenate([pixels, np.zeros((n_missing, *pixels.shape[1:]), np.uint8)]) if n_missing else pixels


def export_onnx(net: nn.Module, path: Path, image_px: int) -> None:
    """Write a network as ONNX: input ``pixels`` (B, S, S, 3) uint8, output ``outputs`` (B, D) float32, B free."""
    example = torch.zeros((2, image_px, image_px, 3), dtype=torch.uint8)

    def write(file: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The tracing exporter takes 0.9 s where the torch.export one takes 6.6 s for the same graph.
            torch.onnx.export(
                net,
                (example,),
                file,
                dynamo=False,
                input_names=["pixels"],
                output_names=["outputs"],
                dynamic_axes={"pixels": {0: "batch"}, "outputs": {0: "batch"}},
            )

    atomic_write(path, write)


def _exported(net: nn.Module, key: str, sample: ByteArray) -> tuple[Path, Engine] | None:
    """The network's ONNX file, made on first use, and ONNX Runtime with it.

    Its outputs are compared with torch's before its first use, since tracing can freeze what depends on the photos or
    on their number. From then on a note beside it tells whether the file is the one that was compared, and whether the
    same code computes it. A cached file that fails is made again, once.

    Returns:
        None where the network cannot be exported or the export does not compute what torch does.
    """
    path = cache_root() / "onnx" / f"{key}-{sample.shape[1]}-{EXPORT_VERSION}.onnx"
    note = path.with_suffix(".compared")
    few = sample[np.arange(N_CHECKED) % len(sample)]
    for made_before in (True, False) if path.exists() else (False,):
        try:
            if not made_before:
                export_onnx(net, path, sample.shape[1])
            engine, compared = onnxruntime_engine(path), _compared(path)
            if note.exists() and note.read_bytes() == compared.encode():
                return path, engine
            if relative_error(engine, torch_engine(net, "cpu", "fp32"), few) <= MAX_EXACT_ERROR:
                with contextlib.suppress(HeelerError):  # no room for it on the disk: compared again next time
                    write_text(note, compared)
                return path, engine
        except HeelerError:
            raise
        except Exception:  # noqa: S110 - both libraries raise whatever fits; any failure means that torch computes
            pass
        path.unlink(missing_ok=True)
    return None


def _compared(path: Path) -> str:
    """Names a file's content, the runtime, and the instructions that this machine computes with."""
    import onnxruntime

    return f"{sha256_file(path)} {onnxruntime.__version__} {torch.backends.cpu.get_cpu_capability()}\n"


def _timed(engine: Engine, sample: ByteArray) -> Engine:
    """The engine with its rate: the better of two batches, of which the first may set things up."""
    batch = sample[:BATCH]
    at_once = AtOnce(BATCH)
    best_s = min(_seconds(engine, at_once, batch) for _ in range(2))
    return replace(engine, rate_per_s=len(batch) / best_s)


def _seconds(engine: Engine, at_once: AtOnce, batch: ByteArray) -> float:
    start = time.perf_counter()
    at_once.compute(engine.forward, batch)
    return time.perf_counter() - start
