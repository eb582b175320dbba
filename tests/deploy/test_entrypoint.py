"""The container's first process, run as it runs in a pod: nothing is lost while it stops, nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.dockerfile import of
from tests.support.pods import ENTRYPOINT, HEALTHZ, USER, Pod, child, may_make_namespaces, pod
from tests.support.serving import ROOT, SUPPORT, TWO
from tests.support.tools import tool

pytestmark = pytest.mark.server
PREDICTIONS = "/predictions/shufflenet_cam"
DRAIN = 4  # seconds; a request comes within them
needs_namespaces = pytest.mark.skipif(not may_make_namespaces(), reason="may not make mount and PID namespaces here")

needs_place = pytest.mark.skipif(
    Path("/tmp") in Path(sys.prefix).absolute().parents, reason="the pod's own /tmp would hide this environment"
)


def explain(running: Pod) -> tuple[int, int]:
    """One request over a connection of its own: status and number of explanations."""
    answer = requests.post(running.url(PREDICTIONS), files={"data": TWO.read_bytes()}, timeout=120)
    return answer.status_code, len(answer.json()["explanations"])


def assert_confined(running: Pod) -> None:
    """The pod writes where it may and nowhere else: what the Deployment demands, and what this test stands on."""
    pid = running.entrypoint.pid
    assert "NoNewPrivs:\t1" in (status := Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert "CapEff:\t0000000000000000" in status
    for place in ("/app/x", "/x", "/usr/x"):
        with pytest.raises(OSError, match="Read-only file system"):  # even to root
            Path(f"/proc/{pid}/root{place}").touch()
    written = running.console.parent / "tmp"
    assert (written / "torchserve/.ts.sock.9000").stat().st_uid == USER
    assert not list(written.rglob("*.log*"))  # a log that nobody deletes would fill it


def ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=60)[1]


def assert_answers_everything_before_it_stops(running: Pod) -> None:
    """Told to stop, with ``DRAIN`` set, while the worker stands still and requests wait for it."""
    entrypoint, family, worker = running.entrypoint, running.family(), running.worker
    with ThreadPoolExecutor(5) as pool:
        worker.suspend()
        flight = [pool.submit(explain, running) for _ in range(4)]
        queued = running.queued_at_rest()  # the worker has one request or two, which were not there at the same time
        assert queued in (2, 3)
        entrypoint.send_signal(signal.SIGTERM)
        told = time.monotonic()
        running.await_that(lambda: any(one.name() == "sleep" for one in running.family()))
        flight.append(pool.submit(explain, running))  # the cluster still sends requests here
        running.await_that(lambda: running.queued() == queued + 1)
        running.await_that(lambda: running.queued() == queued + 2)  # the entrypoint's own, behind all others
        assert time.monotonic() - told >= DRAIN
        assert not any(one.done() for one in flight)
        worker.resume()
        assert [one.result() for one in flight] == [(200, 1)] * 5
    assert running.started.wait(timeout=120) == 143
    assert ended(family)
    with pytest.raises(requests.ConnectionError):
        requests.get(running.url("/ping"), timeout=5)


def test_told_to_stop_it_answers_everything_first(shapes_archive: Path):
    with child(shapes_archive, DRAIN=str(DRAIN), LAST="300") as running:
        running.await_answer(HEALTHZ)
        assert_answers_everything_before_it_stops(running)


@needs_namespaces
@needs_place
def test_a_pod_told_to_stop_answers_everything_first(shapes_archive: Path):
    with pod(shapes_archive, DRAIN=str(DRAIN), LAST="300") as running:
        running.await_answer(HEALTHZ)
        entrypoint, java = running.entrypoint, running.java
        assert {one.uids().effective for one in (entrypoint, java, *java.children())} == {USER}
        assert_confined(running)
        assert_answers_everything_before_it_stops(running)


EVENT = re.compile(r"\S+T\S+ \[(?:INFO |WARN |ERROR)\] \S+ (\S+) - (.*)")


def test_the_log_is_on_standard_output_and_nowhere_else(shapes_archive: Path, tmp_path: Path):
    odd = tmp_path / "of a #1, 100 %"  # a name that is no URI as it stands
    odd.mkdir()
    settings = shutil.copy(ROOT / "deploy/log4j2.xml", odd)
    with child(shapes_archive, LOG_CONFIG=settings) as running:
        running.await_answer(HEALTHZ)
        assert explain(running) == (200, 1)
        forged = (
            f'{datetime.now():%Y-%m-%dT%H:%M:%S},000 [INFO ] W-9000-m_1.0-stdout MODEL_LOG - {{"outcome": "forged"}}'
        )
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        # TorchServe logs the exception with the body in it
        asked = requests.post(running.url(PREDICTIONS), data=f"%zz\n{forged}\n=", headers=form, timeout=60)
        assert asked.status_code == 500
        wanted = ('"targets": 1', 'POST /predictions/shufflenet_cam HTTP/1.1" 200', "forged")
        running.await_that(lambda: all(one in running.console.read_text(encoding="utf-8") for one in wanted))
        lines = running.console.read_text(encoding="utf-8").splitlines()
        events = [match.groups() for line in lines if (match := EVENT.fullmatch(line))]
        asked_first = next(
            place for place, line in enumerate(lines) if "ACCESS_LOG" in line
        )  # Java itself warned before
        assert [line for line in lines[asked_first:] if not EVENT.fullmatch(line)] == []
        (line,) = [json.loads(text) for name, text in events if name == "MODEL_LOG" and '"targets": 1' in text]
        assert line["status"] == 200
        assert not any("forged" in text for name, text in events if name == "MODEL_LOG")
        assert not list(running.console.parent.rglob("*_log.log"))


def test_a_second_signal_stops_at_once(shapes_archive: Path):
    with child(shapes_archive, DRAIN="600") as running:
        running.await_answer("/ping")
        family = running.family()
        running.started.terminate()
        running.await_that(lambda: any(one.name() == "sleep" for one in running.family()))
        assert requests.get(running.url("/ping"), timeout=30).status_code == 200
        family += running.family()
        running.started.terminate()
        assert running.started.wait(timeout=60) == 143
        assert ended(family)


def test_the_end_of_java_ends_the_entrypoint_with_its_status(shapes_archive: Path):
    with child(shapes_archive) as running:
        running.await_answer("/ping")
        family = running.family()
        running.java.kill()
        assert running.started.wait(timeout=60) == 128 + signal.SIGKILL
        assert ended(family)  # the worker among them


def test_java_may_end_during_the_drain(shapes_archive: Path):
    with child(shapes_archive, DRAIN="600") as running:
        running.await_answer("/ping")
        java = running.java
        running.started.terminate()
        running.await_that(lambda: any(one.name() == "sleep" for one in running.family()))
        family = running.family()
        java.kill()
        assert running.started.wait(timeout=60) == 128 + signal.SIGKILL
        assert ended(family)


def healthcheck(running: Pod) -> int:
    """Status of the image's HEALTHCHECK, asked of this server's port."""
    program, *arguments = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert program == "python"
    arguments = [argument.replace("http://127.0.0.1:8080", running.address) for argument in arguments]
    assert running.address in arguments[-1]
    command = [sys.executable, *arguments]
    return subprocess.run(command, env={"HEALTHZ": HEALTHZ}, capture_output=True, timeout=60, check=False).returncode


def test_a_killed_entrypoint_leaves_no_server_behind(shapes_archive: Path):
    with child(shapes_archive) as running:
        running.await_answer(HEALTHZ)
        assert healthcheck(running) == 0
        family = running.family()
        assert len(family) >= 3  # with Java and a worker
        running.started.kill()
        assert ended(family)
        assert healthcheck(running) != 0


def test_a_missing_setting_file_is_said(tmp_path: Path):
    environment = os.environ | {"TS_CONFIG": str(tmp_path / "none"), "TEMP": str(tmp_path)}
    said = subprocess.run([ENTRYPOINT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 2
    assert str(tmp_path / "none") in said.stderr


def test_a_missing_log_setting_is_said(tmp_path: Path):
    log = tmp_path / "none.xml"
    environment = os.environ | {
        "TS_CONFIG": str(ROOT / "config.properties"),
        "TEMP": str(tmp_path),
        "LOG_CONFIG": str(log),
    }
    said = subprocess.run([ENTRYPOINT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 2
    assert f"error: {log} cannot be read" in said.stderr


@pytest.mark.skipif(tool("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_are_clean():
    scripts = [ENTRYPOINT, SUPPORT / "pod.sh"]
    said = subprocess.run([str(tool("shellcheck")), *scripts], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout
