"""Computes an answer anew from its receipt, and says what is equal and what is not; on a graph without torch."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from handler.client.model import Model, Picture
from handler.errors import BadRequest, ServiceError, in_one_line
from handler.protocol.receipt import FORMAT, distance

TOLERANCE = 1e-4  # of the largest value: that of torch against ONNX Runtime, see docs/ENGINES.md
_SUBJECT = ("image", "weights_sha256", "preprocessing", "options", "prediction")
_MEANS = ("model", "graphs", "versions")  # others may lead to the same answer


def read_receipt(content: bytes) -> dict[str, Any]:
    """Reads a receipt, or that in a picture's answer: JSON, PNG or NPZ; raises BadRequest if none can be read."""
    try:
        if content.startswith(b"PK"):
            content = np.load(io.BytesIO(content))["receipt"].item()
        elif content.startswith(b"\x89PNG"):
            content = Image.open(io.BytesIO(content)).info["receipt"]
        found = json.loads(content)
        receipt = dict(found.get("receipt", found))
        if receipt["format"] != FORMAT:
            raise ValueError(f"its format is {receipt['format']!r}, valid is {FORMAT}")
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError, zipfile.BadZipFile) as error:
        valid = "valid are a receipt and a picture's JSON, PNG or NPZ answer"
        raise BadRequest(f"the receipt cannot be read ({in_one_line(error)}), {valid}") from error
    return receipt


def replay(
    model: Model, receipt: Mapping[str, Any], picture: Picture, tolerance: float = TOLERANCE
) -> tuple[dict[str, str], list[str]]:
    """Explains a picture as a receipt says, and compares the two receipts; arrays may be ``tolerance`` apart.

    Returns a verdict for each part, and the parts that make it another answer. Errors are those of ``Model.explain``.
    """
    try:
        now = json.loads(json.dumps(model.explain(picture, **receipt["options"]).receipt()))
        verdicts = {part: _changes(receipt[part], now[part]) or "equal" for part in (*_SUBJECT, *_MEANS)}
        changed = [part for part in _SUBJECT if verdicts[part] != "equal"]
        arrays = [("scores", receipt["scores"], now["scores"])]
        for target, before, after in zip(now["options"].get("target", []), receipt["maps"], now["maps"], strict=True):
            arrays += [(f"{name} of class {target}", before[name], made) for name, made in after.items()]
        for part, before, after in arrays:
            apart = distance(before, after)
            near = f"{'equal within' if apart <= tolerance else 'differs by more than'} {tolerance:g}: by {apart:.1e}"
            verdicts[part] = near if apart or before["sha256"] != after["sha256"] else "equal, the same bytes"
            changed += [] if apart <= tolerance else [part]
    except ServiceError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"the receipt is not complete: {in_one_line(error)}") from error
    return verdicts, changed


def _changes(then: Any, now: Any) -> str:
    """The differences of two JSON values in words; empty if there is none."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        return ", ".join(f"{name} {_changes(then.get(name), now.get(name))}" for name in names)
    return "" if then == now else " is now ".join(json.dumps(value)[:24].strip('"') for value in (then, now))
