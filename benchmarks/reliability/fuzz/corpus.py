"""The words that hostile requests are made of, from ``corpus.toml``."""

import tomllib
from pathlib import Path
from typing import Any

_CORPUS = tomllib.loads(Path(__file__).with_name("corpus.toml").read_text(encoding="utf-8"))


def _whole(word: str | dict[str, Any]) -> str:
    return word if isinstance(word, str) else word.get("start", "") + word["repeat"] * word["times"]


GOOD: dict[str, list[Any]] = _CORPUS["good"]  # option to values that it may have
TEXTS = {name: [_whole(one) for one in words] for name, words in _CORPUS["texts"].items()}
OCTETS = {name: [_whole(one).encode("latin-1") for one in words] for name, words in _CORPUS["bytes"].items()}
