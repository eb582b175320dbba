"""Makes the network's input of a decoded picture, as torchvision's ``weights.transforms()`` does.

Pillow's antialiased filter resizes, which torchvision calls, too, so that the result equals torchvision's to the last
bit; ``cv2.resize`` has no antialiased filter and would be several grey levels off. Weights from elsewhere may need the
crop before the resizing, or cv2's area average.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_AREA = "area"  # cv2's INTER_AREA: averages pixels when it shrinks a picture, interpolates when it enlarges one
_LARGEST_WHOLE_RESIZE = 32_000_000  # pixels; above, only the crop is resized: 1x30000 would become 256x7680000


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The preprocessing that a set of weights needs: resize the shorter side, crop the centre, scale, normalise.

    With ``crop_first`` the same share of the picture is cropped before it is resized, at whole pixels of the upload.

    Raises:
        ValueError: a field has another type or is out of range.
    """

    resize_size: int  # pixels of the shorter side after resizing
    crop_size: int  # side of the square centre crop in pixels; not above resize_size
    mean: tuple[float, ...]  # per RGB channel, of values in [0, 1]
    std: tuple[float, ...]  # per RGB channel, of values in [0, 1]
    interpolation: str = "bilinear"  # "nearest", "bilinear" or "bicubic"; with crop_first also "area"
    crop_first: bool = False  # crop crop_size / resize_size of the shorter side, then resize the crop to crop_size

    def __post_init__(self) -> None:
        if type(self.crop_first) is not bool:
            raise ValueError(f"crop_first {self.crop_first!r} must be true or false")
        valid = [*_FILTERS, *([_AREA] if self.crop_first else [])]
        if self.interpolation not in valid:
            hint = " (area goes with crop_first)" if self.interpolation == _AREA else ""
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {', '.join(valid)}{hint}")
        sizes = (self.resize_size, self.crop_size)
        if not all(type(size) is int for size in sizes) or not 0 < self.crop_size <= self.resize_size:
            raise ValueError(f"resize_size and crop_size {sizes} must be whole numbers, crop_size not the larger")
        if not _three_numbers(self.mean) or not _three_numbers(self.std) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean!r} and std {self.std!r} must be three numbers each, std above 0")

    def normalise(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scales uint8 RGB (H, W, 3) to [0, 1] and normalises it to float32 (3, H, W)."""
        scaled = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        table = np.asarray((scaled - mean) / std, np.float32)  # (256, 3)
        return np.ascontiguousarray(cv2.LUT(image, table[:, None]).transpose(2, 0, 1), np.float32)

    def describe(self) -> str:
        """The steps in words, for people."""
        side, filtered = f"{self.crop_size}x{self.crop_size}", f"({self.interpolation}, antialiased)"
        steps = f"shorter side resized to {self.resize_size} {filtered}, centre crop of {side}"
        if self.crop_first:
            share = "" if self.crop_size == self.resize_size else f" of {self.crop_size}/{self.resize_size} of its side"
            steps = f"centre square{share} cropped, resized to {side} {filtered}"
        return f"{steps}, values in [0, 1] minus {list(self.mean)}, divided by {list(self.std)}"

    def to_json(self) -> str:
        """The fields as one JSON object; ``from_json`` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Reads the text that ``to_json`` wrote.

        Raises:
            ValueError: the text is no JSON, or fields are missing, unknown or out of range.
        """
        values = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not {"resize_size", "crop_size", "mean", "std"} <= set(values) <= known:
            raise ValueError(f"preprocessing must be an object with the fields {sorted(known)}, not {text[:200]}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def _three_numbers(values: Any) -> bool:
    if not isinstance(values, tuple) or len(values) != 3:
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Crop:
    """Where the network's crop lies in the upload, in pixels of the upright, decoded picture."""

    image: tuple[int, int]  # height, width of the upload
    box: tuple[float, float, float, float]  # top, left, bottom, right

    def to_dict(self) -> dict[str, Any]:
        """The crop in the JSON answer."""
        return {"image": list(self.image), "crop": [round(edge, 3) for edge in self.box]}


@dataclass(frozen=True)
class Input:
    """One picture, ready for the network."""

    tensor: npt.NDArray[np.float32]  # (3, crop, crop), normalised
    picture: npt.NDArray[np.uint8]  # (crop, crop, 3) RGB, the same crop before it was normalised
    crop: Crop


def preprocess(image: npt.NDArray[np.uint8], how: Preprocessing) -> Input:
    """Resizes, crops and normalises a picture, uint8 RGB (H, W, 3), of at least one pixel."""
    if how.crop_first:
        return _crop_then_resize(image, how)
    (height, width), shorter, side = image.shape[:2], how.resize_size, how.crop_size
    rows, columns = shorter, int(shorter * width / height)  # of the whole picture after resizing
    if height > width:
        rows, columns = int(shorter * height / width), shorter
    top, left = round((rows - side) / 2.0), round((columns - side) / 2.0)  # half to even, as torchvision's center_crop
    down, right = height / rows, width / columns  # upload pixels per resized pixel
    crop = (top * down, left * right, (top + side) * down, (left + side) * right)
    upload, method = Image.fromarray(image), _FILTERS[how.interpolation]
    if rows * columns > _LARGEST_WHOLE_RESIZE:
        seen = _crop_in_two_passes(upload, crop, side, method)
    else:
        seen = upload.resize((columns, rows), method).crop((left, top, left + side, top + side))
    picture = np.asarray(seen)
    return Input(how.normalise(picture), picture, Crop((height, width), crop))


def _crop_then_resize(image: npt.NDArray[np.uint8], how: Preprocessing) -> Input:
    height, width = image.shape[:2]
    side = max(1, min(height, width) * how.crop_size // how.resize_size)
    top, left = (height - side) // 2, (width - side) // 2
    square, size = image[top : top + side, left : left + side], (how.crop_size, how.crop_size)
    if how.interpolation == _AREA:
        picture = np.asarray(cv2.resize(square, size, interpolation=cv2.INTER_AREA), np.uint8)
    else:
        picture = np.asarray(Image.fromarray(square).resize(size, _FILTERS[how.interpolation]))
    return Input(how.normalise(picture), picture, Crop((height, width), (top, left, top + side, left + side)))


def _crop_in_two_passes(
    upload: Image.Image, crop: tuple[float, float, float, float], side: int, method: Image.Resampling
) -> Image.Image:
    """Resizes the crop alone from the rows that the filter reaches, columns first, as Pillow does."""
    top, left, bottom, right = crop
    width, height = upload.size
    reach = 4 * (int((bottom - top) / side) + 2)
    first, last = max(0, int(top) - reach), min(height, int(bottom) + 1 + reach)
    rows = upload.crop((0, first, width, last))
    narrow = rows.resize((side, last - first), method, box=(left, 0, min(right, width), last - first))
    return narrow.resize((side, side), method, box=(0, top - first, side, min(bottom, height) - first))
