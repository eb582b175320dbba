"""Odd networks, small enough for seconds: each name is a factory, ``tests.soundness.odd:batch_statistics``."""

from collections.abc import Callable

from torch import nn

from tests.soundness.odd import activations, batches, code, heads, layers, tokens, views  # noqa: F401 - fill the table
from tests.soundness.odd.table import SIDE, TABLE

PREPROCESSING = {"resize_size": SIDE, "crop_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if name in TABLE:
        return TABLE[name].build
    raise AttributeError(name)
