"""The answer to a row: status, content type, headers and body."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import RequestError
from handler.protocol.observation import Observation

JSON, PNG, NPZ = "application/json", "image/png", "application/x-npz"
FORMS = (JSON, PNG, NPZ)  # of the answer about a picture
OK, FAILURE = "ok", "InternalError"
PROBE = "probe"  # outcome of answers to probes and to questions about the model, which are neither counted nor logged
OUTCOMES = (OK, "BadRequest", "NotFound", "TooLarge", "NotAnImage", "Unprocessable", "NotFinite", FAILURE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one row."""

    body: bytes
    content_type: str
    status: int = 200
    phrase: str = "OK"  # ASCII, from a fixed set
    headers: Mapping[str, str] = field(default_factory=dict)  # ASCII, without a client's text
    outcome: str = OK  # out of OUTCOMES, or PROBE
    observed: tuple[Observation, ...] = ()  # one for each picture that was explained


def json_text(content: Any) -> str:
    """Writes content as JSON.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot express.
    """
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def json_answer(content: dict[str, Any]) -> Answer:
    """An answer with status 200 and a JSON body."""
    return Answer(body=json_text(content).encode(), content_type=JSON)


def error_answer(error: RequestError) -> Answer:
    """The answer to a row that is refused; the body repeats the status, because gRPC has no status per row."""
    return _error(error.status, error.phrase, type(error).__name__, str(error))


def failure_answer() -> Answer:
    """The answer to a row that failed on the server; the exception is in the log only."""
    return _error(500, "Internal Server Error", FAILURE, "the explanation failed on the server; see its log")


def _error(status: int, phrase: str, kind: str, message: str) -> Answer:
    content = {"code": status, "type": kind, "message": message}
    return Answer(body=json.dumps(content).encode(), content_type=JSON, status=status, phrase=phrase, outcome=kind)
