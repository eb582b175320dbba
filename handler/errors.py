"""Everything that can be wrong, as one tree.

    ServiceError
    ├── RequestError            one row's mistake: becomes that row's answer, its neighbours are untouched; a ValueError
    │   ├── BadRequest          400  cannot be parsed, or out of range
    │   ├── NotFound            404  a path below the model's own that nothing answers at
    │   ├── TooLarge            413  too many bytes or pixels, or an answer too large to send
    │   ├── NotAnImage          415  not a picture
    │   ├── Unprocessable       422  a picture the model cannot take, or an option the architecture does not have
    │   └── NotFinite           422  a picture for which the network's scores or evidence are NaN or infinite
    └── ModelError              the model, its weights or its settings: told at start-up or export, never per row

Messages say what was wrong and what is valid. They go into the body only: the reason phrase is a fixed ASCII word,
because TorchServe's wire format breaks on anything else.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WRAPPERS = ("torch", "onnxscript", "onnx_ir")  # packages whose exceptions say where they were, not what was wrong


class ServiceError(Exception):
    """Base of all errors that this project raises on purpose."""


class ModelError(ServiceError):
    """The model, its weights, labels or settings cannot be used; the message says why and what would do."""


class RequestError(ServiceError, ValueError):
    """One row, or one call from Python, cannot be answered as asked."""

    status: int = 400  # HTTP status of the row
    phrase: str = "Bad Request"  # ASCII, fixed; never anything a client sent
    place: str = ""  # the picture that the error is about, "instances[2]"; empty in requests with one picture

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.place}: {message}" if self.place else message


class BadRequest(RequestError):
    """The row cannot be parsed, or one of its options is unknown or out of range."""


class TooLarge(RequestError):
    """The upload has too many bytes or pixels, or the answer would be too large to send."""

    status = 413
    phrase = "Content Too Large"


class NotAnImage(RequestError):
    """The upload is not a picture that can be decoded."""

    status = 415
    phrase = "Unsupported Media Type"


class Unprocessable(RequestError):
    """The model cannot take this picture, or its architecture lacks what the option asks for."""

    status = 422
    phrase = "Unprocessable Content"


class NotFinite(RequestError):
    """The network's scores or evidence for this picture are NaN or infinite; a kind of its own, to be counted."""

    status = 422
    phrase = "Unprocessable Content"


class NotFound(RequestError):
    """A path below the model's own that nothing answers at."""

    status = 404
    phrase = "Not Found"


@contextmanager
def locating(place: str) -> Iterator[None]:
    """Lets the errors of a request with several pictures say which one they are about; an empty place adds nothing."""
    try:
        yield
    except RequestError as error:
        error.place = place
        raise


def in_one_line(error: BaseException) -> str:
    """What a foreign exception says: its type and its first line, at most 300 characters, without colours.

    PyTorch's and ONNX's own tools wrap the cause in advice of their own; then it is the cause that speaks.
    """
    while error.__cause__ is not None and type(error).__module__.partition(".")[0] in _WRAPPERS:
        error = error.__cause__
    said = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *said[:1]])[:300]
