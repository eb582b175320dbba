"""KServe V1 and V2 with KServe's own client, against both fronts; gRPC and batches, against a TorchServe."""

import base64
import concurrent.futures
import hashlib
import importlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import requests
from grpc_tools import protoc
from PIL import Image

from benchmarks.reliability.asking import until
from export.packing.archive import DEFAULT_CONFIG
from tests.support.mixture import HTTP, OTHER, OTHER_TEXT, PICTURE, TEXT, v1, v2
from tests.support.same import assert_same
from tests.support.serving import (
    FRONTS,
    ROOT,
    TWO,
    Client,
    array_of,
    encoded,
    error_of,
    repacked,
    serving,
    torchserve_alone,
    waiting,
    worker_of,
)

pytestmark = pytest.mark.server

KSERVE = ROOT / ".venv-kserve/bin/python"
BATCH = 8


@pytest.fixture(scope="module", params=FRONTS)
def client(request, tmp_path_factory, shapes_archive):
    """A server that answers in batches."""
    store = tmp_path_factory.mktemp("store")
    config = DEFAULT_CONFIG.read_text().replace("batchSize: 2", f"batchSize: {BATCH}")
    repacked(shapes_archive, store / "batched.mar", config)
    with serving(store, "batched", store / "logs", request.param) as client:
        yield client


@pytest.fixture(autouse=True)
def same_worker(client):
    """No request of any test costs the worker its life."""
    before = client.worker_pids()
    yield
    assert client.form(PICTURE, maps="none").status_code == 200
    assert client.worker_pids() == before


@pytest.fixture(scope="module")
def ask(client, tmp_path_factory):
    """Calls ``Predictions`` with a generated stub: the JSON that comes back."""
    folder = tmp_path_factory.mktemp("generated")
    source = ROOT / "tests/support/protos"
    assert (
        protoc.main(["", f"-I{source}", f"--python_out={folder}", f"--grpc_python_out={folder}", "inference.proto"])
        == 0
    )
    sys.path.insert(0, str(folder))
    try:
        messages, services = (importlib.import_module(name) for name in ("inference_pb2", "inference_pb2_grpc"))
    finally:
        sys.path.remove(str(folder))
    most = ("grpc.max_receive_message_length", 20_000_000)
    address = f"127.0.0.1:{client.server.properties['grpc_inference_port']}"
    with grpc.insecure_channel(address, options=[most]) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def ask(model: str = client.server.model, **fields: bytes) -> bytes:
            request = messages.PredictionsRequest(model_name=model, input=fields)
            return bytes(stub.Predictions(request, timeout=120).prediction)

        yield ask


def test_kserves_own_client_predicts_explains_and_is_refused(client):
    assert KSERVE.is_file(), "make test builds .venv-kserve"
    command = [str(KSERVE), "tests/support/kserve_client.py", client.server.address, client.server.model, str(TWO)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    came = json.loads(done.stdout.splitlines()[-1])
    first, second = came["predict"]["predictions"]
    assert [one["label"] for one in first["predictions"]] == [one["label"] for one in second["predictions"]]
    assert first["explanations"] == []
    assert second["explanations"][0]["target"]["label"] == "arrow"
    assert {"predictions", "explanations"} == set(came["explain"])
    (explained,) = came["explain"]["explanations"]
    assert came["explain"]["predictions"] == [explained["predictions"]]
    assert list(explained["explanations"][0]["maps"]) == ["gradcam"]
    assert (came["infer"]["id"], came["infer"]["model_name"]) == ("call-5", "batched")
    (output,) = came["infer"]["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("answer", "BYTES", [2])
    for text in (*output["data"], *came["as_numpy"]):
        answer = json.loads(text)
        assert answer["image"] == {"sha256": hashlib.sha256(OTHER).hexdigest(), "bytes": len(OTHER)}
        assert len(answer["predictions"]) == 3
        assert answer["explanations"] == []
    assert came["wrong_v1"][0] == came["wrong_v2"][0] == 400
    assert came["wrong_v1"][1].startswith("instances[1]: target 'zebra' is no label of this model, valid are circle")
    assert "valid are BYTES" in came["wrong_v2"][1]
    (text,) = came["binary"]
    assert json.loads(text)["predictions"][0]["label"] == "heart"
    (output,) = came["pixels"]
    assert (output["name"], output["datatype"], output["shape"]) == ("gradcam", "FP32", [1, 1, 10, 10])
    assert max(output["data"]) == pytest.approx(1.0)


@torchserve_alone
def test_a_v2_body_on_the_explain_address_is_explained(client):
    (text,) = v2(client, TEXT, verb="explain", maps="gradcam").json()["outputs"][0]["data"]
    assert json.loads(text)["explanations"][0]["target"]["label"] == "star"


def test_an_envelope_on_the_ordinary_address_is_understood(client):
    answer = client.json({"instances": [TEXT, OTHER_TEXT]})
    assert answer.json()["predictions"][0]["predictions"][0]["label"] == "star"
    assert "X-Image-Sha256" not in answer.headers  # one header cannot name several pictures; every answer inside does


def test_a_sum_of_answers_too_large_is_refused(client):
    instances = [{"image": TEXT, "maps": "all", "encoding": "list"}] * 3
    message = error_of(v1(client, *instances), 413)
    first = {"torchserve": "instances[1]", "light": "instances[2]"}[client.front]  # which makes one map fewer
    assert f"{first}: the answer would take" in message
    assert "fewer pictures at once" in message
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1700, 3), np.uint8)), "JPEG")
    large = {"image": base64.b64encode(noise).decode(), "size": "image", "overlay": "1", "maps": "gradcam"}
    error_of(v1(client, *[large] * 6), 413)  # 9 megapixels of noise: within the budget, but not once they are deflated


