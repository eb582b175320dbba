"""The tree of errors.

    ServiceError
    ├── RequestError            an error of a row: becomes the row's answer, other rows are untouched; a ValueError
    │   ├── BadRequest          400  cannot be parsed, or out of range
    │   ├── NotFound            404  a path below the model's own at which nothing answers
    │   ├── Unauthorized        401  a token is asked for, and is missing or wrong
    │   ├── TooSlow             408  a body that does not arrive in time
    │   ├── Unavailable         503  more requests than may wait, or an answer that takes too long
    │   ├── TooLarge            413  too many bytes or pixels, or an answer too large to send
    │   ├── NotAnImage          415  not a picture
    │   ├── Unprocessable       422  a picture that the model cannot take, or an option that the architecture lacks
    │   └── NotFinite           422  a picture for which the network's scores or evidence are NaN or infinite
    └── ModelError              the model, its weights or settings: raised at start-up or export, not for a row

Messages say what was wrong and what is valid. They go into the body only: TorchServe's reason phrase is fixed text.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WRAPPERS = ("torch", "onnxscript", "onnx_ir")  # packages that wrap the cause of an exception in exceptions of theirs


class ServiceError(Exception):
    """Base of all errors that this project raises on purpose."""


class ModelError(ServiceError):
    """The model, its weights, labels or settings cannot be used; the message says why and what would do."""


class RequestError(ServiceError, ValueError):
    """A row of a batch, or a call from Python, cannot be answered."""

    status: int = 400  # HTTP status of the row
    phrase: str = "Bad Request"  # fixed ASCII text, never a client's
    headers: Mapping[str, str] = {}  # of the answer
    place: str = ""  # the picture's place in the request, "instances[2]"; empty for a single picture

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.place}: {message}" if self.place else message


class BadRequest(RequestError):
    """The row cannot be parsed, or one of its options is unknown or out of range."""


class TooLarge(RequestError):
    """The upload has too many bytes or pixels, or the answer would be too large to send."""

    status, phrase = 413, "Content Too Large"


class NotAnImage(RequestError):
    """The upload is not a picture that can be decoded."""

    status, phrase = 415, "Unsupported Media Type"


class Unprocessable(RequestError):
    """The model cannot take this picture, or its architecture lacks what the option asks for."""

    status, phrase = 422, "Unprocessable Content"


class NotFinite(RequestError):
    """The network's scores or evidence for this picture are NaN or infinite; counted apart from Unprocessable."""

    status, phrase = 422, "Unprocessable Content"


class NotFound(RequestError):
    """Nothing answers at this path below the model's own."""

    status, phrase = 404, "Not Found"


class Unauthorized(RequestError):
    """The front asks for a token, which is missing or wrong."""

    status, phrase, headers = 401, "Unauthorized", {"WWW-Authenticate": "Bearer"}


class TooSlow(RequestError):
    """The body did not arrive in time."""

    status, phrase, headers = 408, "Request Timeout", {"Connection": "close"}


class Unavailable(RequestError):
    """As many requests wait as may wait, or the answer takes too long."""

    status, phrase, headers = 503, "Service Unavailable", {"Retry-After": "1"}


@contextmanager
def locating(place: str) -> Iterator[None]:
    """Adds the picture's place in the request to the errors of the block."""
    try:
        yield
    except RequestError as error:
        error.place = place
        raise


def in_one_line(error: BaseException) -> str:
    """A foreign exception's type and the first line of its message, at most 300 characters, without colours.

    The tools of PyTorch and ONNX wrap an exception in others with general advice; the cause is reported instead.
    """
    while error.__cause__ is not None and type(error).__module__.partition(".")[0] in _WRAPPERS:
        error = error.__cause__
    said = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *said[:1]])[:300]


@contextmanager
def foreign_code(what: str, valid: str = "") -> Iterator[None]:
    """Turns whatever foreign code raises in the block into a ModelError: what failed, the cause, and what is valid."""
    try:
        yield
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} ({in_one_line(error)})" + (f"; {valid}" if valid else "")) from error
