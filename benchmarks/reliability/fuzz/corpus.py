"""The words that hostile requests are made of, from ``corpus.toml``."""

import tomllib
from pathlib import Path
from typing import Any

_CORPUS = tomllib.loads(Path(__file__).with_name("corpus.toml").read_text(encoding="utf-8"))
GOOD: dict[str, list[Any]] = _CORPUS["good"]  # option to values that it may have


def texts(name: str) -> list[str]:
    """Words that are text."""
    return [_whole(one) for one in _CORPUS["texts"][name]]


def octets(name: str) -> list[bytes]:
    """Words that are bytes."""
    return [_whole(one).encode("latin-1") for one in _CORPUS["bytes"][name]]


def _whole(word: str | dict[str, Any]) -> str:
    return word if isinstance(word, str) else word.get("start", "") + word["repeat"] * word["times"]
