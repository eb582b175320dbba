"""What the front without PyTorch has alone, over HTTP against the process of ``python -m export serve``."""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import requests
import yaml
from PIL import Image

from benchmarks.reliability.asking import until
from export.packing.archive import DEFAULT_CONFIG
from handler.protocol.request import MOST_UNPACKED
from handler.serving.threads import usable_cores
from tests.support.gate import Gate
from tests.support.light import ROOT, LightServer, command, environment, light_server, listens
from tests.support.same import assert_same_json
from tests.support.scraping import scrape
from tests.support.serving import ONE, TWO, encoded, error_of, repacked

pytestmark = pytest.mark.server

PICTURE, OTHER = ONE.read_bytes(), TWO.read_bytes()
TEXT = base64.b64encode(PICTURE).decode()
CORES = usable_cores()
PREDICT = "/predictions/shapes"


@pytest.fixture(scope="module")
def server(tmp_path_factory, shapes_archive) -> Iterator[LightServer]:
    """A server of two versions of a model, the older one first, and of another model."""
    store = tmp_path_factory.mktemp("store")
    (store / "further").mkdir()
    repacked(shapes_archive, store / "further/shapes.mar", version="2.0")
    repacked(shapes_archive, store / "further/other.mar")
    with light_server([shapes_archive, store / "further"], "shapes", tmp_path_factory.mktemp("logs")) as server:
        yield server


def v2_body(*pictures: str, **parameters: object) -> dict:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)], "data": list(pictures)}
    return {"inputs": [tensor], "parameters": parameters}


# which processes and modules


MODULES = """
import signal, sys
from pathlib import Path

def tell(*_):
    Path({target!r}).write_text("\\n".join([*sys.modules, "end"]))

signal.signal(signal.SIGUSR1, tell)
"""


def test_neither_torch_nor_java_runs(tmp_path, shapes_archive):
    target = tmp_path / "modules"
    prelude = MODULES.format(target=str(target))
    with light_server([shapes_archive], "shapes", tmp_path, prelude=prelude) as server:
        for options in ({}, {"maps": "all", "trust": "true"}, {"method": "rise", "passes": "4", "maps": "gradcam"}):
            assert server.post(PREDICT, files={"data": PICTURE}, data=options).status_code == 200
        for path in (f"{PREDICT}/healthz", "/models/shapes", "/openapi.json", "/v2/models/shapes"):
            assert server.get(path).status_code == 200
        server.process.send_signal(signal.SIGUSR1)
        assert until(lambda: target.exists() and target.read_text().endswith("\nend"), 60)
        modules = {name.partition(".")[0] for name in target.read_text().splitlines()}
        libraries = Path(f"/proc/{server.pid}/maps").read_text()
        children = psutil.Process(server.pid).children(recursive=True)
    assert {"handler", "onnxruntime", "starlette", "uvicorn"} <= modules
    assert modules.isdisjoint({"torch", "torchvision", "ts", "timm", "transformers", "fastapi", "pandas"})
    assert "onnxruntime" in libraries
    assert not re.findall(r"libtorch\S*|libjvm\S*|\S*/torch/\S*", libraries)
    assert children == []


# options in the address


@pytest.mark.parametrize("address", [PREDICT, "/explanations/shapes", "/v1/models/shapes:predict"])
def test_options_are_read_from_the_address(server, address):
    query = "?target=heart,arrow&maps=gradcam&size=layer&encoding=list"
    if address.startswith("/v1"):
        (said,) = server.post(f"{address}{query}", json={"instances": [TEXT]}).json()["predictions"]
    else:
        said = server.post(f"{address}{query}", data=PICTURE).json()
    assert [one["target"]["label"] for one in said["explanations"]] == ["heart", "arrow"]
    assert said["explanations"][0]["maps"]["gradcam"]["shape"] == [10, 10]


def test_what_a_form_says_goes_before_the_address(server):
    said = server.post(f"{PREDICT}?maps=all&top_k=2", files={"data": PICTURE}, data={"maps": "none"}).json()
    assert (said["explanations"], len(said["predictions"])) == ([], 2)


