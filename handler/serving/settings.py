"""The ``explain`` section of ``model-config.yaml``: defaults for clients, and limits."""

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

    defaults: Options = Options()  # for what a request does not say
    max_pixels: int = DEFAULT_MAX_PIXELS  # of an upload, judged by its header
    max_answer_bytes: int = 16_000_000  # per row; below config.properties' max_response_size, which kills the worker
    engine: str = "auto"  # one of ENGINES: graphs where they hold what is asked for, hooks alone, or graphs alone
    threads: int = 0  # for a worker's engine; 0 is cores / workers


def read_settings(section: Mapping[str, Any] | None) -> Settings:
    """Reads the section as YAML gave it.

    Raises:
        ModelError: an unknown key or a value of the wrong kind; the message lists what is valid.
    """
    if section is not None and not isinstance(section, Mapping):
        raise ModelError(f"model-config.yaml: explain must be a mapping, not {section!r}")
    values = dict(section or {})
    known = [field.name for field in fields(Settings)]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ModelError(f"model-config.yaml: explain.{unknown[0]} does not exist, valid are {', '.join(known)}")
    try:
        defaults = parse_options(dict(values.pop("defaults", None) or {}), Options())
    except (BadRequest, TypeError, ValueError) as error:
        raise ModelError(f"model-config.yaml: explain.defaults: {error}") from error
    engine = values.pop("engine", "auto")
    if engine not in ENGINES:
        raise ModelError(f"model-config.yaml: explain.engine {engine!r} is not valid, valid are {', '.join(ENGINES)}")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (0 if key == "threads" else 1):
            least = 0 if key == "threads" else 1
            raise ModelError(f"model-config.yaml: explain.{key} must be a whole number from {least} up, not {value!r}")
    return Settings(defaults=defaults, engine=engine, **values)
