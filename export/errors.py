"""The error of a network that cannot become an ONNX graph, and how its message is made."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from handler.errors import ModelError, Unprocessable, in_one_line


class NotExportableError(ModelError):
    """This network cannot become an ONNX graph; the message says why."""


@contextmanager
def network_code(doing: str) -> Iterator[None]:
    """Turns what the network's own code raises into a NotExportableError that begins with ``doing``, with the cause.

    The cause is in one line, or names the operators that ONNX lacks.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the exceptions of torch.export and of the exporter have no common base but this
        said, cause = str(error), error.__cause__
        while cause is not None:
            said, cause = f"{said}\n{cause}", cause.__cause__
        lacking = ", ".join(sorted(set(re.findall(r"<OpOverload\(op='([^']+)'", said))))
        why = f"ONNX has no operator for {lacking}"[:300] if lacking else in_one_line(error)
        raise NotExportableError(f"{doing}: {error if isinstance(error, Unprocessable) else why}") from error
