"""Writes a line per request into the log, and keeps every record of the log on one line.

TorchServe takes lines that begin with ``[METRICS]`` for metrics, so that no client's text may begin a line: a request's
line holds none, and all other records, tracebacks for example, have their line breaks escaped.
"""

import json
import logging
from datetime import UTC, datetime

from handler.protocol.answer import NONE, STAGES, Answer


class OneLine(logging.Formatter):
    """Writes a record as one line of printable ASCII; other characters are escaped as in a Python literal."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
        text = super().format(record)
        return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode("ascii")


def keep_on_one_line() -> None:
    """Makes all handlers of the root logger, which are TorchServe's, write one line per record."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(message)s"))


def request_line(answer: Answer, request_id: str, bytes_in: int, milliseconds: float) -> str:
    """A request's line: a JSON object without a client's text; the id is the response's ``x-request-id``.

    Engine and method are those of the first picture.
    """
    observed = answer.observed
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": request_id,
        "outcome": answer.outcome,
        "status": answer.status,
        **(observed[0].labels if observed else {"engine": NONE, "method": NONE}),
        "maps": sorted({name for picture in observed for name in picture.maps}),
        "targets": sum(picture.targets for picture in observed),
        "degenerate": sum(picture.degenerate for picture in observed),
        "pictures": len(observed),
        "pixels": sum(picture.pixels for picture in observed),
        "stages_ms": {stage: round(sum(picture.stages_ms[stage] for picture in observed), 2) for stage in STAGES},
        "bytes_in": bytes_in,
        "bytes_out": len(answer.body),
        "ms": round(milliseconds, 2),  # from the batch's arrival in the handler to its answers
    }
    return json.dumps(line, ensure_ascii=True)
