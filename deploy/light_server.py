"""Runs ``shufflenet-cam serve``, the front without torch and Java, on this machine for measurements and tests."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.local_server import DIRECT, ServerError, free_ports, in_use
from handler.protocol.request import MOST_UNPACKED

_ROOT = Path(__file__).parents[1]
_LOG = "light.log"
_LAST_WORDS = 25  # lines
_PATIENCE = 90.0  # seconds that a server may take to answer what has arrived; it gives up after 60 itself


@dataclass(kw_only=True)
class LightServer:
    """One server of a single archive at fixed ports. It can be started again once it has ended."""

    archive: Path
    port: int
    metrics_port: int
    logs: Path  # folder of its log
    waiting: int = 32  # requests that wait or are answered
    environment: Mapping[str, str] = field(default_factory=dict)  # variables beside those of this process
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def model(self) -> str:
        """The name that ``make archive`` gives the model."""
        return self.archive.stem

    @property
    def address(self) -> str:
        """The address that clients post pictures to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def properties(self) -> dict[str, str]:
        """What bounds requests, under TorchServe's names."""
        return {"job_queue_size": str(self.waiting), "max_request_size": str(MOST_UNPACKED)}

    @property
    def pid(self) -> int | None:
        """The process id of the server that ``start`` started; None if it does not run."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def second(self, folder: Path) -> "LightServer":
        """A server of the same archive at the same ports, with a folder of its own."""
        return replace(self, logs=folder / "logs", process=None)

    def start(self, timeout: float = 60, *, checked: bool = True) -> None:
        """Starts the server and returns once it answers; the archive is open then.

        Args:
            timeout: seconds that it may take.
            checked: whether what would keep the server from starting is looked for first.

        Raises:
            ServerError: the archive is missing, a port is in use, or the server ends or does not answer in time; it is
                then stopped.
        """
        if checked:
            self._check()
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "export", "serve", str(self.archive.resolve())]
        command += ["--port", str(self.port), "--metrics-port", str(self.metrics_port), "--waiting", str(self.waiting)]
        environment = {**os.environ, **self.environment}
        with (self.logs / _LOG).open("wb") as log:
            self.process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
        try:
            self._wait(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> bool:
        """Sends SIGTERM and waits until the server has ended; returns whether one ran."""
        if self.process is None or self.pid is None:
            return False
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return True

    def _check(self) -> None:
        if self.pid is not None:
            raise ServerError(f"the server runs already (process {self.pid})")
        if not self.archive.is_file():
            raise ServerError(f"{self.archive} does not exist; `make archive` writes it")
        for port in (self.port, self.metrics_port):
            if in_use(port):
                raise ServerError(f"port {port} is in use; stop what uses it")

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.pid is None:
                raise ServerError(f"the server ended at once:\n{self._last_words()}")
            with suppress(OSError), DIRECT.open(f"{self.address}/ping", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise ServerError(f"the server does not answer:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join((self.logs / _LOG).read_text("utf-8", "replace").splitlines()[-_LAST_WORDS:])


@contextmanager
def temporary_light_server(archive: Path, logs: Path | None = None, *, started: bool = True) -> Iterator[LightServer]:
    """A server of an archive on free ports; it is stopped when the block ends.

    Args:
        archive: what is served.
        logs: folder for its log; a temporary one by default.
        started: whether the server is started, too.
    """
    with tempfile.TemporaryDirectory(prefix="light-") as folder:
        port, metrics_port = free_ports(2)
        server = LightServer(archive=archive, port=port, metrics_port=metrics_port, logs=logs or Path(folder))
        try:
            if started:
                server.start()
            yield server
        finally:
            server.stop()
