"""Pictures for load: drawn ones of several sizes and classes, and of each as many files as there are requests."""

import struct
from dataclasses import dataclass
from pathlib import Path

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


def draw_pool(folder: Path, count: int = 20, seed: int = 5) -> list[Drawn]:
    """Draws a pool and writes it to ``folder``, from where ``read_pool`` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    rng = np.random.default_rng(seed)
    for place in range(count):
        label, side = LABELS[place % len(LABELS)], 240 + 17 * place
        picture = draw(rng, [label], side, (1 / 3, 1 / 2))
        Image.fromarray(picture.image).save(folder / f"{side}-{label}.jpg", quality=90)
    return read_pool(folder)


def read_pool(folder: Path) -> list[Drawn]:
    """The pictures that ``draw_pool`` wrote."""
    found = []
    for path in sorted(folder.glob("*.jpg")):
        side, _, label = path.stem.partition("-")
        found.append(Drawn(label, int(side), path.read_bytes()))
    return found


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
    """A BMP of as many bytes as a request may have, all of them pixels that are decoded.

    Args:
        limit: bytes of a request.
    """
    side = int((limit - 54) ** 0.5 / 3**0.5) // 4 * 4  # rows are padded to 4 bytes; 54 is the header
    header = struct.pack("<2sIHHI", b"BM", 54 + 3 * side * side, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return header + np.random.default_rng(0).integers(0, 256, 3 * side * side, np.uint8).tobytes()
