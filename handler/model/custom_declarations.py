"""Reads four names that the module of a custom architecture may define.

* ``PREPROCESSING``: a mapping of the fields of ``handler.picture.preprocess.Preprocessing``;
* ``LABELS``: a label per score;
* ``weights()``: returns a state dict if no checkpoint is given; it is not called on the server;
* ``PACKED``: names of packages and modules that the network's code imports and that belong into the archive.

The user's labels go before a checkpoint's description, which goes before these declarations.
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
    """A checkpoint with the weights that the module's ``weights()`` returns, without labels and preprocessing.

    Raises:
        ModelError: the module has no function ``weights``, or the function fails or returns no state dict.
    """
    module = load_module(architecture)
    find_factory(architecture)  # refused before the weights are read, which may take long
    weights = getattr(module, "weights", None)
    if not callable(weights):
        raise ModelError(
            f"architecture {architecture} comes without weights: give a file, checkpoint=, "
            f"or define weights() in {module.__name__}, which returns a state dict"
        )
    try:
        state = weights()
    except Exception as error:  # foreign code can raise any exception
        raise ModelError(f"{module.__name__}.weights() fails ({type(error).__name__}: {error})") from error
    values = state.values() if isinstance(state, Mapping) else ()
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelError(f"weights() returns {described(state)}, valid is a state dict: a mapping of names to tensors")
    detached = {str(name): value.detach() for name, value in state.items()}
    return Checkpoint(architecture=architecture, labels=None, preprocessing=None, state=detached)


def declared_labels(architecture: str) -> list[str] | None:
    """The module's ``LABELS``; None if the module does not define them.

    Raises:
        ModelError: ``LABELS`` is no list of texts.
    """
    labels = getattr(load_module(architecture), "LABELS", None)
    return None if labels is None else _texts(labels, f"{module_name(architecture)}.LABELS", "texts, one per score")


def declared_preprocessing(architecture: str) -> Preprocessing | None:
    """The module's ``PREPROCESSING``; None if the module does not define it.

    Raises:
        ModelError: fields are missing, unknown or out of range.
    """
    declared = getattr(load_module(architecture), "PREPROCESSING", None)
    if declared is None or isinstance(declared, Preprocessing):
        return declared
    try:
        return Preprocessing.from_json(json.dumps(declared))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{module_name(architecture)}.PREPROCESSING is not valid: {error}") from error


def declared_packages(architecture: str) -> list[str]:
    """The module's ``PACKED``, empty if the module does not define it.

    Raises:
        ModelError: ``PACKED`` is no list of texts.
    """
    packed = getattr(load_module(architecture), "PACKED", ())
    return _texts(packed, f"{module_name(architecture)}.PACKED", "packages' names")


def _texts(values: Any, name: str, valid: str) -> list[str]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{name} must be a list of {valid}")
    return list(values)
