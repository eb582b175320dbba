"""Image classifiers that show their evidence. The public names are imported when they are first used."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from handler import errors

if TYPE_CHECKING:
    from handler.client.model import Model
    from handler.front_door import load
    from handler.picture.preprocess import Preprocessing
    from handler.rendering.result import Result
    from handler.wrapping import wrap

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime from 1.29 on would send events to its maker
__all__ = ["Model", "Preprocessing", "Result", "errors", "load", "wrap"]

_HOMES = {
    "Model": "handler.client.model",
    "Preprocessing": "handler.picture.preprocess",
    "Result": "handler.rendering.result",
    "load": "handler.front_door",
    "wrap": "handler.wrapping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'handler' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
