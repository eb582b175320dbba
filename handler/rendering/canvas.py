"""Maps as clients see them: as pictures drawn on what was seen, as arrays, or as numbers."""

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.explanation.maps import MAP_KINDS, Map
from handler.picture.preprocess import Input
from handler.picture.projection import onto_region, onto_upload, seen_region, show_seen
from handler.protocol.options import Options
from handler.rendering.encoding import encode_list, encode_npy
from handler.rendering.render import Picture, deprocess, encode_png, overlay


@dataclass(frozen=True)
class Canvas:
    """What maps are drawn on: the network's crop and, for ``size=image``, the upload."""

    seen: Input
    upload: npt.NDArray[np.uint8] | None  # (H, W, 3) RGB; None unless the answer has its size
    options: Options


def encode_map(name: str, one: Map, canvas: Canvas) -> dict[str, Any]:
    """A map as the JSON answer has it: encoding, shape, data, max, degenerate, coverage."""
    encoding = canvas.options.encoding
    data: str | list[Any]
    if encoding == "png":
        picture = draw_map(name, one, canvas)
        shape, data = (
            picture.shape,
            base64.b64encode(encode_png(picture, smooth=MAP_KINDS[name].channels == 1)).decode(),
        )
    else:
        values = one.values if canvas.upload is None else onto_upload(one.values, canvas.seen.crop)
        shape, data = values.shape, encode_npy(values) if encoding == "npy" else encode_list(values)
    content = {
        "encoding": encoding,
        "shape": list(shape),
        "data": data,
        "max": one.maximum,
        "degenerate": one.degenerate,
    }
    return content if one.coverage is None else {**content, "coverage": one.coverage}


def draw_map(name: str, one: Map, canvas: Canvas) -> npt.NDArray[np.uint8]:
    """A map as a picture: gradcam blended into what was seen, gradients in relief on grey.

    At the upload's size, what the network did not see is dark grey (gradcam) or transparent (gradients, RGBA).
    """
    if MAP_KINDS[name].channels > 1:
        return _draw_gradient(deprocess(one.values), canvas)
    weight, colormap = canvas.options.overlay.image_weight, canvas.options.overlay.colormap
    if canvas.upload is None:
        return overlay(_picture_of_size(canvas, *one.values.shape), one.values, weight, colormap)
    crop = canvas.seen.crop
    below = canvas.upload[seen_region(crop).slices]
    return show_seen(overlay(below, onto_region(one.values, crop), weight, colormap), canvas.upload, crop)


def _draw_gradient(picture: Picture, canvas: Canvas) -> npt.NDArray[np.uint8]:
    if canvas.upload is None:
        return picture
    whole = np.zeros((*canvas.upload.shape[:2], 4), np.uint8)
    seen = onto_region(picture.astype(np.float32), canvas.seen.crop)
    whole[seen_region(canvas.seen.crop).slices] = np.dstack([seen, np.full(seen.shape[:2], 255)]).astype(np.uint8)
    return whole


def _picture_of_size(canvas: Canvas, height: int, width: int) -> Picture:
    picture = canvas.seen.picture
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
