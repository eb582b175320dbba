"""Projects maps at the network's crop back onto the upload; the network did not see pixels outside the crop."""

import math
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.picture.preprocess import Crop, by_band

Floats = npt.NDArray[np.float32]


def seen_region(crop: Crop) -> tuple[slice, slice]:
    """The rows and columns of the upload whose pixels' centres lie in the crop; at least one pixel."""
    # the first pixel whose centre lies at an edge or behind it
    top, left, bottom, right = (math.ceil(edge - 0.5) for edge in crop.box)
    (height, width), top, left = crop.image, max(0, top), max(0, left)
    return slice(top, max(min(height, bottom), top + 1)), slice(left, max(min(width, right), left + 1))


def onto_region(values: Floats, crop: Crop) -> Floats:
    """Resamples a map of the crop, (h, w) or (h, w, C), to the upload's pixels that the network saw, bilinearly."""
    seen_rows, seen_columns = seen_region(crop)
    top, left, bottom, right = crop.box
    rows = (np.arange(seen_rows.start, seen_rows.stop) + 0.5 - top) * values.shape[0] / (bottom - top) - 0.5
    columns = (np.arange(seen_columns.start, seen_columns.stop) + 0.5 - left) * values.shape[1] / (right - left) - 0.5
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    resample = partial(cv2.remap, map1=x, map2=y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(by_band(resample, values), values.dtype)


def onto_upload(values: Floats, crop: Crop) -> Floats:
    """Resamples like ``onto_region`` into an array (H, W[, C]) of the upload's size; unseen pixels are NaN."""
    whole = np.full((*crop.image, *values.shape[2:]), np.nan, np.float32)
    whole[seen_region(crop)] = onto_region(values, crop)
    return whole


def three_bands(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What is shown of a picture or a map (H, W, C): the first three bands; of one or two bands the first, as grey."""
    return pixels[:, :, :3] if pixels.shape[2] > 2 else pixels[:, :, :1].repeat(3, axis=2)


def hatched(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture (H, W, C) in dark grey under light diagonal lines, as RGB: what is so drawn has no map."""
    (height, width), grey = picture.shape[:2], cv2.cvtColor(three_bands(picture), cv2.COLOR_RGB2GRAY) // 2
    period = 8 + max(height, width) // 60  # so that the lines stay apart where a large picture is shown small
    line = np.arange(height + width) % period < period // 4
    grey[np.lib.stride_tricks.sliding_window_view(line, width)[:height]] = 170
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def show_seen(picture: npt.NDArray[np.uint8], upload: npt.NDArray[np.uint8], crop: Crop) -> npt.NDArray[np.uint8]:
    """Puts a picture of the seen region into the upload (H, W, C), which is hatched elsewhere."""
    whole = hatched(upload)
    whole[seen_region(crop)] = picture
    return whole
