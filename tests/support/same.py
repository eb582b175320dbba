"""Holds two answers to the same request against each other."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.serving import array_of


def assert_same(name: str, kind: str, one: bytes, other: bytes) -> None:
    if kind == "image/png":
        first, second = (np.asarray(Image.open(io.BytesIO(body)), int) for body in (one, other))
        assert_close(name, first, second, of=255)
    elif b'"timings_ms"' not in one and b"timings_ms" not in one:
        assert other == one, name
    else:
        assert_same_json(name, json.loads(one), json.loads(other))


def assert_same_json(name: str, one: Any, other: Any) -> None:
    """Equal but for timings, the last digits of scores, and maps within tolerance."""
    assert type(one) is type(other), name
    if isinstance(one, dict) and "encoding" in one:
        any_values = {"data": 0, "max": 0, **({"min": 0} if "min" in one else {})}
        assert {**one, **any_values} == {**other, **any_values}, name
        assert_close(name, pixels_of(one), pixels_of(other))
    elif isinstance(one, dict):
        assert list(one) == list(other), name
        for key in set(one) - {"timings_ms"}:
            assert_same_json(f"{name}: {key}", one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for first, second in zip(one, other, strict=True):
            assert_same_json(name, first, second)
    elif isinstance(one, str) and one.startswith("{"):
        assert_same_json(name, json.loads(one), json.loads(other))
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6), name
    else:
        assert one == other, name


def pixels_of(content: dict[str, Any]) -> np.ndarray:
    if content["encoding"] != "png":
        return array_of(content).astype(float)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content["data"]))), float)


def assert_close(name: str, one: np.ndarray, other: np.ndarray, of: float | None = None) -> None:
    """Within 2 % for 99 % of the pixels, as at start-up: a gate within rounding of zero can flip."""
    assert one.shape == other.shape, name
    largest = of or np.nanmax(np.abs(one)) or 1
    assert np.nanquantile(np.abs(one - other), 0.99) <= 0.02 * largest, name
