"""What hostile requests are made of: words, from ``corpus.toml``, and small sound pictures, which are bent.

The pictures, of every format and kind, are files: another Pillow would write others, and so change all requests.
"""

import tomllib
from pathlib import Path
from typing import Any

_CORPUS = tomllib.loads(Path(__file__).with_name("corpus.toml").read_text(encoding="utf-8"))


def _whole(word: str | dict[str, Any]) -> str:
    return word if isinstance(word, str) else word.get("start", "") + word["repeat"] * word["times"]


GOOD: dict[str, list[Any]] = _CORPUS["good"]  # option to values that it may have
TEXTS = {name: [_whole(one) for one in words] for name, words in _CORPUS["texts"].items()}
OCTETS = {name: [_whole(one).encode("latin-1") for one in words] for name, words in _CORPUS["bytes"].items()}
SEEDS = {path.name: path.read_bytes() for path in sorted(Path(__file__).with_name("seeds").iterdir())}  # by FORMAT-kind
