"""Reads preprocessing from a line of text: ``resize=256 crop=224 interpolation=bicubic``."""

import re
from dataclasses import asdict
from typing import Any

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_NAMES = ("resize", "crop", "mean", "std", "interpolation", "crop_first")
_NEEDED = ("resize", "crop", "mean", "std")  # the others have default values
_VALID = (
    "valid are resize=256 crop=224 (pixels), mean=0.5,0.5,0.5 std=0.5,0.5,0.5 (of values in [0, 1]), "
    "interpolation=bilinear (nearest, bicubic; area with crop_first) and crop_first=true (false)"
)


def read_flag(text: str, name: str) -> bool:
    """Reads ``true``, ``1``, ``false`` or ``0``; the message has the setting's name.

    Raises:
        ModelError: the text is none of these.
    """
    if text.strip().lower() not in _FLAGS:
        raise ModelError(f"{name}={text} is neither true nor false, valid are {', '.join(_FLAGS)}")
    return _FLAGS[text.strip().lower()]


def said_over(text: Preprocessing | str, known: Preprocessing | None, origin: str) -> tuple[Preprocessing, str]:
    """Reads preprocessing from ``name=value`` pairs; the known preprocessing fills in the names they leave out.

    Args:
        text: pairs, separated by blanks; blanks around ``=`` and ``,`` are allowed. A ``Preprocessing`` stays as it is.
        known: the known preprocessing; without it the text must name resize, crop, mean and std.
        origin: where the known preprocessing comes from, in words.

    Returns:
        The preprocessing, and where it comes from, in words.

    Raises:
        ModelError: a name is unknown or missing, or a value is invalid; the message lists the valid names and values.
    """
    if isinstance(text, Preprocessing):
        return text, "as said"
    said: dict[str, Any] = {}
    for pair in re.sub(r"\s*([=,])\s*", r"\1", text).split():
        name, _, value = pair.partition("=")
        if name not in _NAMES or name in said:
            raise ModelError(f"preprocessing={text!r} names {name!r}{' twice' if name in said else ''}, {_VALID}")
        try:
            if name in ("resize", "crop"):
                said[name] = int(value)
            elif name in ("mean", "std"):
                said[name] = tuple(float(number) for number in value.split(","))
            else:
                said[name] = read_flag(value, f"preprocessing={text!r}: {name}") if name == "crop_first" else value
        except ValueError as error:
            raise ModelError(f"preprocessing={text!r}: {name}={value} is no number, {_VALID}") from error
    if known is None and not set(_NEEDED) <= set(said):
        missing = ", ".join(name for name in _NEEDED if name not in said)
        raise ModelError(f"preprocessing={text!r} lacks {missing}, which nothing else says; {_VALID}")
    fields = {f"{name}_size" if name in ("resize", "crop") else name: value for name, value in said.items()}
    try:
        how = Preprocessing(**{**(asdict(known) if known else {}), **fields})
    except ValueError as error:
        raise ModelError(f"preprocessing={text!r}: {error}; {_VALID}") from error
    return how, "as said" if set(_NEEDED) <= set(said) else f"{', '.join(said)} as said, the rest {origin}"
