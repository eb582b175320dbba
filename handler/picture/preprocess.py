"""Makes the network's input of a decoded picture, as torchvision's ``weights.transforms()`` does.

Pillow's antialiased filter resizes, which torchvision calls, too, so that the result equals torchvision's to the last
bit; ``cv2.resize`` has no antialiased filter and would be several grey levels off. Weights from elsewhere may need the
crop before the resizing, or cv2's area average.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Size = int | tuple[int, int]  # of a square's side, or height and width
Box = tuple[float, float, float, float]

MOST_CHANNELS = 16
_FILTERS = {name.lower(): kind for name, kind in Image.Resampling.__members__.items()}
# what a description says of crop modes
_CROP_MODES = {"center": "resized to cover", "squash": "both sides resized to", "border": "resized to fit into"}
_AREA = "area"  # cv2's INTER_AREA: averages pixels when it shrinks a picture, interpolates when it enlarges one
_LARGEST_WHOLE_RESIZE = 32_000_000  # pixels; above, only the crop is resized: 1x30000 would become 256x7680000


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The preprocessing that a set of weights needs: resize the shorter side, crop the centre, scale, normalise.

    There are as many channels as ``mean`` has values. Sizes of rectangles are pairs: the picture then is resized until
    it covers ``resize_size``. With ``crop_first`` the same share of the picture is cropped before it is resized, at
    whole pixels of the upload. ``crop_mode`` is timm's: "squash" resizes both sides to ``resize_size``, "border"
    resizes the picture until it fits into ``resize_size``, and fills the rest of the crop with the mean colour.
    ValueError says which field has another type or is out of range.
    """

    resize_size: Size  # pixels of the shorter side after resizing, or height and width that are covered
    crop_size: Size  # side, or height and width, of the centre crop in pixels; not above resize_size
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]  # per channel, of values in [0, 1]
    interpolation: str = "bilinear"  # a name of Pillow's filters; with crop_first also "area"
    crop_first: bool = False  # crop crop_size / resize_size of the shorter side, then resize the crop to crop_size
    crop_mode: str = "center"  # "center", "squash" or "border"

    def __post_init__(self) -> None:
        for name in ("resize_size", "crop_size"):  # a square has one spelling
            size = getattr(self, name)
            if isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]:
                object.__setattr__(self, name, size[0])
        if type(self.crop_first) is not bool:
            raise ValueError(f"crop_first {self.crop_first!r} must be true or false")
        valid = [*_FILTERS, *([_AREA] if self.crop_first else [])]
        if self.interpolation not in valid:
            hint = " (area goes with crop_first)" if self.interpolation == _AREA else ""
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {', '.join(valid)}{hint}")
        modes = [*_CROP_MODES][: 1 if self.crop_first else None]
        if self.crop_mode not in modes:
            hint = " (the others go without crop_first)" if self.crop_first else ""
            raise ValueError(f"crop_mode {self.crop_mode!r} is not one of {', '.join(modes)}{hint}")
        sizes = (self.resize_size, self.crop_size)
        whole = all(len(pair) == 2 and all(type(side) is int for side in pair) for pair in map(_pair, sizes))
        if not whole or not all(0 < crop <= resize for resize, crop in zip(*map(_pair, sizes), strict=True)):
            needed = "must be whole numbers, or pairs of height and width, crop_size not the larger"
            raise ValueError(f"resize_size and crop_size {sizes} {needed}")
        tuples = isinstance(self.mean, tuple) and isinstance(self.std, tuple)
        numbers = tuples and all(isinstance(one, (int, float)) and math.isfinite(one) for one in self.mean + self.std)
        if not (numbers and 0 < len(self.mean) == len(self.std) <= MOST_CHANNELS and min(self.std) > 0):
            needed = f"must have a number for each channel, 1 to {MOST_CHANNELS}, std above 0"
            raise ValueError(f"mean {self.mean!r} and std {self.std!r} {needed}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return _pair(self.crop_size)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width that ``resize_size`` stands for, in pixels."""
        return _pair(self.resize_size)

    @property
    def channels(self) -> int:
        """The number of the input's channels."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the network's input."""
        return (self.channels, *self.size)

    def normalise(self, image: Pixels) -> npt.NDArray[np.float32]:
        """Scales uint8 pixels (H, W, C) to [0, 1] and normalises them to float32 (C, H, W)."""
        scaled = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        table: npt.NDArray[np.float32] = (scaled - mean) / std  # (256, C)
        values = cv2.LUT(image, table[:, None]).reshape(image.shape)  # without an axis of 1
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def describe(self) -> str:
        """The steps in words, for people."""
        side, resized = "{}x{}".format(*self.size), "{}x{}".format(*self.resized)
        filtered = f"({self.interpolation}, antialiased)"
        if self.crop_first:
            form = "square" if self.crop_size == self.size[0] else f"rectangle of the ratio {side}"
            share = f" of {self.size[0]}/{self.resized[0]} of its side" if self.crop_size != self.resize_size else ""
            steps = f"centre {form}{share} cropped, resized to {side} {filtered}"
        else:
            way = f"{_CROP_MODES[self.crop_mode]} {resized}"
            if self.crop_mode == "center" and isinstance(self.resize_size, int):
                way = f"shorter side resized to {self.resize_size}"
            borders = " with borders of the mean colour" if self.crop_mode == "border" else ""
            steps = f"{way} {filtered}, centre crop of {side}{borders}"
        return f"{steps}, values in [0, 1] minus {list(self.mean)}, divided by {list(self.std)}"

    def to_dict(self) -> dict[str, Any]:
        """The fields; the usual crop mode is left out, so that descriptions stay what older versions wrote."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("crop_mode", "center")}

    def to_json(self) -> str:
        """The fields as one JSON object; ``from_json`` reads it back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Reads what ``to_json`` wrote; ValueError if it is no JSON or fields are missing, unknown or out of range."""
        values = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not {"resize_size", "crop_size", "mean", "std"} <= set(values) <= known:
            raise ValueError(f"preprocessing must be an object with the fields {sorted(known)}, not {text[:200]}")
        return cls(**values | {name: tuple(value) for name, value in values.items() if isinstance(value, list)})


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


@dataclass(frozen=True)
class Crop:
    """Where the network's crop lies in the upload, in pixels of the upright, decoded picture."""

    image: tuple[int, int]  # height, width of the upload
    box: Box  # top, left, bottom, right

    def to_dict(self) -> dict[str, Any]:
        """The crop in the JSON answer."""
        return {"image": list(self.image), "crop": [round(edge, 6) for edge in self.box]}


@dataclass(frozen=True)
class Input:
    """One picture, ready for the network."""

    tensor: npt.NDArray[np.float32]  # (C, h, w), normalised
    picture: Pixels  # (h, w, C), the same crop before it was normalised
    crop: Crop


def preprocess(image: Pixels, how: Preprocessing) -> Input:
    """Resizes, crops and normalises a picture, uint8 (H, W, C), of at least one pixel."""
    picture, box = (_crop_then_resize if how.crop_first else _resize_then_crop)(image, how)
    return Input(how.normalise(picture), picture, Crop(image.shape[:2], box))


def _crop_then_resize(image: Pixels, how: Preprocessing) -> tuple[Pixels, Box]:
    (height, width), (rows, columns) = image.shape[:2], how.resized
    part, whole = (height, rows) if height * columns <= width * rows else (width, columns)  # of the side that limits
    down, across = (max(1, side * part // whole) for side in how.size)
    top, left = (height - down) // 2, (width - across) // 2
    cut = image[top : top + down, left : left + across]
    return _resize(cut, how.size, how.interpolation), (top, left, top + down, left + across)


def _resize_then_crop(image: Pixels, how: Preprocessing) -> tuple[Pixels, Box]:
    (height, width), (down, across) = image.shape[:2], how.size
    rows, columns = _resized_size(height, width, how)
    top, left = _start(rows, down), _start(columns, across)
    tall, wide = height / rows, width / columns  # upload pixels per resized pixel
    box = (top * tall, left * wide, (top + down) * tall, (left + across) * wide)
    if how.crop_mode == "center" and rows * columns > _LARGEST_WHOLE_RESIZE:
        return _resize_box(image, box, how), box
    return _cut(_resize(image, (rows, columns), how.interpolation), top, left, how), box


def _resized_size(height: int, width: int, how: Preprocessing) -> tuple[int, int]:
    """Rows and columns of the whole picture after resizing, rounded as torchvision and timm do."""
    if how.crop_mode == "squash":
        return how.resized
    if how.crop_mode == "border" or isinstance(how.resize_size, tuple):
        ratios = [side / wanted for side, wanted in zip((height, width), how.resized, strict=True)]
        ratio = max(ratios) if how.crop_mode == "border" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    shorter = how.resize_size
    return (int(shorter * height / width), shorter) if height > width else (shorter, int(shorter * width / height))


def _start(whole: int, part: int) -> int:
    """Where a centre crop begins: half to even, as in torchvision's center_crop; before the edge where it is larger."""
    return round((whole - part) / 2.0) if whole >= part else -((part - whole) // 2)


def by_band(function: Callable[[Any], Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What a function makes of a picture or a map, (H, W) or (H, W, C).

    Other than three bands are given to it by themselves: Pillow and cv2 take them for colours with transparency, drop
    an axis of 1, or refuse them.
    """
    if values.ndim == 2 or values.shape[2] == 3:
        return np.asarray(function(values))
    return np.stack([function(np.ascontiguousarray(values[:, :, band])) for band in range(values.shape[2])], axis=2)


def _resize(image: Pixels, size: tuple[int, int], interpolation: str, box: Box | None = None) -> Pixels:
    """Resizes a picture (H, W, C), or the box in it: left, top, right and bottom."""
    if interpolation == _AREA:
        return by_band(lambda band: cv2.resize(band, size[::-1], interpolation=cv2.INTER_AREA), image)
    method = _FILTERS[interpolation]
    return by_band(lambda band: np.asarray(Image.fromarray(band).resize(size[::-1], method, box)), image)


def _cut(image: Pixels, top: int, left: int, how: Preprocessing) -> Pixels:
    """The crop of a resized picture; the mean colour lies beyond the picture's edges."""
    height, width = how.size
    inside = image[max(0, top) : top + height, max(0, left) : left + width]
    whole = np.full((height, width, how.channels), np.rint(255 * np.array(how.mean)).clip(0, 255), np.uint8)
    whole[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
    return whole


def _resize_box(image: Pixels, box: Box, how: Preprocessing) -> Pixels:
    """Resizes the box alone, from the pixels that the filter reaches."""
    (top, left, bottom, right), (height, width) = box, image.shape[:2]
    reach = 4 * int(max((bottom - top) / how.size[0], (right - left) / how.size[1]) + 2)
    above, before = max(0, int(top) - reach), max(0, int(left) - reach)
    near = image[above : int(bottom) + reach, before : int(right) + reach]
    inside = (left - before, top - above, min(right, width) - before, min(bottom, height) - above)
    return _resize(near, how.size, how.interpolation, inside)
