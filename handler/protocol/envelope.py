"""How a request holds its pictures, and its answer theirs: one picture as it is, or several in an envelope."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_PICTURES = 16  # of one request


@dataclass(frozen=True)
class Part:
    """One picture and its options as they stand in a request."""

    place: str  # "instances[2]", for messages; empty where there is only one
    fields: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """One picture's answer as JSON text, and what an envelope repeats of it."""

    text: str  # a JSON object
    model: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]


class Envelope(Protocol):
    """A form of requests."""

    @property
    def parts(self) -> Sequence[Part]:
        """The request's pictures, in their order; at least one."""

    def seal(self, answers: Sequence[Written]) -> str:
        """The answer's JSON text, made of its pictures' answers in the same order."""


@dataclass(frozen=True)
class Single:
    """One picture, whose answer is the whole answer."""

    fields: dict[str, Any]

    @property
    def parts(self) -> Sequence[Part]:
        """The only one."""
        return [Part("", self.fields)]

    def seal(self, answers: Sequence[Written]) -> str:
        """Nothing is put around it."""
        return answers[0].text
