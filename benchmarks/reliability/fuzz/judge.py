"""What may come back: 2xx or 4xx, whole, in the promised form, and nothing of the server's inner workings.

TorchServe's own front end answers some broken forms with 500 before any handler sees them. Each of these defects has a
rule here that wants the very request *and* the very answer; they are counted by name. Whatever no rule covers is a
finding.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from benchmarks.reliability.fuzz.input import Hostile
from benchmarks.reliability.fuzz.wire import Reply

SLOWEST = 30.0  # seconds; half of the worker's responseTimeout, after which it would be replaced
_TRACES = re.compile(rb"Traceback \(most recent|File \\?\"[^\"]+\.py\\?\"|(\\t|\s)at (org|java|io\.netty)\.[\w.$]+\(")


@dataclass(frozen=True)
class _Defect:
    """One of TorchServe's: the request's content type, the answer's type and message."""

    content_type: str
    type: str
    message: str  # pattern; optional where Java leaves it out, which it does for what it throws often


_FORM, _PARTS, _DECODER = "application/x-www-form-urlencoded", "multipart/form-data", "ErrorDataDecoderException"
DEFECTS = {
    "form that is no form": _Defect(_FORM, _DECODER, "Bad string: .*|Bad end of line|Invalid hex byte .*"),
    "form with an empty name": _Defect(_FORM, _DECODER, r"java\.lang\.IllegalArgumentException: empty name"),
    "no boundary": _Defect(_PARTS, _DECODER, "Needs a boundary value"),
    "empty boundary": _Defect(_PARTS, "StringIndexOutOfBoundsException", "(?i)string index out of range: 0|index 0 .*"),
    "part without a name": _Defect(
        _PARTS, _DECODER, r"java\.lang\.NullPointerException(: .*\"nameAttribute\" is null)?"
    ),
    "part with an empty name": _Defect(_PARTS, _DECODER, r"java\.lang\.IllegalArgumentException: empty name"),
    "parameter without a value": _Defect(
        _PARTS, "ArrayIndexOutOfBoundsException", "(Index [12] out of bounds for length [12])?"
    ),
    "extended parameter without a value": _Defect(
        _PARTS, _DECODER, r"java\.lang\.ArrayIndexOutOfBoundsException(: Index [12] out of bounds for length [12])?"
    ),
    "extended parameter badly escaped": _Defect(
        _PARTS, _DECODER, r"java\.lang\.IllegalArgumentException: (invalid hex byte|unterminated escape sequence) .*"
    ),
    "unknown transfer encoding": _Defect(_PARTS, _DECODER, "TransferEncoding Unknown: .*"),
    "unknown charset": _Defect(_PARTS, _DECODER, r"java\..*(Unsupported|Illegal)Charset(Name)?Exception: .*"),
}


@dataclass(frozen=True)
class Verdict:
    """What is wrong with an answer, or which of TorchServe's defects it shows; None and None for a good one."""

    fault: str | None = None
    defect: str | None = None


def judge(hostile: Hostile, reply: Reply) -> Verdict:
    """Judges one answer."""
    if reply.status == 0:
        return Verdict() if not hostile.framed else Verdict(f"no answer after {reply.seconds:.1f} s")
    if reply.seconds > SLOWEST:
        return Verdict(f"answered only after {reply.seconds:.1f} s")
    if defect := defect_of(hostile, reply):
        return Verdict(defect=defect)
    if not 200 <= reply.status < 300 and not 400 <= reply.status < 500:
        return Verdict(f"status {reply.status}")
    return Verdict(_fault_of_body(hostile, reply))


def defect_of(hostile: Hostile, reply: Reply) -> str | None:
    """The name of TorchServe's defect that made this 500, None if it is none of those known."""
    if reply.status != 500:
        return None
    declared = [value.lower().decode("latin-1") for name, value in hostile.headers if name.lower() == b"content-type"]
    said = _object_of(reply.body)
    kind, message = said.get("type"), str(said.get("message") or "")
    for name, one in DEFECTS.items():
        right_request = any(value.startswith(one.content_type) for value in declared)
        if right_request and kind == one.type and re.fullmatch(one.message, message, re.DOTALL):
            return name
    return None


def _fault_of_body(hostile: Hostile, reply: Reply) -> str | None:
    if not reply.complete:
        return "the answer ends before its Content-Length"
    if hostile.method == b"HEAD":
        return None
    if _TRACES.search(reply.body):
        return "the answer holds a stack trace"
    kind = reply.headers.get("content-type", "")
    if reply.status < 300:
        return _fault_of_success(kind, reply.body)
    if not reply.body and reply.status in (413, 417):  # TorchServe's own, bare
        return None
    said = _error_of(reply.body)
    if said is None:
        return "the error is no JSON object of code, type and message"
    return None if said["code"] == reply.status else f"code {said['code']} in an answer of status {reply.status}"


def _fault_of_success(kind: str, body: bytes) -> str | None:
    if kind == "image/png":
        return None if body.startswith(b"\x89PNG") else "image/png that is no PNG"
    if kind.startswith(("text/html", "application/x-npz")):
        return None
    if kind != "application/json":
        return f"an answer of type {kind!r}"
    try:
        json.loads(body, parse_constant=_refuse)
    except ValueError as error:
        return f"the answer is no JSON: {error}"
    return None


def _error_of(body: bytes) -> dict[str, Any] | None:
    said = _object_of(body)
    whole = isinstance(said.get("code"), int) and all(isinstance(said.get(name), str) for name in ("type", "message"))
    return said if whole else None


def _object_of(body: bytes) -> dict[str, Any]:
    """The JSON object, empty if it is none."""
    try:
        said = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
