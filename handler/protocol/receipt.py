"""The upload's hash and size, by which a client checks that an answer is about its own picture."""

import hashlib
from dataclasses import dataclass
from typing import Any

HEADER = "X-Image-Sha256"


@dataclass(frozen=True)
class Receipt:
    """The hash and the size of one upload."""

    sha256: str  # 64 hexadecimal digits
    size: int  # bytes

    @classmethod
    def of(cls, upload: bytes) -> "Receipt":
        """Makes the receipt of an encoded picture, as it arrived."""
        return cls(hashlib.sha256(upload).hexdigest(), len(upload))

    def to_dict(self) -> dict[str, Any]:
        """The receipt in the JSON answer."""
        return {"sha256": self.sha256, "bytes": self.size}

    def headers(self) -> dict[str, str]:
        """The receipt as a header, for answers that are no JSON; none of its text comes from a client."""
        return {HEADER: self.sha256}
