"""Small sound pictures of every format and kind, which are then bent."""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 40, 28  # small: what is bent is the file, not the picture


@cache
def seed_pictures() -> dict[str, bytes]:
    """Name (``FORMAT-kind``) to file; always the same."""
    colour = _colour()
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    exif = Image.Exif()
    exif[0x112], exif[0x10F], exif[0x8769] = 6, "camera" * 9, {0x9003: "2026:01:01 00:00:00"}
    clear = colour.copy()
    clear.putalpha(grey)
    frames = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)], "duration": 50}
    found = {
        "JPEG-plain": _file(colour, "JPEG"),
        "JPEG-progressive": _file(colour, "JPEG", progressive=True),
        "JPEG-grey": _file(grey, "JPEG"),
        "JPEG-CMYK": _file(colour.convert("CMYK"), "JPEG"),
        "JPEG-exif": _file(colour, "JPEG", exif=exif, comment=b"said", icc_profile=b"p" * 99),
        "JPEG-restarts": _file(colour, "JPEG", restart_marker_blocks=1, subsampling=0),
        "JPEG-MPO": _file(colour, "MPO", save_all=True, append_images=[colour.rotate(180)]),
        "PNG-plain": _file(colour, "PNG"),
        "PNG-palette": _file(colour.convert("P"), "PNG", transparency=3),
        "PNG-1bit": _file(colour.convert("1"), "PNG"),
        "PNG-16bit": _file(deep, "PNG"),
        "PNG-RGBA": _file(clear, "PNG", exif=exif),
        "PNG-animated": _file(colour, "PNG", **frames),
        "WEBP-lossy": _file(colour, "WEBP", exif=exif),
        "WEBP-lossless": _file(clear, "WEBP", lossless=True),
        "WEBP-animated": _file(colour, "WEBP", **frames),
        "GIF-plain": _file(colour, "GIF", comment=b"said"),
        "GIF-animated": _file(colour, "GIF", **frames, transparency=1, disposal=2),
        "BMP-plain": _file(colour, "BMP"),
        "BMP-palette": _file(colour.convert("P"), "BMP"),
        "BMP-1bit": _file(colour.convert("1"), "BMP"),
        "TIFF-plain": _file(colour, "TIFF", tiffinfo={274: 6, 271: "camera"}),
        "TIFF-16bit": _file(deep, "TIFF"),
        "TIFF-CMYK": _file(colour.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "TIFF-float": _file(Image.fromarray(np.asarray(grey, np.float32)), "TIFF"),
        "TIFF-deflate": _file(clear, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF-jpeg": _file(colour, "TIFF", compression="jpeg"),
        "TIFF-fax": _file(colour.convert("1"), "TIFF", compression="group4"),
    }
    return dict(sorted(found.items()))


def _colour() -> Image.Image:
    down, right = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    pixels = np.stack([down * 9, right * 6, (down * right) % 251], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def _file(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
