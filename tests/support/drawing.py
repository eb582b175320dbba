"""A small picture off the middle of an upload, with maps that tell up from down, left from right, red from blue."""

import numpy as np

from handler.explanation.maps import Map
from handler.picture.preprocess import Crop, Input
from handler.protocol.options import Options, Overlay
from handler.rendering.render import Canvas

CROP = Crop((4, 8), (0.0, 3.0, 4.0, 7.0))  # what the network sees, one pixel to one; nearer to the right
SEEN = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
UPLOAD = np.full((4, 8, 3), 200, np.uint8)
UPLOAD[:, 3:7] = SEEN
INPUT = Input(np.zeros((3, 4, 4), np.float32), SEEN, CROP)


def canvas(**options: object) -> Canvas:
    """Of the whole upload where ``size`` is "image"."""
    asked = Options(**{"overlay": Overlay(image_weight=0.0), **options})
    return Canvas(INPUT, UPLOAD if asked.size == "image" else None, asked)


def heat(row: int, column: int, side: int = 4) -> Map:
    """A gradcam map with evidence in one cell."""
    values = np.zeros((side, side), np.float32)
    values[row, column] = 1
    return Map(values=values, maximum=2.5, degenerate=False)


def pixels(row: int, column: int, rgb: tuple[float, float, float] = (1, 0, -1)) -> Map:
    """A map of gradients with one pixel that is not zero."""
    values = np.zeros((4, 4, 3), np.float32)
    values[row, column] = rgb
    return Map(values=values, maximum=1.0, degenerate=False, coverage="5 of 5 activations")
