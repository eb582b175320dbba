"""What becomes of the threads when an operator starts and ends workers."""

import time

import psutil
import pytest
import requests

from handler.serving.threads import usable_cores
from tests.support.serving import ONE, serving

pytestmark = pytest.mark.server

PICTURE = ONE.read_bytes()


@pytest.fixture(scope="module")
def client(tmp_path_factory, shapes_archive):
    with serving(shapes_archive.parent, "shapes", tmp_path_factory.mktemp("logs")) as client:
        yield client


def scale(client, workers):
    management = client.server.properties["management_address"]
    query = f"min_worker={workers}&max_worker={workers}&synchronous=true"
    assert requests.put(f"{management}/models/{client.server.model}?{query}", timeout=120).status_code in (200, 202)


def threads_of_answers(client, count=8):
    """The threads of the workers that answer so many probes, which workers take in turn."""
    probe = f"{client.address}/1.0/healthz"
    return {requests.get(probe, timeout=60).json()["threads"] for _ in range(count)}


def await_threads(client, expected):
    end = time.monotonic() + 120
    while (found := threads_of_answers(client)) != {expected}:
        assert time.monotonic() < end, found


def test_threads_follow_the_workers_that_run(client):
    cores = usable_cores()
    await_threads(client, cores)
    before = client.form(PICTURE, maps="gradcam", encoding="npy").json()
    scale(client, 2)
    await_threads(client, max(1, cores // 2))
    assert len({*client.worker_pids()}) == 2
    answers = [client.form(PICTURE, maps="gradcam", encoding="npy").json() for _ in range(4)]
    for answer in answers:  # the graphs answer as before, with other sessions
        assert answer["model"]["engine"] == "onnx"
        assert answer["predictions"][0] == pytest.approx(before["predictions"][0])
    scale(client, 1)
    await_threads(client, cores)
    (pid,) = client.worker_pids()
    assert psutil.Process(pid).is_running()
    assert client.form(PICTURE, maps="none").status_code == 200
