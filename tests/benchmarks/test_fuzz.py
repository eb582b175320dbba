"""Hostile input against a real server, over raw sockets, and what the fuzzer makes of the answers."""

import json
import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.machine import peak_memory
from benchmarks.reliability.asking import until
from benchmarks.reliability.fuzz import run
from benchmarks.reliability.fuzz.judge import DEFECTS, Verdict, judge
from benchmarks.reliability.fuzz.requests import request
from benchmarks.reliability.fuzz.run import Fuzzing
from benchmarks.reliability.fuzz.wire import Hostile, Reply, octets, send
from benchmarks.reliability.memory import named_worker
from benchmarks.reliability.slope import LEAST, judge_inputs
from tests.support.serving import ONE, serving

INPUTS = 2000
SEED = 5
JSON = {"content-type": "application/json"}
PICTURE = Hostile(
    kind="picture", body=ONE.read_bytes(), headers=[(b"Content-Type", b"image/jpeg"), (b"X-Explain-Maps", b"none")]
)


@pytest.fixture(scope="module")
def client(tmp_path_factory, shapes_archive):
    with serving(shapes_archive.parent, "shapes", tmp_path_factory.mktemp("logs")) as client:
        yield client


@pytest.mark.server
def test_two_thousand_hostile_inputs_are_answered_by_the_same_worker_in_flat_memory(client, tmp_path):
    before = named_worker(client.server)
    found = Fuzzing(client.server, SEED, tmp_path, most=10).send_all(range(INPUTS))
    assert found["findings"] == []
    assert named_worker(client.server) == before
    assert found["inputs"] == INPUTS
    kinds = {kind.partition("/")[0] for kind in found["by_kind"]}
    assert kinds >= {
        "picture",
        "bomb",
        "wrong type",
        "multipart",
        "urlencoded",
        "json",
        "kserve",
        "headers",
        "path",
        "cut",
    }
    formats = {"PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"}
    assert {f"{kind}/{form}" for kind in ("picture", "bomb") for form in formats} <= set(found["by_kind"])
    assert sum(its["inputs"] for its in found["by_kind"].values()) == sum(found["statuses"].values()) == INPUTS
    statuses = {int(status) for status in found["statuses"]}
    assert {200, 400, 404, 413, 415} <= statuses <= {0, *range(200, 300), *range(400, 500), 500}
    assert found["statuses"].get("500", 0) == sum(found["torchserve_defects"].values()) < INPUTS / 10
    assert all(one["flat"] for one in found["memory"].values())
    assert found["worker"] == {"pid": before.pid, "same_throughout": True}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


DEFECTIVE = {
    "form that is no form": (b"application/x-www-form-urlencoded", b"a=%zz"),
    "form with an empty name": (b"application/x-www-form-urlencoded", b"=a"),
    "no boundary": (b"multipart/form-data;boundary", b"x"),
    "empty boundary": (b"multipart/form-data; boundary=", b"x"),
    "part without a name": (b"multipart/form-data; boundary=B", b"form-data; filename=x"),
    "part with an empty name": (b"multipart/form-data; boundary=B", b'form-data; name=""'),
    "parameter without a value": (b"multipart/form-data; boundary=B", b"form-data; name"),
    "extended parameter without a value": (b"multipart/form-data; boundary=B", b"form-data; name=a; filename*=utf-8"),
    "extended parameter badly escaped": (
        b"multipart/form-data; boundary=B",
        b"form-data; name=a; filename*=utf-8''%zz",
    ),
    "unknown transfer encoding": (
        b"multipart/form-data; boundary=B",
        b"form-data; name=a; filename=b\r\nContent-Transfer-Encoding: no",
    ),
    "unknown charset": (
        b"multipart/form-data; boundary=B",
        b"form-data; name=a; filename=b\r\nContent-Type: text/plain; charset=no",
    ),
}


@pytest.mark.server
@pytest.mark.parametrize("name", DEFECTS)
def test_each_of_torchserves_own_500s_is_known_by_its_request_and_its_answer(client, name):
    content_type, said = DEFECTIVE[name]
    body = said if b"form-data" not in said else b"--B\r\nContent-Disposition: " + said + b"\r\n\r\nx\r\n--B--\r\n"
    hostile = Hostile(kind="defect", body=body, headers=[(b"Content-Type", content_type)])
    reply = send(client.server.address, client.server.model, hostile)
    assert reply.status == 500
    verdict = judge(hostile, reply)
    assert (verdict.defect, verdict.fault) == (name, None)
    elsewhere = judge(replace(hostile, headers=[(b"Content-Type", b"image/jpeg")]), reply)
    assert (elsewhere.defect, elsewhere.fault) == (None, "status 500")


@pytest.mark.server
def test_a_worker_that_is_replaced_is_a_finding(client, tmp_path):
    worker, fuzzing = named_worker(client.server), Fuzzing(client.server, SEED, tmp_path)

    def kill_after_some():
        until(lambda: fuzzing.tried, 60)
        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_after_some)
    killer.start()
    found = fuzzing.send_all(range(INPUTS))
    killer.join()
    assert found["inputs"] < INPUTS
    assert not found["worker"]["same_throughout"]
    assert any(re.search("process|worker|status 50[037]", one["fault"]) for one in found["findings"])
    assert client.form(ONE.read_bytes(), maps="none").status_code == 200  # waits for the next worker
    assert named_worker(client.server) != worker


