"""One row's answer on the wire: status, content type and bytes, whatever happened."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import RequestError
from handler.protocol.observation import Observation

JSON, PNG = "application/json", "image/png"
OK, FAILURE = "ok", "InternalError"
PROBE = "probe"  # the outcome of what is no request for a picture; neither counted nor logged
OUTCOMES = (OK, "BadRequest", "NotFound", "TooLarge", "NotAnImage", "Unprocessable", "NotFinite", FAILURE)


@dataclass(frozen=True)
class Answer:
    """What a client gets for one row."""

    body: bytes
    content_type: str
    status: int = 200
    phrase: str = "OK"  # ASCII, from a fixed set
    headers: Mapping[str, str] = field(default_factory=dict)  # ASCII, of our own making
    outcome: str = OK  # out of OUTCOMES, or PROBE
    observed: tuple[Observation, ...] = ()  # of each picture that was explained


def json_text(content: Any) -> str:
    """JSON as it is sent. NaN is refused: it is not JSON, and clients choke on it."""
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def json_answer(content: dict[str, Any]) -> Answer:
    """A JSON answer."""
    return Answer(json_text(content).encode(), JSON)


def error_answer(error: RequestError) -> Answer:
    """The answer to a row's own mistake; the body names its error too, because gRPC carries no status per row."""
    return _error(error.status, error.phrase, type(error).__name__, str(error))


def failure_answer() -> Answer:
    """The answer to our own mistake, without its inner workings; those are in the log."""
    return _error(
        500,
        "Internal Server Error",
        FAILURE,
        "the explanation failed on the server; see its log",
    )


def _error(status: int, phrase: str, kind: str, message: str) -> Answer:
    content = {"code": status, "type": kind, "message": message}
    return Answer(json.dumps(content).encode(), JSON, status, phrase, outcome=kind)
