"""A request as a front hands it to the service, free of the names that the front's server has for headers and paths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_OPTION = "x-explain-"  # prefix of the headers with options


@dataclass(frozen=True, kw_only=True)
class Row:
    """One request to the model's address."""

    fields: Mapping[str, Any]  # part name to bytes, text or parsed JSON; a body that is no form is alone under "body"
    accept: str = ""  # the Accept header
    path: str = ""  # path below the model's own address, without slashes around it
    explains: bool = False  # whether the address is one for explanations
    describes: bool = False  # whether the request asks about the model
    models: Sequence[str] = ()  # that the front serves, as NAME/VERSION, for the model's page
    options: Mapping[str, str] = field(default_factory=dict)  # options from headers; options in fields go before them
    content_type: str = ""  # of the body
    encoding: str = ""  # the Content-Encoding header
    size: int | None = None  # bytes of the body by the client's header; None without the header
    json_size: str | None = None  # header with the bytes of the JSON before binary tensors; None without the header

    @property
    def body_size(self) -> int:
        """Bytes of the body by its header; without the header, bytes of the fields' values."""
        if self.size is not None:
            return self.size
        return sum(len(value) for value in self.fields.values() if isinstance(value, (bytes, bytearray, str)))


def header_options(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The options among headers; servers read each byte as a character of Latin-1, and clients write UTF-8."""
    return [(name[len(_OPTION) :], _as_sent(text)) for name, text in headers if name.lower().startswith(_OPTION)]


def _as_sent(header: str) -> str:
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header
