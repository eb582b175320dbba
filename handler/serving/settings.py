"""Reads the ``explain`` section of ``model-config.yaml``: default options, limits and the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.errors import BadRequest, ModelError
from handler.picture.decode import DEFAULT_MAX_PIXELS
from handler.protocol.options import Options, parse_options

ENGINES = ("auto", "torch", "onnx")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The operator's settings."""

    defaults: Options = Options()  # options that a request does not give
    max_pixels: int = DEFAULT_MAX_PIXELS  # of a request's uploads
    max_answer_bytes: int = 16_000_000  # per row; below config.properties' max_response_size, which kills the worker
    max_passes: int = 1024  # masked pictures of a row, which must be answered within responseTimeout
    engine: str = "auto"  # auto: graphs where they hold the evidence, hooks elsewhere; torch: hooks; onnx: graphs
    receipt_key: str = ""  # path of the Ed25519 key on the server that receipts are signed with; empty: none is signed
    threads: int = 0  # of a worker's engine; 0: cores / workers


def read_settings(section: Mapping[str, Any] | None) -> Settings:
    """Reads the section as the YAML parser returns it, None if absent; a ModelError says what is invalid, and valid."""
    if section is not None and not isinstance(section, Mapping):
        raise ModelError(f"model-config.yaml: explain must be a mapping, not {section!r}")
    values = dict(section or {})
    known = [field.name for field in fields(Settings)]
    if unknown := [str(key) for key in values if key not in known]:
        raise ModelError(f"model-config.yaml: explain.{unknown[0]} does not exist, valid are {', '.join(known)}")
    try:
        defaults = parse_options(dict(values.pop("defaults", None) or {}), Options())
    except (BadRequest, TypeError, ValueError) as error:
        raise ModelError(f"model-config.yaml: explain.defaults: {error}") from error
    engine = values.pop("engine", "auto")
    if engine not in ENGINES:
        raise ModelError(f"model-config.yaml: explain.engine {engine!r} is not valid, valid are {', '.join(ENGINES)}")
    receipt_key = values.pop("receipt_key", None) or ""  # whoever opens the file checks it
    for key, value in values.items():
        least = 0 if key == "threads" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(f"model-config.yaml: explain.{key} must be a whole number from {least} up, not {value!r}")
    return Settings(defaults=defaults, engine=engine, receipt_key=receipt_key, **values)
