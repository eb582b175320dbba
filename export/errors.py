"""What is raised where no ONNX graph can be made of a network."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from handler.errors import ModelError, Unprocessable, in_one_line


class NotExportableError(ModelError):
    """No ONNX graph can be made of this network; the message says why."""


@contextmanager
def network_code(doing: str) -> Iterator[None]:
    """Around the network's own code, which may raise anything.

    Raises:
        NotExportableError: the network's code raised an exception; the message says at which step, and the cause.
    """
    try:
        yield
    except ModelError:
        raise
    except Unprocessable as error:
        raise NotExportableError(f"{doing}: {error}") from error
    except Exception as error:
        raise NotExportableError(f"{doing}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an exception of a tracer or an exporter says, without its pages of advice."""
    operators = sorted(set(re.findall(r"<OpOverload\(op='([^']+)'", _chain(error))))
    if operators:
        return f"ONNX has no operator for {', '.join(operators)}"[:300]
    return in_one_line(error)


def _chain(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{_chain(error.__cause__)}"
