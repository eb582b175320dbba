"""The options of a request, read from text, bytes or JSON; the ``ModelCard`` checks what depends on the model."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2

from handler.errors import BadRequest
from handler.explanation.maps import MAP_KINDS
from handler.explanation.methods import METHODS

MAPS = tuple(MAP_KINDS)
DEFAULT_MAPS = MAPS[:3]  # the maps of pytorch-grad-cam's tutorial
ALL_MAPS = ("all",)  # all maps that the model can make
SMOOTHINGS = ("augment", "eigen")  # as pytorch-grad-cam's aug_smooth and eigen_smooth
SIZES = ("layer", "input", "image")
TENSOR = "tensor"  # the encoding of maps that are outputs of a V2 answer
PICTURES = ("png", "jpeg", "webp")  # encodings of maps as pictures; the first alone keeps each pixel
ENCODINGS = (*PICTURES, "npy", "list", TENSOR)
COLORMAPS = {name[9:].lower(): value for name, value in sorted(vars(cv2).items()) if name.startswith("COLORMAP_")}
MAX_LAYERS = 8
MAX_TARGETS = 10
_MOST_PARTS = 100  # of a text of targets, between its commas
MAX_SEED = 2**32 - 1
MAX_PASSES = 4096


@dataclass(frozen=True)
class Overlay:
    """How a map is blended into a picture."""

    image_weight: float = 0.5  # 0 shows the heat map alone, 1 the picture alone
    colormap: str = "jet"  # a name out of COLORMAPS


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one picture."""

    target: tuple[int | str, ...] = ("top",)  # indices, labels, "top", "-label" (evidence against it), texts of these
    contrast: int | str = "none"  # class index, label, "second" or "none": explains the difference of the scores
    maps: tuple[str, ...] | None = None  # out of MAPS; empty: a prediction only; None: DEFAULT_MAPS, if they exist
    method: str = "auto"  # a name out of methods.METHODS, or "auto": the model's default
    seed: int = 0  # of random methods, 0 to 2**32 - 1
    passes: int | None = None  # of methods of many passes: the most; None: the method's own number
    layer: tuple[str, ...] = ("auto",)  # module paths or "auto"; the maps of several layers are averaged
    top_k: int | None = None  # number of predictions, at least 1; None: 5, or all classes if there are fewer
    smooth: tuple[str, ...] = ()  # out of SMOOTHINGS
    trust: bool = False  # adds to each explanation what further passes say of its map
    size: str = "input"  # out of SIZES
    encoding: str = "png"  # out of ENCODINGS
    overlay: Overlay = Overlay()


def parse_options(given: Mapping[str, Any], defaults: Options) -> Options:
    """Reads the options that a client sent, names and text, UTF-8 bytes or JSON values; the others are the defaults.

    BadRequest says that an option is unknown or a value out of range, and what is valid.
    """
    read: dict[str, Any] = {}
    for written, value in given.items():
        name = written.lower().replace("-", "_")
        if name not in _READERS:
            raise BadRequest(f"unknown option {shown(written)}, valid are {', '.join(_READERS)}")
        read[name] = _READERS[name](_text(name, value))
    if read.get("method", defaults.method) != defaults.method:
        defaults = replace(defaults, passes=None)  # it is a number for the operator's method
    if "overlay" in read:
        read["overlay"] = replace(defaults.overlay, **read["overlay"])
    return replace(defaults, **read)


def _text(name: str, value: Any) -> Any:
    try:
        text = value.decode() if isinstance(value, (bytes, bytearray)) else value
    except UnicodeDecodeError as error:
        raise BadRequest(f"option {name} is not valid UTF-8") from error
    return text.strip() if isinstance(text, str) else text