@pytest.mark.server
def test_a_finding_is_kept_byte_for_byte_and_sent_again_by_its_seed_and_number(client, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "judge", lambda *_: Verdict("one for this test"))
    for most, numbers in ((3, range(INPUTS)), (1, [0])):
        fuzzing = Fuzzing(client.server, SEED, tmp_path / str(most), most)
        first, *others = fuzzing.send_all(numbers, threads=1)["findings"]
        assert len(others) == most - 1
        assert first == {
            "fault": "one for this test",
            "seed": SEED,
            "number": 0,
            "kind": request(SEED, 0).kind,
            "answer": {**first["answer"], "status": send(client.server.address, "shapes", request(SEED, 0)).status},
            "file": str(tmp_path / str(most) / f"{SEED}-0.http"),
        }
        assert Path(first["file"]).read_bytes() == octets(request(SEED, 0), "shapes")


def test_a_number_always_gives_the_same_request():
    for number in range(0, 3000, 10):
        assert request(SEED, number) == request(SEED, number)
    assert request(SEED, 1) != request(SEED + 1, 1)


def error(status: int, **changed) -> bytes:
    return json.dumps({"code": status, "type": "BadRequest", "message": "no", **changed}).encode()


FAULTY = {
    "status 500": Reply(status=500, headers=JSON, body=error(500), complete=True),
    "status 503": Reply(status=503, headers=JSON, body=error(503), complete=True),
    "status 302": Reply(status=302, headers=JSON, body=b"", complete=True),
    "no answer": Reply(status=0, seconds=60.0),
    "answered only after 31": Reply(status=200, headers=JSON, body=b"{}", complete=True, seconds=31.0),
    "ends before": Reply(status=200, headers=JSON, body=b"{}", complete=False),
    "is no JSON: Expecting": Reply(status=200, headers=JSON, body=b"{", complete=True),
    "is no JSON: NaN": Reply(status=200, headers=JSON, body=b'{"max": NaN}', complete=True),
    "of type ''": Reply(status=200, headers={}, body=b"{}", complete=True),
    "no PNG": Reply(status=200, headers={"content-type": "image/png"}, body=b"{}", complete=True),
    "code 422": Reply(status=400, headers=JSON, body=error(422), complete=True),
    "no JSON object": Reply(status=400, headers=JSON, body=b"[]", complete=True),
    "no JSON object of": Reply(status=400, headers=JSON, body=error(400, message=None), complete=True),
    "stack trace": Reply(
        status=400,
        headers=JSON,
        body=error(400, message='Traceback (most recent call last): File "x.py"'),
        complete=True,
    ),
    "a stack trace": Reply(
        status=400,
        headers=JSON,
        body=error(400, message="\tat io.netty.handler.Codec.read(Codec.java:5)"),
        complete=True,
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_what_must_not_come_back_is_a_fault(fault):
    assert fault in (judge(PICTURE, FAULTY[fault]).fault or "")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=200, headers=JSON, body=b'{"a": 1}', complete=True),
        Reply(status=200, headers={"content-type": "image/png"}, body=b"\x89PNG", complete=True),
        Reply(status=400, headers=JSON, body=error(400), complete=True),
        Reply(status=413, headers={}, body=b"", complete=True),
    ],
)
def test_what_may_come_back_is_none(reply):
    assert judge(PICTURE, reply).fault is None


def test_silence_is_allowed_where_the_request_is_no_whole_one():
    assert judge(replace(PICTURE, framed=False), Reply(status=0)).fault is None


@pytest.mark.parametrize("name", ["worker", "java"])
def test_memory_that_grows_with_the_inputs_is_not_flat_and_peaks_and_stairs_at_the_start_are(name):
    base = 800 * 2**20
    leaking = [(n, base + 10_000 * n) for n in range(0, 100_000, 500)]
    assert not judge_inputs(name, leaking, base, base)["flat"]
    warming = [(n, base + min(n, 20_000) * 10_000) for n in range(0, 100_000, 500)]
    assert judge_inputs(name, warming, base + 2**28, base)["flat"]
    peaking = [(n, base + (n % 7 == 0) * 2**28) for n in range(0, 100_000, 500)]
    assert judge_inputs(name, peaking, base + 2**28, base)["flat"]
    assert not judge_inputs(name, peaking, base + 2**31, base)["flat"]
    stretching = [(n, base + n * (LEAST[name] // 3000)) for n in range(2000)]
    assert judge_inputs(name, stretching, base, base)["flat"]


def test_what_a_process_held_at_most_is_no_less_than_what_it_holds():
    assert 0 < psutil.Process().memory_info().rss <= peak_memory() == peak_memory(os.getpid())
    with pytest.raises(OSError, match="No such file"):
        peak_memory(2**22 + 1)  # beyond the largest number of a process