@pytest.mark.parametrize(
    ("query", "headers", "said"),
    [
        ("?colour=red", {}, "unknown option 'colour', valid are target"),
        ("?target=zebra", {}, "target 'zebra' is no label of this model"),
        ("?target=%D0%BA%D0%BE%D1%88%D0%BA%D0%B0", {}, "target 'кошка' is no label"),
        ("?target=1&target=2", {}, "'target' is there twice"),
        ("?target=1&Target=2", {}, "'target' is there twice"),
        ("?target=1", {"X-Explain-Target": "2"}, "'target' is there twice"),
        ("?target=", {}, "valid are top"),
    ],
)
def test_a_bad_option_in_the_address_is_refused(server, query, headers, said):
    assert said in error_of(server.post(f"{PREDICT}{query}", data=PICTURE, headers=headers), 400)


# several models


def test_several_models_and_versions_answer_under_their_names(server):
    asked = {"data": PICTURE, "headers": {"X-Explain-Maps": "none"}}
    for path, model in {
        PREDICT: ("shapes", "1.0"),
        f"{PREDICT}/1.0": ("shapes", "1.0"),
        f"{PREDICT}/2.0": ("shapes", "2.0"),
        "/predictions/other": ("other", "1.0"),
        "/explanations/shapes/2.0": ("shapes", "2.0"),
    }.items():
        said = server.post(path, **asked).json()["model"]
        assert (said["name"], said["version"]) == model, path
    answer = server.post("/v2/models/shapes/versions/2.0/infer", json=v2_body(TEXT, maps="none")).json()
    assert (answer["model_name"], answer["model_version"]) == ("shapes", "2.0")
    assert server.get(f"{PREDICT}/2.0/healthz").json()["model"]["version"] == "2.0"
    assert server.get("/models/other").json()["name"] == "other"


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/none",
        "/explanations/none",
        "/v1/models/none:predict",
        "/v2/models/none/infer",
        "/v2/models/shapes/versions/3.0/infer",
    ],
)
def test_an_unknown_model_or_version_is_not_found(server, path):
    assert "valid are shapes 1.0, shapes 2.0, other 1.0" in error_of(server.post(path, data=PICTURE), 404)


def test_an_unknown_version_below_predictions_is_not_found(server):
    error_of(server.post(f"{PREDICT}/3.0", data=PICTURE), 404)
    error_of(server.get(f"{PREDICT}/3.0/healthz"), 404)


# KServe's protocols, and what is told


TOLD = {
    "/ping": {"status": "Healthy"},
    "/v1/models": {"models": ["shapes", "other"]},
    "/v1/models/shapes": {"name": "shapes", "ready": True},
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/shapes/ready": {"name": "shapes", "ready": True},
    "/v2/models/shapes/versions/2.0/ready": {"name": "shapes", "ready": True},
}


@pytest.mark.parametrize("path", TOLD)
def test_probes_and_lists_are_answered(server, path):
    answer = server.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == TOLD[path]


def test_v2_describes_the_server_and_its_models(server):
    assert server.get("/v2").json().keys() == {"name", "version", "extensions"}
    for path in ("/v2/models/shapes", "/v2/models/shapes/versions/2.0"):
        said = server.get(path).json()
        assert (said["name"], said["versions"]) == ("shapes", ["1.0", "2.0"])
        assert {one["name"]: one["datatype"] for one in said["inputs"]} == {"image": "BYTES"}
        assert {one["name"]: one["datatype"] for one in said["outputs"]} == {"answer": "BYTES"}
    assert server.get("/openapi.json").json()["openapi"].startswith("3.")


@pytest.mark.parametrize("path", ["/v1/models/none", "/v2/models/none", "/v2/models/none/ready", "/models/none"])
def test_what_is_told_of_an_unknown_model_is_an_error(server, path):
    assert "there is no such model" in error_of(server.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("POST", "/nothing", 404),
        ("GET", "/predictions", 404),
        ("GET", "/predictions/..%2f..%2fetc%2fpasswd", 404),
        ("POST", "/ping", 405),
        ("DELETE", "/v2", 405),
        ("DELETE", PREDICT, 405),
        ("TRACE", PREDICT, 405),
        ("PATCH", "/models/shapes", 405),
        ("PUT", "/v2/models/shapes", 405),
    ],
)
def test_other_addresses_and_verbs_are_refused(server, method, path, status):
    answer = requests.request(method, f"{server.address}{path}", timeout=60)
    assert "openapi.json" in error_of(answer, status) or "valid are" in error_of(answer, status)