def test_as_many_pictures_as_there_may_be_are_answered(client):
    answers = v1(client, *[TEXT, OTHER_TEXT] * 8, headers={"X-Explain-Maps": "gradcam"}).json()["predictions"]
    assert [one["predictions"][0]["label"] for one in answers] == ["star", "heart"] * 8
    assert "17 pictures" in error_of(v1(client, *[TEXT] * 17), 400)


@torchserve_alone
def test_grpc_answers_the_fields_of_a_form(ask):
    content = json.loads(ask(data=OTHER, target=b"heart,arrow", maps=b"gradcam", size=b"layer", encoding=b"list"))
    assert [one["target"]["label"] for one in content["explanations"]] == ["heart", "arrow"]
    assert array_of(content["explanations"][1]["maps"]["gradcam"]).shape == (10, 10)
    assert content["image"]["sha256"] == hashlib.sha256(OTHER).hexdigest()


@torchserve_alone
def test_grpc_takes_json_and_kserves_bodies_as_body(ask):
    content = json.loads(ask(body=json.dumps({"image": TEXT, "maps": "none"}).encode()))
    assert content["predictions"][0]["label"] == "star"
    content = json.loads(ask(body=json.dumps({"instances": [TEXT, TEXT]}).encode()))
    assert len(content["predictions"]) == 2


@torchserve_alone
@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"data": b"hello"}, 415, "68 65 6c 6c 6f"),
        ({"data": PICTURE, "target": b"zebra"}, 400, "valid are circle, ring"),
        ({"data": PICTURE, "Accept": b"image/png"}, 400, "unknown option 'Accept'"),
        ({"data": PICTURE, "target": b"\xff"}, 400, "not valid UTF-8"),
        ({"target": b"1"}, 400, "one picture is needed"),
        ({}, 400, "one picture is needed"),
        ({"data": PICTURE[:5000]}, 400, "truncated"),
        ({"data": PICTURE, "maps": b"all", "encoding": b"list", "target": b"0,1,2,3,4,5"}, 413, "smaller size"),
    ],
)
def test_a_grpc_answer_names_its_own_error(ask, fields, code, said):
    content = json.loads(ask(**fields))
    assert set(content) == {"code", "type", "message", "error"}
    assert content["code"] == code
    assert said in content["message"]


@torchserve_alone
def test_an_unknown_model_is_grpcs_own_error(ask):
    with pytest.raises(grpc.RpcError) as caught:
        ask(model="other", data=PICTURE)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


Call = Callable[[Client, Callable[..., bytes]], tuple[int, str, bytes]]


def http(send: Callable[[Client], requests.Response]) -> Call:
    def call(client: Client, ask: Callable[..., bytes]) -> tuple[int, str, bytes]:
        answer = send(client)
        assert answer.headers.get("X-Image-Sha256", "").isalnum() or "image" not in answer.headers["content-type"]
        return answer.status_code, answer.headers["content-type"], answer.content

    return call


def over_grpc(**fields: bytes) -> Call:
    return lambda client, ask: (200, "application/json", ask(**fields))


MIXED: dict[str, Call] = {
    **{name: http(send) for name, send in HTTP.items()},
    "grpc": over_grpc(data=OTHER, target=b"star", maps=b"gradcam", encoding=b"npy"),
    "grpc without a picture": over_grpc(target=b"star"),
}


@pytest.fixture(scope="module")
def alone(client, ask):
    """Every answer that a row gets if nobody else asks."""
    return {name: call(client, ask) for name, call in MIXED.items()}


@torchserve_alone
@pytest.mark.parametrize("seed", range(2))
def test_rows_of_mixed_batches_get_what_they_get_alone(client, ask, alone, seed):
    names = random.Random(seed).sample(list(MIXED), len(MIXED))
    before = batches_of(client)
    worker = worker_of(psutil.Process(client.server.pid))
    with concurrent.futures.ThreadPoolExecutor(BATCH * 2) as pool:
        worker.suspend()
        answers = [pool.submit(MIXED[name], client, ask) for name in names]
        try:
            management = client.server.properties["management_address"]
            assert until(lambda: waiting(management, client.server.model) >= BATCH, 60)
        finally:
            worker.resume()
        together = {name: answer.result() for name, answer in zip(names, answers, strict=True)}
    took = batches_of(client) - before
    assert 0 < took <= len(names) - (BATCH - 1), f"{len(names)} requests came in {took} batches, of which one was full"
    for name, (status, kind, body) in together.items():
        assert (status, kind) == alone[name][:2], name
        assert_same(name, kind, alone[name][2], body)


@torchserve_alone
def test_the_mixture_holds_good_and_bad_rows_of_all_kinds(alone):
    assert {status for status, _, _ in alone.values()} == {200, 400, 413, 415}
    assert {kind for _, kind, _ in alone.values()} == {"application/json", "image/png"}
    engines = {match for _, _, body in alone.values() for match in re.findall(rb'"engine\\*": \\*"(\w+)', body)}
    assert engines == {b"onnx", b"torch"}


def batches_of(client: Client) -> int:
    """How many batches the worker has taken so far, as its log says."""
    return sum(
        path.read_text(encoding="utf-8", errors="replace").count("Backend received inference at")
        for path in Path(client.server.logs).glob("model_log.log*")
    )
