"""Draws a map on the picture, or encodes it for the JSON answer: as a picture, as an array or as numbers."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import Floats
from handler.explanation.maps import MAP_KINDS, Map
from handler.picture.preprocess import Input
from handler.picture.projection import onto_region, onto_upload, seen_region, show_seen, three_bands
from handler.protocol.options import TENSOR, Options
from handler.rendering.render import deprocess, encode_png, overlay

_DIGITS = 8  # significant digits of listed numbers, about those of a float32


@dataclass(frozen=True)
class Canvas:
    """The pictures that maps are drawn on: the network's crop and, for ``size=image``, the upload."""

    seen: Input
    upload: npt.NDArray[np.uint8] | None  # (H, W, C); None unless maps are drawn at the upload's size
    options: Options


def encode_map(name: str, drawn: Map, canvas: Canvas) -> dict[str, Any]:
    """Encodes a map for the JSON answer: encoding, shape, data, max, degenerate and, for guided maps, coverage."""
    encoding = canvas.options.encoding
    data: str | list[Any]
    if encoding == "png":
        picture = draw_map(name, drawn, canvas)
        png = encode_png(picture, smooth=MAP_KINDS[name].channels == 1)
        shape, data = picture.shape, base64.b64encode(png).decode()
    else:
        values = values_on(canvas, drawn)
        encoded: dict[str, Callable[[Floats], str | list[Any]]] = {"npy": encode_npy, "list": encode_list}
        shape, data = values.shape, name if encoding == TENSOR else encoded[encoding](values)
    content = {"encoding": encoding, "shape": [*shape], "data": data}
    told = {} if drawn.coverage is None else {"coverage": drawn.coverage}
    return {**content, "max": drawn.maximum, "degenerate": drawn.degenerate, **told}


def encode_npy(values: npt.NDArray[np.float32]) -> str:
    """The base64 of a ``.npy`` file: ``numpy.load(io.BytesIO(base64.b64decode(text)))`` restores the array."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def encode_list(values: npt.NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers, rounded to 8 significant digits; NaN (pixels outside the crop) becomes None."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
    unit = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(exponent), exponent, 0))
    listed = np.round(exact * unit) / unit
    return list(np.where(np.isnan(listed), np.array(None), listed).tolist())


def values_on(canvas: Canvas, drawn: Map) -> Floats:
    """A map's values at the canvas's size; NaN where the network did not see the upload."""
    return drawn.values if canvas.upload is None else onto_upload(drawn.values, canvas.seen.crop)


def draw_map(name: str, drawn: Map, canvas: Canvas) -> npt.NDArray[np.uint8]:
    """Draws a map, uint8 RGB (H, W, 3): gradcam is blended into the picture, gradients are drawn in relief on grey.

    At the upload's size, pixels that the network did not see are dark grey (gradcam) or transparent (gradients, whose
    picture then is RGBA).
    """
    crop, region = canvas.seen.crop, seen_region(canvas.seen.crop)
    if MAP_KINDS[name].channels > 1:
        picture = deprocess(three_bands(drawn.values))
        if canvas.upload is None:
            return picture
        whole = np.zeros((*canvas.upload.shape[:2], 4), np.uint8)
        whole[region] = cv2.cvtColor(onto_region(picture.astype(np.float32), crop).astype(np.uint8), cv2.COLOR_RGB2RGBA)
        return whole
    weight, colormap = canvas.options.overlay.image_weight, canvas.options.overlay.colormap
    if canvas.upload is None:
        size = drawn.values.shape[::-1]
        below = np.asarray(cv2.resize(three_bands(canvas.seen.picture), size, interpolation=cv2.INTER_AREA), np.uint8)
        return overlay(below, drawn.values, weight, colormap)
    picture = overlay(three_bands(canvas.upload[region]), onto_region(drawn.values, crop), weight, colormap)
    return show_seen(picture, canvas.upload, crop)
