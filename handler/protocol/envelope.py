"""The forms of a request and of its answer: one picture by itself, or several pictures in an envelope."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PICTURES = 16  # in one request


@dataclass(frozen=True)
class Written:
    """The answer for one picture as JSON text, and the parts of it that an envelope repeats."""

    text: str  # a JSON object
    model: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Envelope:
    """The form of a request."""

    parts: Mapping[str, Mapping[str, Any]]  # by the picture's place, "instances[2]" or "": picture and options by name
    seal: Callable[[Sequence[Written]], str]  # makes the answer, a JSON text, of the pictures' answers in their order


def single(fields: Mapping[str, Any]) -> Envelope:
    """The form of a request with a single picture, whose answer stays as it is."""
    return Envelope({"": fields}, lambda answers: answers[0].text)
