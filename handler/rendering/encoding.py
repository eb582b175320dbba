"""Encodes arrays: for JSON as the base64 of a ``.npy`` file or as nested lists, and several as a ``.npz`` file."""

import base64
import io
import json
import zipfile
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


def encode_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of a ``.npz`` file, compressed; equal arrays give equal bytes, because no time is written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


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
    nested = np.round(exact * unit) / unit
    numbers: list[Any] = nested.tolist()
    return numbers if np.isfinite(nested).all() else [_without_nan(item) for item in numbers]


def _without_nan(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_without_nan(item) for item in nested]
    return nested if nested == nested else None
