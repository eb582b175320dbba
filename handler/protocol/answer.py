"""The answer to a row: status, content type, headers and body, and the facts about it for metrics and logs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import RequestError

JSON, HTML, PNG, NPZ = "application/json", "text/html", "image/png", "application/x-npz"
FORMS = (JSON, HTML, PNG, NPZ)  # of an answer; of equal ones the first is preferred
OK, FAILURE = "ok", "InternalError"
PROBE = "probe"  # outcome of answers to probes and to questions about the model, which are neither counted nor logged
OUTCOMES = (
    *(OK, "BadRequest", "NotFound", "TooLarge", "NotAnImage", "Unprocessable", "NotFinite", FAILURE),
    *("Unauthorized", "TooSlow", "Unavailable"),  # of the front without PyTorch; TorchServe has answers of its own
)

STAGES = ("decode", "infer", "explain", "render")
NONE = "none"  # in the place of an engine or a method: there was none
GRADIENT_ALONE = "gradient"  # in the place of a method: all maps are gradients at the input


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The maps of one picture and the time of each stage, which clients never see; every text is out of a fixed set."""

    labels: dict[str, str]  # of metrics: "engine", whose evidence it is; "method", a formula, GRADIENT_ALONE or NONE
    maps: tuple[str, ...]  # names out of options.MAPS, each made for each target
    targets: int
    degenerate: int  # how many of all maps are degenerate
    pixels: int  # of the upload, height times width
    stages_ms: Mapping[str, float]  # by name out of STAGES; 0 for a stage that did not run, or ran within another

    @property
    def map_count(self) -> int:
        """The number of maps that were made: each map for each target."""
        return len(self.maps) * self.targets


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
    """Writes content as JSON; raises ValueError if a number is NaN or infinite, which JSON cannot express."""
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def json_answer(content: Mapping[str, Any], outcome: str = OK) -> Answer:
    """An answer with status 200 and a JSON body."""
    return Answer(body=json_text(content).encode(), content_type=JSON, outcome=outcome)


def error_answer(error: Exception) -> Answer:
    """The answer to a row that is refused, or that failed on the server; such an exception is in the log alone."""
    if not isinstance(error, RequestError):
        message = "the explanation failed on the server; see its log"
        return refusal(500, FAILURE, message, phrase="Internal Server Error")
    return refusal(error.status, type(error).__name__, str(error), phrase=error.phrase, headers=error.headers)


def refusal(status: int, kind: str, message: str, **known: Any) -> Answer:
    """The answer that refuses a row; the message stands twice, as clients of TorchServe and of KServe look for it."""
    content = {"code": status, "type": kind, "message": message, "error": message}
    body = json.dumps(content).encode()  # gRPC has no status per row
    return Answer(body=body, content_type=JSON, status=status, outcome=kind, **known)
