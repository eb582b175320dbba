"""Processes that end: the worker, the server, and a second server on the same port."""

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.reliability.asking import describe_seen, ready, until
from benchmarks.reliability.faults.scenario import Finding, refusal, scenario
from benchmarks.reliability.memory import worker_processes
from benchmarks.reliability.place import Place
from deploy.local_server import LocalServer, ServerError

_ENTRYPOINT = Path(__file__).parents[3] / "deploy" / "entrypoint.sh"
DRAIN = 4  # seconds that the entrypoint serves on; a cluster needs about one to stop sending requests


@scenario("the batch under way (here one request) fails with a 5xx, what is queued waits, a new worker answers")
def worker_killed(place: Place) -> Finding:
    """Kill -9 of the only worker, as the kernel does it when memory is short; four clients ask."""
    with place.server() as server, place.clients(server) as clients:
        clients.settle()
        (worker,) = worker_processes(server)
        killed = time.monotonic()
        worker.kill()
        back = clients.wait_until_back(killed)
        time.sleep(2)
        new_worker = worker_processes(server) != [worker]
    failed = [one for one in clients.seen if not one.right]
    good = back is not None and len(failed) <= 1 and new_worker and all(one.saw[0] == "5" for one in failed)
    return Finding(as_expected=good, sees=describe_seen(clients.seen), back_s=back, detail={"new_worker": new_worker})


@scenario("without the entrypoint TorchServe does not drain: connections are reset and refused until it is up again")
def stopped(place: Place) -> Finding:
    """`torchserve --stop` while four clients ask, then started anew."""
    with place.server() as server, place.clients(server) as clients:
        clients.settle()
        told = time.monotonic()
        server.stop()
        ended = time.monotonic() - told
        server.start()
        back = clients.wait_until_back(told + ended)
    failures = {one.saw for one in clients.seen if not one.right}
    good = back is not None and {"503"} >= {one for one in failures if one.isdigit()} and bool(failures)
    back = None if back is None else round(ended + back, 2)
    return Finding(
        as_expected=good, sees=describe_seen(clients.seen), back_s=back, detail={"stopped_after_s": round(ended, 2)}
    )


@scenario("every request is answered, then Java ends with 143")
def drained(place: Place) -> Finding:
    """SIGTERM to deploy/entrypoint.sh while eight clients ask, who go on for a second (DRAIN={DRAIN})."""
    with place.server(started=False) as server:
        environment = server.environment() | {"TS_CONFIG": str(server.config), "PYTHON": sys.executable}
        environment |= {"DRAIN": str(DRAIN), "HEALTHZ": f"/predictions/{place.model}/1.0/healthz"}
        with (place.work / "entrypoint.log").open("wb") as log:
            process = subprocess.Popen(["bash", str(_ENTRYPOINT)], env=environment, stdout=log, stderr=log)
        try:
            until(lambda: process.poll() is not None or ready(server).right, 120, 0.3)
            if not ready(server).right:
                raise ServerError(f"the entrypoint's server did not get ready; it ended with {process.poll()}")
            with place.clients(server, 8) as clients:
                clients.settle()
                told = time.monotonic()
                process.send_signal(signal.SIGTERM)
                time.sleep(1)
            status = process.wait(timeout=120)
            ended = time.monotonic() - told
        finally:
            process.kill()
            process.wait()
    after = [one for one in clients.seen if one.ended > told]
    detail = {"answered_after_sigterm": len(after), "exit_status": status, "ended_after_s": round(ended, 2)}
    good = all(one.right for one in clients.seen) and bool(after) and status == 143
    return Finding(as_expected=good, sees=describe_seen(clients.seen), detail=detail)


@scenario("refused with the port's number; the first server's clients notice nothing")
def second_server(place: Place) -> Finding:
    """A second server on the ports of a running one, first with `make serve`'s check, then past it."""
    with place.server() as first, place.clients(first) as clients, tempfile.TemporaryDirectory(prefix="ts-") as folder:
        clients.settle()
        second = replace(first, folder=Path(folder), logs=place.work / "second-logs")
        said, unchecked = refusal(second, 60), _Unchecked(**vars(second))
        with suppress(ServerError):  # it ended before its probe was answered, which the first one does
            unchecked.start(timeout=60)
        ended = until(lambda: unchecked.pid is None, 20)
        unchecked.stop()
        clients.settle()
    refused = "in use" in said
    detail = {"refused": refused, "second_ended_by_itself": ended}
    return Finding(
        as_expected=refused and all(one.right for one in clients.seen), sees=describe_seen(clients.seen), detail=detail
    )


class _Unchecked(LocalServer):
    """One that does not ask whether its ports are free."""

    def _check(self) -> None:
        pass
