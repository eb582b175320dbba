"""What a fault scenario is given and what it finds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.asking import Clients
from benchmarks.reliability.pictures import Drawn
from deploy.local_server import LocalServer, temporary_server


class Impossible(Exception):
    """This machine does not allow the fault; the message says what is missing."""


@dataclass(frozen=True)
class Place:
    """Where scenarios run."""

    config: Path  # config.properties to take the settings from
    store: Path  # folder of the archive, absolute
    model: str  # name of the archive
    work: Path  # folder for logs and altered archives
    pool: list[Drawn]

    @property
    def archive(self) -> Path:
        """The whole one."""
        return self.store / f"{self.model}.mar"

    @contextmanager
    def server(self, logs: Path | None = None, **overrides: str) -> Iterator[LocalServer]:
        """A running server on free ports."""
        settings = {"model_store": str(self.store), **overrides}
        with temporary_server(self.config, self.model, logs or self.work / "logs", settings) as server:
            yield server

    def clients(self, server: LocalServer, count: int = 4) -> Clients:
        """Clients that ask for predictions while the block runs."""
        return Clients(server.address, server.model, self.pool, count)


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


def settle(clients: Clients, answers: int = 20, timeout: float = 60) -> None:
    """Waits until clients have had so many more right answers.

    Raises:
        TimeoutError: they have not.
    """
    deadline, wanted = time.monotonic() + timeout, _right(clients) + answers
    while _right(clients) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {answers} right answers in {timeout:g} s: {clients.describe()}")
        time.sleep(0.05)


def _right(clients: Clients) -> int:
    return sum(one.right for one in list(clients.seen))
