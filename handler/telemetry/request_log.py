"""One line per request for the log, and all lines of the log on one line each.

TorchServe writes down what a worker prints line by line, and takes lines that begin with ``[METRICS]`` for metrics. So
no client's text may begin a line: a request's line holds none at all, and whatever else is logged, tracebacks with
their messages above all, has its line breaks escaped.
"""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from handler.protocol.answer import Answer
from handler.protocol.observation import NONE, Observation


class OneLine(logging.Formatter):
    """Writes a record in printable ASCII on one line; what is neither is escaped as in a Python literal."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
        text = super().format(record)
        if text.isascii() and text.isprintable():
            return text
        return text.encode("unicode_escape").decode("ascii")


def keep_on_one_line() -> None:
    """Makes all handlers of the root logger, TorchServe's, write one line per record."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(message)s"))


def request_line(answer: Answer, request_id: str, bytes_in: int, milliseconds: float) -> str:
    """A request's line: a JSON object without anything that a client wrote.

    Args:
        answer: what the client gets.
        request_id: TorchServe's own, the response's ``x-request-id``.
        bytes_in: of the request's body.
        milliseconds: from the batch's arrival in the handler until it was answered.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": request_id,
        "outcome": answer.outcome,
        "status": answer.status,
        **_summary(answer.observed),
        "bytes_in": bytes_in,
        "bytes_out": len(answer.body),
        "ms": round(milliseconds, 2),
    }
    return json.dumps(line, ensure_ascii=True)


def _summary(observed: Sequence[Observation]) -> dict[str, Any]:
    """The part of the line about the request's pictures; engine and method are the first picture's."""
    if not observed:
        return {"engine": NONE, "method": NONE, "maps": [], "targets": 0, "pictures": 0, "pixels": 0}
    first = observed[0]
    stages = {stage: round(sum(one.stages_ms[stage] for one in observed), 2) for stage in first.stages_ms}
    return {
        **first.labels(),
        "maps": sorted({name for one in observed for name in one.maps}),
        "targets": sum(one.targets for one in observed),
        "degenerate": sum(one.degenerate for one in observed),
        "pictures": len(observed),
        "pixels": sum(one.pixels for one in observed),
        "stages_ms": stages,
    }
