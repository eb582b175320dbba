"""One row's answer on the wire: status, content type and bytes, whatever happened."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.errors import RequestError
from handler.protocol.observation import Observation

JSON, PNG = "application/json", "image/png"
_DIGITS = 8  # significant digits of listed numbers, about those of a float32
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


def encode_npy(values: npt.NDArray[np.float32]) -> str:
    """Base64 of a ``.npy`` file: ``numpy.load(io.BytesIO(base64.b64decode(text)))`` restores it."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def encode_list(values: npt.NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers, None where the network did not look."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
    unit = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(exponent), exponent, 0))
    nested = np.round(exact * unit) / unit
    numbers: list[Any] = nested.tolist()
    return numbers if np.isfinite(nested).all() else [_without_nan(item) for item in numbers]


def _without_nan(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_without_nan(item) for item in nested]
    return nested if nested == nested else None
