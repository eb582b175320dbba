"""Processes that end: the worker, the server, and a second server on the same port."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.reliability.asking import get
from benchmarks.reliability.faults.scenario import Finding, Impossible, Place, settle
from benchmarks.reliability.memory import worker_processes
from deploy.local_server import LocalServer, ServerError, java_home, read_properties, with_free_ports

_ENTRYPOINT = Path(__file__).parents[3] / "deploy" / "entrypoint.sh"
_DRAIN = 4  # seconds that the entrypoint serves on; a cluster needs about one to stop sending requests


def worker_killed(place: Place) -> Finding:
    """As the kernel does when memory is short."""
    with place.server() as server, place.clients(server) as clients:
        settle(clients)
        (worker,) = worker_processes(server)
        killed = time.monotonic()
        worker.kill()
        back = clients.wait_until_back(killed)
        time.sleep(2)
        pids = [one.pid for one in worker_processes(server)]
    failed = [one for one in clients.seen if not one.right]
    return Finding(
        "kill -9 of the only worker, four clients asking",
        "the batch under way (here one request) fails with a 5xx, what is queued waits, a new worker answers",
        back is not None and len(failed) <= 1 and pids != [worker.pid] and all(one.saw[0] == "5" for one in failed),
        clients.describe(),
        back,
        {"new_worker": pids != [worker.pid]},
    )


def stopped(place: Place) -> Finding:
    """Without the entrypoint, as `make stop` does it."""
    with place.server() as server, place.clients(server) as clients:
        settle(clients)
        told = time.monotonic()
        server.stop()
        ended = time.monotonic() - told
        server.start()
        back = clients.wait_until_back(told + ended)
    failures = {one.saw for one in clients.seen if not one.right}
    return Finding(
        "`torchserve --stop` while four clients ask, then started anew",
        "without the entrypoint TorchServe does not drain: connections are reset and refused until it is up again",
        back is not None and {"503"} >= {one for one in failures if one.isdigit()} and bool(failures),
        clients.describe(),
        None if back is None else round(ended + back, 2),
        {"stopped_after_s": round(ended, 2)},
    )


def drained(place: Place) -> Finding:
    """With the entrypoint, as a cluster does it: SIGTERM first, and a second later no more requests."""
    if not _ENTRYPOINT.is_file():
        raise Impossible("deploy/entrypoint.sh does not exist")
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        server = _described(place, Path(folder))
        process = _run_entrypoint(server, place)
        try:
            _await_ready(server, process)
            with place.clients(server, 8) as clients:
                settle(clients)
                told = time.monotonic()
                process.send_signal(signal.SIGTERM)
                time.sleep(1)
            status = process.wait(timeout=120)
            ended = time.monotonic() - told
        finally:
            process.kill()
            process.wait()
    after = [one for one in clients.seen if one.ended > told]
    return Finding(
        f"SIGTERM to deploy/entrypoint.sh while eight clients ask, who go on for a second (DRAIN={_DRAIN})",
        "every request is answered, then Java ends with 143",
        all(one.right for one in clients.seen) and bool(after) and status == 143,
        clients.describe(),
        detail={"answered_after_sigterm": len(after), "exit_status": status, "ended_after_s": round(ended, 2)},
    )


def second_server(place: Place) -> Finding:
    """Started by hand, and past the check that `make serve` makes first."""
    with place.server() as first, place.clients(first) as clients, tempfile.TemporaryDirectory(prefix="ts-") as folder:
        settle(clients)
        (Path(folder) / "config.properties").write_text(first.config.read_text(encoding="utf-8"), encoding="utf-8")
        arguments = (Path(folder) / "config.properties", place.model, Path(folder), place.work / "second-logs")
        try:
            LocalServer(*arguments).start()
            said = ""
        except ServerError as error:
            said = str(error)
        second = _Unchecked(*arguments)
        second.logs.mkdir(parents=True, exist_ok=True)
        with suppress(ServerError):  # it ended before its probe was answered, which the first one does
            second.start(timeout=60)
        ended = _ends_by_itself(second)
        second.stop()
        settle(clients)
    return Finding(
        "a second server on the ports of a running one, first with `make serve`'s check, then past it",
        "refused with the port's number; the first server's clients notice nothing",
        "in use" in said and all(one.right for one in clients.seen),
        clients.describe(),
        detail={"refused": "in use" in said, "second_ended_by_itself": ended},
    )


def _ends_by_itself(server: LocalServer, timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while server.pid is not None and time.monotonic() < deadline:
        time.sleep(0.2)
    return server.pid is None


class _Unchecked(LocalServer):
    """One that does not ask whether its ports are free."""

    def _check(self) -> None:
        pass


def _described(place: Place, folder: Path) -> LocalServer:
    config = folder / "config.properties"
    settings = with_free_ports(read_properties(place.config))
    settings |= {"model_store": str(place.store), "load_models": f"{place.model}.mar"}
    if "metrics_config" in settings:  # is seen from the working folder, which is another one here
        settings["metrics_config"] = str(Path(settings["metrics_config"]).resolve())
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    return LocalServer(config, place.model, folder, folder / "logs")


def _run_entrypoint(server: LocalServer, place: Place) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TS_CONFIG": str(server.config), "DRAIN": str(_DRAIN), "PYTHON": sys.executable}
    environment |= {"TEMP": str(server.folder), "LOG_LOCATION": str(server.logs)}
    environment["HEALTHZ"] = _healthz(place.model)
    if java_home() is not None:
        environment["JAVA_HOME"] = str(java_home())
    log = (place.work / "entrypoint.log").open("wb")
    with log:
        return subprocess.Popen(["bash", str(_ENTRYPOINT)], env=environment, stdout=log, stderr=log, cwd=server.folder)


def _healthz(model: str) -> str:
    return f"/predictions/{model}/1.0/healthz"


def _await_ready(server: LocalServer, process: subprocess.Popen[bytes], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not get(server.address, _healthz(server.model)).right:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"the entrypoint's server did not get ready; it ended with {process.poll()}")
        time.sleep(0.3)
