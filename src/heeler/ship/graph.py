"""The preprocessing as an ONNX graph: photos of any size -> the squares that ``data.square`` makes, bit for bit.

ONNX's own ``Resize`` rounds otherwise than torch does, and a level of 255 here and there moves a probability by more
than an export may. So the graph computes with integers as torch and Pillow do: filter weights in float64, rounded to
as many bits as they round to; products summed exactly by ``MatMulInteger``, a digit of the weights at a time; across
first, rounded to 8 bits, then down. Sources: ``UpSampleKernel.cpp`` of torch, ``Resample.c`` of Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.data.decode import MAX_ASPECT
from heeler.records import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

INPUT, SQUARES = "photos", "squares"
# Bits of a fraction that Pillow's weights have, and the most that torch's have.
PILLOW_BITS = MAX_BITS = 22
# A weight is written with digits of -128 to 127, in bytes that are 128 too large: at most three for 22 bits.
DIGITS, BASE, ZERO = 3, 256, 128

_Input = str | np.generic | np.ndarray


@dataclass(frozen=True)
class _Graph:
    """A graph that grows: ``g("Add", a, b)`` adds a node and returns the name of its output."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def __call__(self, kind: str, *inputs: _Input, **attributes: Any) -> str:
        return self.many(kind, 1, *inputs, **attributes)[0]

    def many(self, kind: str, n_outputs: int, *inputs: _Input, **attributes: Any) -> list[str]:
        """The outputs of a node that has several."""
        from onnx import helper

        given = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        outputs = [f"square/{kind}{len(self.nodes)}_{n}" for n in range(n_outputs)]
        self.nodes.append(helper.make_node(kind, given, outputs, name=outputs[0], **attributes))
        return outputs

    def cast(self, value: str, kind: str) -> str:
        """The value as ``float64``, ``int64``, ``int32`` or ``uint8``, cut where it has no room for a fraction."""
        from onnx import TensorProto

        kinds = {"float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64,
                 "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}  # fmt: skip
        return self("Cast", value, to=kinds[kind])

    def _constant(self, value: np.generic | np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"square/c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


@dataclass(frozen=True)
class _Axis:
    """One direction of a resize; names of scalars.

    Args:
        size: int64, pixels of the photo.
        n: int64, places that the resize makes.
        begin: float64, where the first place begins, in pixels of the photo.
        step: float64, pixels of the photo for each place.
        first: int64, the place where the square begins; below 0 where padding comes first.
    """

    size: str
    n: str
    begin: str
    step: str
    first: str


def square_model(spec: Preprocessing, opset: int, ir_version: int) -> ModelProto:
    """The model of ``fit_square``: input ``photos`` (N, H, W, 3) uint8, output ``squares`` (N, S, S, 3) uint8.

    Photos that are more than 2 ** 26 pixels between its two passes (a strip of 1 x 300,000, say) are computed in
    another order by ``fit_square``, and may differ by a level.

    Args:
        spec: side, fit, crop share, interpolation and mean.
        opset: version of ONNX's operators, 13 or more.
        ir_version: version of ONNX's format.
    """
    from onnx import TensorProto, helper

    g = _Graph()
    shape = g("Shape", INPUT)
    sizes = [g("Gather", shape, np.int64(axis)) for axis in (1, 2)]
    strip, axes = _axes(g, spec, sizes)
    down, across = (_weights(g, axis, spec, strip) for axis in axes)
    pixels = g("Slice", INPUT, *(g("Concat", one, other, axis=0) for one, other in zip(down.reach, across.reach,
               strict=True)), np.array([1, 2]))  # fmt: skip
    # (N, h, w, 3) -> (N, h, 3, w) -> (N, h, 3, S) -> (N, S, 3, h) -> (N, S, 3, S) -> (N, S, S, 3)
    narrow = _weighed(g, g("Transpose", pixels, perm=[0, 1, 3, 2]), across, spec.image_px)
    small = _weighed(g, g("Transpose", narrow, perm=[0, 3, 2, 1]), down, spec.image_px)
    squares = g("Transpose", small, perm=[0, 3, 1, 2])
    if spec.fit == "pad":
        fill = np.array([round(255 * mean) for mean in spec.mean], np.uint8)
        there = g("And", g("Unsqueeze", down.there, np.array([1, 2])), g("Unsqueeze", across.there, np.array([0, 2])))
        squares = g("Where", there, squares, fill)
    nodes = [*g.nodes, helper.make_node("Identity", [squares], [SQUARES])]
    side = spec.image_px
    graph = helper.make_graph(
        nodes, "preprocessing",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(SQUARES, TensorProto.UINT8, ["batch", side, side, 3])],
        g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def _axes(g: _Graph, spec: Preprocessing, sizes: list[str]) -> tuple[str, list[_Axis]]:
    """Whether the photo is a strip, of which Pillow computes the square alone; and the axes down and across."""
    side = np.int64(spec.image_px)
    short, long = g("Min", *sizes), g("Max", *sizes)
    never = g("Less", np.int64(1), np.int64(0))
    if spec.fit == "squash":
        return never, [_Axis(size, g("Identity", side), g("Identity", np.float64(0)), _ratio(g, size, side),
                             g("Identity", np.int64(0))) for size in sizes]  # fmt: skip
    if spec.fit == "pad":
        return never, [_padded_axis(g, size, long, side) for size in sizes]
    strip = g("Greater", long, g("Mul", short, np.int64(MAX_ASPECT)))
    return strip, [_cropped_axis(g, size, short, long, strip, spec) for size in sizes]


def _ratio(g: _Graph, one: _Input, other: _Input) -> str:
    """The float64 ratio of two whole numbers."""
    return g("Div", *(each if isinstance(each, np.float64) else g.cast(g("Identity", each), "float64")
                      for each in (one, other)))  # fmt: skip


def _half(g: _Graph, whole: str) -> str:
    """Half of an int64, rounded to float64 as Python's ``round`` does."""
    return g("Round", g("Div", g.cast(whole, "float64"), np.float64(2)))


def _padded_axis(g: _Graph, size: str, long: str, side: np.int64) -> _Axis:
    n = g("Max", np.int64(1), g.cast(g("Round", _ratio(g, g("Mul", size, side), long)), "int64"))
    first = g("Neg", g("Div", g("Sub", side, n), np.int64(2)))
    return _Axis(size, n, g("Identity", np.float64(0)), _ratio(g, size, n), first)


def _cropped_axis(g: _Graph, size: str, short: str, long: str, strip: str, spec: Preprocessing) -> _Axis:
    """The centre of a resized photo; of a strip, what ``data.square._crop_strip`` asks Pillow for."""
    side = np.int64(spec.image_px)
    n = g("Div", g("Mul", np.int64(spec.resize_px), size), short)
    step, first = _ratio(g, size, n), _half(g, g("Sub", n, side))
    start = g("Mul", first, step)
    reach = g("Ceil", g("Mul", np.float64(3), g("Max", step, np.float64(1))))
    cut = g("Max", np.float64(0), g("Sub", g("Floor", start), reach))
    cut = g("Where", g("Equal", size, long), cut, np.float64(0))
    wide = g("Mul", g("Identity", np.float64(side)), step)
    box = g("Sub", start, cut)
    end = g("Min", g("Add", box, wide), g("Sub", g.cast(size, "float64"), cut))
    # Pillow keeps a box in 32 bits, and subtracts in them.
    box, end = (g.cast(each, "float32") for each in (box, end))
    box_step = g("Div", g.cast(g("Sub", end, box), "float64"), np.float64(side))
    box = g.cast(box, "float64")
    return _Axis(
        size,
        g("Where", strip, side, n),
        g("Where", strip, g("Add", cut, box), np.float64(0)),
        g("Where", strip, box_step, step),
        g("Where", strip, np.int64(0), g.cast(first, "int64")),
    )


@dataclass(frozen=True)
class _Weights:
    """What one direction of a resize multiplies with; names.

    Args:
        reach: int64 (1,) twice: the first pixel that counts, and the one behind the last.
        digits: uint8 (pixels, 3 S), the digits of each weight, each ``ZERO`` too large, lowest first.
        unit: int32, what a weight of 1 is.
        there: bool (S,), places that are no padding.
    """

    reach: tuple[str, str]
    digits: str
    unit: str
    there: str


def _weights(g: _Graph, axis: _Axis, spec: Preprocessing, strip: str) -> _Weights:
    """Each place's share of each pixel, as whole numbers."""
    size = g.cast(axis.size, "float64")
    scale = g("Max", axis.step, np.float64(1))
    support = g("Mul", scale, np.float64(2 if spec.interpolation == "bicubic" else 1))
    n_taps = g.cast(g("Add", g("Mul", g("Ceil", support), np.float64(2)), np.float64(1)), "int64")
    places = g.cast(g("Range", np.int64(0), axis.n, np.int64(1)), "float64")
    centre = g("Add", axis.begin, g("Mul", axis.step, g("Add", places, np.float64(0.5))))
    low = g("Max", np.float64(0), g("Floor", g("Add", g("Sub", centre, support), np.float64(0.5))))
    high = g("Min", size, g("Floor", g("Add", g("Add", centre, support), np.float64(0.5))))
    column = np.array([1])
    taps = g.cast(g("Range", np.int64(0), n_taps, np.int64(1)), "float64")
    pixels = g("Add", taps, g("Unsqueeze", low, column))
    away = g("Add", g("Sub", pixels, g("Unsqueeze", centre, column)), np.float64(0.5))
    shares = _filter(g, g("Abs", g("Mul", away, g("Div", np.float64(1), scale))), spec.interpolation)
    shares = g("Where", g("Less", pixels, g("Unsqueeze", high, column)), shares, np.float64(0))
    shares = g("Div", shares, g("ReduceSum", shares, column))
    unit = _unit(g, shares, strip)
    exact = g("Mul", shares, unit)
    up, off = g("Floor", g("Add", exact, np.float64(0.5))), g("Ceil", g("Sub", exact, np.float64(0.5)))
    whole = g("Where", g("Less", exact, np.float64(0)), off, up)
    # The places of the square, of all that the resize would make.
    chosen = g("Add", axis.first, np.arange(spec.image_px))
    there = g("And", g("GreaterOrEqual", chosen, np.int64(0)), g("Less", chosen, axis.n))
    chosen = g("Max", np.int64(0), g("Min", chosen, g("Sub", axis.n, np.int64(1))))
    low, whole = g("Gather", low, chosen), g("Gather", whole, chosen)
    begin = g.cast(g("ReduceMin", low, keepdims=0), "int64")
    end = g("Min", axis.size, g("Add", g.cast(g("ReduceMax", low, keepdims=0), "int64"), n_taps))
    digits = _digits(g, whole, low, begin, end, n_taps)
    flat = np.array([1])
    return _Weights(
        (g("Reshape", begin, flat), g("Reshape", end, flat)), digits, g.cast(unit, "int32"), there
    )  # fmt: skip


def _filter(g: _Graph, x: str, interpolation: str) -> str:
    """The antialiasing filter at distances x >= 0, in places: Keys' cubic with a = -0.5, or the triangle."""
    one, two, none = np.float64(1), np.float64(2), np.float64(0)
    if interpolation == "bilinear":
        return g("Where", g("Less", x, one), g("Sub", one, x), none)
    near = g("Mul", g("Mul", g("Sub", g("Mul", np.float64(1.5), x), np.float64(2.5)), x), x)
    far = g("Mul", g("Add", g("Mul", np.float64(-0.5), x), np.float64(2.5)), x)
    far = g("Add", g("Mul", g("Sub", far, np.float64(4)), x), two)
    return g("Where", g("Less", x, one), g("Add", near, one), g("Where", g("Less", x, two), far, none))


def _unit(g: _Graph, shares: str, strip: str) -> str:
    """What a share of 1 is in whole numbers: as many bits as the largest leaves room for in 16 (torch), 22 (Pillow)."""
    powers = 2.0 ** np.arange(1, MAX_BITS + 1)
    largest = g("ReduceMax", shares, keepdims=0)
    fits = g("Less", g("Add", g("Mul", largest, powers), np.float64(0.5)), np.float64(1 << 15))
    n_bits = g("ReduceSum", g.cast(fits, "int64"), np.array([0]), keepdims=0)
    n_bits = g("Where", strip, np.int64(PILLOW_BITS), n_bits)
    return g("Gather", 2.0 ** np.arange(MAX_BITS + 1), n_bits)


def _digits(g: _Graph, whole: str, low: str, begin: str, end: str, n_taps: str) -> str:
    """Digits (pixels, 3 S) uint8 of the weights (S, taps), each row's weights from its own pixel ``low`` on."""
    parts, rest = [], whole
    for _ in range(DIGITS):
        more = g("Floor", g("Div", g("Add", rest, np.float64(BASE / 2)), np.float64(BASE)))
        parts.append(g("Sub", rest, g("Mul", more, np.float64(BASE))))
        rest = more
    shifted = g("Add", g("Concat", *parts, axis=0), np.float64(ZERO))
    table = g.cast(shifted, "uint8")
    pixels = g("Range", begin, end, np.int64(1))
    tap = g("Sub", pixels, g("Unsqueeze", g.cast(low, "int64"), np.array([1])))
    tap = g("Concat", *([tap] * DIGITS), axis=0)
    inside = g("And", g("GreaterOrEqual", tap, np.int64(0)), g("Less", tap, n_taps))
    nearest = g("Max", np.int64(0), g("Min", tap, g("Sub", n_taps, np.int64(1))))
    spread = g("Where", inside, g("GatherElements", table, nearest, axis=1), np.uint8(ZERO))
    return g("Transpose", spread, perm=[1, 0])


def _weighed(g: _Graph, pixels: str, weights: _Weights, side: int) -> str:
    """Weighted means (..., S) uint8 of pixels (..., n) uint8, rounded as torch and Pillow round."""
    sums = g("MatMulInteger", pixels, weights.digits, np.uint8(0), np.uint8(ZERO))
    lowest, *others = g.many("Split", DIGITS, sums, np.full(DIGITS, side), axis=3)
    total = others[-1]
    for digit in (*others[-2::-1], lowest):
        total = g("Add", g("Mul", total, np.int32(BASE)), digit)
    half = g("Div", weights.unit, np.int32(2))
    # Cut towards zero and not downwards, which is the same after the clip.
    mean = g("Div", g("Add", total, half), weights.unit)
    return g.cast(g("Clip", mean, np.int32(0), np.int32(255)), "uint8")
