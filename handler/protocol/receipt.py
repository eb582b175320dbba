"""What tells a client that an answer is that of its own picture: the upload's hash and size."""

import hashlib
from dataclasses import dataclass
from typing import Any

HEADER = "X-Image-Sha256"


@dataclass(frozen=True)
class Receipt:
    """Of one upload."""

    sha256: str  # 64 hexadecimal digits
    size: int  # bytes

    @classmethod
    def of(cls, upload: bytes) -> "Receipt":
        """The receipt of an encoded picture, as it arrived."""
        return cls(hashlib.sha256(upload).hexdigest(), len(upload))

    def to_dict(self) -> dict[str, Any]:
        """As the JSON answer has it."""
        return {"sha256": self.sha256, "bytes": self.size}

    def headers(self) -> dict[str, str]:
        """For answers that have no JSON; made here, so that nothing a client sent gets into a header."""
        return {HEADER: self.sha256}
