import os
import socket
import subprocess
import sys

import psutil
import pytest

from deploy.light_server import LightServer, temporary_light_server
from deploy.local_server import DIRECT, ServerError, free_ports, resident_memory


def server_in(tmp_path, archive) -> LightServer:
    port, metrics_port = free_ports(2)
    return LightServer(archive=archive, port=port, metrics_port=metrics_port, logs=tmp_path / "logs")


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(ServerError, match=r"m\.mar does not exist; `make archive`"):
        server_in(tmp_path, tmp_path / "m.mar").start()


@pytest.mark.parametrize("which", ["port", "metrics_port"])
def test_a_port_in_use_is_named(tmp_path, which):
    (tmp_path / "m.mar").touch()
    server = server_in(tmp_path, tmp_path / "m.mar")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(server, which)))
        taken.listen()
        with pytest.raises(ServerError, match=f"port {getattr(server, which)} is in use"):
            server.start()
    assert server.process is None


def test_a_server_that_ends_at_once_says_why(tmp_path):
    (tmp_path / "m.mar").write_bytes(b"no archive")
    server = server_in(tmp_path, tmp_path / "m.mar")
    with pytest.raises(ServerError, match=r"ended at once:\n(.*\n)*error: .*m\.mar is no TorchServe archive"):
        server.start()
    assert server.pid is None
    assert not server.stop()


@pytest.mark.server
def test_a_server_answers_holds_memory_and_stops(tmp_path, shapes_archive):
    with temporary_light_server(shapes_archive, tmp_path) as server:
        assert (server.model, server.port != server.metrics_port) == ("shapes", True)
        with DIRECT.open(f"{server.address}/predictions/shapes/1.0/healthz", timeout=10) as answer:
            assert answer.status == 200
        assert resident_memory(server.pid) > 50 * 2**20
        with pytest.raises(ServerError, match="runs already"):
            server.start()
        with pytest.raises(ServerError, match="in use"):
            server.second(tmp_path / "second").start()
        assert server.stop()
        assert server.pid is None
        server.start()
        first = server.pid
    assert first is not None
    assert not psutil.pid_exists(first)


def test_memory_is_that_of_a_process_and_of_those_below_it():
    own = psutil.Process().memory_info().rss
    code = "x = b'1' * (100 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert resident_memory(os.getpid()) > own + (100 << 20)
        child.communicate(b"\n")
    assert resident_memory(None) == resident_memory(child.pid) == 0
