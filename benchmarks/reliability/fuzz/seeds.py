"""What hostile requests are made of: words, from ``corpus.toml``, and small sound pictures, which are then bent."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.reliability.pictures import encoded

_CORPUS = tomllib.loads(Path(__file__).with_name("corpus.toml").read_text(encoding="utf-8"))


def _whole(word: str | dict[str, Any]) -> str:
    return word if isinstance(word, str) else word.get("start", "") + word["repeat"] * word["times"]


GOOD: dict[str, list[Any]] = _CORPUS["good"]  # option to values that it may have
TEXTS = {name: [_whole(one) for one in words] for name, words in _CORPUS["texts"].items()}
OCTETS = {name: [_whole(one).encode("latin-1") for one in words] for name, words in _CORPUS["bytes"].items()}
_WIDTH, _HEIGHT = 40, 28  # small: what is bent is the file, not the picture


@cache
def seed_pictures() -> dict[str, bytes]:
    """Name (``FORMAT-kind``) to file; always the same."""
    down, right = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    colour = Image.fromarray(np.stack([down * 9, right * 6, (down * right) % 251], axis=2).astype(np.uint8))
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    exif = Image.Exif()
    exif[0x112], exif[0x10F], exif[0x8769] = 6, "camera" * 9, {0x9003: "2026:01:01 00:00:00"}
    clear = colour.copy()
    clear.putalpha(grey)
    frames = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)], "duration": 50}
    found = {
        "JPEG-plain": encoded(colour, "JPEG"),
        "JPEG-progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG-grey": encoded(grey, "JPEG"),
        "JPEG-CMYK": encoded(colour.convert("CMYK"), "JPEG"),
        "JPEG-exif": encoded(colour, "JPEG", exif=exif, comment=b"said", icc_profile=b"p" * 99),
        "JPEG-restarts": encoded(colour, "JPEG", restart_marker_blocks=1, subsampling=0),
        "JPEG-MPO": encoded(colour, "MPO", save_all=True, append_images=[colour.rotate(180)]),
        "PNG-plain": encoded(colour, "PNG"),
        "PNG-palette": encoded(colour.convert("P"), "PNG", transparency=3),
        "PNG-1bit": encoded(colour.convert("1"), "PNG"),
        "PNG-16bit": encoded(deep, "PNG"),
        "PNG-RGBA": encoded(clear, "PNG", exif=exif),
        "PNG-animated": encoded(colour, "PNG", **frames),
        "WEBP-lossy": encoded(colour, "WEBP", exif=exif),
        "WEBP-lossless": encoded(clear, "WEBP", lossless=True),
        "WEBP-animated": encoded(colour, "WEBP", **frames),
        "GIF-plain": encoded(colour, "GIF", comment=b"said"),
        "GIF-animated": encoded(colour, "GIF", **frames, transparency=1, disposal=2),
        "BMP-plain": encoded(colour, "BMP"),
        "BMP-palette": encoded(colour.convert("P"), "BMP"),
        "BMP-1bit": encoded(colour.convert("1"), "BMP"),
        "TIFF-plain": encoded(colour, "TIFF", tiffinfo={274: 6, 271: "camera"}),
        "TIFF-16bit": encoded(deep, "TIFF"),
        "TIFF-CMYK": encoded(colour.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "TIFF-float": encoded(Image.fromarray(np.asarray(grey, np.float32)), "TIFF"),
        "TIFF-deflate": encoded(clear, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF-jpeg": encoded(colour, "TIFF", compression="jpeg"),
        "TIFF-fax": encoded(colour.convert("1"), "TIFF", compression="group4"),
    }
    return dict(sorted(found.items()))
