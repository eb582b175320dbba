"""One hostile request, and how it is kept so that it can be sent again."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.whole_file import write_whole

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Hostile:
    """A request as it goes onto the wire; Host and Content-Length are added there."""

    kind: str  # what was bent: "picture/PNG/flip", "json", …
    body: bytes = b""
    headers: list[Pair] = field(default_factory=list)
    path: bytes = b"/predictions/{model}"  # {model} is replaced by the served model's name
    method: bytes = b"POST"
    promised: int | None = None  # Content-Length that is sent, where it is not the body's
    framed: bool = True  # False: no HTTP that can be told apart, so that the server may also wait, or just close

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, bytes in base64; ``from_json`` reads it back."""
        return {
            "kind": self.kind,
            "method": _text(self.method),
            "path": _text(self.path),
            "headers": [[_text(name), _text(value)] for name, value in self.headers],
            "body": _text(self.body),
            "promised": self.promised,
            "framed": self.framed,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Hostile":
        """Reads what ``to_json`` made."""
        return cls(
            content["kind"],
            _bytes(content["body"]),
            [(_bytes(name), _bytes(value)) for name, value in content["headers"]],
            _bytes(content["path"]),
            _bytes(content["method"]),
            content["promised"],
            content["framed"],
        )


def save(path: Path, hostile: Hostile, found: dict[str, Any]) -> None:
    """Writes a request and what was found with it; ``load`` and ``--replay`` read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps({**found, "request": hostile.to_json()}, indent=1) + "\n").encode())


def load(path: Path) -> Hostile:
    """The request that ``save`` wrote."""
    return Hostile.from_json(json.loads(path.read_bytes())["request"])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
