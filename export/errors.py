"""The error of a network that cannot become an ONNX graph, and how its message is made."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from handler.errors import ModelError, Unprocessable, in_one_line


class NotExportableError(ModelError):
    """This network cannot become an ONNX graph; the message says why."""


@contextmanager
def network_code(doing: str) -> Iterator[None]:
    """Turns what the network's own code raises into a NotExportableError that begins with ``doing``, with the cause."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        cause = error if isinstance(error, Unprocessable) else first_line(error)
        raise NotExportableError(f"{doing}: {cause}") from error


def first_line(error: Exception) -> str:
    """The first line of an exporter's or a tracer's message, or the operators that ONNX lacks."""
    said, cause = str(error), error.__cause__
    while cause is not None:
        said, cause = f"{said}\n{cause}", cause.__cause__
    if operators := sorted(set(re.findall(r"<OpOverload\(op='([^']+)'", said))):
        return f"ONNX has no operator for {', '.join(operators)}"[:300]
    return in_one_line(error)
