"""The front without PyTorch, as the process that ``python -m export serve`` is."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.reliability.asking import until
from deploy.local_server import with_free_ports

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class LightServer:
    """A running server; it has what tests ask of ``LocalServer``."""

    process: subprocess.Popen[bytes]
    model: str  # that tests ask for
    properties: dict[str, str]  # the addresses, named as TorchServe's
    logs: Path

    @property
    def address(self) -> str:
        return self.properties["inference_address"]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.logs / "light.log").read_text(encoding="utf-8")

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return requests.get(f"{self.address}{path}", timeout=60, **arguments)

    def post(self, path: str, **arguments: Any) -> requests.Response:
        return requests.post(f"{self.address}{path}", timeout=60, **arguments)

    def stop(self) -> int:
        """Ends the server as Kubernetes does, and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def requests_logged(self) -> list[dict[str, Any]]:
        """The requests' own lines, oldest first."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith('{"time"')]


def command(paths: Sequence[Path], *options: str) -> list[str]:
    return [sys.executable, "-m", "export", "serve", *map(str, paths), *options]


def environment(folder: Path, prelude: str = "") -> dict[str, str]:
    """The variables of a server that runs ``prelude`` before its own code."""
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKELEVEL")}
    if not prelude:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(prelude, encoding="utf-8")
    return {**known, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@contextmanager
def light_server(
    paths: Sequence[Path], model: str, logs: Path, *options: str, prelude: str = "", scheme: str = "http"
) -> Iterator[LightServer]:
    """A server on free ports that answers; it must live until the block ends, unless the block stops it."""
    logs.mkdir(parents=True, exist_ok=True)
    properties = with_free_ports({})
    port, metrics = (properties[f"{which}_address"].rpartition(":")[2] for which in ("inference", "metrics"))
    properties["inference_address"] = f"{scheme}://127.0.0.1:{port}"
    ports = ("--port", port, "--metrics-port", metrics)
    with (logs / "light.log").open("wb") as log:
        process = subprocess.Popen(
            command(paths, *ports, *options), cwd=ROOT, env=environment(logs / "site", prelude), stdout=log, stderr=log
        )
    server = LightServer(process=process, model=model, properties=properties, logs=logs)
    try:
        assert until(lambda: listens(server.port) or process.poll() is not None, 120), server.log[-2000:]
        assert process.poll() is None, server.log[-2000:]
        yield server
        assert process.returncode is not None or process.poll() is None, server.log[-2000:]
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def listens(port: int) -> bool:
    """Whether connections are accepted."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
