"""Resampling as nodes of a graph, as Pillow and, for areas, cv2 compute it.

Each axis is resampled by a matrix of weights, which the graph computes from the picture's size as Pillow computes its
own: in float64, with a filter that is as much wider as the picture shrinks, rounded to grey levels after each axis
(https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c). ONNX's ``Resize`` has two of Pillow's
filters alone. A matrix is zero but for a band, so it is multiplied in blocks of rows, each with the pixels it reaches.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deploy.devices.graph_values import Value

_ROWS = 16  # of a matrix, in a block


class Axis(NamedTuple):
    """How an axis of the picture becomes an axis of the network's input; scalars, int64."""

    begin: Value  # where the part begins that is resized
    length: Value  # pixels of that part
    whole: Value  # pixels of that part after resizing
    start: Value  # where the crop begins in the resized part; negative where the crop is larger
    size: int  # pixels of the crop

    @property
    def scale(self) -> Value:
        """Pixels of the picture per pixel of the resized part, float64."""
        return self.length.to("float64") / self.whole.to("float64")

    @property
    def padded(self) -> int:
        """Pixels of the crop, and a few more that fill the last block."""
        return -(-self.size // _ROWS) * _ROWS

    @property
    def wanted(self) -> Value:
        """The places of these pixels in the resized part, float64."""
        return (self.start + np.arange(self.padded)).to("float64")

    @property
    def inside(self) -> Value:
        """The same, or the nearest place in the part for places beyond its edges."""
        return self.wanted.at_least(0).at_most((self.whole - 1).to("float64"))


def rounded(levels: Value) -> Value:
    """Grey levels, whole numbers from 0 to 255, half ones upwards."""
    return (levels + 0.5).do("Floor").at_least(0).at_most(255)


def resample(levels: Value, axis: Axis, inner: tuple[int, ...], filtered: str, averages: Value) -> Value:
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
    return (found if filtered == "area" else rounded(found)).to("float32")


def _blocks(low: Value, high: Value) -> Value:
    """The pixels that blocks reach, float64 (blocks, 1, most), for the bounds (blocks, rows, 1) of rows."""
    first = low.at([0], 1)
    most = (high.at([_ROWS - 1], 1) - first).do("ReduceMax", keepdims=0)
    return most.of.constant(0, "float64").do("Range", most, 1) + first


def _pillow_weights(axis: Axis, filtered: str) -> tuple[Value, Value]:
    """Weights (blocks, rows, most), not yet of the sum 1, and the pixels that they are for."""
    support, weight = _FILTERS[filtered]
    stretch = axis.scale.at_least(1)
    centres, reach = (axis.inside.shaped(-1, _ROWS, 1) + 0.5) * axis.scale, stretch * support
    low = (centres - reach + 0.5).do("Floor").at_least(0)
    high = (centres + reach + 0.5).do("Floor").at_most(axis.length.to("float64"))
    pixels = _blocks(low, high)
    reached = pixels.do("GreaterOrEqual", low).both(pixels.do("Less", high))
    return reached.where(weight((pixels - centres + 0.5) / stretch), 0), pixels


def _cv2_weights(axis: Axis, averages: Value) -> tuple[Value, Value]:
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


def _box(distance: Value) -> Value:
    return distance.do("Greater", -0.5).both(distance.do("LessOrEqual", 0.5)).to("float64")


def _bilinear(distance: Value) -> Value:
    return (distance.do("Abs") * -1 + 1).at_least(0)


def _hamming(distance: Value) -> Value:
    cosine = ((distance + 0.5) * math.pi).do("Sin")  # old runtimes have no cosine in float64
    return _sinc(distance) * (cosine * 0.46 + 0.54)


def _bicubic(distance: Value) -> Value:
    x = distance.do("Abs")
    near, far = (x * 1.5 - 2.5) * x * x + 1, ((x - 5) * x + 8) * x * -0.5 + 2
    return x.do("Less", 1).where(near, far)


def _lanczos(distance: Value) -> Value:
    return _sinc(distance) * _sinc(distance / 3)


def _sinc(distance: Value) -> Value:
    angle = distance.do("Abs").at_least(1e-9) * math.pi
    return angle.do("Sin") / angle


# Pillow's filters: how far they reach, and the weight at a distance; pixels beyond the reach get none
_FILTERS: dict[str, tuple[float, Callable[[Value], Value]]] = {
    "box": (0.5, _box),
    "bilinear": (1, _bilinear),
    "hamming": (1, _hamming),
    "bicubic": (2, _bicubic),
    "lanczos": (3, _lanczos),
}
