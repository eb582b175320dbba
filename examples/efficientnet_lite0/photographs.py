"""Photographs that scikit-image and matplotlib carry, CC0 or in the public domain; photographs.json says whose."""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import skimage.data
from PIL import Image

NAMES = ("chelsea", "coffee")  # of the demo
_KNOWN = Path(__file__).with_name("photographs.json")


def photograph(name: str) -> bytes:
    """A photograph of the installed package as a PNG file, which keeps every pixel; nothing is downloaded."""
    sample = Path(matplotlib.get_data_path()) / "sample_data" / f"{name}.jpg"
    picture = Image.open(sample) if sample.is_file() else Image.fromarray(getattr(skimage.data, name)())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def known_photographs() -> list[dict[str, Any]]:
    """Of each photograph: name, package, class, licence, owner, and boxes of the class in its own pixels.

    The boxes (top, left, bottom, right; bottom and right are exclusive) were drawn by hand.
    """
    read: list[dict[str, Any]] = json.loads(_KNOWN.read_bytes())
    return read
