"""One preprocessing: the same 200 photos by every way in get the same probabilities.

A way is a callable from the model and the photos to probabilities (N, K); another way is one more line in ``WAYS``.
The photos are real ones, kept in every format, mode, orientation and size that people bring.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import heeler
from conftest import SCENES, TrainedRun, run_heeler, scene
from heeler.data.catalogue import read_source
from heeler.data.pixels import read_photos
from heeler.exporting import export
from heeler.learn.network import network_logits
from heeler.records import FloatArray, Prediction, ignore_events
from heeler.ship.bundle import write_bundle
from heeler.ship.onnx_model import exported_engine, open_onnx
from heeler.ship.predict import Source
from images import astronaut, cat, encode, grey16, heic, stored_turned
from server import MULTIPART, classify, multipart, port_of, request
from server import ask as ask_server

pytestmark = pytest.mark.usefixtures("one_thread")

N_PHOTOS = 200
WITHIN = 1e-4
# A JPEG of at least 2.8 times the pixels that the resize asks for is decoded at a half, a quarter or an eighth. Whoever
# gives all of its pixels instead gives other ones; see docs/reliability.md.
WITHIN_REDUCED = 0.02
# Requests to the server at the same time, and photos of one request; twelve megapixels go in with the last ones.
AT_ONCE, PHOTOS_OF_BATCH = 8, 25
EXAMPLE = Path(__file__).parent.parent / "examples" / "onnx_predict.py"


@dataclass(frozen=True)
class Given:
    """A photo and what is known of it.

    Args:
        name: of its file; the ending may lie.
        data: the file's content.
        is_reduced: a large JPEG, which is decoded at reduced scale where the file itself is given.
    """

    name: str
    data: bytes
    is_reduced: bool = False


@dataclass(frozen=True)
class Photos:
    """The photos, and a folder in which they stand in two classes, in turn."""

    folder: Path
    given: tuple[Given, ...]

    @property
    def paths(self) -> list[Path]:
        """Of each photo."""
        return [self.folder / "ab"[number % 2] / each.name for number, each in enumerate(self.given)]


def turned_photos() -> list[Given]:
    """All 8 orientations in each format that can note one."""
    found = []
    photo = cat().crop((60, 40, 260, 190))
    for orientation in range(1, 9):
        stored, exif = stored_turned(photo, orientation)
        for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            found.append(Given(f"turned {orientation}.{format.lower()}", encode(stored, format, exif=exif)))
        stored, exif = stored_turned(scene("coffee", orientation).crop((0, 0, 160, 110)), orientation)
        found.append(Given(f"small turned {orientation}.jpg", encode(stored, quality=90, exif=exif)))
        stored, exif = stored_turned(astronaut().crop((0, 0, 511, 477)), orientation)
        found.append(Given(f"reduced {orientation}.jpg", encode(stored, quality=90, exif=exif), is_reduced=True))
    return found


def odd_photos() -> list[Given]:
    """Modes, depths, shapes and names that go wrong where one path forgets what another does."""
    photo = cat().resize((150, 100), Image.Resampling.LANCZOS)
    mask = Image.linear_gradient("L").resize(photo.size)
    see_through = photo.copy()
    see_through.putalpha(mask)
    palette = photo.quantize(64)
    ramp = np.asarray(photo.convert("L")).astype(np.uint16)
    found = [
        Given("grey.jpg", encode(photo.convert("L"))),
        Given("grey.png", encode(photo.convert("L"), "PNG")),
        Given("grey alpha.png", encode(see_through.convert("LA"), "PNG")),
        Given("one bit.png", encode(photo.convert("1"), "PNG")),
        Given("one bit.tif", encode(photo.convert("1"), "TIFF", compression="group4")),
        Given("cmyk.jpg", encode(photo.convert("CMYK"))),
        Given("cmyk.tif", encode(photo.convert("CMYK"), "TIFF")),
        Given("alpha.png", encode(see_through, "PNG")),
        Given("alpha.webp", encode(see_through, "WEBP", lossless=True)),
        Given("palette.png", encode(palette, "PNG")),
        Given("palette alpha.png", encode(palette, "PNG", transparency=bytes(range(0, 256, 4)))),
        Given("palette one colour away.gif", encode(palette, "GIF", transparency=3)),
        Given("rgb one colour away.png", encode(photo, "PNG", transparency=photo.getpixel((40, 40)))),
        Given("16 bit.png", grey16(ramp * 257)),
        Given("12 bit.png", grey16(ramp * 16)),
        Given("16 bit.tif", grey16(ramp * 257, "TIFF")),
        Given("jpeg in truth.png", encode(photo, quality=80)),
        Given("png in truth.jpg", encode(photo, "PNG")),
        Given("webp in truth.jpg", encode(photo, "WEBP")),
        Given("progressive.jpg", encode(photo, progressive=True)),
        Given("two in one.jpg", encode(photo, "MPO", save_all=True, append_images=[photo.rotate(180)])),
        Given("animated.gif", encode(palette, "GIF", save_all=True, append_images=[photo.rotate(90).quantize()])),
        Given("animated.webp", encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(180)])),
        Given("pages.tif", encode(photo, "TIFF", save_all=True, append_images=[photo.rotate(180)])),
        Given("one wide.png", encode(photo.crop((70, 0, 71, 100)), "PNG")),
        Given("one high.png", encode(photo.crop((0, 50, 150, 51)), "PNG")),
        Given("one wide.jpg", encode(photo.crop((70, 0, 71, 100)))),
        Given("one pixel.png", encode(photo.crop((70, 50, 71, 51)), "PNG")),
        Given("strip.png", encode(cat().crop((0, 100, 451, 150)), "PNG")),
        Given("strip.jpg", encode(cat().crop((0, 100, 451, 150)))),
        Given("photo.heic", heic(photo)),
    ]
    for format in ("PNG", "BMP", "TIFF", "PPM", "JPEG2000", "WEBP", "AVIF", "GIF"):
        found += [Given(f"{name}.{format.lower()}", encode(scene(name, 20), format)) for name in SCENES]
    phone = cat().resize((4000, 3000), Image.Resampling.BICUBIC)
    stored, exif = stored_turned(astronaut().resize((3000, 4000), Image.Resampling.BICUBIC), 6)
    found.append(Given("phone.jpg", encode(phone, quality=85), is_reduced=True))
    found.append(Given("phone upright.jpg", encode(stored, exif=exif), is_reduced=True))
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    given = [*turned_photos(), *odd_photos()]
    names = list(SCENES)
    for number in range(N_PHOTOS - len(given)):
        quality = (75, 90, 97)[number % 3]
        given.append(Given(f"plain {number:03}.jpg", encode(scene(names[number % 4], 30 + number), quality=quality)))
    made = Photos(tmp_path_factory.mktemp("same"), tuple(given))
    for path, each in zip(made.paths, given, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(each.data)
    return made


@pytest.fixture(scope="module")
def model(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> heeler.Classifier:
    """A model at a temperature at which it is sure of nothing, so that every difference shows; exported, too."""
    opened = heeler.load(trained_run.model).bundle
    path = tmp_path_factory.mktemp("unsure") / "model"
    write_bundle(
        path, opened.model, classes=opened.classes, spec=opened.spec, temperature=10 * opened.temperature, card="",
        facts=opened.manifest,
    )  # fmt: skip
    export(path)
    return heeler.load(path)


def table(model: heeler.Classifier, rows: Sequence[Prediction]) -> FloatArray:
    """Probabilities (N, K) in the order of the classes."""
    assert [row.reason for row in rows if row.status == "unreadable"] == []
    return np.array([[dict(row.ranked)[name] for name in model.classes] for row in rows])


def ask(model: heeler.Classifier, sources: Sequence[Source], at_once: int = N_PHOTOS) -> FloatArray:
    found: list[Prediction] = []
    for start in range(0, len(sources), at_once):
        found += model.predict(sources[start : start + at_once], top=len(model.classes))
    return table(model, found)


def open_all(photos: Photos) -> list[Image.Image]:
    import pillow_heif

    pillow_heif.register_heif_opener()
    return [Image.open(io.BytesIO(each.data)) for each in photos.given]


def loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def as_array(image: Image.Image) -> np.ndarray:
    """What a careful person makes of a Pillow image: upright, on white, 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        white = 4095 if values.max() <= 4095 else 65535
        return np.rint(values * 255 / white).astype(np.uint8)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def by_training(model: heeler.Classifier, photos: Photos) -> FloatArray:
    """The feature pass: a catalogue of the folder, its pixels from the cache, the network over all rows."""
    catalogue = read_source(photos.folder)
    catalogue, pixels = read_photos(catalogue, model.bundle.spec, ignore_events)
    names = [photo.path for photo in catalogue.usable]
    rows = np.array([names.index(f"{path.parent.name}/{path.name}") for path in photos.paths])
    logits = network_logits(model.bundle.model, model.bundle.spec, pixels.rows, rows, ignore_events)
    shares = np.exp(logits / model.bundle.temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def shares_of(model: heeler.Classifier, row: dict[str, Any]) -> list[float]:
    """Probabilities in the order of the classes, of a row of JSON."""
    shares = {each["label"]: each["probability"] for each in row["ranked"]}
    return [shares[name] for name in model.classes]


def by_server(model: heeler.Classifier, photos: Photos) -> FloatArray:
    """A photo a request, eight at once, so that they are computed in batches as they come."""
    pytest.importorskip("uvicorn")
    from heeler.serving import running

    with running(model.bundle.path) as serving, ThreadPoolExecutor(AT_ONCE) as pool:
        port, path = port_of(serving.address), f"/predict?top={len(model.classes)}"
        replies = pool.map(lambda each: classify(port, each.data, path=path), photos.given)
        return np.array([shares_of(model, reply.json) for reply in replies])


def by_server_in_batches(model: heeler.Classifier, photos: Photos) -> FloatArray:
    pytest.importorskip("uvicorn")
    from heeler.serving import running

    rows = []
    with running(model.bundle.path) as serving:
        for start in range(0, N_PHOTOS, PHOTOS_OF_BATCH):
            body = multipart(*((each.name, each.data) for each in photos.given[start : start + PHOTOS_OF_BATCH]))
            asked = request("POST", f"/predict/batch?top={len(model.classes)}", body, kind=MULTIPART)
            rows += ask_server(port_of(serving.address), asked).json["rows"]
    return np.array([shares_of(model, row) for row in rows])


def by_exported_file(model: heeler.Classifier, photos: Photos) -> FloatArray:
    """The ONNX file with the preprocessing inside, given upright pixels."""
    arrays = [as_array(image) for image in open_all(photos)]
    arrays = [array if array.ndim == 3 else np.dstack([array] * 3) for array in arrays]
    return open_onnx(model.bundle.path.with_suffix(".onnx")).probabilities(arrays)


def by_exported_engine(model: heeler.Classifier, photos: Photos) -> FloatArray:
    """What ``heeler predict --engine onnx`` does."""
    rows = model.stream(photos.paths, top=len(model.classes), engine=exported_engine(model.bundle))
    return table(model, list(rows))


WAYS: dict[str, Callable[[heeler.Classifier, Photos], FloatArray]] = {
    "a path at a time": lambda model, photos: ask(model, photos.paths, 1),
    "paths in batches of 7": lambda model, photos: ask(model, [str(path) for path in photos.paths], 7),
    "paths in batches of 64": lambda model, photos: ask(model, photos.paths, 64),
    "bytes": lambda model, photos: ask(model, [each.data for each in photos.given]),
    "Pillow images": lambda model, photos: ask(model, open_all(photos)),
    "loaded Pillow images": lambda model, photos: ask(model, [loaded(image) for image in open_all(photos)]),
    "arrays": lambda model, photos: ask(model, [as_array(image) for image in open_all(photos)]),
    "the feature pass of a training": by_training,
    "the server": by_server,
    "the server, many photos in a request": by_server_in_batches,
    "the exported ONNX file": by_exported_file,
    "predict with the exported ONNX file": by_exported_engine,
}
# These have lost the file, and with it the scale at which a large JPEG is decoded.
WITHOUT_FILE = ("loaded Pillow images", "arrays", "the exported ONNX file")


@pytest.fixture(scope="module")
def expected(model: heeler.Classifier, photos: Photos) -> FloatArray:
    return ask(model, photos.paths)


def test_the_photos_are_many_and_of_every_kind(photos: Photos, expected: FloatArray) -> None:
    assert len(photos.given) == len({each.name for each in photos.given}) == N_PHOTOS
    assert len({each.data for each in photos.given}) == N_PHOTOS
    assert len({int(best) for best in expected.argmax(axis=1)}) > 2  # a model that says one thing would agree always
    assert expected.max() < 0.9


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same_answer(
    way: str, model: heeler.Classifier, photos: Photos, expected: FloatArray, cache_of_module: Path
) -> None:
    found = WAYS[way](model, photos)
    off = np.abs(found - expected).max(axis=1)
    for each, distance, one, other in zip(photos.given, off, found, expected, strict=True):
        within = WITHIN_REDUCED if each.is_reduced and way in WITHOUT_FILE else WITHIN
        assert distance <= within, (each.name, distance)
        first, second = np.sort(other)[::-1][:2]
        if first - second > 2 * within:
            assert one.argmax() == other.argmax(), each.name


def test_the_command_says_the_same(trained_run: TrainedRun, photos: Photos) -> None:
    plain = heeler.load(trained_run.model)
    wanted = ask(plain, photos.paths)
    done = run_heeler("predict", trained_run.model, *photos.paths, "--json", "--top", 4)
    shares = [{item["label"]: item["probability"] for item in row["ranked"]} for row in done.json["predictions"]]
    found = np.array([[each[name] for name in plain.classes] for each in shares])
    assert np.abs(found - wanted).max() <= WITHIN


def test_the_example_without_heeler_says_the_same(
    model: heeler.Classifier, photos: Photos, expected: FloatArray, capsys: pytest.CaptureFixture[str]
) -> None:
    """On photos that are RGB and that nobody decodes at reduced scale; others are for its reader to convert."""
    spec = importlib.util.spec_from_file_location("onnx_predict", EXAMPLE)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    kept = [number for number, each in enumerate(photos.given) if each.name.startswith(("turned", "small", "plain"))]
    paths = [str(photos.paths[number]) for number in kept]
    example.main(str(model.bundle.path.with_suffix(".onnx")), *paths)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(kept) > N_PHOTOS / 2
    for line, path, row in zip(lines, paths, expected[kept], strict=True):
        label, share = line.removeprefix(f"{path}: ").split(" ")
        assert abs(float(share) - row.max()) < WITHIN + 1e-4, path  # it prints four digits
        assert row.max() - row[model.classes.index(label)] < 2 * WITHIN, path
