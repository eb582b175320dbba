"""A graph that takes pictures as they are decoded: ``handler.picture.preprocess`` in front of its ``input``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import PIL
from onnx import helper

from deploy.devices.graph_values import Nodes, Value
from deploy.devices.resampling import Axis, resample, rounded
from handler.errors import ModelError
from handler.graphs.session import taking_input
from handler.picture.preprocess import Preprocessing, preprocess

PICTURE, CROP = "picture", "crop"  # the input, and the output that says where the network's input lies in it
_SIZES = (375, 500), (601, 333), (64, 64), (37, 1200), (900, 280), (3, 7), (1, 1), (90, 1)  # of pictures to compare
_CLOSE = 1e-4  # of an output's largest value, as in the comparison with PyTorch
Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]


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
    made = Nodes()
    picture = Value(made, PICTURE, "uint8")
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


def _axes(picture: Value, how: Preprocessing) -> tuple[Axis, Axis]:
    """Height and width: the sizes of ``preprocess``, with its rounding."""
    shape = picture.do("Shape", dtype="int64")
    height, width = sides = shape.at(0), shape.at(1)
    zero = shape.of.constant(0, "int64")
    if how.crop_first:
        rows, columns = how.resized
        tall = (height * columns).do("LessOrEqual", width * rows)
        part, whole = tall.where(height, width), tall.where(zero + rows, zero + columns)
        lengths = [(part * size / whole).at_least(1) for size in how.size]
        one, other = (Axis((a - b) / 2, b, zero + c, zero, c) for a, b, c in zip(sides, lengths, how.size, strict=True))
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
    one, other = (Axis(zero, *parts) for parts in zip(sides, resized, starts, how.size, strict=True))
    return one, other


def _network_input(picture: Value, axes: tuple[Axis, Axis], how: Preprocessing) -> Value:
    """The normalised pixels of the crop, float32 (1, C, H, W)."""
    (down, across), (height, width) = axes, how.size
    shrinks = [axis.scale.do("GreaterOrEqual", 1) for axis in axes]
    averages = shrinks[0].both(shrinks[1])  # cv2 interpolates on both axes if one of them grows

    def resampled(levels: Value, axis: Axis, *inner: int) -> Value:
        return resample(levels, axis, inner, how.interpolation, averages)

    def across_first() -> Value:
        columns = resampled(picture.turned(1, 2, 0), across, how.channels, -1)
        return resampled(columns.turned(2, 0, 1), down, width, how.channels)

    def down_first() -> Value:
        rows = resampled(picture, down, -1, how.channels)
        return resampled(rows.turned(1, 0, 2), across, height, how.channels).turned(1, 0, 2)

    if how.interpolation in _OVERSHOOTING and int(PIL.__version__.split(".")[0]) >= 13:  # which has two orders
        fewer = [axis.length - axis.whole for axis in axes]
        first = fewer[0].do("Greater", 0).both(fewer[0].do("Greater", fewer[1] * 2))
        branches = {"then_branch": picture.of.branch(down_first), "else_branch": picture.of.branch(across_first)}
        levels = first.do("If", dtype="float32", **branches)
    else:
        levels = across_first()
    levels = rounded(levels)  # for cv2, which rounds once
    if how.crop_mode == "border":
        rows, columns = (axis.wanted.do("Equal", axis.inside).at(np.arange(axis.size)) for axis in axes)
        colour = levels.of.constant(np.rint(255 * np.array(how.mean)).clip(0, 255), "float32")
        levels = rows.shaped(-1, 1, 1).both(columns.shaped(-1, 1)).where(levels, colour)
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (how.mean, how.std))
    return ((levels.turned(2, 0, 1) / 255 - mean) / std).shaped(1, *how.shape)


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
