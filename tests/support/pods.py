"""The entrypoint run as a pod runs it, and as an ordinary child."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from deploy.local_server import read_properties, with_free_ports
from tests.support.serving import ROOT, waiting, worker_of

ENTRYPOINT = ROOT / "deploy/entrypoint.sh"
HEALTHZ = "/predictions/shufflenet_cam/1.0/healthz"
USER = 65532  # as in tests/support/pod.sh, the Dockerfile and the Deployment
_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
OWNED = ("config.properties", "metrics.yaml", "log4j2.xml", "entrypoint.sh")  # of deploy/, what the image has in /app


@dataclass(frozen=True)
class Pod:
    """A running entrypoint with what it started."""

    started: psutil.Popen  # the entrypoint, or what holds its namespaces
    address: str
    management: str  # address
    console: Path

    @property
    def entrypoint(self) -> psutil.Process:
        return next(one for one in self.family() if one.cmdline()[:1] == ["bash"] and "entrypoint" in one.cmdline()[1])

    @property
    def java(self) -> psutil.Process:
        return next(one for one in self.entrypoint.children() if "org.pytorch.serve.ModelServer" in one.cmdline())

    @property
    def worker(self) -> psutil.Process:
        return worker_of(self.java)

    def queued(self) -> int:
        return waiting(self.management, "shufflenet_cam")

    def queued_at_rest(self) -> int:
        """Requests in the queue, once there have been as many for a second."""
        for _ in range(60):
            before = self.queued()
            time.sleep(1)
            if before and self.queued() == before:
                return before
        raise AssertionError("the queue stays empty, or changes for a minute")

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def await_answer(self, path: str, timeout: float = 180) -> None:
        """Returns once a path is answered with 200."""
        self.await_that(lambda: _status(self.url(path)) == 200, timeout)

    def await_that(self, holds: Callable[[], bool], timeout: float = 60) -> None:
        """Returns once something holds.

        Raises:
            AssertionError: it does not in that many seconds, with the console's end.
        """
        end = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < end, self.console.read_text(errors="replace")[-3000:]
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        """All processes of it that run."""
        try:
            return [self.started, *self.started.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.RequestException:
        return None


def may_make_namespaces() -> bool:
    """Whether this user may give a process namespaces of its own, as a container runtime does."""
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


def app_folder(folder: Path, archive: Path, at: str | None = None) -> dict[str, str]:
    """Writes what the image has in /app; the addresses become free ones on loopback.

    Args:
        folder: where to.
        archive: served as ``shufflenet_cam``.
        at: the folder's path where the server runs.

    Returns:
        The settings.
    """
    at = at or str(folder)
    for name in OWNED:
        shutil.copy(ROOT / "deploy" / name, folder)
    (folder / "model_store").mkdir()
    shutil.copy(archive, folder / "model_store/shufflenet_cam.mar")
    settings = with_free_ports(read_properties(folder / "config.properties"))
    settings |= {"model_store": f"{at}/model_store", "load_models": "shufflenet_cam=shufflenet_cam.mar"}
    settings["metrics_config"] = f"{at}/metrics.yaml"
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / "config.properties").write_text(text, encoding="utf-8")
    return settings


@contextmanager
def pod(archive: Path, **environment: str) -> Iterator[Pod]:
    """The entrypoint as a pod runs it: see ``tests/support/pod.sh``. Needs ``may_make_namespaces``."""
    with tempfile.TemporaryDirectory(prefix="pod-") as name:
        writable, app = Path(name), Path(name) / "app"
        app.mkdir()
        os.chmod(writable, 0o755)
        settings = app_folder(app, archive, "/app")
        roots = [str(app), str(writable), str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve())]
        variables = [f"{key}={value}" for key, value in ({"HEALTHZ": HEALTHZ} | environment).items()]
        command = [*_NAMESPACES, str(ROOT / "tests/support/pod.sh"), *roots, *variables, "/app/entrypoint.sh"]
        with _running(command, dict(os.environ), writable, settings) as running:
            yield running


@contextmanager
def child(archive: Path, **environment: str) -> Iterator[Pod]:
    """The entrypoint as an ordinary child of this process, of this user, in a working folder that is not writable."""
    with tempfile.TemporaryDirectory(prefix="pod-") as name:
        writable, app = Path(name), Path(name) / "app"
        app.mkdir()
        settings = app_folder(app, archive)
        app.chmod(0o555)
        own = {"TS_CONFIG": str(app / "config.properties"), "TEMP": name, "PYTHON": sys.executable, "HEALTHZ": HEALTHZ}
        own |= {"LOG_CONFIG": str(app / "log4j2.xml"), "PYTHONPATH": name, **environment}
        try:
            with _running([str(ENTRYPOINT)], os.environ | own, writable, settings, app) as running:
                yield running
        finally:
            app.chmod(0o755)


@contextmanager
def _running(
    command: list[str],
    environment: Mapping[str, str],
    folder: Path,
    settings: Mapping[str, str],
    cwd: Path | None = None,
) -> Iterator[Pod]:
    console = folder / "console.log"
    with console.open("w", encoding="utf-8") as out:
        started = psutil.Popen(command, env=environment, cwd=cwd, stdout=out, stderr=out)
    running = Pod(started, settings["inference_address"], settings["management_address"], console)
    try:
        yield running
    finally:
        for one in running.family():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        started.wait(timeout=60)
