"""Projects maps at the network's crop back onto the upload; the network did not see pixels outside the crop."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from handler.picture.preprocess import Crop

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Region:
    """The pixels of the upload whose centres lie in the crop; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of the region in an array (H, W, …) of the upload's size."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def seen_region(crop: Crop) -> Region:
    """The region of the upload that the network saw, at least one pixel."""
    height, width = crop.image
    # the first pixel whose centre lies at an edge or behind it
    top, left, bottom, right = (math.ceil(edge - 0.5) for edge in crop.box)
    top, left = max(0, top), max(0, left)
    return Region(top=top, left=left, bottom=max(min(height, bottom), top + 1), right=max(min(width, right), left + 1))


def onto_region(values: Floats, crop: Crop) -> Floats:
    """Resamples a map of the crop to the upload's pixels that the network saw, bilinearly.

    Args:
        values: (S, S) or (S, S, 3), spread over the whole crop.
        crop: where the crop lies in the upload.

    Returns:
        An array of ``seen_region``'s rows and columns, with the channels and the dtype of ``values``.
    """
    region = seen_region(crop)
    top, left, bottom, right = crop.box
    rows = (np.arange(region.top, region.bottom) + 0.5 - top) * values.shape[0] / (bottom - top) - 0.5
    columns = (np.arange(region.left, region.right) + 0.5 - left) * values.shape[1] / (right - left) - 0.5
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    resampled = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(resampled, values.dtype)


def onto_upload(values: Floats, crop: Crop) -> Floats:
    """Resamples like ``onto_region`` into an array (H, W[, 3]) of the upload's size; unseen pixels are NaN."""
    whole = np.full((*crop.image, *values.shape[2:]), np.nan, np.float32)
    whole[seen_region(crop).slices] = onto_region(values, crop)
    return whole


def show_seen(picture: npt.NDArray[np.uint8], upload: npt.NDArray[np.uint8], crop: Crop) -> npt.NDArray[np.uint8]:
    """Puts a picture of the seen region into the upload (H, W, 3), whose other pixels become dark grey."""
    grey = cv2.cvtColor(upload, cv2.COLOR_RGB2GRAY) // 2
    whole = np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)
    whole[seen_region(crop).slices] = picture
    return whole
