"""Signs receipts with Ed25519 keys in PEM files, by the package ``cryptography`` (the extra ``signing``)."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.errors import ModelError, in_one_line


def read_key(path: Path | str, half: str) -> Any:
    """Reads the half "private" or "public" of a key; a ModelError says why it cannot be used."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        said = {"password": None} if half == "private" else {}
        key = getattr(serialization, f"load_pem_{half}_key")(Path(path).read_bytes(), **said)
        if isinstance(key, getattr(ed25519, f"Ed25519{half.capitalize()}Key")):
            return key
        raise ValueError("it is of another kind")
    except (ImportError, OSError, TypeError, ValueError) as error:
        needed = f"needed are the extra signing and a {half} Ed25519 key without a password"
        raise ModelError(f"the key {path} cannot be used ({in_one_line(error)}), {needed}") from error


def sign(receipt: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """The receipt with its signature by a private key."""
    return {**receipt, "signature": base64.b64encode(key.sign(_canonical(receipt))).decode()}


def is_signed(receipt: Mapping[str, Any], key: Any) -> bool:
    """Whether the receipt is unchanged since it was signed with the private half of this public key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(str(receipt.get("signature"))), _canonical(receipt))
    except (InvalidSignature, ValueError):
        return False
    return True


def _canonical(receipt: Mapping[str, Any]) -> bytes:
    unsigned = {name: value for name, value in receipt.items() if name != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()
