"""A graph that takes pictures as they are decoded: ``handler.picture.preprocess`` as nodes in front of its ``input``.

Each axis is resampled by a matrix of weights, which the graph computes from the picture's size as Pillow computes its
own: in float64, with a filter that is as much wider as the picture shrinks, rounded to grey levels after each axis
(https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c). ONNX's ``Resize`` has two of Pillow's
filters alone. A matrix is zero but for a band, so it is multiplied in blocks of rows, each with the pixels it reaches.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import PIL
from onnx import helper, numpy_helper

from handler.errors import ModelError
from handler.graphs.session import taking_input
from handler.picture.preprocess import Preprocessing, preprocess

PICTURE, CROP = "picture", "crop"  # the input, and the output that says where the network's input lies in it
_ROWS = 16  # of a matrix, in a block
_SIZES = (375, 500), (601, 333), (64, 64), (37, 1200), (900, 280), (3, 7), (1, 1), (90, 1)  # of pictures to compare
_CLOSE = 1e-4  # of an output's largest value, as in the comparison with PyTorch
Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]


@dataclass
class _Nodes:
    """The nodes of a graph under construction, and its constants."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def constant(self, values: Any, dtype: str) -> "_Value":
        array = np.array(values, dtype)
        name = f"{PICTURE}/{dtype}{list(array.shape)}:{array.tobytes().hex()}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return _Value(self, name, dtype)

    def branch(self, make: Callable[[], "_Value"]) -> onnx.GraphProto:
        """The nodes that a function adds as a graph of their own, with the float32 that it returns as the output."""
        around, self.nodes = self.nodes, []
        output = helper.make_tensor_value_info(make().name, onnx.TensorProto.FLOAT, None)
        graph, self.nodes = helper.make_graph(self.nodes, "branch", [], [output]), around
        return graph


class _Value(NamedTuple):
    """An array in the graph. Operations on it add nodes to the graph; numbers in them become constants of its type."""

    of: _Nodes
    name: str
    dtype: str  # NumPy's name

    def do(self, operator: str, *others: Any, dtype: str = "", **attributes: Any) -> "_Value":
        values = [one if isinstance(one, _Value) else self.of.constant(one, self.dtype) for one in others]
        kind = "bool" if operator.startswith(("Less", "Greater", "Equal")) else dtype or self.dtype
        output = _Value(self.of, f"{PICTURE}/{next(self.of.numbers)}", kind)
        names = [self.name, *(value.name for value in values)]
        self.of.nodes.append(helper.make_node(operator, names, [output.name], **attributes))
        return output

    def to(self, dtype: str) -> "_Value":
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self if self.dtype == dtype else self.do("Cast", dtype=dtype, to=kind)

    def __add__(self, other: Any) -> "_Value":
        return self.do("Add", other)

    def __sub__(self, other: Any) -> "_Value":
        return self.do("Sub", other)

    def __mul__(self, other: Any) -> "_Value":
        return self.do("Mul", other)

    def __truediv__(self, other: Any) -> "_Value":  # of integers rounded towards zero
        return self.do("Div", other)

    def at_most(self, other: Any) -> "_Value":
        return self.do("Min", other)

    def at_least(self, other: Any) -> "_Value":
        return self.do("Max", other)

    def both(self, other: "_Value") -> "_Value":
        return self.do("And", other)

    def shaped(self, *sizes: int) -> "_Value":
        return self.do("Reshape", self.of.constant(sizes, "int64"))  # 0 keeps a size

    def turned(self, *axes: int) -> "_Value":
        return self.do("Transpose", perm=axes)

    def at(self, places: Any, axis: int = 0) -> "_Value":
        return self.do("Gather", places if isinstance(places, _Value) else self.of.constant(places, "int64"), axis=axis)

    def where(self, chosen: "_Value", other: Any) -> "_Value":
        other = other if isinstance(other, _Value) else self.of.constant(other, chosen.dtype)
        return self.do("Where", chosen, other, dtype=chosen.dtype)


