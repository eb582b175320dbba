"""Draws maps as pictures, and encodes them for the JSON answer: as pictures, as arrays or as numbers.

Overlays and pictures of gradients equal pytorch-grad-cam's, pixel by pixel.
"""

import base64
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from handler.explanation.evidence import Floats
from handler.explanation.maps import MAP_KINDS, Map
from handler.picture.preprocess import Input
from handler.picture.projection import onto_region, onto_upload, seen_region, show_seen, three_bands
from handler.protocol.options import PICTURES, TENSOR, Options
from handler.rendering.sheet import Picture, coloured

# pictures of maps are photographs and noise: to search them for repeated strings, or to try all filters on each line,
# would double the time and save no bytes
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER]
_PNG_HEADER = 33  # bytes of a PNG file's signature and first chunk
_QUALITY = 90  # of JPEG and WebP files, up to 100
_DIGITS = 8  # significant digits of listed numbers, about those of a float32


@dataclass(frozen=True)
class Canvas:
    """The pictures that maps are drawn on: the network's crop and, for ``size=image``, the upload."""

    seen: Input
    upload: npt.NDArray[np.uint8] | None  # (H, W, C); None unless maps are drawn at the upload's size
    options: Options


def encode_map(name: str, drawn: Map, canvas: Canvas) -> dict[str, Any]:
    """Encodes a map for the JSON answer, with the fields of docs/API.md: gradcam alone has ``min``."""
    encoding, smooth = canvas.options.encoding, MAP_KINDS[name].channels == 1
    encode: dict[str, Callable[[Any], str | list[Any]]] = {
        **dict.fromkeys(PICTURES, lambda picture: base64.b64encode(encode_picture(picture, encoding, smooth)).decode()),
        "npy": encode_npy,
        "list": encode_list,
        TENSOR: lambda _: name,
    }
    shown = draw_map(name, drawn, canvas) if encoding in PICTURES else values_on(canvas, drawn)
    content = {"encoding": encoding, "shape": [*shown.shape], "data": encode[encoding](shown)}
    least = {"min": drawn.minimum} if smooth else {}  # of signed values the largest alone is told
    told = {} if drawn.coverage is None else {"coverage": drawn.coverage}
    return {**content, **least, "max": drawn.maximum, "degenerate": drawn.degenerate, **told}


def encode_npy(values: npt.NDArray[np.float32]) -> str:
    """The base64 of a ``.npy`` file: ``numpy.load(io.BytesIO(base64.b64decode(text)))`` restores the array."""
    np.save(file := io.BytesIO(), values, allow_pickle=False)
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

    At the upload's size, what the network did not see is the upload in dark grey under diagonal lines.
    """
    crop, upload, values = canvas.seen.crop, canvas.upload, drawn.values
    if MAP_KINDS[name].channels > 1:
        picture = deprocess(three_bands(values))
        picture = picture if upload is None else onto_region(picture.astype(np.float32), crop).astype(np.uint8)
    else:
        values, look = values if upload is None else onto_region(values, crop), canvas.options.overlay
        below = three_bands(canvas.seen.picture if upload is None else upload[seen_region(crop)])
        below = cv2.resize(below, values.shape[::-1], interpolation=cv2.INTER_AREA)
        picture = overlay(np.asarray(below, np.uint8), values, look.image_weight, look.colormap)
    return picture if upload is None else show_seen(picture, upload, crop)


def overlay(picture: Picture, values: Floats, image_weight: float, colormap: str) -> Picture:
    """Blends a map into a picture, as pytorch-grad-cam's ``show_cam_on_image`` does.

    ``(1 - w) · heat + w · picture`` on [0, 1], divided by its maximum. The picture is uint8 RGB (H, W, 3), the map
    (H, W) on [0, 1], ``image_weight`` w, 0 to 1, and the colour map a name out of ``COLORMAPS``.
    """
    blended, below = np.float32(coloured(values, colormap)), np.float32(picture)
    for part, weight in ((blended, 1 - image_weight), (below, image_weight)):  # in place: new memory takes as long
        part /= 255
        part *= weight
    blended += below
    brightest = blended.max()
    blended /= brightest if brightest > 0 else 1
    blended *= 255
    return np.asarray(blended, np.uint8)


def deprocess(values: Floats) -> Picture:
    """Makes a picture of a signed gradient (H, W, 3), as pytorch-grad-cam's ``deprocess_image`` does.

    ``clip(0.1 · (values - mean) / (std + 1e-5) + 0.5, 0, 1)``; a gradient of zeros becomes mid grey.
    """
    made = (values - np.mean(values)) / (np.std(values) + 1e-5) * 0.1 + 0.5
    return np.asarray(np.clip(made, 0, 1) * 255, np.uint8)


def encode_picture(picture: npt.NDArray[np.uint8], encoding: str, smooth: bool = True) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as a file of an encoding out of ``PICTURES``; ``smooth`` see ``encode_png``."""
    if encoding == "png":
        return encode_png(picture, smooth=smooth)
    # WebP's fastest method: the others take ten times as long for files as large
    Image.fromarray(picture).save(file := io.BytesIO(), encoding, quality=_QUALITY, method=0)
    return file.getvalue()


def encode_png(picture: npt.NDArray[np.uint8], *, smooth: bool = True) -> bytes:
    """PNG bytes of an RGB picture, uint8 (H, W, 3).

    ``smooth`` is whether neighbouring pixels resemble each other, as in photographs; it changes the file's size alone.
    """
    line_filter = cv2.IMWRITE_PNG_FILTER_UP if smooth else cv2.IMWRITE_PNG_FILTER_NONE
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [*_PNG, line_filter])
    if not done:
        raise RuntimeError("PNG encoding failed")
    return data.tobytes()


def data_uri(picture: npt.NDArray[np.uint8], most: int = 1600, quality: int = 90) -> str:
    """A picture, uint8 (H, W, C), as a JPEG file in a data URI, shrunk to at most ``most`` pixels a side."""
    file, small = io.BytesIO(), Image.fromarray(three_bands(picture))
    small.thumbnail((most, most))
    small.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def png_with(png: bytes, receipt: Mapping[str, Any]) -> bytes:
    """A PNG file with the receipt in a text chunk with the keyword ``receipt``."""
    chunk = b"tEXt" + b"receipt\0" + json.dumps(receipt).encode()
    placed = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:_PNG_HEADER] + placed + png[_PNG_HEADER:]
