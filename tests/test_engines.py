"""Engines: all runtimes agree on real photos, and one that does not agree is not used."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from skimage import data as photos
from torch import Tensor, nn

from heeler.data.square import fit_square
from heeler.errors import ResourceError
from heeler.learn import engines
from heeler.learn.backbone import FeatureNet, default_spec, load_backbone
from heeler.learn.engines import (
    BATCH,
    MAX_EXACT_ERROR,
    MAX_RELATIVE_ERROR,
    PIECE,
    Engine,
    export_onnx,
    has_fast_bf16,
    onnxruntime_engine,
    openvino_engine,
    pick_engine,
    relative_error,
    torch_engine,
)
from heeler.learn.network import logit_engine
from heeler.records import ByteArray, FloatArray, Preprocessing
from tiny import N_CLASSES, SPEC, network

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
needs_bf16 = pytest.mark.skipif(not has_fast_bf16(), reason="this processor has no bf16")


def pieces(n: int, spec: Preprocessing) -> ByteArray:
    """Squares of real photos, (n, S, S, 3): each another piece of one of five photos, light and dark."""
    whole = [photos.chelsea(), photos.coffee(), photos.astronaut(), photos.rocket(), photos.astronaut() // 8]
    draw, out = np.random.default_rng(7), []
    for i in range(n):
        photo = whole[i % len(whole)]
        side = int(draw.integers(100, min(photo.shape[:2])))
        top, left = (int(draw.integers(0, room - side + 1)) for room in photo.shape[:2])
        out.append(fit_square(np.ascontiguousarray(photo[top : top + side, left : left + side]), spec))
    return np.stack(out)


@pytest.fixture(scope="module")
def lite0() -> FeatureNet:
    backbone = load_backbone("tf_efficientnet_lite0")
    return FeatureNet(backbone.model, backbone.spec).eval()


@pytest.fixture(scope="module")
def lite0_file(lite0: FeatureNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "lite0.onnx"
    export_onnx(lite0, path, 224)
    return path


@pytest.fixture(scope="module")
def squares() -> ByteArray:
    return pieces(40, Preprocessing())


@pytest.fixture(scope="module")
def truth(lite0: FeatureNet, squares: ByteArray) -> FloatArray:
    return next(torch_engine(lite0, "cpu", "fp32").run([squares]))


@pytest.fixture(scope="module")
def tiny() -> FeatureNet:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet").eval()
    return FeatureNet(model, default_spec(model)).eval()


def tiny_squares(n: int = 4) -> ByteArray:
    return pieces(n, Preprocessing(image_px=160))


@pytest.mark.parametrize("n", [1, 7, BATCH, 40])
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_runtimes_agree_with_torch(
    runtime: str, n: int, lite0_file: Path, squares: ByteArray, truth: FloatArray
) -> None:
    engine = onnxruntime_engine(lite0_file) if runtime == "onnxruntime" else openvino_engine(lite0_file, "fp32")
    (found,) = engine.run([squares[:n]])
    assert found.dtype == np.float32
    assert found.shape == truth[:n].shape
    np.testing.assert_allclose(found, truth[:n], atol=1e-4)
    assert (engine.name, engine.precision) == (runtime, "fp32")


@needs_openvino
@needs_bf16
def test_bf16_is_near_enough_for_the_default_backbone(lite0_file: Path, squares: ByteArray, truth: FloatArray) -> None:
    engine = openvino_engine(lite0_file, "bf16")
    (found,) = engine.run([squares])
    assert found.shape == truth.shape
    assert 1e-4 < relative_error(engine, onnxruntime_engine(lite0_file), squares) <= MAX_RELATIVE_ERROR


@needs_openvino
def test_a_photo_gets_the_same_features_in_any_batch(lite0_file: Path, squares: ByteArray) -> None:
    engine = openvino_engine(lite0_file, "bf16" if has_fast_bf16() else "fp32")
    (whole,) = engine.run([squares])
    parts = np.concatenate(list(engine.run([squares[:1], squares[1:8], squares[8:]])))
    np.testing.assert_array_equal(parts, whole)


def test_run_keeps_order_and_splits_large_batches() -> None:
    sizes: list[int] = []

    def first_pixel(pixels: ByteArray) -> FloatArray:
        sizes.append(len(pixels))
        return pixels[:, 0, 0].astype(np.float32)

    numbered = np.zeros((80, 2, 2, 3), np.uint8)
    numbered[:, 0, 0, 0] = np.arange(80)
    found = list(Engine("torch", "fp32", first_pixel).run([numbered[:70], numbered[70:]]))
    assert [len(one) for one in found] == [70, 10]
    assert np.concatenate(found)[:, 0].tolist() == list(range(80))
    assert max(sizes) == BATCH


def test_few_photos_are_computed_one_by_one_and_no_piece_is_filled_up_for_them() -> None:
    sizes: list[tuple[str, int]] = []

    def passes(name: str) -> Callable[[ByteArray], FloatArray]:
        def forward(photos: ByteArray) -> FloatArray:
            sizes.append((name, len(photos)))
            return photos[:, 0, 0].astype(np.float32)

        return forward

    photos = np.arange(9 * 4 * 4 * 3, dtype=np.uint8).reshape(9, 4, 4, 3)
    forward = engines._in_pieces(passes("piece"), passes("alone"))
    for n_photos, expected in ((1, [("alone", 1)]), (3, [("alone", 1)] * 3), (9, [("piece", engines.PIECE)] * 3)):
        sizes.clear()
        assert np.array_equal(forward(photos[:n_photos]), photos[:n_photos, 0, 0])
        assert sizes == expected


def test_relative_error_is_root_mean_square_over_size() -> None:
    def engine(value: float) -> Engine:
        return Engine("torch", "fp32", lambda pixels: np.full((len(pixels), 4), value, np.float32))

    few = np.zeros((2, 1, 1, 3), np.uint8)
    assert relative_error(engine(1.1), engine(1.0), few) == pytest.approx(0.1, abs=1e-6)
    assert relative_error(engine(-20.0), engine(-10.0), few) == pytest.approx(1.0)
    assert relative_error(engine(0.0), engine(0.0), few) == 0


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n", [1, BATCH])
def test_the_picked_engine_is_near_torch_and_timed_where_there_is_a_choice(
    exact: bool, n: int, tiny: FeatureNet
) -> None:
    sample = tiny_squares(n)
    engine = pick_engine(tiny, "tiny", sample, exact=exact)
    assert (engine.rate_per_s > 0) is not exact
    limit = MAX_EXACT_ERROR if engine.precision == "fp32" else MAX_RELATIVE_ERROR
    assert relative_error(engine, torch_engine(tiny, "cpu", "fp32"), tiny_squares(7)) <= limit
    if exact:
        assert engine.precision == "fp32"


@needs_openvino
@needs_bf16
@pytest.mark.parametrize(("exact", "precision"), [(False, "bf16"), (True, "fp32")])
def test_exact_never_gives_bf16_even_where_it_is_fastest(
    exact: bool, precision: str, tiny: FeatureNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_seconds", lambda engine, *_: 0.1 if engine.precision == "bf16" else 1.0)
    assert pick_engine(tiny, "tiny", tiny_squares(), exact=exact).precision == precision


@needs_openvino
def test_exact_is_onnxruntime_unless_openvino_is_asked_for(tiny: FeatureNet) -> None:
    assert pick_engine(tiny, "tiny", tiny_squares(), exact=True).name == "onnxruntime"
    asked = pick_engine(tiny, "tiny", tiny_squares(), exact=True, name="openvino")
    assert (asked.name, asked.precision) == ("openvino", "fp32")


class Cancelling(nn.Module):
    """Small differences of large numbers, which bf16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 8, bias=False)
        with torch.no_grad():
            self.linear.weight -= self.linear.weight.mean(1, keepdim=True)

    def forward(self, pixels: Tensor) -> Tensor:
        part = pixels[:, :4, :4].reshape(-1, 48).float() / 255
        out: Tensor = self.linear(part + 1000)
        return out


