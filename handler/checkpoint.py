"""Checkpoints: a model's weights together with what is needed to use them (architecture, labels, preprocessing).

Written as safetensors with the description in the file's own metadata. Read from safetensors, or from a state dict that
``torch.save`` wrote, with ``weights_only=True``: a pickle that would run code is refused.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from handler.errors import ModelError
from handler.preprocess import Preprocessing

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys under which training loops store the weights
_DENSENETS_OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what they say of themselves; a plain state dict says nothing."""

    architecture: str | None  # a torchvision registry name, or package.module:factory
    labels: list[str] | None  # one per class, in the order of the scores
    preprocessing: Preprocessing | None
    state: dict[str, torch.Tensor]
    notes: dict[str, str] = field(default_factory=dict)  # seed, accuracy and the like
    options: dict[str, Any] = field(default_factory=dict)  # of torchvision's builder; JSON values


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes safetensors, whole or not at all."""
    metadata = dict(checkpoint.notes)
    if checkpoint.architecture:
        metadata["architecture"] = checkpoint.architecture
    if checkpoint.labels:
        metadata["labels"] = json.dumps(checkpoint.labels)
    if checkpoint.preprocessing:
        metadata["preprocessing"] = checkpoint.preprocessing.to_json()
    if checkpoint.options:
        metadata["options"] = json.dumps(checkpoint.options)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(_apart(checkpoint.state), unfinished, metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _apart(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values, none in the memory of another: safetensors refuses weights that two layers share."""
    found, places = {}, set()
    for name, value in state.items():
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone(memory_format=torch.contiguous_format) if place in places else value.contiguous()
        places.add(place)
    return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads safetensors or a ``torch.save``d state dict; which one is told by the content, not by the name.

    Raises:
        ModelError: no such file, neither format, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError:
        return Checkpoint(None, None, None, _read_state_dict(path))
    return _described(path, state, metadata)


def with_present_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames what torchvision's own DenseNet files still call ``norm.1``, and its networks ``norm1``."""
    return {_DENSENETS_OLD_NAMES.sub(r"\1\2", name): value for name, value in state.items()}


def _described(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]) -> Checkpoint:
    architecture = metadata.pop("architecture", None)
    labels, preprocessing = metadata.pop("labels", None), metadata.pop("preprocessing", None)
    options = metadata.pop("options", "{}")
    try:
        named, built = json.loads(labels) if labels else None, json.loads(options)
        if named is not None and not (isinstance(named, list) and all(isinstance(one, str) for one in named)):
            raise TypeError("labels must be a list of texts")
        if not isinstance(built, dict):
            raise TypeError("options must be a mapping")
        return Checkpoint(
            architecture,
            named,
            Preprocessing.from_json(preprocessing) if preprocessing else None,
            state,
            metadata,
            built,
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"checkpoint {path} describes itself wrongly: {error}") from error


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever foreign bytes make it stumble over
        raise ModelError(
            f"checkpoint {path} is neither safetensors nor a state dict that loads with weights_only=True; "
            "save it with safetensors.torch.save_file(model.state_dict(), path) or torch.save(model.state_dict(), path)"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelError(f"checkpoint {path} holds no state dict (a mapping of parameter names to tensors)")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}