def shown(value: Any) -> str:
    """A client's value, short enough to repeat in a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:  # lists in lists, just not too many for the JSON parser
        return "a value nested too deeply"
    return text if len(text) <= 80 else text[:77] + "…"


def _items(name: str, value: Any, valid: str) -> list[Any]:
    """The items of a JSON list or of comma-separated text."""
    items = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    items = [item.strip() if isinstance(item, str) else item for item in items]
    if not items or "" in items:
        raise BadRequest(f"{name} is empty, valid are {valid}")
    return items


def _choice(name: str, value: Any, valid: Collection[str]) -> str:
    if not isinstance(value, str) or value.lower() not in valid:
        raise BadRequest(f"{name} {shown(value)} does not exist, valid are {', '.join(valid)}")
    return value.lower()


def _target(value: Any) -> tuple[int | str, ...]:
    valid = "top, a class index, a label, or a list of these"
    targets = _items("target", [value] if isinstance(value, str) else value, valid)  # the card divides text
    for target in targets:
        if isinstance(target, bool) or not isinstance(target, (int, str)):
            raise BadRequest(f"target {shown(target)} is not valid, valid are {valid}")
    parts = len(targets) + sum(target.count(",") for target in targets if isinstance(target, str))
    if parts > _MOST_PARTS:
        raise BadRequest(f"{parts} targets are too many, valid are 1 to {MAX_TARGETS}")
    return tuple(targets)


def _contrast(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise BadRequest(f"contrast {shown(value)} is not valid, valid are none, second, a class index or a label")
    return value


def _maps(value: Any) -> tuple[str, ...]:
    valid = (*MAPS, "all", "none")
    if value == []:
        return ()
    chosen = [_choice("map", item, valid) for item in _items("maps", value, ", ".join(valid))]
    if len(chosen) > 1 and ("all" in chosen or "none" in chosen):
        raise BadRequest("maps all and none stand alone, valid are one of them or a list of " + ", ".join(MAPS))
    return () if chosen == ["none"] else tuple(dict.fromkeys(chosen))


def _smooth(value: Any) -> tuple[str, ...]:
    valid = ("none", *SMOOTHINGS)
    chosen = [_choice("smooth", item, valid) for item in _items("smooth", value, ", ".join(valid))]
    if "none" in chosen and len(chosen) > 1:
        raise BadRequest("smooth none stands alone, valid are none, or augment and eigen or one of them")
    return tuple(name for name in SMOOTHINGS if name in chosen)


def _layer(value: Any) -> tuple[str, ...]:
    layers = _items("layer", value, "auto or module paths")
    if not all(isinstance(layer, str) for layer in layers) or len(layers) > MAX_LAYERS:
        raise BadRequest(f"layer {shown(value)} is not valid, valid are auto or 1 to {MAX_LAYERS} module paths")
    return tuple(dict.fromkeys(layers))


def _number(name: str, value: Any, least: int, most: int | None, valid: str) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= 10 else value
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or number < least or (most is not None and number > most):
        raise BadRequest(f"{name} {shown(value)} is not valid, valid are {valid}")
    return int(number)


def _overlay(value: Any) -> dict[str, Any]:
    """The fields of an ``Overlay`` that the client gave."""
    valid = f"an image weight of 0 to 1, a colour map out of {', '.join(COLORMAPS)}, or both"
    parts: dict[str, Any] = {}
    for item in _items("overlay", value, valid):
        known = isinstance(item, str) and item.lower() in COLORMAPS
        part, read = ("colormap", item.lower()) if known else ("image_weight", _weight(item))
        if part in parts or read is None:
            raise BadRequest(f"overlay {shown(value)} is not valid, valid are {valid}")
        parts[part] = read
    return parts


def _weight(value: Any) -> float | None:
    """A number from 0 to 1; None for any other value."""
    try:
        weight = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return weight if 0 <= weight <= 1 else None


_READERS: dict[str, Callable[[Any], Any]] = {
    "target": _target,
    "contrast": _contrast,
    "maps": _maps,
    "method": lambda value: _choice("method", value, ["auto", *METHODS]),
    "seed": partial(_number, "seed", least=0, most=MAX_SEED, valid=f"0 to {MAX_SEED}"),
    "passes": partial(_number, "passes", least=2, most=MAX_PASSES, valid=f"2 to {MAX_PASSES}"),
    "layer": _layer,
    "top_k": partial(_number, "top_k", least=1, most=None, valid="1 to the number of classes"),
    "smooth": _smooth,
    "trust": lambda value: _choice("trust", str(value), ("true", "false")) == "true",  # JSON says True
    "size": partial(_choice, "size", valid=SIZES),
    "encoding": partial(_choice, "encoding", valid=ENCODINGS),
    "overlay": _overlay,
}
