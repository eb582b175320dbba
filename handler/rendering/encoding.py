"""Encodes arrays for JSON, as the base64 of a ``.npy`` file or as nested lists, and puts receipts into PNG files."""

import base64
import io
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_PNG_HEADER = 33  # bytes of a PNG file's signature and first chunk
_DIGITS = 8  # significant digits of listed numbers, about those of a float32


def encode_npy(values: npt.NDArray[np.float32]) -> str:
    """The base64 of a ``.npy`` file: ``numpy.load(io.BytesIO(base64.b64decode(text)))`` restores the array."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def png_with(png: bytes, receipt: Mapping[str, Any]) -> bytes:
    """A PNG file with the receipt in a text chunk with the keyword ``receipt``."""
    chunk = b"tEXt" + b"receipt\0" + json.dumps(receipt).encode()
    placed = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:_PNG_HEADER] + placed + png[_PNG_HEADER:]


def encode_list(values: npt.NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers, rounded to 8 significant digits; NaN (pixels outside the crop) becomes None."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
    unit = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(exponent), exponent, 0))
    listed = np.round(exact * unit) / unit
    numbers: list[Any] = np.where(np.isnan(listed), None, listed).tolist()
    return numbers
