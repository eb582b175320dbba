"""From a layer's unscaled map to one on [0, 1] at the size of a picture, as pytorch-grad-cam scales it."""

from collections.abc import Sequence

import cv2
import numpy as np

from handler.explanation.evidence import Floats

_EPSILON = 1e-7  # pytorch-grad-cam's, so that an all-zero map stays zero


def scale(values: Floats) -> Floats:
    """Subtracts the minimum and divides by ``1e-7 + maximum``: a map (h, w) on [0, 1]."""
    shifted = values - values.min()
    return np.asarray(shifted / (_EPSILON + shifted.max()), np.float32)


def resize(values: Floats, height: int, width: int) -> Floats:
    """Bilinear with half-pixel centres, (h, w) or (h, w, 3) to (height, width[, 3])."""
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def combine(maps: Sequence[Floats], height: int, width: int) -> Floats:
    """Scales each layer's map (h, w), upsamples, averages over the layers and scales again.

    Returns:
        (height, width) on [0, 1].
    """
    upsampled = [resize(scale(values), height, width) for values in maps]
    return scale(np.mean(np.stack(upsampled), axis=0).clip(min=0))
