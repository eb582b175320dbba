"""What leaves the worker, byte for byte, without the Java frontend: TorchServe's own codec around the real handler.

A frame that does not parse, a phrase or content type that is not ASCII, a header that is no text: each of these would
cost the worker its life.
"""

import base64
import json
import logging
import shutil
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ts
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol.otf_message_handler import retrieve_msg
from ts.service import Service

from handler import torchserve_entry as entry
from handler.protocol.answer import PROBE, error_answer, json_answer
from handler.protocol.row import Row
from handler.telemetry.metrics import REQUEST_SECONDS, REQUESTS, RESIDENT, Metrics
from handler.torchserve_entry import ExplainedClassifier, read_row
from tests.support.serving import CHECKPOINT, ONE

PICTURE = ONE.read_bytes()
TEXT = base64.b64encode(PICTURE).decode()
_INT = struct.Struct("!i")


@dataclass(frozen=True)
class Sent:
    """A request as the frontend forwards it."""

    parts: Sequence[tuple[str, str, bytes]]  # name, content type, value
    headers: dict[str, str] = field(default_factory=dict)

    def frame(self) -> bytes:
        headers = [_text(name.encode()) + _text(value.encode()) for name, value in self.headers.items()]
        parts = [_text(name.encode()) + _text(kind.encode()) + _text(value) for name, kind, value in self.parts]
        end = _INT.pack(-1)
        return b"".join([_text(b"id"), *headers, end, *parts, end])


@dataclass(frozen=True)
class Received:
    content_type: str
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes


