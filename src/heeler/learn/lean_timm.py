"""timm, imported without torch's compiler: setting that up takes a second of each command, and heeler never compiles.

Two imports set it up: torchvision's asks whether it can compile one function, timm's marks some methods as not to be
compiled. Both are put off until somebody does compile; nothing else of either package is changed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import torch

from heeler import collecting

# Where torch keeps its compiler, and the part of it that torchvision imports a name from.
COMPILER, PART = "torch._dynamo", "torch._dynamo.utils"


def import_timm() -> Any:
    """The module timm."""
    if "timm" not in sys.modules and COMPILER not in sys.modules:
        # A release may ask for more of the compiler; then the import below, as it comes, is the one that counts.
        with suppress(ImportError), _compiler_put_off(), collecting.paused():
            import timm
    import timm

    return timm


@contextmanager
def _compiler_put_off() -> Iterator[None]:
    """Within this context, what asks for the compiler gets something that asks when it is called."""
    compiler: Any = torch.compiler
    disable, compiler.disable = compiler.disable, _disabled_later
    sys.modules[PART] = _part()
    try:
        yield
    finally:
        compiler.disable = disable
        del sys.modules[PART]


def _part() -> ModuleType:
    part = ModuleType(PART)

    def is_compile_supported(device_type: str) -> Any:
        from torch._dynamo import utils

        return utils.is_compile_supported(device_type)

    vars(part)["is_compile_supported"] = is_compile_supported
    return part


def _disabled_later(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compiler.disable`` of a function, done when it is called."""

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        compiler: Any = torch.compiler
        return compiler.disable(fn)(*args, **kwargs)

    vars(called)["_torchdynamo_disable"] = True  # by which the compiler knows it
    return called
