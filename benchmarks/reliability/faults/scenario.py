"""What a fault scenario is given and what it finds."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.asking import Clients, asking
from benchmarks.reliability.pictures import Drawn
from deploy.local_server import LocalServer, ServerError, described_server, java_home


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
    def unstarted(self, logs: Path | None = None, **overrides: str) -> Iterator[LocalServer]:
        """A server on free ports that is not started; on leaving it is stopped, if it runs."""
        settings = {"model_store": str(self.store), "load_models": f"{self.model}.mar", **overrides}
        with tempfile.TemporaryDirectory(prefix="ts-") as folder:
            server = described_server(self.config, self.model, Path(folder), logs or self.work / "logs", settings)
            try:
                yield server
            finally:
                server.stop()

    @contextmanager
    def server(self, logs: Path | None = None, **overrides: str) -> Iterator[LocalServer]:
        """A running server on free ports."""
        with self.unstarted(logs, **overrides) as server:
            server.start()
            yield server

    def clients(self, server: LocalServer, count: int = 4) -> AbstractContextManager[Clients]:
        """Clients that ask for predictions while the block runs."""
        return asking(server, self.pool, count)

    def back(self, server: LocalServer, since: float) -> float | None:
        """Seconds from ``since`` to the first right answer to a client that asks from now on; None if none comes."""
        with self.clients(server, 1) as clients:
            return clients.wait_until_back(since)


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


def by_hand(server: LocalServer, **more: str) -> dict[str, str]:
    """The environment of a server that is started without ``LocalServer``."""
    folders = {"TEMP": str(server.folder), "TMPDIR": str(server.folder)}
    folders |= {"LOG_LOCATION": str(server.logs), "METRICS_LOCATION": str(server.logs)}
    return {**os.environ, **folders, **({"JAVA_HOME": str(home)} if (home := java_home()) else {}), **more}
