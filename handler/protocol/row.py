"""One request as every front hands it on: no server's own names of headers, paths or fields are left in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was posted to the model's address, or asked there."""

    fields: Mapping[str, Any]  # part name to bytes, text or parsed JSON; a body that is no form is alone under "body"
    accept: str = ""  # the Accept header
    path: str = ""  # below the model's own address, without slashes around it
    explains: bool = False  # whether the address is one for explanations
    describes: bool = False  # whether it asks about the model
    options: Mapping[str, str] = field(default_factory=dict)  # said outside the fields, which go before them
    content_type: str = ""  # of the body
    size: int | None = None  # bytes of the body, where the client's header says it
    json_size: str | None = None  # bytes of the JSON in a body with binary tensors behind it, as its header says

    @property
    def body_size(self) -> int:
        """Bytes of the body, or of what the fields hold where no header says it."""
        if self.size is not None:
            return self.size
        return sum(len(value) for value in self.fields.values() if isinstance(value, (bytes, bytearray, str)))
