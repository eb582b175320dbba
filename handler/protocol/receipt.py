"""The receipt of an answer: what it was made of, and hashes of its scores and maps, so that it can be computed anew.

Receipts are signed with Ed25519 keys in PEM files, by the package ``cryptography`` (the extra ``signing``).
"""

import base64
import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handler.errors import ModelError, in_one_line
from handler.explanation.evidence import Floats
from handler.protocol.model_card import ModelCard

HEADER = "X-Image-Sha256"  # of answers, whatever their form
FORMAT = 1
ImageHash = Mapping[str, Any]  # sha256 and bytes of an upload
_SUMS = 32  # of a sketch
_PACKAGES = ("numpy", "cv2", "PIL")
_ENGINES = {"onnx": "onnxruntime", "torch": "torch"}
_HANDLER = Path(__file__).parents[1]


def hash_image(upload: bytes) -> ImageHash:
    """The hash and the size of an upload, by which a client checks that an answer is about its own picture."""
    return {"sha256": hashlib.sha256(upload).hexdigest(), "bytes": len(upload)}


def provenance(card: ModelCard, engine: str, image: ImageHash, options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a receipt that says what an answer is made of; ``options`` are the job's resolved ones."""
    return {
        "format": FORMAT,
        "image": image,
        "model": card.summary(engine),
        "weights_sha256": card.weights_sha256 or None,
        "graphs": card.graphs,
        "preprocessing": card.preprocessing.to_dict(),
        "options": options,
        "versions": _versions(engine),
    }


def digest(values: Floats) -> dict[str, Any]:
    """An array's hash, and what its distance from another array is estimated by.

    The sketch holds the sums of 32 stretches of the values with signs that are random, and the same for all arrays of a
    size. The square of a sum of ``s_i d_i`` is on average the sum of ``d_i²`` (Alon, Matias, Szegedy 1996).
    """
    values = np.ascontiguousarray(values, "<f4")
    flat, signs, edges = values.ravel(), _signs(values.size), [part * values.size // _SUMS for part in range(_SUMS + 1)]
    sketch = [flat[start:end] @ signs[start:end] for start, end in pairwise(edges)]
    return {
        "sha256": hashlib.sha256(values.data).hexdigest(),
        "shape": list(values.shape),
        "max": float(max(values.max(), -values.min())),
        "sketch": base64.b64encode(np.array(sketch, "<f4").tobytes()).decode(),
    }


def distance(then: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """The root mean square of a difference over the maximum, within about an eighth; exact up to 32 values."""
    if then["shape"] != now["shape"]:
        return float("inf")
    before, after = (np.frombuffer(base64.b64decode(one["sketch"]), "<f4").astype(np.float64) for one in (then, now))
    largest = max(then["max"], now["max"], float(np.finfo(np.float32).tiny))
    return float(np.sqrt(np.square(before - after).sum() / np.prod(now["shape"])) / largest)


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


@lru_cache(maxsize=8)
def _signs(size: int) -> Floats:
    words = np.random.PCG64(0).random_raw(-(-size // 64)).astype("<u8")  # NumPy never changes these numbers
    return np.asarray(np.unpackbits(words.view(np.uint8))[:size] * 2.0 - 1, np.float32)


@lru_cache
def _versions(engine: str) -> dict[str, str]:
    """The versions of what computes; the handler's own is a hash of its source."""
    source, entry = hashlib.sha256(), _HANDLER / "torchserve_entry.py"  # archives have the entry file elsewhere
    for path in sorted({*_HANDLER.rglob("*.py")} - {entry}):
        source.update(path.relative_to(_HANDLER).as_posix().encode() + path.read_bytes())
    loaded = {name: sys.modules[name] for name in (*_PACKAGES, _ENGINES.get(engine)) if name in sys.modules}
    versions = {name: str(module.__version__) for name, module in loaded.items()}
    here = {"python": platform.python_version(), "machine": platform.machine()}
    return {"handler": source.hexdigest()[:16], **here, **versions}
