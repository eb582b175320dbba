"""Disks that are full or read-only. Both are small file systems in memory, which only root may mount."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.load import Seen
from benchmarks.reliability.asking import describe_seen, ready, until
from benchmarks.reliability.faults.scenario import Finding, Impossible, refusal, scenario
from benchmarks.reliability.place import Place
from deploy.light_server import temporary_light_server
from deploy.local_server import LocalServer

LOGS_MIB = 4
TEMPORARY_KIB = 1024
_ALONE_S = 30.0  # seconds that torchserve alone is given
FULL_S = 5  # seconds that the disk is full


_ALL_THE_SAME = "requests are answered all the same; logging goes on once there is room"


@scenario(_ALL_THE_SAME, light=_ALL_THE_SAME)
def full_disk_for_logs(place: Place) -> Finding:
    """A disk of {LOGS_MIB} MiB for logs that another program fills for {FULL_S} s."""
    with tempfile.TemporaryDirectory(prefix="logs-") as folder, _mounted(Path(folder), f"size={LOGS_MIB}m"):
        logs = Path(folder)
        with place.server(logs) as server, place.clients(server) as clients:
            clients.settle()
            with (logs / "filler").open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            full = time.monotonic()
            time.sleep(FULL_S)
            left = psutil.disk_usage(folder).free
            (logs / "filler").unlink()
            back = clients.wait_until_back(time.monotonic())
            before = psutil.disk_usage(folder).used
            clients.settle(60)
            grown = psutil.disk_usage(folder).used > before
        during = [one for one in clients.seen if full < one.started < full + FULL_S]
    good = all(one.right for one in clients.seen) and bool(during) and left == 0
    detail = {"answered_while_full": len(during), "logs_grow_again": grown, "file_system": "tmpfs"}
    return Finding(as_expected=good, sees=describe_seen(clients.seen), back_s=back, detail=detail)


@scenario("refused with the folder's name; torchserve alone serves nothing and may leave a Java without pid file")
def temp_not_writable(place: Place) -> Finding:
    """TEMP on a read-only disk, first with `make serve`'s check, then with torchserve alone."""
    with place.torchserve(started=False) as described:
        server = replace(described, folder=described.folder / "temp")
        server.folder.mkdir()
        with _mounted(server.folder, "ro"):
            said = refusal(server, 30)
            left_by_us = _end_orphans(server.folder)
            asked, left_by_torchserve = _torchserve_alone(server, place)
    good = "cannot be written" in said and not left_by_us and not asked.right
    detail = {"refused": bool(said), "java_left_by_torchserve": left_by_torchserve}
    return Finding(as_expected=good, sees=describe_seen([asked]), detail=detail)


@scenario(light="the server does not start, and says why")
def full_disk_for_the_archive(place: Place) -> Finding:
    """TMPDIR, where the archive is unpacked, on a disk of {TEMPORARY_KIB} KiB."""
    with (
        tempfile.TemporaryDirectory(prefix="tmp-") as folder,
        _mounted(Path(folder), f"size={TEMPORARY_KIB}k"),
        temporary_light_server(place.archive, place.work / "logs", started=False) as server,
    ):
        server.environment = {"TMPDIR": folder}
        said = refusal(server, 30)
        asked = ready(server)
    good = "No space left" in said and "Traceback" not in said
    return Finding(as_expected=good, sees=describe_seen([asked]), detail={"said": said.splitlines()[-1:]})


def _torchserve_alone(server: LocalServer, place: Place) -> tuple[Seen, int]:
    """What a client sees half a minute after torchserve was started by hand, and how many Java processes were left."""
    command = [sys.executable, "-m", "ts.model_server", "--start", "--ncs", "--ts-config", str(server.config)]
    with (place.work / "torchserve-alone.log").open("wb") as log:  # no pipe: a Java left behind would keep it open
        subprocess.run(command, env=server.environment(), stdout=log, stderr=log, check=False, timeout=120)
    until(lambda: ready(server, 5).right, _ALONE_S, 1)
    return ready(server, 5), _end_orphans(server.folder)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Impossible(f"a file system cannot be mounted: {error}") from error
    if done.returncode:
        raise Impossible(f"a file system cannot be mounted: {done.stderr.strip().splitlines()[-1:]}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _end_orphans(folder: Path) -> int:
    """Ends Java processes of this folder, which has no pid file; says how many there were."""
    marked = f"-Djava.io.tmpdir={folder}"
    found = [one for one in psutil.process_iter(["cmdline"]) if marked in (one.info["cmdline"] or ())]
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(found, 10)
    return len(found)
