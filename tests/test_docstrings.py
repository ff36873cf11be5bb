"""Every public name says what it takes, gives and raises, and its examples do what they say."""

from __future__ import annotations

import doctest
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import heeler
from conftest import make_photos

pytestmark = pytest.mark.usefixtures("one_thread", "example_folder")

NAMES = [name for name in heeler.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Path]:
    """A working folder as the examples take it: photos of four classes and a run that has learnt from them."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_photos(Path("photos"))
        heeler.train("photos", epochs=0, image_px=64, quiet=True)
        yield folder


def members(name: str) -> dict[str, Any]:
    """A public name and, for a class of ours, everything public that is defined in it."""
    found = getattr(heeler, name)
    inner = vars(found).items() if inspect.isclass(found) else ()
    public = {f"{name}.{key}": value for key, value in inner if not key.startswith("_")}
    return {name: found} | {key: value for key, value in public.items() if callable(value) or has_getter(value)}


def has_getter(value: Any) -> bool:
    return hasattr(value, "fget") or type(value).__name__ == "cached_property"


def functions(name: str) -> dict[str, Any]:
    return {key: value for key, value in members(name).items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_do_what_they_say(name: str) -> None:
    n_examples = 0
    for key, value in members(name).items():
        test = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, key, None, 0)
        told = io.StringIO()
        failed, n = doctest.DocTestRunner().run(test, out=told.write)
        assert failed == 0, told.getvalue()
        n_examples += n
    assert n_examples > 0, f"{name} has no example"


def test_the_example_of_the_package(example_folder: Path) -> None:
    test = doctest.DocTestParser().get_doctest(heeler.__doc__ or "", {}, "heeler", None, 0)
    told = io.StringIO()
    failed, n = doctest.DocTestRunner().run(test, out=told.write)
    assert (failed, n) == (0, 4), told.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_public_thing_has_a_docstring(name: str) -> None:
    for key, value in members(name).items():
        assert (inspect.getdoc(value) or "").strip(), key


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained(name: str) -> None:
    found = getattr(heeler, name)
    documented = functions(name) | ({name: found} if inspect.isclass(found) and "__init__" in vars(found) else {})
    for key, value in documented.items():
        text = inspect.getdoc(value) or ""
        for argument in inspect.signature(value).parameters:
            short = text.count("\n") == 0  # "see ``...``"
            assert argument == "self" or short or f"    {argument}: " in text, f"{key} does not explain {argument}"


@pytest.mark.parametrize("name", ["check", "load", "open_folder", "open_run", "train"])
def test_functions_say_what_they_raise(name: str) -> None:
    assert "Raises:" in (inspect.getdoc(getattr(heeler, name)) or "")
