"""The forms of a request and of its answer: one picture by itself, or several pictures in an envelope."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_PICTURES = 16  # in one request


@dataclass(frozen=True)
class Part:
    """One picture and its options as they stand in a request."""

    place: str  # the picture's place in the request, for messages: "instances[2]"; empty for a single picture
    fields: dict[str, Any]  # the picture and its options, by name


@dataclass(frozen=True)
class Written:
    """The answer for one picture as JSON text, and the parts of it that an envelope repeats."""

    text: str  # a JSON object
    model: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]


class Envelope(Protocol):
    """The form of a request."""

    @property
    def parts(self) -> Sequence[Part]:
        """The request's pictures, in their order; at least one."""

    def seal(self, answers: Sequence[Written]) -> str:
        """Makes the request's answer, a JSON text, of the answers for its pictures, in their order."""


@dataclass(frozen=True)
class Single:
    """A request with a single picture."""

    fields: dict[str, Any]

    @property
    def parts(self) -> Sequence[Part]:
        """The picture."""
        return [Part("", self.fields)]

    def seal(self, answers: Sequence[Written]) -> str:
        """Returns the answer for the picture unchanged."""
        return answers[0].text
