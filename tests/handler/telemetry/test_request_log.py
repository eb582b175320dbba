"""Lines of the log, whatever a client sent; no server."""

import io
import json
import logging

import pytest

from handler.errors import BadRequest
from handler.protocol.answer import Answer, Observation, error_answer
from handler.telemetry.request_log import OneLine, keep_on_one_line, request_line

STAGES = {"decode": 4.0, "infer": 0.0, "explain": 20.0, "render": 6.0}
FORGED = "\n[METRICS]evil.count:1|#Level:Model|#hostname:x,1\r\x85\u2028\x1b[2J é☃"


def test_a_requests_line_sums_up_its_pictures():
    seen = Observation(
        labels={"engine": "onnx", "method": "gradcam"},
        maps=("gradcam",),
        targets=2,
        degenerate=1,
        pixels=100,
        stages_ms=STAGES,
    )
    line = json.loads(request_line(Answer(body=b"12345", content_type="", observed=(seen, seen)), "an-id", 7, 31.234))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "request": "an-id",
        "outcome": "ok",
        "status": 200,
        "engine": "onnx",
        "method": "gradcam",
        "maps": ["gradcam"],
        "targets": 4,
        "degenerate": 2,
        "pictures": 2,
        "pixels": 200,
        "stages_ms": {"decode": 8.0, "infer": 0.0, "explain": 40.0, "render": 12.0},
        "bytes_in": 7,
        "bytes_out": 5,
        "ms": 31.23,
    }


def test_a_refused_requests_line_holds_nothing_of_its_message():
    line = request_line(error_answer(BadRequest(f"target {FORGED}")), "an-id", 7, 1)
    assert "evil" not in line
    assert json.loads(line)["outcome"] == "BadRequest"


@pytest.fixture
def printed():
    """What a worker's logger prints, set up as TorchServe does."""
    root = logging.getLogger()
    before = root.handlers
    stream = io.StringIO()
    root.handlers = [logging.StreamHandler(stream)]
    keep_on_one_line()
    yield stream.getvalue
    root.handlers = before


def test_tracebacks_stay_on_one_line_of_printable_ascii(printed):
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("handler.serving.explainer").exception("a row failed: %s", FORGED)
    out = printed()
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert out[:-1].isascii()
    assert out[:-1].isprintable()
    assert out.startswith("a row failed: \\n[METRICS]")
    assert "Traceback" in out


def test_ordinary_lines_are_left_as_they_are(printed):
    logging.getLogger().warning("[METRICS]a.count:1|#Level:Model|#hostname:x,1 \\n")
    assert printed() == "[METRICS]a.count:1|#Level:Model|#hostname:x,1 \\n\n"


def test_a_line_cannot_be_broken_by_any_character():
    for code in [*range(0x300), 0x2028, 0x2029, 0xFEFF, 0xD800, 0x1F600]:
        record = logging.LogRecord("x", logging.INFO, "", 0, "a%sb", (chr(code),), None)
        assert len(OneLine("%(message)s").format(record).splitlines()) == 1, code
