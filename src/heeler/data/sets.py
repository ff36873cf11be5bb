"""The public sets that heeler can fetch: where each is published, its size, its checksum, its classes, its licence."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from heeler.errors import UsageError

__all__ = ["SETS", "PublicSet", "find_set"]


@dataclass(frozen=True)
class PublicSet:
    """One archive of photos that somebody publishes.

    Args:
        name: what it is called after ``heeler get``, and its folder by default.
        about: what is on the photos, in a few words; pixels are those of the short side.
        url: where its publisher has it.
        size_bytes: of the archive.
        checksum: of the archive, ``md5:`` or ``sha256:`` and hex digits, as its publisher or its users know it.
        n_photos: in all its class folders.
        classes: (folder, class) of each class, by folder.
        parts: folders above those of the classes, such as ``train`` and ``val``; () where there are none.
        licence: what its photos may be used for.
    """

    name: str
    about: str
    url: str
    size_bytes: int
    checksum: str
    n_photos: int
    classes: tuple[tuple[str, str], ...]
    licence: str
    parts: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def names_differ(self) -> bool:
        """Whether the folders are named otherwise than the classes, so that a training wants a map."""
        return any(folder != name for folder, name in self.classes)

    def class_folders(self) -> tuple[str, ...]:
        """Folders that hold the photos, below the set's own."""
        return tuple(
            f"{part}/{folder}" if part else folder for part in self.parts or ("",) for folder, _ in self.classes
        )

    def to_json(self) -> dict[str, Any]:
        """The object that ``heeler get --list --json`` prints for it."""
        return {
            "name": self.name,
            "about": self.about,
            "url": self.url,
            "size_bytes": self.size_bytes,
            "checksum": self.checksum,
            "n_photos": self.n_photos,
            "classes": [name for _, name in self.classes],
            "licence": self.licence,
        }


FAST_AI = "https://s3.amazonaws.com/fast-ai-imageclas"
IMAGENET = "ImageNet's: non-commercial"

# Folders are WordNet's synsets; the names are those that the tutorials of these sets use.
WOOF = (
    ("n02086240", "Shih-Tzu"),
    ("n02087394", "Rhodesian_ridgeback"),
    ("n02088364", "beagle"),
    ("n02089973", "English_foxhound"),
    ("n02093754", "Border_terrier"),
    ("n02096294", "Australian_terrier"),
    ("n02099601", "Golden_retriever"),
    ("n02105641", "Old_English_sheepdog"),
    ("n02111889", "Samoyed"),
    ("n02115641", "Dingo"),
)
NETTE = (
    ("n01440764", "tench"),
    ("n02102040", "English_springer"),
    ("n02979186", "cassette_player"),
    ("n03000684", "chain_saw"),
    ("n03028079", "church"),
    ("n03394916", "French_horn"),
    ("n03417042", "garbage_truck"),
    ("n03425413", "gas_pump"),
    ("n03445777", "golf_ball"),
    ("n03888257", "parachute"),
)
LAND = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
        "Residential", "River", "SeaLake")  # fmt: skip
FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


def _of_imagenet(
    family: str, side: str, size_bytes: int, md5: str, classes: tuple[tuple[str, str], ...], about: str, n_photos: int
) -> PublicSet:
    return PublicSet(
        name=f"{family}-{side}",
        about=f"{about}, full size" if side == "full" else f"{about}, {side} px",
        url=f"{FAST_AI}/{family}.tgz" if side == "full" else f"{FAST_AI}/{family}-{side}.tgz",
        size_bytes=size_bytes,
        checksum=f"md5:{md5}",
        n_photos=n_photos,
        classes=classes,
        licence=IMAGENET,
        parts=("train", "val"),
    )


def _woof(side: str, size_bytes: int, md5: str) -> PublicSet:
    return _of_imagenet("imagewoof2", side, size_bytes, md5, WOOF, "ten dog breeds", 12_954)


def _nette(side: str, size_bytes: int, md5: str) -> PublicSet:
    return _of_imagenet("imagenette2", side, size_bytes, md5, NETTE, "ten unlike things", 13_394)


SETS = (
    _woof("160", 92_612_825, "3d200a7be99704a0d7509be2a9fbfe15"),
    _woof("320", 328_387_740, "0f46d997ec2264e97609196c95897a44"),
    _woof("full", 1_343_715_595, "9aafe18bcdb1632c4249a76c458465ba"),
    _nette("160", 99_003_388, "e793b78cc4c9e9a4ccc0c1155377a412"),
    _nette("320", 341_663_724, "3df6f0d01a2c9592104656642f5e78a3"),
    _nette("full", 1_557_161_267, "fe2fc210e6bb7c5664d602c3cd71e612"),
    PublicSet(
        name="eurosat-rgb",
        about="land use seen by satellite, 64 px",
        url="https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
        size_bytes=94_658_721,
        checksum="md5:f46e308c4d50d4bf32fedad2d3d62f3b",
        n_photos=27_000,
        classes=tuple((name, name) for name in LAND),
        licence="MIT",
    ),
    PublicSet(
        name="flower-photos",
        about="five kinds of flowers",
        url="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
        size_bytes=228_813_984,
        checksum="sha256:4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
        n_photos=3_670,
        classes=tuple((name, name) for name in FLOWERS),
        licence="CC BY 2.0",
    ),
)


def find_set(name: str) -> PublicSet:
    """The set of a name.

    Raises:
        UsageError: there is none; the hint has the names that are most like it.
    """
    known = {each.name: each for each in SETS}
    if name.casefold() in known:
        return known[name.casefold()]
    near = difflib.get_close_matches(name.casefold(), known, n=3, cutoff=0.5)
    said = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"there is no public set {name!r}", hint=f"{said}heeler get --list names all")