class _Axis(NamedTuple):
    """How an axis of the picture becomes an axis of the network's input; scalars, int64."""

    begin: _Value  # where the part begins that is resized
    length: _Value  # pixels of that part
    whole: _Value  # pixels of that part after resizing
    start: _Value  # where the crop begins in the resized part; negative where the crop is larger
    size: int  # pixels of the crop

    @property
    def scale(self) -> _Value:
        """Pixels of the picture per pixel of the resized part, float64."""
        return self.length.to("float64") / self.whole.to("float64")

    @property
    def padded(self) -> int:
        """Pixels of the crop, and a few more that fill the last block."""
        return -(-self.size // _ROWS) * _ROWS

    @property
    def wanted(self) -> _Value:
        """The places of these pixels in the resized part, float64."""
        return (self.start + np.arange(self.padded)).to("float64")

    @property
    def inside(self) -> _Value:
        """The same, or the nearest place in the part for places beyond its edges."""
        return self.wanted.at_least(0).at_most((self.whole - 1).to("float64"))


def take_pictures(model: onnx.ModelProto, how: Preprocessing) -> onnx.ModelProto:
    """Puts preprocessing in front of a graph's ``input`` (1, C, H, W), which stays as a value inside.

    In its place the graph takes ``picture``, uint8 (height, width, C) of any size, decoded and upright, colours as RGB.
    Its further output ``crop``, float32 (4,), says where the network's input lies in the picture: left, top, width and
    height in pixels. The input equals that of ``preprocess`` with the Pillow that is installed, within one grey level.
    The model's opset is at least 13. Raises ModelError for a graph without such an input.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph, names = found.graph, [value.name for value in found.graph.input]
    if "input" not in names or PICTURE in names:
        raise ModelError(f"the graph has the inputs {', '.join(names)}, needed are input and not {PICTURE}")
    given = graph.input[names.index("input")]
    graph.value_info.append(given)
    shape = "picture_height", "picture_width", how.channels
    given.CopyFrom(helper.make_tensor_value_info(PICTURE, onnx.TensorProto.UINT8, shape))
    made = _Nodes()
    picture = _Value(made, PICTURE, "uint8")
    down, across = axes = _axes(picture, how)
    offsets = [axis.scale * axis.start.to("float64") + axis.begin.to("float64") for axis in (across, down)]
    left, *others = [value.shaped(1) for value in (*offsets, across.scale * across.size, down.scale * down.size)]
    where = left.do("Concat", *others, axis=0).to("float32")
    for value, name in ((where, CROP), (_network_input(picture, axes, how), "input")):
        made.nodes.append(helper.make_node("Identity", [value.name], [name]))
    graph.output.append(helper.make_tensor_value_info(CROP, onnx.TensorProto.FLOAT, [4]))
    graph.initializer.extend(made.constants.values())
    behind = [*graph.node]
    del graph.node[:]
    graph.node.extend([*made.nodes, *behind])
    return found


def _axes(picture: _Value, how: Preprocessing) -> tuple[_Axis, _Axis]:
    """Height and width: the sizes of ``preprocess``, with its rounding."""
    shape = picture.do("Shape", dtype="int64")
    height, width = sides = shape.at(0), shape.at(1)
    zero = shape.of.constant(0, "int64")
    if how.crop_first:
        rows, columns = how.resized
        tall = (height * columns).do("LessOrEqual", width * rows)
        part, whole = tall.where(height, width), tall.where(zero + rows, zero + columns)
        lengths = [(part * size / whole).at_least(1) for size in how.size]
        one, other = (
            _Axis((a - b) / 2, b, zero + c, zero, c) for a, b, c in zip(sides, lengths, how.size, strict=True)
        )
        return one, other
    if how.crop_mode == "squash":
        resized = [zero + size for size in how.resized]
    elif how.crop_mode == "border" or isinstance(how.resize_size, tuple):
        real = [side.to("float64") for side in sides]
        ratios = [side / size for side, size in zip(real, how.resized, strict=True)]
        ratio = ratios[0].do("Max" if how.crop_mode == "border" else "Min", ratios[1])
        resized = [(side / ratio).do("Round").at_least(1).to("int64") for side in real]
    else:
        shorter = how.resize_size
        resized = [(one * shorter / other).at_least(shorter) for one, other in ((height, width), (width, height))]
    halves = [(whole - size).to("float64") / 2 for whole, size in zip(resized, how.size, strict=True)]
    starts = [half.do("Less", 0).where(half.do("Ceil"), half.do("Round")).to("int64") for half in halves]
    one, other = (_Axis(zero, *parts) for parts in zip(sides, resized, starts, how.size, strict=True))
    return one, other


def _network_input(picture: _Value, axes: tuple[_Axis, _Axis], how: Preprocessing) -> _Value:
    """The normalised pixels of the crop, float32 (1, C, H, W)."""
    (down, across), (height, width) = axes, how.size
    shrinks = [axis.scale.do("GreaterOrEqual", 1) for axis in axes]
    averages = shrinks[0].both(shrinks[1])  # cv2 interpolates on both axes if one of them grows

    def resampled(levels: _Value, axis: _Axis, *inner: int) -> _Value:
        return _resampled(levels, axis, inner, how.interpolation, averages)

    def across_first() -> _Value:
        columns = resampled(picture.turned(1, 2, 0), across, how.channels, -1)
        return resampled(columns.turned(2, 0, 1), down, width, how.channels)

    def down_first() -> _Value:
        rows = resampled(picture, down, -1, how.channels)
        return resampled(rows.turned(1, 0, 2), across, height, how.channels).turned(1, 0, 2)

    if how.interpolation in _OVERSHOOTING and int(PIL.__version__.split(".")[0]) >= 13:  # which has two orders
        fewer = [axis.length - axis.whole for axis in axes]
        first = fewer[0].do("Greater", 0).both(fewer[0].do("Greater", fewer[1] * 2))
        branches = {"then_branch": picture.of.branch(down_first), "else_branch": picture.of.branch(across_first)}
        levels = first.do("If", dtype="float32", **branches)
    else:
        levels = across_first()
    levels = _rounded(levels)  # for cv2, which rounds once
    if how.crop_mode == "border":
        rows, columns = (axis.wanted.do("Equal", axis.inside).at(np.arange(axis.size)) for axis in axes)
        colour = levels.of.constant(np.rint(255 * np.array(how.mean)).clip(0, 255), "float32")
        levels = rows.shaped(-1, 1, 1).both(columns.shaped(-1, 1)).where(levels, colour)
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (how.mean, how.std))
    return ((levels.turned(2, 0, 1) / 255 - mean) / std).shaped(1, *how.shape)


def _rounded(levels: _Value) -> _Value:
    return (levels + 0.5).do("Floor").at_least(0).at_most(255)


def _resampled(levels: _Value, axis: _Axis, inner: tuple[int, ...], filtered: str, averages: _Value) -> _Value:
    """Resamples the first axis of levels (length, …) to float32 (size, *inner), where -1 is the rest."""
    if filtered == "nearest":  # places are sums of steps in Pillow, so that steps round
        scale = axis.scale.shaped(1)
        steps = (scale * 0.5).do("Concat", scale.do("Expand", (axis.whole - 1).shaped(1)), axis=0)
        places = steps.do("CumSum", steps.of.constant(0, "int64")).at(axis.inside.to("int64")).to("int64")
        return levels.at((places.at_most(axis.length - 1) + axis.begin).at(np.arange(axis.size))).to("float32")
    weights, pixels = _cv2_weights(axis, averages) if filtered == "area" else _pillow_weights(axis, filtered)
    weights = weights / weights.do("ReduceSum", weights.of.constant([2], "int64"))
    near = levels.at(pixels.to("int64").at_most(axis.length - 1).shaped(0, -1) + axis.begin)
    if filtered != "area":  # Pillow's weights are whole numbers of 2**-22, and sums of them are exact in float64
        weights = (weights * 2.0**22).do("Round") / 2.0**22
    found = weights.do("MatMul", near.shaped(0, 0, -1).to("float64"))
    found = found.shaped(axis.padded, *inner)
    found = found if axis.padded == axis.size else found.at(np.arange(axis.size))
    return (found if filtered == "area" else _rounded(found)).to("float32")


def _blocks(low: _Value, high: _Value) -> _Value:
    """The pixels that blocks reach, float64 (blocks, 1, most), for the bounds (blocks, rows, 1) of rows."""
    first = low.at([0], 1)
    most = (high.at([_ROWS - 1], 1) - first).do("ReduceMax", keepdims=0)
    return most.of.constant(0, "float64").do("Range", most, 1) + first


def _pillow_weights(axis: _Axis, filtered: str) -> tuple[_Value, _Value]:
    """Weights (blocks, rows, most), not yet of the sum 1, and the pixels that they are for."""
    support, weight = _FILTERS[filtered]
    stretch = axis.scale.at_least(1)
    centres, reach = (axis.inside.shaped(-1, _ROWS, 1) + 0.5) * axis.scale, stretch * support
    low = (centres - reach + 0.5).do("Floor").at_least(0)
    high = (centres + reach + 0.5).do("Floor").at_most(axis.length.to("float64"))
    pixels = _blocks(low, high)
    reached = pixels.do("GreaterOrEqual", low).both(pixels.do("Less", high))
    return reached.where(weight((pixels - centres + 0.5) / stretch), 0), pixels


def _cv2_weights(axis: _Axis, averages: _Value) -> tuple[_Value, _Value]:
    """The same for INTER_AREA: each pixel's share of an area, or, where areas are smaller than pixels, two pixels'."""
    grows = axis.whole.to("float64") / axis.length.to("float64")
    scale = grows.of.constant(1, "float64") / grows  # with cv2's rounding, which decides where a pixel begins
    places = axis.inside.shaped(-1, _ROWS, 1)
    begin = places * scale
    low = begin.do("Floor")
    pixels = _blocks(low, (low + scale.at_least(1).do("Ceil") + 1).at_most(axis.length.to("float64")))
    shares = (pixels + 1).at_most(begin + scale) - pixels.at_least(begin)
    past = ((places + 1) - (low + 1) * grows).to("float32").to("float64")
    between = low + past.do("Greater", 0).where(past - past.do("Floor"), 0)
    weights = averages.where(shares, _bilinear(pixels - between)).at_least(0)
    return pixels.do("Less", axis.length.to("float64")).where(weights, 0), pixels


def _box(distance: _Value) -> _Value:
    return distance.do("Greater", -0.5).both(distance.do("LessOrEqual", 0.5)).to("float64")


def _bilinear(distance: _Value) -> _Value:
    return (distance.do("Abs") * -1 + 1).at_least(0)


def _hamming(distance: _Value) -> _Value:
    cosine = ((distance + 0.5) * math.pi).do("Sin")  # old runtimes have no cosine in float64
    return _sinc(distance) * (cosine * 0.46 + 0.54)


def _bicubic(distance: _Value) -> _Value:
    x = distance.do("Abs")
    near, far = (x * 1.5 - 2.5) * x * x + 1, ((x - 5) * x + 8) * x * -0.5 + 2
    return x.do("Less", 1).where(near, far)


def _lanczos(distance: _Value) -> _Value:
    return _sinc(distance) * _sinc(distance / 3)


def _sinc(distance: _Value) -> _Value:
    angle = distance.do("Abs").at_least(1e-9) * math.pi
    return angle.do("Sin") / angle


# Pillow's filters: how far they reach, and the weight at a distance; pixels beyond the reach get none
_FILTERS: dict[str, tuple[float, Callable[[_Value], _Value]]] = {
    "box": (0.5, _box),
    "bilinear": (1, _bilinear),
    "hamming": (1, _hamming),
    "bicubic": (2, _bicubic),
    "lanczos": (3, _lanczos),
}
_OVERSHOOTING = "bicubic", "lanczos"  # which axis is first makes more than a level, because levels end at 0 and 255


def compare_pictures(model: onnx.ModelProto, how: Preprocessing, open_graph: Callable[[bytes], Run]) -> str:
    """Compares a graph of ``take_pictures`` with ``preprocess``, and its outputs with those for the ``input`` it made.

    The result says for people how close they are. A ModelError says what differs by more than a grey level, or by more
    than 1e-4 of an output's largest value. Targets are the top class.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.append(next(value for value in model.graph.value_info if value.name == "input"))
    run, plain = (
        open_graph(content) for content in (exposed.SerializeToString(), taking_input(model.SerializeToString()))
    )
    rng, shares = np.random.default_rng(1), []
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (how.mean, how.std))
    others = {"target": np.array([-1])} if "target" in {value.name for value in model.graph.input} else {}
    for size in _SIZES:
        picture = rng.integers(0, 256, (*size, how.channels), np.uint8)
        expected = preprocess(picture, how)
        found = {**run({PICTURE: picture, **others})}
        inputs, place, (top, left, bottom, right) = found.pop("input"), found.pop(CROP), expected.crop.box
        levels = np.abs((inputs[0] * std + mean) * 255 - expected.picture.transpose(2, 0, 1))
        errors = {"the input in grey levels": levels.max() / 1.01}
        errors["the crop"] = np.abs(place - (left, top, right - left, bottom - top)).max() / max(size) / 1e-6
        for name, values in plain({"input": inputs, **others}).items():
            errors[name] = np.abs(found[name] - values).max() / max(np.abs(values).max(), 1e-30) / _CLOSE
        if beyond := [
            f"{name} by {error:.1f} times what is allowed" for name, error in errors.items() if not error <= 1
        ]:
            raise ModelError(f"with a picture of {size[0]}x{size[1]} pixels the graph differs in {', '.join(beyond)}")
        shares.append((levels > 0.5).mean())
    off = f"{np.mean(shares):.3%} of its values are one level off"
    return f"pictures of {len(_SIZES)} sizes: the input is within one grey level of preprocess, {off}"