def _text(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value


def form(**parts: bytes) -> Sent:
    return Sent([(name, "", value) for name, value in parts.items()])


def as_json(content: Any, **headers: str) -> Sent:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Sent([("body", "application/json", body)], {"content-type": "application/json", **headers})


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """Sends a batch through TorchServe's decoder, its service with our handler, and its encoder."""
    folder = tmp_path_factory.mktemp("archive")
    shutil.copy(CHECKPOINT, folder / "model.safetensors")
    handler = ExplainedClassifier()
    metrics = MetricsCacheYamlImpl(config_file_path=str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    metrics.set_request_ids("at the start")
    manifest = {"model": {"modelName": "shapes", "modelVersion": "1.0"}}
    service = Service("shapes", str(folder), manifest, handler.handle, None, 8, metrics_cache=metrics)
    service.context.metrics = metrics
    service.set_cl_socket(None)
    service.context.model_yaml_config = {"explain": {"threads": 1}}
    handler.initialize(service.context)

    def exchange(*batch: Sent) -> list[Received]:
        frame = b"I" + b"".join(one.frame() for one in batch) + _INT.pack(-1)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            writer = threading.Thread(target=ours.sendall, args=(frame,))
            writer.start()
            command, message = retrieve_msg(theirs)
            writer.join()
        assert command == b"I"
        return received(bytes(service.predict(message)), len(batch))

    return exchange


def received(frame: bytes, rows: int) -> list[Received]:
    """Reads an answer's frame as the frontend does; lengths of type and phrase are those of their characters there."""
    at = 0

    def number() -> int:
        nonlocal at
        (value,) = _INT.unpack_from(frame, at)
        at += 4
        return int(value)

    def text() -> bytes:
        nonlocal at
        length = number()
        at += length
        assert at <= len(frame)
        return frame[at - length : at]

    assert number() == 200
    assert text() == b"Prediction success"
    answers = []
    for _ in range(rows):
        assert text() == b"id"
        kind, status, phrase = text().decode("ascii"), number(), text().decode("ascii")
        headers = {text().decode("ascii"): text().decode("ascii") for _ in range(number())}
        answers.append(Received(kind, status, phrase, headers, text()))
    assert number() == -1
    assert at == len(frame)
    return answers


GOOD = form(data=PICTURE, maps=b"none")
DEEP = b"[" * 5000
HOSTILE = {
    "a part named Accept": (form(data=PICTURE, Accept=b"image/png", maps=b"none"), 400),
    "parts named like headers of ours": (form(data=PICTURE, explain=b"True", url_path=b"healthz", describe=b"1"), 400),
    "a part with TorchServe's own header names": (form(data=PICTURE, **{"X-Cmd": b"\r\n", "content-type": b"a"}), 400),
    "a part without a name": (Sent([("data", "", PICTURE), ("", "", b"x")]), 400),
    "a part named in another script": (
        Sent([("data", "", PICTURE), ("\u2603\r\n", "text/plain", "\u2603".encode())]),
        400,
    ),
    "a picture declared as text": (Sent([("data", "text/plain", PICTURE), ("maps", "text/plain", b"none")]), 200),
    "a picture declared as JSON": (Sent([("data", "application/json", PICTURE), ("maps", "", b"none")]), 200),
    "an option that is parsed JSON": (Sent([("data", "", PICTURE), ("target", "application/json", b'{"a": 1}')]), 400),
    "an option that is JSON's null": (Sent([("data", "", PICTURE), ("maps", "application/json", b"null")]), 400),
    "a header in another script": (Sent(GOOD.parts, {"X-Explain-Target": "\u2603"}), 400),
    "a header named in another script": (Sent(GOOD.parts, {"X-Explain-\u2603": "1"}), 400),
    "an Accept of nonsense": (Sent(GOOD.parts, {"Accept": "\u2603;q=\u0665, ,;;q=nan"}), 200),
    "an Accept of infinite quality": (
        Sent(form(data=PICTURE, maps=b"gradcam").parts, {"Accept": "image/png;q=inf"}),
        200,
    ),
    "a lone surrogate for a picture": (as_json(b'{"image": "\\ud800"}'), 400),
    "a lone surrogate for a target": (as_json({"image": TEXT, "target": "\ud800\r\n"}), 400),
    "a lone surrogate for a key": (as_json({"image": TEXT, "\ud800": 1}), 400),
    "a lone surrogate for an id": (as_json({"inputs": [{}], "id": "\ud800"}), 400),
    "numbers that are none": (as_json(b'{"image": "aGk=", "top_k": NaN, "overlay": Infinity}'), 400),
    "nested too deeply": (as_json(DEEP), 400),
    "instances nested too deeply": (as_json(b'{"instances": ' + DEEP), 400),
    "V1 of nothing": (as_json({"instances": None}), 400),
    "V2 of nothing": (as_json({"inputs": None}), 400),
    "V2 with an id": (
        as_json(
            {
                "id": "\u2603",
                "inputs": [{"datatype": "BYTES", "shape": [1], "data": [TEXT]}],
                "parameters": {"maps": "none"},
            }
        ),
        200,
    ),
    "nothing at all": (Sent([]), 400),
    "no body": (Sent([("body", "", b"")]), 400),
    "another path": (Sent(GOOD.parts, {"url_path": "\u2603\r\n"}), 404),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_row_holds_its_answer_and_its_neighbours_can_be_read(exchange, name):
    sent, status = HOSTILE[name]
    before, answer, after = exchange(GOOD, sent, GOOD)
    assert (before.status, answer.status, after.status) == (200, status, 200), answer.body[:300]
    assert answer.phrase.isprintable()
    assert all(value.isalnum() or key == "content-type" for key, value in answer.headers.items())
    if answer.content_type == "application/json":
        content = json.loads(answer.body, parse_constant=pytest.fail)
        assert status == 200 or content["code"] == status
    else:
        assert answer.body.startswith(b"\x89PNG")


def test_json_nested_as_deeply_as_it_can_be_parsed_is_the_clients_mistake(exchange):
    nested = [b"[" * depth + b"]" * depth for depth in range(850, 1000, 3)]
    bodies = [b'{"image": "%s", "target": %s}' % (TEXT.encode(), value) for value in nested]
    bodies += [b'{"inputs": [{"datatype": %s}]}' % value for value in nested]
    assert {one.status for one in exchange(*map(as_json, bodies))} == {400}


def test_all_of_them_in_one_batch(exchange):
    batch = [sent for sent, _ in HOSTILE.values()]
    assert [one.status for one in exchange(*batch)] == [status for _, status in HOSTILE.values()]


@pytest.mark.parametrize(
    ("headers", "row", "size"),
    [
        ({"Content-Length": "123"}, {"body": b"12"}, 123),
        ({"content-length": "-1"}, {"body": b"12", "target": "abc"}, 5),
        ({"content-length": "1" * 30}, {"data": bytearray(b"1234")}, 4),
        ({"content-length": "²"}, {"body": {"image": "…"}}, 0),
        ({"data": {"content-type": "image/png"}}, {"data": b"1"}, 1),
        ({}, {}, 0),
    ],
)
def test_a_bodys_size_is_what_was_declared_or_what_arrived(headers, row, size):
    assert read_row(row, headers).body_size == size


def test_headers_are_read_without_regard_to_case():
    row = read_row({"data": PICTURE}, {"X_Explain_Size": "x", "x-explain-TOP_K": "3", "X-Explain-Size": "image"})
    assert row.options == {"TOP_K": "3", "Size": "image"}
    assert read_row({}, {"Url_Path": "/healthz/", "Explain": "True", "describe": "True"}) == Row(
        fields={}, path="healthz", explains=True, describes=True
    )


@pytest.mark.parametrize("label", ["кошка, домашняя", "猫", "é", "tench, Tinca tinca", "Ã"])
def test_a_headers_text_is_utf_8_if_it_can_be(label):
    assert read_row({}, {"X-Explain-Target": label.encode().decode("latin-1")}).options == {"Target": label}
    assert read_row({}, {"X-Explain-Target": "é"}).options == {"Target": "é"}  # of a client that writes Latin-1


class Process:
    """A process with a folder and a command; one without a folder has ended."""

    def __init__(self, folder, script="/ts/model_service_worker.py", children=()):
        self.folder, self.script = folder, script
        self.below = children

    def cwd(self):
        if self.folder is None:
            raise psutil.NoSuchProcess(1)
        return self.folder

    def cmdline(self):
        return ["python", "-u", self.script, "--sock-type", "unix"]

    def children(self):
        return self.below

    def parent(self):
        return self.server


@pytest.mark.parametrize(
    ("own", "others", "count"),
    [
        (Process("/a"), [], 1),
        (Process("/a"), [Process("/a"), Process("/b"), Process(None), Process("/a", "/usr/bin/tool.py")], 2),
        (Process("/a", "pytest.py"), [Process("/a")], 0),
        (Process(None), [Process(None)], 0),
    ],
)
def test_workers_of_the_same_server_and_model_are_counted(monkeypatch, own, others, count):
    own.server = Process("/", "java", [own, *others])
    monkeypatch.setattr(entry.psutil, "Process", lambda: own)
    assert entry.running_workers() == count


def test_a_parts_own_headers_are_not_taken_for_the_rows():
    row = read_row({}, {"Accept": {"content-type": "image/png"}, "accept": "image/png", "X-Explain-Size": {"a": "b"}})
    assert row.accept == "image/png"
    assert row.options == {}


class Failing:
    """A service that raises where it is told to, and has probes and other answers ready."""

    def __init__(self, place=""):
        self.place = place
        self.metrics = Metrics()

    def answer_beside(self, rows):
        if self.place == "answering":
            raise ArithmeticError("secret detail")
        return [json_answer({"row": place}) for place, _ in enumerate(rows)]


class Context:
    """What TorchServe hands to a handler, as far as it is asked."""

    def __init__(self, place=""):
        self.place = place
        self.metrics = self
        self.said = {}
        self.added = []

    def get_all_request_header(self, place):
        return {}

    def get_request_id(self, place):
        return f"id {place}"

    def set_response_status(self, status, phrase, place):
        self.said[place] = status, phrase

    def set_response_content_type(self, place, kind):
        self.said[place] += (kind,)

    def set_response_header(self, place, name, value):
        self.said[place] += ({name: value},)

    def add_metric(self, name, *_):
        if self.place == "metrics":
            raise ArithmeticError("secret detail")
        self.added.append(name)


@pytest.mark.parametrize(("place", "status", "log"), [("answering", 500, "a batch of 3"), ("metrics", 200, "are lost")])
def test_a_failure_of_ours_is_each_rows_answer_and_a_lost_metric_is_nobodys(place, status, log, caplog):
    handler, context = ExplainedClassifier(), Context(place)
    handler._service = Failing(place)
    bodies = handler.handle([{"data": PICTURE}] * 3, context)
    assert [one[0] for one in context.said.values()] == [status] * 3
    assert {one[2] for one in context.said.values()} == {"application/json"}
    assert [json.loads(body) for body in bodies] == (
        [{"row": number} for number in range(3)] if status == 200 else [json.loads(error_answer(OSError()).body)] * 3
    )
    assert log in caplog.text
    assert "secret detail" in caplog.text


def test_headers_are_sent_and_probes_neither_counted_nor_logged(caplog):
    handler, context = ExplainedClassifier(), Context()
    handler._service = service = Failing()
    answer = replace(json_answer({}), headers={"X-Image-Sha256": "ab"})
    service.answer_beside = lambda rows: [answer, replace(answer, headers={}, outcome=PROBE), answer]
    with caplog.at_level(logging.INFO):
        handler.handle([{"data": PICTURE}, {}, {"data": b"12"}], context)
    ours = (200, "OK", "application/json", {"X-Image-Sha256": "ab"})
    assert list(context.said.values()) == [ours, (200, "OK", "application/json"), ours]
    assert [context.added.count(name) for name in (REQUESTS, REQUEST_SECONDS, RESIDENT)] == [1, 2, 1]
    lines = [json.loads(one.message) for one in caplog.records]
    assert [(one["request"], one["bytes_in"]) for one in lines] == [("id 0", len(PICTURE)), ("id 2", 2)]


def test_a_batch_that_comes_before_the_model_is_answered_too():
    context = Context()
    (body,) = ExplainedClassifier().handle([{"data": PICTURE}], context)
    assert context.said[0][0] == json.loads(body)["code"] == 500
