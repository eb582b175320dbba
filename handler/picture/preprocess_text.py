"""Reads preprocessing from a line of text: ``resize=256 crop=224 interpolation=bicubic``."""

import re
from dataclasses import asdict
from typing import Any

from handler.errors import ModelError
from handler.picture.preprocess import MOST_CHANNELS, Preprocessing

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SIZES, _LISTS = ("resize", "crop", "input"), ("mean", "std")
_NAMES = (*_SIZES, "channels", *_LISTS, "interpolation", "crop_first", "crop_mode")
_NEEDED = ("resize", "crop", "mean", "std")  # the others have default values
_VALID = (
    "valid are resize=256 crop=224 (pixels, or HEIGHTxWIDTH), input=384x192 (the crop, resize keeps its share of it), "
    "mean=0.5,0.5,0.5 std=0.5,0.5,0.5 (of values in [0, 1]; one is for all), channels=4 (else as known, or 3), "
    "interpolation=bilinear (nearest, bicubic, lanczos, box, hamming; area with crop_first), crop_mode=center (squash, "
    "border) and crop_first=true (false)"
)


def read_flag(text: str, name: str) -> bool:
    """Reads ``true``, ``1``, ``false`` or ``0``; the ModelError of other text has the setting's name."""
    if text.strip().lower() not in _FLAGS:
        raise ModelError(f"{name}={text} is neither true nor false, valid are {', '.join(_FLAGS)}")
    return _FLAGS[text.strip().lower()]


def said_over(text: Preprocessing | str, known: Preprocessing | None, origin: str) -> tuple[Preprocessing, str]:
    """Reads preprocessing from ``name=value`` pairs; the known preprocessing fills in the names they leave out.

    Pairs are separated by blanks; blanks around ``=`` and ``,`` are allowed. Without a known preprocessing, which comes
    from ``origin``, the text must name resize, crop, mean and std. A ``Preprocessing`` stays as it is. Returned are the
    preprocessing and where it comes from, in words. A ModelError names what is unknown, missing or invalid.
    """
    if isinstance(text, Preprocessing):
        return text, "as said"
    said: dict[str, Any] = {}
    for pair in re.sub(r"\s*([=,])\s*", r"\1", text).split():
        name, _, value = pair.partition("=")
        if name not in _NAMES or name in said:
            raise ModelError(f"preprocessing={text!r} names {name!r}{' twice' if name in said else ''}, {_VALID}")
        try:
            said[name] = _read(name, value, text)
        except ValueError as error:
            raise ModelError(f"preprocessing={text!r}: {name}={value} is no number, {_VALID}") from error
    fields = _fields(said, known, text)
    missing = [name for name in _NEEDED if name not in fields]
    if known is None and missing:
        raise ModelError(f"preprocessing={text!r} lacks {', '.join(missing)}, which nothing else says; {_VALID}")
    renamed = {f"{name}_size" if name in _SIZES else name: value for name, value in fields.items()}
    try:
        how = Preprocessing(**{**(asdict(known) if known else {}), **renamed})
    except ValueError as error:
        raise ModelError(f"preprocessing={text!r}: {error}; {_VALID}") from error
    return how, "as said" if set(_NEEDED) <= set(said) else f"{', '.join(said)} as said, the rest {origin}"


def _read(name: str, value: str, text: str) -> Any:
    """The value of a pair; raises ValueError where it is no number."""
    if name in _SIZES:
        sides = tuple(int(side) for side in value.split("x"))
        return sides[0] if len(sides) == 1 else sides
    if name in _LISTS:
        return tuple(float(number) for number in value.split(","))
    if name == "channels":
        return int(value)
    return read_flag(value, f"preprocessing={text!r}: {name}") if name == "crop_first" else value


def _fields(said: dict[str, Any], known: Preprocessing | None, text: str) -> dict[str, Any]:
    """What was said, with the crop in the place of ``input``, and a value per channel in the place of ``channels``."""
    fields = dict(said)
    if "input" in fields:
        if "crop" in fields:
            raise ModelError(f"preprocessing={text!r} names the crop twice, as crop and as input; {_VALID}")
        fields["crop"] = size = fields.pop("input")
        if known is not None and "resize" not in fields:
            sides = zip(size if isinstance(size, tuple) else (size, size), known.resized, known.size, strict=False)
            fields["resize"] = tuple(new * whole // part for new, whole, part in sides)
    most = max(len(fields.get(name, ())) for name in _LISTS)  # one value is for all channels
    count = fields.pop("channels", most if most > 1 else getattr(known, "channels", 3))
    for name in _LISTS:
        values = fields.get(name, getattr(known, name, ()))
        if len(values) not in (0, 1, count) or not 0 < count <= MOST_CHANNELS:
            valid = f"1 to {MOST_CHANNELS} channels, and {name}= with a value for each or one for all"
            found = f"{count} channels and {len(values)} values of {name}"
            raise ModelError(f"preprocessing={text!r} has {found}, valid are {valid}")
        if values:
            fields[name] = values * count if len(values) == 1 else values
    return fields
