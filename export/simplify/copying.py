"""Copies networks, and also those that keep objects which cannot be copied."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copy_of(module: Network) -> Network:
    """A deep copy, which shares with the original the objects beside the weights that cannot be copied.

    Examples are a tensor of an autograd graph (which is detached), a script function, a lock, an open file.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # the class of a kept object may raise anything
        return copy.deepcopy(module, _shared(module))


def _shared(module: nn.Module) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for name, value in vars(layer).items():
            if name not in ("_parameters", "_buffers", "_modules") and not _copies(value):
                memo[id(value)] = value.detach() if isinstance(value, torch.Tensor) else value
    return memo


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
