"""The same request gives the same bytes: from every worker, each time, and after a restart."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from export.packing.archive import DEFAULT_CONFIG
from handler.client.model import GraphModel
from handler.client.replay import read_receipt, replay
from handler.protocol.receipt import is_signed, read_key
from tests.support.serving import CHECKPOINT, ROOT, TWO, repacked, serving

pytestmark = pytest.mark.server

WORKERS, TIMES = 2, 100
FORMS = {  # engine and form to what is asked
    "onnx": ({"target": "heart,arrow"}, "application/json", "onnx"),
    "torch": ({"layer": "stage4.3", "maps": "gradcam", "size": "image"}, "application/json", "torch"),
    "random": ({"method": "rise", "maps": "gradcam", "passes": "8", "seed": "3"}, "application/json", "onnx"),
    "sheet": ({"target": "heart"}, "image/png", "onnx"),
    "arrays": ({"target": "heart"}, "application/x-npz", "onnx"),
}


def without_times(answer: bytes) -> bytes:
    return re.sub(rb'"timings_ms": {[^}]*}', b"", answer)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"], cwd=folder, check=True)
    subprocess.run(["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def answers(tmp_path_factory, shapes_archive, keys, logs):
    """The answers to 100 requests by a server with two workers that sign, by what was asked."""
    store, config = tmp_path_factory.mktemp("store"), DEFAULT_CONFIG.read_text(encoding="utf-8")
    config = re.sub(r"(min|max)Workers: 1", rf"\1Workers: {WORKERS}", config)
    config = config.replace('receipt_key: ""', f"receipt_key: {keys}/key.pem")
    repacked(shapes_archive, store / "shapes.mar", config)
    picture, found = TWO.read_bytes(), {name: [] for name in FORMS}
    with serving(store, "shapes", logs) as client, ThreadPoolExecutor(WORKERS) as pool:

        def ask(name):
            options, accept, _ = FORMS[name]
            answer = client.post(files={"data": picture}, data=options, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["content-type"]) == (200, accept), answer.text[:300]
            return name, answer.content

        for name, content in pool.map(ask, [*FORMS] * (TIMES // len(FORMS))):
            found[name].append(content)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_every_worker_answers_with_the_same_bytes(answers, name):
    assert len(answers[name]) == TIMES // len(FORMS)
    assert len(Counter(map(without_times, answers[name]))) == 1
    assert read_receipt(answers[name][0])["model"]["engine"] == FORMS[name][2]


def test_both_workers_answered(answers, logs):
    lines = (logs / "model_log.log").read_text(encoding="utf-8")
    answered = Counter(re.findall(r'(W-\d+)-\S* MODEL_LOG - \{.*"outcome": "ok"', lines))
    assert sum(answered.values()) == TIMES
    assert len(answered) == WORKERS


@pytest.mark.parametrize("name", FORMS)
def test_every_receipt_is_signed_and_can_be_replayed_with_a_graph_alone(answers, keys, shapes_graphs, name):
    receipt = read_receipt(answers[name][0])
    assert is_signed(receipt, read_key(keys / "key.pub.pem", "public"))
    if FORMS[name][2] == "onnx":
        assert replay(GraphModel(shapes_graphs / "model.explain.onnx"), receipt, TWO)[1] == []


EXPLAIN = """
import json, sys
import handler

model = handler.load(sys.argv[1])
maps = "gradcam"
for options in ({"target": [6, 8]}, {"maps": maps, "method": "randomcam"}, {"maps": maps, "smooth": "augment"}):
    content = model.explain(sys.argv[2], **options).to_dict()
    del content["timings_ms"]
    print(json.dumps(content))
"""


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_two_processes_answer_with_the_same_bytes(shapes_graphs, engine):
    source = shapes_graphs / "model.explain.onnx" if engine == "onnx" else CHECKPOINT
    command = [sys.executable, "-c", EXPLAIN, str(source), str(TWO)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (process.communicate()[0] for process in running)
    assert first == second
    found = [json.loads(line) for line in io.BytesIO(first)]
    assert [content["model"]["engine"] for content in found] == [engine] * 3
