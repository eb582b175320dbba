"""What a fault scenario is given and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reliability.place import Place
from deploy.local_server import LocalServer, ServerError


class Impossible(Exception):
    """This machine does not allow the fault; the message says what is missing."""


@dataclass(frozen=True)
class Finding:
    """What a fault did."""

    did: str  # what was done to the server
    expected: str  # what should come of it
    as_expected: bool
    sees: dict[str, Any]  # what clients saw, see describe_seen
    back_s: float | None = None  # seconds from the fault, or from its end, to the next right answer; None: not measured
    detail: dict[str, Any] = field(default_factory=dict)


Scenario = Callable[[Place], Finding]


def refusal(server: LocalServer, timeout: float) -> str:
    """What ``start`` says of a server that it does not start, "" if it does."""
    try:
        server.start(timeout)
    except ServerError as error:
        return str(error)
    return ""
