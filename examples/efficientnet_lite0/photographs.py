"""Two photographs that scikit-image carries, both CC0: see README.md for who took them."""

import io

import skimage.data
from PIL import Image

NAMES = ("chelsea", "coffee")


def photograph(name: str) -> bytes:
    """A photograph as a PNG file, which keeps every pixel; from the installed package, nothing is downloaded."""
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "PNG")
    return file.getvalue()
