"""The demo's photos: 2,624 solar cells under electroluminescence, carried by the package ``elpv-dataset``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from heeler.errors import DataError, UsageError
from heeler.files import write_csv

CREDITS = """\
The photos are the ELPV data set: 2,624 solar cells, photographed under electroluminescence.
Licence of the photos: CC BY-NC-SA 4.0 (not for commercial use).
Please cite, if you publish with them:
  Buerhop-Lutz et al. (2018): A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery. European PV Solar Energy Conference and Exhibition.
  Deitsch et al. (2019): Automatic classification of defective photovoltaic module cells in
    electroluminescence images. Solar Energy 185, 455-468.
  Deitsch et al. (2021): Segmentation of photovoltaic module cells in uncalibrated
    electroluminescence images. Machine Vision and Applications 32(4)."""


def prepare_demo(folder: Path, *, package: str = "elpv_dataset") -> Path:
    """Write the table that ``heeler demo`` trains on; the photos stay where the package has them.

    Args:
        folder: where ``elpv.csv`` is written; made if it is missing.
        package: name of the installed package that holds ``data/labels.csv`` and the photos.

    Returns:
        The table: columns ``path`` (absolute) and ``label``, which is ``defective`` where the experts' defect
        probability is at least 0.5, else ``functional``.

    Raises:
        UsageError: the package is not installed.
        DataError: the package is there and its photos are not.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "the demo's photos are not installed (package elpv-dataset)", hint='run: pip install "heeler[demo]"'
        )
    data = Path(spec.submodule_search_locations[0]).resolve() / "data"
    rows = _read_labels(data)
    lost = sum(not Path(path).is_file() for path, _ in rows)
    if lost or not rows:
        raise DataError(
            f"{lost:,} of the demo's {len(rows):,} photos are missing in {data}",
            hint="run: pip install --force-reinstall --no-deps elpv-dataset",
        )
    table = folder / "elpv.csv"
    write_csv(table, ("path", "label"), rows)
    return table


def _read_labels(data: Path) -> list[tuple[str, str]]:
    labels = data / "labels.csv"
    rows: list[tuple[str, str]] = []
    try:
        for line in labels.read_text(encoding="utf-8").splitlines():
            name, probability, _ = line.split()
            rows.append((str(data / name), "defective" if float(probability) >= 0.5 else "functional"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"line {len(rows) + 1} of {labels} cannot be read: {error}",
            hint="run: pip install --force-reinstall --no-deps elpv-dataset",
        ) from error
    return rows