def test_an_answer_sets_no_cookie_and_lets_no_page_read(server):
    answer = server.post(PREDICT, data=PICTURE, headers={"Origin": "https://example.org", "X-Explain-Maps": "none"})
    assert answer.status_code == 200
    assert not {"set-cookie", "server"} & set(map(str.lower, answer.headers))
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# what is no request


def exchange(server: LightServer, *parts: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        for part in parts:
            client.sendall(part)
        return drain(client)


def drain(client: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            said += more
    return said


def refused(said: bytes, status: int) -> str:
    """The message of a raw answer with an error."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), said[:300]
    assert b"content-type: application/json" in head.lower()
    content = json.loads(body)
    assert content["code"] == status
    message: str = content["error"]
    assert message == content["message"]
    return message


@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /predictions/shapes HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /predictions/shapes HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"POST /predictions/shapes HTTP/9.9\r\n\r\n",
        b"POST /predictions/shapes HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_answer_in_json(server, sent):
    assert refused(exchange(server, sent), 400)
    assert server.get("/ping").status_code == 200


HEAD = b"POST /predictions/shapes HTTP/1.1\r\nHost: x\r\n"


def test_a_body_is_read_up_to_its_limit(server):
    error_of(server.post(PREDICT, data=bytes(MOST_UNPACKED)), 415)
    message = error_of(server.post(PREDICT, data=bytes(MOST_UNPACKED + 1)), 413)
    assert message.startswith(f"the body has more than {MOST_UNPACKED} bytes")
    before = psutil.Process(server.pid).memory_info().rss
    assert server.post(PREDICT, data=(bytes(MOST_UNPACKED) for _ in range(8))).status_code == 413
    assert psutil.Process(server.pid).memory_info().rss < before + 4 * MOST_UNPACKED
    assert server.get("/ping").status_code == 200


def test_a_bent_form_is_refused_and_the_connection_goes_on(server):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    whole = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nabc\r\n--x--\r\n'
    with requests.Session() as session:
        for bent, headers in (
            (b"bent", form),
            (whole[:20], form),
            (whole.replace(b"name", b"nome"), form),
            (whole, {"Content-Type": "multipart/form-data"}),
            (whole.replace(b"form-data;", b"form-data; filename=\x00;"), form),
        ):
            answer = session.post(f"{server.address}{PREDICT}", data=bent, headers=headers, timeout=60)
            assert 400 <= answer.status_code < 500, answer.text
            error_of(answer, answer.status_code)
        assert session.post(f"{server.address}{PREDICT}?maps=none", data=PICTURE, timeout=60).status_code == 200


# the queue


@pytest.fixture(scope="module")
def gated(tmp_path_factory, shapes_archive) -> Iterator[tuple[LightServer, Gate]]:
    """A server with a gate, where two requests more may wait than can be answered at once."""
    folder = tmp_path_factory.mktemp("gate")
    gate, most = Gate(folder), ("--waiting", str(CORES + 2))
    with light_server([shapes_archive], "shapes", folder, *most, prelude=gate.prelude) as server:
        yield server, gate


def ask(server: LightServer) -> requests.Response:
    return server.post(f"{PREDICT}?maps=none", data=PICTURE)


def test_a_full_queue_refuses_at_once_and_answers_all_who_wait(gated):
    server, gate = gated
    with ThreadPoolExecutor(CORES + 2) as pool, gate.shut():
        waiting = [pool.submit(ask, server) for _ in range(CORES + 2)]
        gate.wait_for("arrived", CORES + 2)
        answer = ask(server)
        assert f"{CORES + 2} requests wait or are answered" in error_of(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        assert server.get("/ping").status_code == 200
        assert not gate.lines("done")
        gate.open()
        assert [one.result().status_code for one in waiting] == [200] * (CORES + 2)
    assert ask(server).status_code == 200


def test_a_client_that_has_gone_is_not_computed_for(gated):
    server, gate = gated
    request = b"POST %b?maps=none HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PREDICT.encode(), len(PICTURE))

    def computed() -> int:
        number: int = server.get(f"{PREDICT}/healthz").json()["pictures"]["computed"]
        return number

    before = computed()
    with ThreadPoolExecutor(CORES) as pool, gate.shut():
        waiting = [pool.submit(ask, server) for _ in range(CORES)]
        gate.wait_for("begun", CORES)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(request + PICTURE)
            gate.wait_for("arrived", CORES + 1)
        gate.wait_for("gone", 1)
        gate.open()
        assert [one.result().status_code for one in waiting] == [200] * CORES
    assert computed() == before + CORES
    assert len(gate.lines("begun")) == CORES


def test_sigterm_lets_what_has_arrived_be_answered(tmp_path, shapes_archive):
    gate = Gate(tmp_path)
    with (
        light_server([shapes_archive], "shapes", tmp_path, prelude=gate.prelude) as server,
        ThreadPoolExecutor(CORES + 1) as pool,
        gate.shut(),
        socket.create_connection(("127.0.0.1", server.port)),  # a client that says nothing holds nobody up
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as opened,
    ):
        opened.connect()
        waiting = [pool.submit(ask, server) for _ in range(CORES + 1)]  # one of them still waits
        gate.wait_for("arrived", CORES + 1)
        gate.wait_for("begun", CORES)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: not listens(server.port), 60)
        opened.request("GET", "/ping")  # is on its way while the server ends
        last = opened.getresponse()
        assert (last.status, last.getheader("connection")) == (200, "close")
        gate.open()
        answers = [one.result() for one in waiting]
        assert server.process.wait(60) == -signal.SIGTERM
    assert [one.status_code for one in answers] == [200] * (CORES + 1)
    assert all(one.json()["predictions"][0]["label"] == "star" for one in answers)


def test_rows_of_a_batch_get_what_they_get_alone(tmp_path, shapes_archive):
    config = DEFAULT_CONFIG.read_text(encoding="utf-8").replace("batchSize: 2", "batchSize: 8")
    repacked(shapes_archive, tmp_path / "shapes.mar", config)
    gate = Gate(tmp_path)
    forms = [("heart,arrow", OTHER), ("star", PICTURE), ("heart,arrow", PICTURE), ("zebra", PICTURE)]
    forms += [("heart,arrow", b"no picture")]

    def send(form: tuple[str, bytes]) -> requests.Response:
        options = {"target": form[0], "maps": "gradcam,guided_backprop", "encoding": "npy", "size": "layer"}
        return server.post(PREDICT, files={"data": form[1]}, data=options)

    with (
        light_server([tmp_path / "shapes.mar"], "shapes", tmp_path / "logs", prelude=gate.prelude) as server,
        ThreadPoolExecutor(40) as pool,
    ):
        alone = [send(form) for form in forms]
        with gate.shut():
            first = []
            for number in range(CORES):  # of different needs, so that each is a batch
                first.append(pool.submit(server.post, f"{PREDICT}?maps=none&top_k={number + 1}", data=PICTURE))
                gate.wait_for("begun", number + 1)
            together = [pool.submit(send, forms[number % len(forms)]) for number in range(20)]
            gate.wait_for("arrived", CORES + 20)
            gate.open()
            answers = [one.result() for one in together]
            assert [one.result().status_code for one in first] == [200] * CORES
        sizes = sorted(int(line.split()[1]) for line in gate.lines("begun"))
    assert [one.status_code for one in alone] == [200, 200, 200, 400, 415]
    assert sizes == sorted([1] * CORES + [8, 4, 4, 4])  # 12 with equal targets, 4 and 4 with others
    for number, answer in enumerate(answers):
        expected = alone[number % len(forms)]
        assert answer.status_code == expected.status_code
        assert_same_json(str(forms[number % len(forms)][0]), expected.json(), answer.json())


# clients that take their time


@pytest.fixture(scope="module")
def hasty(tmp_path_factory, shapes_archive) -> Iterator[LightServer]:
    """A server that waits a second for its clients."""
    prelude = "import deploy.light.limits\ndeploy.light.limits.SLOWEST = 1.0\n"
    with light_server([shapes_archive], "shapes", tmp_path_factory.mktemp("hasty"), prelude=prelude) as server:
        yield server


def test_a_body_that_does_not_arrive_is_given_up(hasty):
    said = exchange(hasty, HEAD + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE[: len(PICTURE) // 2])
    assert "the body did not arrive" in refused(said, 408)
    assert ask(hasty).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /predictions/shapes HTTP/1.1\r\nHo"])
def test_a_connection_without_a_request_is_closed(hasty, sent):
    assert b"200" not in exchange(hasty, sent)
    assert ask(hasty).status_code == 200


def test_a_body_without_an_end_is_cut_off(hasty):
    part = b"10000\r\n" + bytes(65536) + b"\r\n"
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=60) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")

        def closed() -> bool:
            try:
                client.sendall(part)
            except OSError:
                return True
            return False

        assert until(closed, 60, 0.001)
    assert ask(hasty).status_code == 200


def test_a_client_that_does_not_read_is_cut_off(hasty):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    picture = encoded(Image.fromarray(noise), "JPEG")
    path = f"{PREDICT}?maps=gradcam&size=image&encoding=list".encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", hasty.port))
        client.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, len(picture)) + picture)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        port = client.getsockname()[1]
        assert until(lambda: port not in connected(hasty), 60)
    assert ask(hasty).status_code == 200


def connected(server: LightServer) -> set[int]:
    """The ports of the server's clients."""
    return {one.raddr.port for one in psutil.Process(server.pid).net_connections("tcp") if one.raddr}


def test_a_client_may_wait_for_a_slow_answer(hasty):
    options = {"method": "rise", "passes": "600", "maps": "gradcam", "size": "layer"}
    answer = hasty.post(PREDICT, files={"data": PICTURE}, data=options)
    assert answer.status_code == 200
    assert sum(answer.json()["timings_ms"].values()) > 1100


# metrics and log


def test_the_metrics_are_those_that_are_declared(server):
    for options in ({"maps": "none"}, {"maps": "gradcam"}, {"target": "zebra"}):
        server.post(PREDICT, files={"data": PICTURE}, data=options)
    declared = yaml.safe_load((ROOT / "deploy/metrics.yaml").read_text(encoding="utf-8"))["model_metrics"]
    labels = {one["name"]: {*one["dimensions"]} for kind in declared.values() for one in kind}
    del labels["PredictionTime"]  # which TorchServe measures itself
    found: dict[str, set[str]] = {}
    for name, has in scrape(server):
        found.setdefault(re.sub(r"_(bucket|count|sum)$", "", name), set()).update(label for label, _ in has)
    assert {name: its - {"le"} for name, its in found.items()} == labels


def test_requests_are_counted_by_model_and_outcome(server):
    def counted(model: str, outcome: str) -> float:
        return sum(
            number
            for (name, has), number in scrape(server).items()
            if name == "explainer_requests_total" and {("ModelName", model), ("outcome", outcome)} <= set(has)
        )

    wanted = [("other", "ok"), ("other", "BadRequest"), ("shapes", "ok")]
    before = [counted(*one) for one in wanted]
    for query in ("?maps=none", "?maps=none", "?target=zebra"):
        server.post(f"/predictions/other{query}", data=PICTURE)
    server.get("/predictions/other/healthz")
    assert [counted(*one) - was for one, was in zip(wanted, before, strict=True)] == [2, 1, 0]


def test_metrics_are_on_their_own_port_alone(server):
    error_of(server.get("/metrics"), 404)
    error_of(server.get(f"{PREDICT}/metrics"), 404)


def test_series_are_there_before_the_first_request(tmp_path, shapes_archive):
    """A rate does not see the first increase of a series that begins with it."""
    with light_server([shapes_archive], "shapes", tmp_path) as server:
        scraped = scrape(server)
    key = "explainer_engine_disagreements_total", (("Level", "Model"), ("ModelName", "shapes"))
    assert scraped[key] == 0


def test_every_request_has_one_line_of_json_without_the_clients_text(server):
    evil = "evil_7f3a é☃\n[METRICS]"
    answers = [
        server.post(PREDICT, files={"data": PICTURE}, data={"target": "heart,arrow", "maps": "gradcam"}),
        server.post(f"{PREDICT}?maps=none", data=PICTURE),
        server.post(f"{PREDICT}?evil_7f3a=1", data=PICTURE, headers={"Authorization": "evil_7f3a"}),
        server.post(PREDICT, files={"data": (evil, PICTURE)}, data={"target": evil, evil: evil}),
        server.post("/predictions/evil_7f3a", data=PICTURE),
    ]
    assert [one.status_code for one in answers] == [200, 200, 400, 400, 404]
    ids = [one.headers["x-request-id"] for one in answers[:4]]

    def logged() -> list[dict]:
        lines = [one for one in server.requests_logged() if one["request"] in ids]
        return lines if len(lines) >= len(ids) else []

    lines = until(logged, 60)
    assert [one["request"] for one in lines] == ids
    assert [one["outcome"] for one in lines] == ["ok", "ok", "BadRequest", "BadRequest"]
    assert [one["bytes_out"] for one in lines] == [len(one.content) for one in answers[:4]]
    assert lines[0]["targets"] == 2
    assert lines[1]["bytes_in"] == len(PICTURE)
    assert "evil_7f3a" not in server.log


# clients that ask for much


@pytest.mark.parametrize("form", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_a_form_has_so_many_fields_at_most(server, form):
    for count, status in ((90, 415), (101, 400), (100_000, 400)):
        part = '--b\r\nContent-Disposition: form-data; name="x{}"\r\n\r\n\r\n'
        parts = "".join(part.format(number) for number in range(count)) + "--b--\r\n"
        body = parts if "boundary" in form else "&".join(f"x{number}=" for number in range(count))
        answer = server.post(PREDICT, data=body, headers={"Content-Type": form})
        assert answer.status_code in {status, 400}
        said = "the form has too many fields, valid are at most 100"
        assert (said in answer.text) == (count > 100)


def test_large_bodies_that_arrive_are_bounded_together(server):
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 10000001\r\n\r\n" % PREDICT.encode()
    with contextlib.ExitStack() as stack:
        for _ in range(17):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            client.sendall(head + bytes(10_000_000))
        assert until(lambda: server.post(PREDICT, data=bytes(9_000_000)).status_code == 503, 60)
        large = server.post(PREDICT, data=bytes(9_000_000))
        assert "too many large bodies arrive at the same time" in error_of(large, 503)
        assert large.headers["Retry-After"] == "1"
        assert server.post(f"{PREDICT}?maps=none", data=PICTURE).status_code == 200
    assert until(lambda: server.post(PREDICT, data=bytes(9_000_000)).status_code == 415, 60)


def test_idle_connections_use_no_more_than_half_of_the_descriptors(tmp_path, shapes_archive):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
    with light_server([shapes_archive], "shapes", tmp_path, prelude=limit) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            open_files = psutil.Process(server.pid).num_fds
            assert until(lambda: open_files() > 128, 60)
            assert open_files() < 250
        assert until(lambda: server.get("/ping").status_code == 200, 60)
        assert server.post(f"{PREDICT}?maps=none", data=PICTURE).status_code == 200
        assert "Traceback" not in server.log
        assert len(server.log.splitlines()) < 20


def test_every_request_that_is_refused_has_a_line(server):
    before = len(server.requests_logged())
    server.get("/v2/models/none")
    server.post("/predictions/none", data=PICTURE)
    lines = server.requests_logged()[before:]
    assert [(line["status"], line["outcome"]) for line in lines] == [(404, "NotFound")] * 2


@pytest.mark.parametrize("path", ["/ping/", "/v2/", "/models/shapes/"])
def test_no_address_has_a_second_spelling(server, path):
    assert "is not answered; /openapi.json lists what is" in error_of(server.get(path, allow_redirects=False), 404)


def test_what_another_method_would_answer_is_said(server):
    answer = server.get("/v2/health/live")
    assert answer.status_code == 200
    refused = requests.delete(f"{server.address}/v2/health/live", timeout=60)
    assert (refused.status_code, "GET" in refused.headers["Allow"]) == (405, True)


# who may ask


TOKEN = "s3cret-of-the-test"  # noqa: S105


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, shapes_archive) -> Iterator[LightServer]:
    """A server with a token, that pages of one origin may ask."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    options = ("--token-file", str(folder / "token"), "--cors", "https://pages.example")
    with light_server([shapes_archive], "shapes", folder, *options) as server:
        yield server


@pytest.mark.parametrize("said", [None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"])
@pytest.mark.parametrize("path", [PREDICT, "/v1/models", "/v2/models/shapes", "/models/shapes"])
def test_without_the_token_nothing_is_answered(guarded, path, said):
    headers = {} if said is None else {"Authorization": said.encode("latin-1")}
    answer = guarded.get(path, headers=headers)
    assert "Authorization: Bearer" in error_of(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("host", ["x/ping?", "x/v2/health/live#", "["])
def test_no_header_makes_a_probe_of_a_request(guarded, host):
    answer = guarded.post(f"{PREDICT}?maps=none", data=PICTURE, headers={"Host": host})
    assert "Authorization: Bearer" in error_of(answer, 401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token_everything_is_answered(guarded, scheme):
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    answer = guarded.post(f"{PREDICT}?maps=none", data=PICTURE, headers=headers)
    assert answer.json()["predictions"][0]["label"] == "star"
    assert guarded.get("/v1/models", headers=headers).json() == {"models": ["shapes"]}
    assert TOKEN not in guarded.log


@pytest.mark.parametrize("path", ["/ping", "/v2/health/live", "/v2/health/ready"])
def test_probes_need_no_token(guarded, path):
    assert guarded.get(path).status_code == 200


def test_pages_of_the_named_origin_alone_may_read(guarded):
    def allowed(origin: str, method: str = "POST") -> tuple[int, str | None]:
        headers = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
        if method == "OPTIONS":
            wanted = {"Method": "POST", "Headers": "authorization,content-type,x-explain-maps"}
            headers = {"Origin": origin, **{f"Access-Control-Request-{name}": value for name, value in wanted.items()}}
        url = f"{guarded.address}{PREDICT}?maps=none"
        answer = requests.request(method, url, data=PICTURE, headers=headers, timeout=60)
        return answer.status_code, answer.headers.get("access-control-allow-origin")

    for method in ("POST", "OPTIONS"):
        assert allowed("https://pages.example", method) == (200, "https://pages.example")
        assert allowed("https://other.example", method)[1] is None


def test_tls_is_spoken_where_a_certificate_is_given(tmp_path, shapes_archive):
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days"]
    new += ["2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(new, check=True, capture_output=True)
    options = ("--certificate", certificate, "--key", key)
    with light_server([shapes_archive], "shapes", tmp_path, *options, scheme="https") as server:
        answer = server.post(f"{PREDICT}?maps=none", data=PICTURE, verify=certificate)
        assert answer.json()["predictions"][0]["label"] == "star"


# starts that fail


def fail(tmp_path: Path, *arguments: str, paths: list[Path]) -> str:
    """The only line of a server that cannot start."""
    free = () if "--port" in arguments else ("--port", "0")
    metrics = () if "--metrics-port" in arguments else ("--metrics-port", "0")
    done = subprocess.run(
        command(paths, *arguments, *free, *metrics),
        cwd=ROOT,
        env=environment(tmp_path / "site"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def altered(archive: Path, target: Path, **changes: bytes | None) -> Path:
    """A copy of the archive with other files; None leaves a file out."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changes.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def shifted(graph: bytes) -> bytes:
    """A prediction graph whose scores are all 1 higher."""
    model = onnx.load_from_string(graph)
    bias = next(one for one in model.graph.initializer if one.name.endswith("fc.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    changed: bytes = model.SerializeToString()
    return changed


GRAPHS = ("model.onnx", "model.gradcam.onnx", "model.explain.onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda read: dict.fromkeys((*GRAPHS, "model-card.json")), "shapes needs PyTorch, for it was packed without"),
        (lambda read: {"model.onnx": shifted(read("model.onnx"))}, "model.onnx of shapes is missing or was changed"),
        (lambda read: {"model.onnx": read("model.onnx")[:1000]}, "model.onnx"),
        (lambda read: {"model.gradcam.onnx": None}, "model.gradcam.onnx"),
        (lambda read: {"model-card.json": b"[]"}, "the card of shapes cannot be read"),
        (lambda read: {"model-card.json": b"{"}, "the card of shapes cannot be read"),
        (lambda read: {"MAR-INF/MANIFEST.json": b"{}"}, "is no TorchServe archive of this project"),
        (lambda read: {"model-config.yaml": b"- 1"}, "is no TorchServe archive of this project"),
        (lambda read: {"model-config.yaml": b"explain: {engine: torch}"}, "shapes needs PyTorch"),
        (lambda read: {"model-config.yaml": b"explain: {colour: red}"}, "colour"),
        (lambda read: {"model-config.yaml": b"explain: {defaults: {layer: stage4}}"}, "explain.defaults"),
        (
            lambda read: {"model-config.yaml": b"batchSize: many"},
            "batchSize, maxBatchDelay, responseTimeout must be",
        ),
        (lambda read: {"model-config.yaml": b"responseTimeout: -1"}, "must be whole numbers"),
    ],
)
def test_an_archive_that_cannot_be_served_is_told_in_one_line(tmp_path, shapes_archive, change, said):
    with zipfile.ZipFile(shapes_archive) as archive:
        changes = change(archive.read)
    assert said in fail(tmp_path, paths=[altered(shapes_archive, tmp_path / "a.mar", **changes)])


def test_what_is_no_archive_is_told_in_one_line(tmp_path, shapes_archive):
    (tmp_path / "empty").mkdir()
    assert "does not exist; `make archive` writes archives" in fail(tmp_path, paths=[tmp_path / "none.mar"])
    assert "there is no archive in" in fail(tmp_path, paths=[tmp_path / "empty"])
    (tmp_path / "text.mar").write_text("no archive")
    assert "text.mar is no TorchServe archive of this project" in fail(tmp_path, paths=[tmp_path / "text.mar"])
    shutil.copy(shapes_archive, tmp_path / "empty/again.mar")
    said = fail(tmp_path, paths=[shapes_archive, tmp_path / "empty"])
    assert "is one more version 1.0 of shapes, valid is one archive for each" in said


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_told_in_one_line(tmp_path, shapes_archive, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = fail(tmp_path, option, str(taken.getsockname()[1]), paths=[shapes_archive])
    assert "in use" in said


def test_files_that_cannot_be_read_are_told_in_one_line(tmp_path, shapes_archive):
    assert "none" in fail(tmp_path, "--token-file", str(tmp_path / "none"), paths=[shapes_archive])
    (tmp_path / "token").write_text("\n")
    for token in ("\n", "two words\n", "two\nlines\n", "caf\xe9\n"):
        (tmp_path / "token").write_text(token)
        said = fail(tmp_path, "--token-file", str(tmp_path / "token"), paths=[shapes_archive])
        assert "token holds no token, valid is a line of printable ASCII without spaces" in said
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    assert "is of no use without a certificate" in fail(tmp_path, "--key", key, paths=[shapes_archive])
    assert "No such file" in fail(tmp_path, "--certificate", certificate, "--key", key, paths=[shapes_archive])
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:secret", "-keyout", key]
    subprocess.run([*new, "-out", certificate, "-days", "2", "-subj", "/CN=x"], check=True, capture_output=True)
    said = fail(tmp_path, "--certificate", certificate, "--key", key, paths=[shapes_archive])
    assert "cert.pem and its key cannot be used, valid are PEM files without a passphrase" in said


def test_many_clients_at_once_each_get_their_own_answer(server):
    def send(number: int) -> tuple[int, str]:
        picture, label = ((PICTURE, "star"), (OTHER, "heart"))[number % 2]
        said = server.post(f"{PREDICT}?maps=gradcam&top_k={number % 5 + 1}", data=picture).json()
        assert len(said["predictions"]) == number % 5 + 1
        return said["predictions"][0]["label"] == label, said["image"]["bytes"] == len(picture)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert set(pool.map(send, range(64))) == {(True, True)}
