"""What the module of an architecture of one's own may say of it, in four names that it may define.

* ``PREPROCESSING``: a mapping of the fields of ``handler.picture.preprocess.Preprocessing``;
* ``LABELS``: one per score;
* ``weights()``: returns a state dict, for those who give no checkpoint; it is not called on the server;
* ``PACKED``: names of further packages and modules that the network's code imports and that travel with it.

Labels that are given, and labels and preprocessing that a checkpoint says, go before.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint
from handler.model.custom_architecture import described, find_factory, load_module, module_name
from handler.picture.preprocess import Preprocessing


def declared_checkpoint(architecture: str) -> Checkpoint:
    """The weights that the factory's module declares; its labels and preprocessing have functions of their own.

    Raises:
        ModelError: it declares no weights, or something that is none of these.
    """
    module = load_module(architecture)
    find_factory(architecture)  # told before the weights are read, which may take long
    weights = getattr(module, "weights", None)
    if not callable(weights):
        raise ModelError(
            f"architecture {architecture} comes without weights: give a checkpoint (CHECKPOINT=file), "
            f"or define weights() in {module.__name__}, which returns a state dict"
        )
    try:
        state = weights()
    except Exception as error:  # whatever its author did not foresee
        raise ModelError(f"{module.__name__}.weights() fails ({type(error).__name__}: {error})") from error
    return Checkpoint(architecture=architecture, labels=None, preprocessing=None, state=_state(state))


def declared_labels(architecture: str) -> list[str] | None:
    """The module's ``LABELS``, None without.

    Raises:
        ModelError: they are not texts.
    """
    labels = getattr(load_module(architecture), "LABELS", None)
    if labels is None:
        return None
    if not _are_texts(labels):
        raise ModelError(f"{module_name(architecture)}.LABELS must be a list of texts, one per score")
    return list(labels)


def declared_preprocessing(architecture: str) -> Preprocessing | None:
    """The module's ``PREPROCESSING``, None without.

    Raises:
        ModelError: fields missing, unknown or out of range.
    """
    declared = getattr(load_module(architecture), "PREPROCESSING", None)
    if declared is None or isinstance(declared, Preprocessing):
        return declared
    try:
        return Preprocessing.from_json(json.dumps(declared))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{module_name(architecture)}.PREPROCESSING is not valid: {error}") from error


def declared_packages(architecture: str) -> list[str]:
    """The module's ``PACKED``.

    Raises:
        ModelError: they are not texts.
    """
    packed = getattr(load_module(architecture), "PACKED", ())
    if not _are_texts(packed):
        raise ModelError(f"{module_name(architecture)}.PACKED must be a list of packages' names")
    return list(packed)


def _are_texts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def _state(state: Any) -> dict[str, torch.Tensor]:
    if not isinstance(state, Mapping) or not state or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise ModelError(f"weights() returns {described(state)}, valid is a state dict: a mapping of names to tensors")
    return {str(name): value.detach() for name, value in state.items()}
