"""What may come back: 2xx or 4xx, whole, in the promised form, and nothing of the server's inner workings.

TorchServe's own front end answers some broken forms with 500 before any handler sees them. Each of these defects has a
rule in ``defects.toml`` that wants the very request *and* the very answer; they are counted by name. Whatever no rule
covers is a finding.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability.fuzz.wire import Hostile, Reply

SLOWEST = 30.0  # seconds; half of the worker's responseTimeout, after which it would be replaced
_TRACES = re.compile(rb"Traceback \(most recent|File \\?\"[^\"]+\.py\\?\"|(\\t|\s)at (org|java|io\.netty)\.[\w.$]+\(")
DEFECTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("defects.toml").read_text(encoding="utf-8"))


class Verdict(NamedTuple):
    """What is wrong with an answer, or which of TorchServe's defects it shows; None and None for a good one."""

    fault: str | None = None
    defect: str | None = None


def judge(hostile: Hostile, reply: Reply) -> Verdict:
    """Judges one answer."""
    defect = _defect(hostile, reply) if reply.status == 500 and reply.seconds <= SLOWEST else None
    return Verdict(defect=defect) if defect else Verdict(next(_faults(hostile, reply), None))


def _defect(hostile: Hostile, reply: Reply) -> str | None:
    """The name of TorchServe's defect that made this 500, None if it is none of those known."""
    declared = [value.lower().decode("latin-1") for name, value in hostile.headers if name.lower() == b"content-type"]
    said = _object_of(reply.body)
    for name, one in DEFECTS.items():
        right_request = any(value.startswith(one["content_type"]) for value in declared)
        right_type, message = said.get("type") == one["type"], str(said.get("message") or "")
        if right_request and right_type and re.fullmatch(one["message"], message, re.DOTALL):
            return name
    return None


def _faults(hostile: Hostile, reply: Reply) -> Iterator[str]:
    """What is wrong, the worst first."""
    if reply.status == 0:
        if hostile.framed:
            yield f"no answer after {reply.seconds:.1f} s"
        return
    if reply.seconds > SLOWEST:
        yield f"answered only after {reply.seconds:.1f} s"
    if not 200 <= reply.status < 300 and not 400 <= reply.status < 500:
        yield f"status {reply.status}"
    if not reply.complete:
        yield "the answer ends before its Content-Length"
    if hostile.method == b"HEAD":
        return
    if _TRACES.search(reply.body):
        yield "the answer holds a stack trace"
    if reply.status < 300:
        yield from _faults_of_success(reply.headers.get("content-type", ""), reply.body)
    elif reply.body or reply.status not in (413, 417):  # which TorchServe itself answers bare
        said = _object_of(reply.body)
        texts = all(isinstance(said.get(one), str) for one in ("type", "message"))
        if not isinstance(said.get("code"), int) or not texts:
            yield "the error is no JSON object of code, type and message"
        elif said["code"] != reply.status:
            yield f"code {said['code']} in an answer of status {reply.status}"


def _faults_of_success(kind: str, body: bytes) -> Iterator[str]:
    if kind == "image/png" and not body.startswith(b"\x89PNG"):
        yield "image/png that is no PNG"
    elif kind == "application/json":
        try:
            json.loads(body, parse_constant=_refuse)
        except ValueError as error:
            yield f"the answer is no JSON: {error}"
    elif kind != "image/png" and not kind.startswith(("text/html", "application/x-npz")):
        yield f"an answer of type {kind!r}"


def _object_of(body: bytes) -> dict[str, Any]:
    """The JSON object, empty if it is none."""
    try:
        said = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
