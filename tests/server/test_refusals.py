"""What a running server must refuse, asked with the settings for one machine and with those for a cluster."""

import http.client
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
import yaml

from deploy.local_server import read_properties, temporary_server
from export.packing.archive import DEFAULT_CONFIG
from tests.support.serving import ONE, ROOT, Client

pytestmark = pytest.mark.server

CONFIGS = ("config.properties", "deploy/config.properties")
METRICS = str(ROOT / "deploy/metrics.yaml")
FOREIGN = {  # of the shell that starts the server; none may change it
    "TS_MAX_REQUEST_SIZE": "1000",
    "TS_LOAD_MODELS": "all",
    "TS_DISABLE_TOKEN_AUTHORIZATION": "false",
    "TS_SERVICE_ENVELOPE": "kservev2",
    "TS_ALLOWED_URLS": ".*",
    "TS_ENABLE_MODEL_API": "true",
    "AWS_SECRET_ACCESS_KEY": "hidden",
    "GITHUB_TOKEN": "hidden",
    "DB_PASSWORD": "hidden",
    "SOME_API_KEY": "hidden",
    "HARMLESS": "shown",
}


@dataclass(frozen=True)
class Asked(Client):
    """A server, and the store that it serves one archive of three from."""

    store: Path

    def ask(self, which: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Sends a request line as it stands to the inference, management or metrics address."""
        there = urlsplit(self.server.properties[f"{which}_address"])
        connection = http.client.HTTPConnection(str(there.hostname), there.port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()


@pytest.fixture(scope="module", params=CONFIGS)
def asked(request: pytest.FixtureRequest, tmp_path_factory, shapes_archive) -> Iterator[Asked]:
    store = tmp_path_factory.mktemp("store")
    for name in ("shapes.mar", "unserved.mar"):
        shutil.copy(shapes_archive, store / name)
    with zipfile.ZipFile(store / "unserved.war", "w") as war:
        war.writestr("MAR-INF/MANIFEST.json", '{"workflow": {"workflowName": "flow", "specFile": "spec.yaml"}}')
        war.writestr("spec.yaml", "dag: {}")
    overrides = {"model_store": str(store), "metrics_config": METRICS}
    # a file that would open everything; TorchServe prefers it to the one it is started with
    opened = store / "opened.properties"
    opened.write_text("enable_model_api=true\nallowed_urls=.*\n", encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**FOREIGN, "TS_CONFIG_FILE": str(opened)}.items():
            patch.setenv(name, value)
        logs = tmp_path_factory.mktemp("logs")
        with temporary_server(ROOT / request.param, "shapes", logs, overrides) as server:
            yield Asked(server, store)


REGISTRATIONS = [
    "unserved.mar",
    "shapes.mar",
    "http://127.0.0.1:{trap}/unserved.mar",
    "https://127.0.0.1:{trap}/unserved.mar",
    "file://{store}/unserved.mar",
    "{store}/unserved.mar",
    "../{name}/unserved.mar",
]


@pytest.mark.parametrize("url", REGISTRATIONS)
@pytest.mark.parametrize("api", ["models", "workflows"])
def test_nothing_is_registered_and_nothing_is_fetched(asked, api, url):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        path = url.format(store=asked.store, name=asked.store.name, trap=trap.getsockname()[1])
        status, said = asked.ask(
            "management", "POST", f"/{api}?url={path.replace('.mar', '.war' if api[0] == 'w' else '.mar')}"
        )
        with pytest.raises(TimeoutError):
            trap.accept()
    assert status == (405 if api == "models" else 404), said
    _only_shapes_is_served(asked)


def test_a_workflow_that_lies_in_the_store_is_not_found(asked):
    status, said = asked.ask("management", "POST", "/workflows?url=unserved.war")
    assert (status, "not found in workflow store" in said) == (404, True), said
    assert '"workflows": []' in asked.ask("management", "GET", "/workflows")[1]


def _only_shapes_is_served(asked):
    assert re.findall(r'"modelName": "(.*?)"', asked.ask("management", "GET", "/models")[1]) == ["shapes"]
    assert asked.ask("inference", "POST", "/predictions/unserved", ONE.read_bytes())[0] == 404


@pytest.mark.parametrize("path", ["/models/shapes", "/models/shapes/1.0", "/workflows/flow"])
def test_nothing_is_removed(asked, path):
    assert asked.ask("management", "DELETE", path)[0] in (404, 405)
    _only_shapes_is_served(asked)
    assert asked.form(ONE.read_bytes(), maps="none").status_code == 200


def _message(field: int, text: str) -> bytes:
    """A protobuf message with one short text."""
    return bytes([field << 3 | 2, len(text)]) + text.encode()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("RegisterModel", _message(9, "unserved.mar")),
        ("RegisterModel", _message(9, "http://127.0.0.1:9/unserved.mar")),
        ("UnregisterModel", _message(1, "shapes")),
    ],
)
def test_models_are_not_managed_by_grpc_either(asked, method, message):
    address = f"127.0.0.1:{asked.server.properties['grpc_management_port']}"
    call = f"/org.pytorch.serve.grpc.management.ManagementAPIsService/{method}"
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(call)(message, timeout=60)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    _only_shapes_is_served(asked)


MANAGEMENT = [
    ("GET", "/models"),
    ("GET", "/models/shapes"),
    ("POST", "/models?url=unserved.mar"),
    ("DELETE", "/models/shapes"),
    ("PUT", "/models/shapes?min_worker=2"),
    ("PUT", "/models/shapes/1.0/set-default"),
    ("POST", "/workflows?url=flow.war"),
    ("GET", "/workflows"),
    ("GET", "/token?type=management"),
]


@pytest.mark.parametrize("which", ["inference", "metrics"])
@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
def test_the_other_addresses_do_not_manage(asked, which, method, path):
    assert asked.ask(which, method, path)[0] == 404
    assert len(asked.worker_pids()) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/../models",
        "/predictions/..%2funserved",
        "/predictions/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/predictions/shapes.mar",
        "/predictions/shapes/../unserved",
        "/predictions/shapes/1.0/../../../models",
        "/predictions/shapes/1.0/..%2f..%2fetc%2fpasswd",
        "/explanations/..%5c..%5cshapes",
        "/models/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/../../etc/passwd",
        "/predictions/shapes%00",
    ],
)
def test_names_do_not_lead_out_of_the_store(asked, path):
    for which in ("inference", "management"):
        status, said = asked.ask(which, "POST", path, ONE.read_bytes())
        assert 400 <= status < 500, (which, status, said)
        assert "root:" not in said


def test_other_methods_reveal_nothing_and_open_no_tunnel(asked):
    """TRACE and CONNECT on a model's path are requests without a picture; OPTIONS describes the API, to everybody."""
    assert asked.ask("inference", "TRACE", "/predictions/shapes")[0] == 400
    assert asked.ask("inference", "TRACE", "/")[0] == 405
    assert asked.ask("inference", "CONNECT", "/predictions/shapes")[0] == 400
    assert asked.ask("inference", "CONNECT", "example.org:443")[0] >= 400  # 500: TorchServe looks for a path
    assert asked.ask("inference", "GET", "http://example.org/")[0] == 404
    for which in ("inference", "management", "metrics"):
        status, said = asked.ask(which, "OPTIONS", "/")
        assert (status, '"openapi"' in said) == (200, True)
        assert str(asked.store) not in said
    assert len(asked.worker_pids()) == 1


def test_variables_of_the_environment_change_no_setting(asked):
    assert (
        asked.form(ONE.read_bytes(), maps="none").status_code == 200
    )  # larger than TS_MAX_REQUEST_SIZE, no token, no envelope
    _only_shapes_is_served(asked)
    assert asked.ask("management", "POST", "/models?url=unserved.mar")[0] == 405


def test_the_worker_does_not_see_secrets(asked):
    (worker,) = asked.worker_pids()
    seen = psutil.Process(worker).environ()
    assert seen["HARMLESS"] == "shown"
    assert "hidden" not in seen.values()
    assert {"hidden"} <= set(psutil.Process(asked.server.pid).environ().values())  # they are there to be hidden


def test_it_listens_only_where_it_is_told_to(asked):
    properties = asked.server.properties
    wanted = {
        urlsplit(value).port
        for key, value in properties.items()
        if key in ("inference_address", "management_address", "metrics_address")
    }
    wanted |= {int(properties["grpc_inference_port"]), int(properties["grpc_management_port"])}
    server = psutil.Process(asked.server.pid)
    sockets = [one for process in (server, *server.children(recursive=True)) for one in process.net_connections("inet")]
    listening = [one.laddr for one in sockets if one.status == psutil.CONN_LISTEN]
    assert {one.port for one in listening} == wanted
    assert {one.ip.removeprefix("::ffff:") for one in listening} == {"127.0.0.1"}
    assert not [one for one in sockets if one.type == socket.SOCK_DGRAM]


def test_workers_can_be_scaled_by_whoever_reaches_the_management_address(asked):
    """TorchServe has no switch for it: docs/SECURITY.md says so."""
    assert asked.ask("management", "PUT", "/models/shapes?min_worker=1")[0] == 202
    assert asked.form(ONE.read_bytes(), maps="none").status_code == 200


def test_only_the_pictures_and_the_metrics_of_a_pod_can_be_reached_from_outside():
    one_machine, pod = (read_properties(ROOT / config) for config in CONFIGS)
    addresses = [key for key in pod if key.endswith("_address")]
    assert len(addresses) == 5
    assert {urlsplit(one_machine[key]).hostname or one_machine[key] for key in addresses} == {"127.0.0.1"}
    assert pod["inference_address"] == "http://0.0.0.0:8080"
    assert pod["metrics_address"] == "http://0.0.0.0:8082"
    inside = set(addresses) - {"inference_address", "metrics_address"}
    assert {urlsplit(pod[key]).hostname or pod[key] for key in inside} == {"127.0.0.1"}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_heap_holds_a_full_queue(config):
    properties = read_properties(ROOT / config)
    comment = (ROOT / config).read_text(encoding="utf-8")
    base = int(re.search(r"max_request_size \+ (\d+) MiB", comment)[1]) * 2**20
    needed = 5 * int(properties["job_queue_size"]) * int(properties["max_request_size"]) + base
    assert f"= {needed // 2**20} MiB;" in comment
    amount, unit = re.search(r"-Xmx(\d+)([mg])", properties["vmargs"]).groups()
    assert int(amount) * {"m": 2**20, "g": 2**30}[unit] >= needed
    assert base >= 128 * 2**20
    assert "-XX:+ExitOnOutOfMemoryError" in properties["vmargs"]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_settings_fit_those_in_the_archive(config):
    properties = read_properties(ROOT / config)
    packed = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))
    assert packed["explain"]["max_answer_bytes"] < int(properties["max_response_size"])
    assert packed["minWorkers"] == packed["maxWorkers"] == int(properties["default_workers_per_model"])
    assert packed["explain"]["threads"] == 0  # cores / workers, a container's limit included
    assert properties["load_models"].endswith(".mar")
    assert "default_response_timeout" not in properties  # ignored: model-config.yaml has it


def test_both_settings_differ_only_where_a_pod_does():
    one_machine, pod = (read_properties(ROOT / config) for config in CONFIGS)
    differing = {key for key in one_machine | pod if one_machine.get(key) != pod.get(key)}
    assert differing == {"inference_address", "metrics_address", "model_store", "metrics_config"}
    assert Path(pod["metrics_config"]).name == "metrics.yaml"
    assert os.path.samefile(ROOT / one_machine["metrics_config"], METRICS)
