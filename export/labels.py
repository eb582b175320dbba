"""Reads label files: one label per class, in the order of the scores."""

import json
from pathlib import Path
from typing import Any

from handler.errors import ModelError


def read_labels(path: Path) -> list[str]:
    """Reads labels from a text file, one per line, or from JSON.

    JSON may be a list of labels, or an object from index to label as in TorchServe's ``index_to_name.json``, where a
    label may also be a list whose last entry is the name (``{"0": ["n01440764", "tench"]}``).

    Raises:
        ModelError: there is no such file, the file has another form, a label is empty, or indices have gaps.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labels {path} cannot be read: {error}") from error
    labels = _from_json(path, text) if path.suffix == ".json" else [line.strip() for line in text.rstrip().splitlines()]
    if not labels or not all(labels):
        raise ModelError(f"labels {path}: valid is one non-empty label per class")
    return labels


def _from_json(path: Path, text: str) -> list[str]:
    try:
        parsed: Any = json.loads(text)
    except ValueError as error:
        raise ModelError(f"labels {path} are not valid JSON: {error}") from error
    if isinstance(parsed, dict):
        if sorted(parsed) != sorted(str(index) for index in range(len(parsed))):
            raise ModelError(f"labels {path}: the indices must be 0 to {len(parsed) - 1} without gaps")
        parsed = [parsed[str(index)] for index in range(len(parsed))]
        parsed = [entry[-1] if isinstance(entry, list) and entry else entry for entry in parsed]
    if not isinstance(parsed, list) or not all(isinstance(label, str) for label in parsed):
        raise ModelError(f"labels {path}: valid is a JSON list of names, or an object from index to name")
    return parsed
