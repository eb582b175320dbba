"""Where measurements run: the archive that is served, on which settings, and the folder of their records."""

import json
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchmarks.load import Server, repeating
from benchmarks.machine import describe_machine
from benchmarks.reliability.asking import Clients
from benchmarks.reliability.pictures import Drawn, draw_pool
from deploy.light_server import temporary_light_server
from deploy.local_server import LocalServer, temporary_server
from handler.atomic_write import write_whole

TORCHSERVE, LIGHT = "torchserve", "light"  # fronts
_SETTINGS = {
    TORCHSERVE: (
        *("job_queue_size", "vmargs", "max_request_size", "max_response_size", "default_workers_per_model"),
        *("number_of_netty_threads", "netty_client_threads"),
        *("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "maxRetryTimeoutInSec"),
        *("explain.engine", "explain.threads"),
    ),
    LIGHT: ("job_queue_size", "max_request_size", "batchSize", "maxBatchDelay", "responseTimeout", "explain.threads"),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where measurements run, and on which front."""

    config: Path  # config.properties to take the settings from
    store: Path  # folder of the archive, absolute
    model: str  # name of the archive
    records: Path  # folder, absolute
    front: str = TORCHSERVE

    @cached_property
    def pool(self) -> list[Drawn]:
        """Pictures to ask for."""
        return draw_pool()

    @property
    def archive(self) -> Path:
        """The whole one."""
        return self.store / f"{self.model}.mar"

    @property
    def work(self) -> Path:
        """Folder for logs and altered archives."""
        return self.records / "work"

    def server(
        self, logs: Path | None = None, store: Path | None = None, *, started: bool = True
    ) -> AbstractContextManager[Server]:
        """A server on free ports, stopped on leaving; ``store`` names another folder of its archive."""
        if self.front == TORCHSERVE:
            return self.torchserve(logs, store, started=started)
        archive = (store or self.store) / self.archive.name
        return temporary_light_server(archive, logs or self.work / "logs", started=started)

    def torchserve(
        self, logs: Path | None = None, store: Path | None = None, *, started: bool = True
    ) -> AbstractContextManager[LocalServer]:
        """See ``server``."""
        settings = {"model_store": str(store or self.store), "load_models": f"{self.model}.mar"}
        return temporary_server(self.config, self.model, logs or self.work / "logs", settings, started=started)

    @contextmanager
    def clients(self, server: Server, count: int = 4) -> Iterator[Clients]:
        """So many clients, who ask one request after the other while the block runs."""
        clients = Clients(server=server, pool=self.pool)
        with repeating(clients.ask_next, 0.02, count):
            yield clients

    def back(self, server: Server, since: float) -> float | None:
        """Seconds from ``since`` to the first right answer to a client that asks from now on; None if none comes."""
        with self.clients(server, 1) as clients:
            return clients.wait_until_back(since)

    def settings(self) -> dict[str, Any]:
        """Those of the server and of the archive that decide how it behaves under load; no ports and no paths."""
        with zipfile.ZipFile(self.archive) as archive, self.server(started=False) as server:
            model = yaml.safe_load(archive.read("model-config.yaml"))
            own = server.properties
        explain = {f"explain.{key}": value for key, value in model["explain"].items()}
        found: dict[str, Any] = {**own, **model, **explain}
        return {key: found[key] for key in _SETTINGS[self.front] if key in found}

    def record(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a measurement with the machine, the settings and the command, whole or not at all.

        The file is ``name.json``, and ``light-name.json`` for the light front.
        """
        name = name if self.front == TORCHSERVE else f"{self.front}-{name}"
        record = {
            "name": name,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe_machine(),
            "settings": self.settings(),
            **content,
        }
        write_whole(self.records / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records of a folder, by file name without its ending."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
