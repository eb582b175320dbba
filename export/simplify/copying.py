"""Copies of networks, of those that keep what cannot be copied, too."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copy_of(module: Network) -> Network:
    """A deep copy; what a module keeps beside its weights and cannot be copied is shared with it.

    That is a tensor of an autograd graph (which is detached), a script function, a lock, an open file.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # whatever the class of what it keeps raises
        return copy.deepcopy(module, _shared(module))


def _shared(module: nn.Module) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for one in module.modules():
        for name, value in vars(one).items():
            if name not in ("_parameters", "_buffers", "_modules") and not _copies(value):
                memo[id(value)] = value.detach() if isinstance(value, torch.Tensor) else value
    return memo


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
