"""What a client can ask for beside the picture, and how it is read from text, bytes or JSON values.

Values are checked here as far as that needs no model; what depends on the model (labels, layers, number of classes) is
checked against the ``ModelCard`` afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2

from handler.cam import METHODS
from handler.errors import BadRequest

SEED_MAPS = ("gradcam", "guided_backprop", "guided_gradcam")
MAPS = (*SEED_MAPS, "saliency")
SIZES = ("layer", "input", "image")
ENCODINGS = ("png", "npy", "list")
COLORMAPS = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}
MAX_LAYERS = 8
MAX_TARGETS = 10


@dataclass(frozen=True)
class Overlay:
    """How the blended picture is made."""

    image_weight: float = 0.5  # 0 is the heat map alone, 1 the picture alone
    colormap: str = "jet"  # a name out of COLORMAPS


@dataclass(frozen=True)
class Options:
    """The options of one row. ``maps`` None stands for the seed's three, as far as the model has them."""

    target: tuple[int | str, ...] = ("top",)  # class indices, labels or "top"
    maps: tuple[str, ...] | None = None  # out of MAPS; empty for a prediction only
    method: str = "gradcam"  # a name out of cam.METHODS
    layer: tuple[str, ...] = ("auto",)  # module paths; several are averaged
    top_k: int | None = None  # 1 … number of classes; None is 5, or all if there are fewer
    size: str = "input"  # out of SIZES
    encoding: str = "png"  # out of ENCODINGS
    overlay: Overlay = Overlay()


def parse_options(given: Mapping[str, Any], defaults: Options) -> Options:
    """Reads options from names and values as a client sent them.

    Args:
        given: option name to text, UTF-8 bytes or a JSON value.
        defaults: for what is not given.

    Raises:
        BadRequest: an unknown option or a value out of range; the message lists what is valid.
    """
    read: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _READERS:
            raise BadRequest(f"unknown option {_shown(name)}, valid are {', '.join(_READERS)}")
        read[name] = _READERS[name](_text(name, value))
    return replace(defaults, **read)


def _text(name: str, value: Any) -> Any:
    if not isinstance(value, (bytes, bytearray)):
        return value.strip() if isinstance(value, str) else value
    try:
        return bytes(value).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise BadRequest(f"option {name} is not valid UTF-8") from error


def _shown(value: Any) -> str:
    """A client's value, short enough to repeat in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _items(name: str, value: Any, valid: str) -> list[Any]:
    """A list from JSON, or one from comma-separated text."""
    items = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    items = [item.strip() if isinstance(item, str) else item for item in items]
    if not items or "" in items:
        raise BadRequest(f"{name} is empty, valid are {valid}")
    return items


def _choice(name: str, value: Any, valid: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value.lower() not in valid:
        raise BadRequest(f"{name} {_shown(value)} does not exist, valid are {', '.join(valid)}")
    return value.lower()


def _target(value: Any) -> tuple[int | str, ...]:
    valid = "top, a class index, a label, or a list of these"
    targets = _items("target", value, valid)
    for target in targets:
        if isinstance(target, bool) or not isinstance(target, (int, str)):
            raise BadRequest(f"target {_shown(target)} is not valid, valid are {valid}")
    if len(targets) > MAX_TARGETS:
        raise BadRequest(f"{len(targets)} targets are too many, valid are 1 to {MAX_TARGETS}")
    return tuple(targets)


def _maps(value: Any) -> tuple[str, ...]:
    valid = (*MAPS, "all", "none")
    chosen = [_choice("map", item, valid) for item in _items("maps", value, ", ".join(valid))]
    if chosen == ["none"]:
        return ()
    if chosen == ["all"]:
        return MAPS
    if "all" in chosen or "none" in chosen:
        raise BadRequest("maps all and none stand alone, valid are one of them or a list of " + ", ".join(MAPS))
    return tuple(dict.fromkeys(chosen))


def _method(value: Any) -> str:
    return _choice("method", value, tuple(METHODS))


def _layer(value: Any) -> tuple[str, ...]:
    layers = _items("layer", value, "auto or module paths")
    if not all(isinstance(layer, str) for layer in layers) or len(layers) > MAX_LAYERS:
        raise BadRequest(f"layer {_shown(value)} is not valid, valid are auto or 1 to {MAX_LAYERS} module paths")
    return tuple(dict.fromkeys(layers))


def _top_k(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise BadRequest(f"top_k {_shown(value)} is not valid, valid are 1 to the number of classes")
    return number


def _size(value: Any) -> str:
    return _choice("size", value, SIZES)


def _encoding(value: Any) -> str:
    return _choice("encoding", value, ENCODINGS)


def _overlay(value: Any) -> Overlay:
    valid = f"an image weight of 0 to 1, a colour map out of {', '.join(COLORMAPS)}, or both"
    overlay = Overlay()
    for item in _items("overlay", value, valid):
        if isinstance(item, str) and item.lower() in COLORMAPS:
            overlay = replace(overlay, colormap=item.lower())
            continue
        try:
            weight = float("nan") if isinstance(item, bool) else float(item)
        except (TypeError, ValueError, OverflowError):
            weight = float("nan")
        if not 0 <= weight <= 1:
            raise BadRequest(f"overlay {_shown(item)} is not valid, valid are {valid}")
        overlay = replace(overlay, image_weight=weight)
    return overlay


_READERS: dict[str, Callable[[Any], Any]] = {
    "target": _target,
    "maps": _maps,
    "method": _method,
    "layer": _layer,
    "top_k": _top_k,
    "size": _size,
    "encoding": _encoding,
    "overlay": _overlay,
}
