"""The tree of errors.

    ServiceError
    ├── RequestError   an error of a row: becomes the row's answer, other rows are untouched; a ValueError
    │   └── BadRequest, NotFound, Unauthorized, TooSlow, Unavailable, TooLarge, NotAnImage, Unprocessable, NotFinite
    └── ModelError     the model, its weights or settings: raised at start-up or export, not for a row

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

    def __init_subclass__(cls, status: int = 400, phrase: str = "Bad Request", headers: Mapping[str, str] = {}) -> None:
        cls.status, cls.phrase, cls.headers = status, phrase, headers

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.place}: {message}" if self.place else message


class BadRequest(RequestError):
    """The row cannot be parsed, or one of its options is unknown or out of range."""


class TooLarge(RequestError, status=413, phrase="Content Too Large"):
    """The upload has too many bytes or pixels, or the answer would be too large to send."""


class NotAnImage(RequestError, status=415, phrase="Unsupported Media Type"):
    """The upload is not a picture that can be decoded."""


class Unprocessable(RequestError, status=422, phrase="Unprocessable Content"):
    """The model cannot take this picture, or its architecture lacks what the option asks for."""


class NotFinite(RequestError, status=422, phrase="Unprocessable Content"):
    """The network's scores or evidence for this picture are NaN or infinite; counted apart from Unprocessable."""


class NotFound(RequestError, status=404, phrase="Not Found"):
    """Nothing answers at this path below the model's own."""


class Unauthorized(RequestError, status=401, phrase="Unauthorized", headers={"WWW-Authenticate": "Bearer"}):
    """The front asks for a token, which is missing or wrong."""


class TooSlow(RequestError, status=408, phrase="Request Timeout", headers={"Connection": "close"}):
    """The body did not arrive in time."""


class Unavailable(RequestError, status=503, phrase="Service Unavailable", headers={"Retry-After": "1"}):
    """As many requests wait as may wait, or the answer takes too long."""


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
