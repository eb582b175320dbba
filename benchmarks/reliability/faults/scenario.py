"""What a fault scenario is, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reliability.place import Place
from deploy.local_server import LocalServer, ServerError


class Impossible(Exception):
    """This machine does not allow the fault; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a fault did."""

    as_expected: bool
    sees: dict[str, Any]  # what clients saw, see describe_seen
    back_s: float | None = None  # seconds from the fault, or from its end, to the next right answer; None: not measured
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A fault to try."""

    run: Callable[[Place], Finding]
    expected: str  # what should come of it
    numbers: dict[str, Any]  # of what is done

    def did(self, finding: Finding) -> str:
        """What was done to the server: the docstring, with the numbers and details that it names."""
        return str(self.run.__doc__).removesuffix(".").format_map({**self.numbers, **finding.detail})


SCENARIOS: dict[str, Scenario] = {}


def scenario(expected: str, **numbers: Any) -> Callable[[Callable[[Place], Finding]], Callable[[Place], Finding]]:
    """Registers a function as the scenario of its name; its docstring becomes part of the record."""

    def register(run: Callable[[Place], Finding]) -> Callable[[Place], Finding]:
        SCENARIOS[run.__name__.replace("_", "-")] = Scenario(run, expected, numbers)
        return run

    return register


def refusal(server: LocalServer, timeout: float) -> str:
    """What ``start`` says of a server that it does not start, "" if it does."""
    try:
        server.start(timeout)
    except ServerError as error:
        return str(error)
    return ""
