"""The forms of a request and of its answer: one picture by itself, or several pictures in an envelope."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.protocol.answer import JSON, Answer

MAX_PICTURES = 16  # in one request


@dataclass(frozen=True, kw_only=True)
class Written:
    """The answer for one picture as JSON text, and the parts of it that an envelope repeats."""

    text: str  # a JSON object
    model: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, npt.NDArray[np.float32]]  # maps (T, …) by name, for the encoding "tensor"; else empty


@dataclass(frozen=True)
class Envelope:
    """The form of a request."""

    parts: Mapping[str, Mapping[str, Any]]  # by the picture's place, "instances[2]" or "": picture and options by name
    seal: Callable[[Sequence[Written]], Answer]  # makes the answer of the pictures' answers in their order
    has_tensors: bool = False  # whether an answer can hold tensors beside JSON


def single(fields: Mapping[str, Any]) -> Envelope:
    """The form of a request with a single picture, whose answer stays as it is."""
    return Envelope({"": fields}, lambda answers: in_json(answers[0].text))


def in_json(text: str) -> Answer:
    """An answer with status 200 whose body is a JSON text."""
    return Answer(body=text.encode(), content_type=JSON)
