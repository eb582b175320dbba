"""Two photographs that scikit-image carries, both CC0; README.md names the photographers."""

import io

import skimage.data
from PIL import Image

NAMES = ("chelsea", "coffee")


def photograph(name: str) -> bytes:
    """A photograph of the installed package as a PNG file, which keeps every pixel; nothing is downloaded."""
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "PNG")
    return file.getvalue()