@needs_openvino
@needs_bf16
def test_bf16_that_changes_the_outputs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, sample = Cancelling().eval(), tiny_squares(BATCH)
    export_onnx(net, tmp_path / "net.onnx", 160)
    exact = onnxruntime_engine(tmp_path / "net.onnx")
    assert relative_error(openvino_engine(tmp_path / "net.onnx", "bf16"), exact, sample) > MAX_RELATIVE_ERROR
    monkeypatch.setattr(engines, "MAX_EXACT_ERROR", 1e-2)  # such differences cost fp32 some digits too
    monkeypatch.setattr(engines, "_seconds", lambda engine, *_: 0.1 if engine.precision == "bf16" else 1.0)
    assert pick_engine(net, "cancelling", sample).precision == "fp32"


class NotInOnnx(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return torch.linalg.svdvals(pixels[:, :4, :4, 0].float())


class FrozenBranch(nn.Module):
    """Tracing follows the branch that the example takes, which real photos do not."""

    def forward(self, pixels: Tensor) -> Tensor:
        means = pixels.float().mean((1, 2))
        return means if means.mean() > 1 else means + 100


class FrozenBatch(nn.Module):
    """Tracing takes the example's number of photos for a constant."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().reshape(int(pixels.shape[0]), -1)[:, :4]


@pytest.mark.parametrize("network", [NotInOnnx, FrozenBranch, FrozenBatch])
def test_what_cannot_be_exported_is_computed_by_torch(network: Callable[[], nn.Module], fresh_cache: Path) -> None:
    net, sample = network().eval(), tiny_squares(BATCH)
    engine = pick_engine(net, "odd", sample, exact=True)
    assert engine.name == "torch"
    np.testing.assert_array_equal(engine.forward(sample), net(torch.from_numpy(sample)).numpy())
    assert not list(fresh_cache.rglob("*.onnx"))


def exported(cache: Path) -> Path:
    (file,) = (cache / "onnx").glob("*.onnx")
    return file


def refused(*_: object) -> None:
    raise AssertionError("exported or compared again")


def test_the_second_time_nothing_is_exported_or_compared(
    tiny: FeatureNet, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    before = exported(fresh_cache).stat()
    with monkeypatch.context() as patch:
        patch.setattr(engines, "export_onnx", refused)
        patch.setattr(engines, "torch_engine", refused)
        engine = pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    assert engine.name == "onnxruntime"
    assert relative_error(engine, torch_engine(tiny, "cpu", "fp32"), tiny_squares(7)) <= MAX_EXACT_ERROR
    after = exported(fresh_cache).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_engine_outlives_the_cache(tiny: FeatureNet, fresh_cache: Path) -> None:
    engine = pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    of_cached = pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    exported(fresh_cache).unlink()
    photos = tiny_squares(PIECE)
    for one in (engine, of_cached):
        for n_photos in (1, PIECE):
            assert one.name == "onnxruntime" and len(one.forward(photos[:n_photos])) == n_photos


def test_a_note_that_says_nothing_is_written_anew(tiny: FeatureNet, fresh_cache: Path) -> None:
    pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    note = exported(fresh_cache).with_suffix(".compared")
    written, before = note.read_bytes(), exported(fresh_cache).stat().st_mtime_ns
    note.write_bytes(b"\xff\xfe\0")
    assert pick_engine(tiny, "tiny", tiny_squares(), exact=True).name == "onnxruntime"
    assert note.read_bytes() == written and exported(fresh_cache).stat().st_mtime_ns == before


def test_another_release_of_the_runtime_is_compared_again(
    tiny: FeatureNet, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    monkeypatch.setattr("onnxruntime.__version__", "999.0")
    monkeypatch.setattr(engines, "export_onnx", refused)
    monkeypatch.setattr(engines, "relative_error", lambda *_: 1.0)
    assert pick_engine(tiny, "tiny", tiny_squares(), exact=True).name == "torch"
    assert not list((fresh_cache / "onnx").glob("*.onnx"))


def test_a_note_of_what_was_compared_that_cannot_be_written(
    tiny: FeatureNet, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr(engines, "write_text", full)
    for _ in range(2):
        assert pick_engine(tiny, "tiny", tiny_squares(), exact=True).name == "onnxruntime"
    assert [file.suffix for file in (fresh_cache / "onnx").iterdir()] == [".onnx"]


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scribbled(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for at in range(len(data) // 4, 3 * len(data) // 4, 5):
        data[at] ^= 0x40
    file.write_bytes(data)


def of_another_network(file: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_efficientnet").eval()
    export_onnx(FeatureNet(model, default_spec(model)).eval(), file, 160)


@pytest.mark.parametrize("damage", [emptied, cut, scribbled, of_another_network])
def test_a_damaged_export_is_made_again(damage: Callable[[Path], None], tiny: FeatureNet, fresh_cache: Path) -> None:
    pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    file = exported(fresh_cache)
    good = file.read_bytes()
    damage(file)
    assert file.read_bytes() != good
    engine = pick_engine(tiny, "tiny", tiny_squares(), exact=True)
    assert engine.name != "torch"
    assert relative_error(engine, torch_engine(tiny, "cpu", "fp32"), tiny_squares(7)) <= MAX_EXACT_ERROR
    assert relative_error(onnxruntime_engine(file), torch_engine(tiny, "cpu", "fp32"), tiny_squares(7)) < 1e-4


def test_an_export_that_fails_leaves_the_earlier_file(tiny: FeatureNet, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(tiny, path, 160)
    before = path.read_bytes()
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        export_onnx(NotInOnnx().eval(), path, 160)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a disk of 1 MB."""
    folder = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    monkeypatch.setenv("HEELER_CACHE", str(folder))
    yield folder


def test_an_export_that_does_not_fit_the_disk(lite0: FeatureNet, squares: ByteArray, small_disk: Path) -> None:
    with pytest.raises(ResourceError, match="disk is full"):
        pick_engine(lite0, "lite0", squares[:2], exact=True)
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_handful_of_photos_starts_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine = logit_engine(network(), SPEC, pieces(3, SPEC), few=True)
    assert engine.forward(pieces(3, SPEC)).shape == (3, N_CLASSES)


def test_a_torch_without_onednn_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)  # such builds have no such operations
    assert not has_fast_bf16()


def test_a_gpu_sees_one_size_of_batch_and_a_smaller_one_where_memory_is_short() -> None:
    sizes: list[int] = []
    most = BATCH

    def forward(pixels: ByteArray) -> FloatArray:
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels[:, 0, 0].astype(np.float32)

    numbered = np.zeros((75, 2, 2, 3), np.uint8)
    numbered[:, 0, 0, 0] = np.arange(1, 76)
    engine = Engine("torch", "fp32", engines._in_one_size(forward))

    def run() -> list[float]:
        sizes.clear()
        outputs = engine.run([numbered[:BATCH], numbered[BATCH:70], numbered[70:74], numbered[74:]])
        return [float(row[0]) for rows in outputs for row in rows]

    assert run() == list(range(1, 76))
    assert set(sizes) == {BATCH}
    most = 8
    assert run() == list(range(1, 76))
    assert sizes[-1] == 8 and set(sizes) == {32, 16, 8}
    most = 0
    with pytest.raises(ResourceError, match="one photo"):
        run()
