"""Copies of networks: any network, and without the parametrizations that compute weights in each run."""

import copy
from contextlib import suppress
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

Network = TypeVar("Network", bound=nn.Module)


def copy_of(module: Network) -> Network:
    """A deep copy, which shares with the original the objects beside the weights that cannot be copied.

    Examples are a tensor of an autograd graph (which is detached), a script function, a lock, an open file.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # the class of a kept object may raise anything
        apart = ("_parameters", "_buffers", "_modules")
        kept = [value for layer in module.modules() for name, value in vars(layer).items() if name not in apart]
        shared = {id(value): value for value in kept}
        for value in kept:
            with suppress(Exception):
                copy.deepcopy(value)
                shared.pop(id(value), None)
        detached = {key: value.detach() for key, value in shared.items() if isinstance(value, torch.Tensor)}
        return copy.deepcopy(module, shared | detached)


def without_parametrizations(module: Network) -> Network:
    """The module, whose weights keep the values that weight norm, spectral norm and the like compute; in place."""
    for layer in filter(is_parametrized, list(module.modules())):
        values = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
        layer.__class__ = type_before_parametrizations(layer)  # copies of a layer share the class, which stays
        del layer.parametrizations
        for name, value in values.items():
            layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module
