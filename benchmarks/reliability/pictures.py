"""Pictures for load: drawn ones of several sizes and classes, and of each as many files as there are requests."""

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from examples.shapes.draw import draw
from examples.shapes.outlines import LABELS

_SOI = b"\xff\xd8"  # a JPEG begins with it


@dataclass(frozen=True)
class Drawn:
    """A picture of the pool."""

    label: str  # of the object on it
    side: int  # pixels; every picture of the pool has another one, so that an answer's view names the picture
    jpeg: bytes


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def draw_pool(count: int = 20, seed: int = 5) -> list[Drawn]:
    """Draws a pool; the same one for the same arguments."""
    rng, pool = np.random.default_rng(seed), []
    for place in range(count):
        label, side = LABELS[place % len(LABELS)], 240 + 17 * place
        image = Image.fromarray(draw(rng, [label], side, (1 / 3, 1 / 2)).image)
        pool.append(Drawn(label, side, encoded(image, "JPEG", quality=90)))
    return pool


def marked(jpeg: bytes, mark: str) -> bytes:
    """The same picture as another file: a comment segment makes its hash unique, its pixels stay.

    Raises:
        ValueError: not a JPEG.
    """
    if not jpeg.startswith(_SOI):
        raise ValueError("only a JPEG can be marked")
    comment = mark.encode("ascii")
    return _SOI + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def largest_upload(limit: int) -> bytes:
    """A BMP of as many bytes as a request may have, ``limit``, all of them pixels that are decoded."""
    side = int((limit - 54) ** 0.5 / 3**0.5) // 4 * 4  # rows are padded to 4 bytes; 54 is the header
    return encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)), "BMP")
