"""Files of pictures in which transparency, orientation, palettes and depth must not be misread."""

import io

import cv2
import numpy as np
from PIL import Image

from tests.support.serving import TWO


def _written(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def tricky_files() -> dict[str, bytes]:
    """Files by name, none larger than 120x90 pixels; those whose name begins with JPEG lose values."""
    drawn = cv2.imread(str(TWO), cv2.IMREAD_COLOR_RGB)
    image = Image.fromarray(cv2.resize(drawn, (120, 90), interpolation=cv2.INTER_AREA))
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)))
    turned = image.getexif()
    turned[0x0112] = 6
    return {
        "PNG": _written(image, "PNG"),
        "PNG with transparency": _written(alpha, "PNG"),
        "PNG, grey": _written(image.convert("L"), "PNG"),
        "PNG, grey with transparency": _written(alpha.convert("LA"), "PNG"),
        "PNG, palette": _written(image.quantize(32), "PNG"),
        "PNG, 16 bits": cv2.imencode(".png", np.asarray(image).astype(np.uint16) * 257)[1].tobytes(),
        "PNG with a gamma": _written(image, "PNG")[:33] + _gamma(1.0) + _written(image, "PNG")[33:],
        "WebP": _written(image, "WEBP", lossless=True),
        "GIF": _written(image.quantize(64), "GIF"),
        "JPEG": _written(image, "JPEG", quality=90),
        "JPEG without subsampling": _written(image, "JPEG", quality=95, subsampling=0),
        "JPEG, progressive": _written(image, "JPEG", quality=70, progressive=True),
        "JPEG, grey": _written(image.convert("L"), "JPEG"),
        "JPEG, turned": _written(image, "JPEG", exif=turned),
        "JPEG, odd size": _written(image.crop((0, 0, 119, 77)), "JPEG", quality=85),
    }


def _gamma(value: float) -> bytes:
    import struct
    import zlib

    body = b"gAMA" + struct.pack(">I", round(value * 100_000))
    return struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
