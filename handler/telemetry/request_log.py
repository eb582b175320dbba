"""Writes a line per request into the log, and keeps every record of the log on one line.

TorchServe takes lines that begin with ``[METRICS]`` for metrics, so that no client's text may begin a line: a request's
line holds none, and all other records, tracebacks for example, have their line breaks escaped.
"""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from handler.protocol.answer import NONE, Answer, Observation


class OneLine(logging.Formatter):
    """Writes a record as one line of printable ASCII; other characters are escaped as in a Python literal."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
        text = super().format(record)
        plain = text.isascii() and text.isprintable()
        return text if plain else text.encode("unicode_escape").decode("ascii")


def keep_on_one_line() -> None:
    """Makes all handlers of the root logger, which are TorchServe's, write one line per record."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(message)s"))


def request_line(answer: Answer, request_id: str, bytes_in: int, milliseconds: float) -> str:
    """A request's line: a JSON object without a client's text; the id is the response's ``x-request-id``."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": request_id,
        "outcome": answer.outcome,
        "status": answer.status,
        **_summary(answer.observed),
        "bytes_in": bytes_in,
        "bytes_out": len(answer.body),
        "ms": round(milliseconds, 2),  # from the batch's arrival in the handler to its answers
    }
    return json.dumps(line, ensure_ascii=True)


def _summary(observed: Sequence[Observation]) -> dict[str, Any]:
    """The fields of the line about the request's pictures; engine and method are those of the first picture."""
    if not observed:
        return {"engine": NONE, "method": NONE, "maps": [], "targets": 0, "pictures": 0, "pixels": 0}
    first = observed[0]
    stages = {stage: round(sum(picture.stages_ms[stage] for picture in observed), 2) for stage in first.stages_ms}
    return {
        **first.labels,
        "maps": sorted({name for picture in observed for name in picture.maps}),
        "targets": sum(picture.targets for picture in observed),
        "degenerate": sum(picture.degenerate for picture in observed),
        "pictures": len(observed),
        "pixels": sum(picture.pixels for picture in observed),
        "stages_ms": stages,
    }
