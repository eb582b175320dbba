"""Processes that end: the worker, the server, and a second server on the same port."""

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.reliability.asking import describe_seen, ready, until
from benchmarks.reliability.faults.scenario import Finding, refusal, scenario
from benchmarks.reliability.memory import worker_processes
from benchmarks.reliability.place import Place
from deploy.local_server import ServerError

_ENTRYPOINT = Path(__file__).parents[3] / "deploy" / "entrypoint.sh"
DRAIN = 4  # seconds that the entrypoint serves on; a cluster needs about one to stop sending requests


@scenario("the batch under way (here up to two requests) fails with a 5xx, what is queued waits, a new worker answers")
def worker_killed(place: Place) -> Finding:
    """Kill -9 of the only worker, as the kernel does it when memory is short; four clients ask."""
    with place.torchserve() as server, place.clients(server) as clients:
        clients.settle()
        (worker,) = worker_processes(server)
        killed = time.monotonic()
        worker.kill()
        back = clients.wait_until_back(killed)
        time.sleep(2)
        new_worker = worker_processes(server) != [worker]
    failed = [one for one in clients.seen if not one.right]
    good = back is not None and len(failed) <= 2 and new_worker and all(one.saw[0] == "5" for one in failed)
    return Finding(as_expected=good, sees=describe_seen(clients.seen), back_s=back, detail={"new_worker": new_worker})


@scenario("without the entrypoint TorchServe does not drain: connections are reset and refused until it is up again")
def stopped(place: Place) -> Finding:
    """`torchserve --stop` while four clients ask, then started anew."""
    with place.torchserve() as server, place.clients(server) as clients:
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
    with place.torchserve(started=False) as server:
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


@scenario(light="what is under way fails, connections are refused until it is up again")
def process_killed(place: Place) -> Finding:
    """Kill -9 while four clients ask, then started anew, as an orchestrator does."""
    with place.server() as server, place.clients(server) as clients:
        clients.settle()
        (process,) = worker_processes(server)
        killed = time.monotonic()
        process.kill()
        until(lambda: server.pid is None, 20, 0.01)
        server.start()
        back = clients.wait_until_back(killed)
    failures = {one.saw for one in clients.seen if not one.right}
    good = back is not None and bool(failures) and not any(one.isdigit() for one in failures)
    return Finding(as_expected=good, sees=describe_seen(clients.seen), back_s=back)


@scenario(light="all who have asked are answered, later connections are refused, and the process ends by itself")
def terminated(place: Place) -> Finding:
    """SIGTERM while eight clients ask."""
    with place.server() as server, place.clients(server, 8) as clients:
        clients.settle()
        told = time.monotonic()
        server.stop()
        ended = time.monotonic() - told
    before = [one for one in clients.seen if one.started < told]
    late = {one.saw for one in clients.seen if one.started > told and not one.right}
    detail = {"answered_after_sigterm": sum(one.ended > told for one in before), "ended_after_s": round(ended, 2)}
    good = all(one.right for one in before) and late <= {"ConnectionRefusedError"} and ended < DRAIN
    return Finding(as_expected=good, sees=describe_seen(clients.seen), detail=detail)


_FIRST_STAYS = "refused with the port's number; the first server's clients notice nothing"


@scenario(_FIRST_STAYS, light=_FIRST_STAYS)
def second_server(place: Place) -> Finding:
    """A second server on the ports of a running one, first with the launcher's check, then past it."""
    with place.server() as first, place.clients(first) as clients, tempfile.TemporaryDirectory(prefix="ts-") as folder:
        clients.settle()
        second = first.second(Path(folder))
        said = refusal(second, 60)
        with suppress(ServerError):  # it ended before its probe was answered, which the first one does
            second.start(60, checked=False)
        ended = until(lambda: second.pid is None, 20)
        second.stop()
        clients.settle()
    refused = "in use" in said
    detail = {"refused": refused, "second_ended_by_itself": ended}
    return Finding(
        as_expected=refused and all(one.right for one in clients.seen), sees=describe_seen(clients.seen), detail=detail
    )
