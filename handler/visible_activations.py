"""Lets the autograd graph show activations that would vanish in it: those that rewrite a view in place."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class VisibleActivations(TorchFunctionMode):
    """Inside the block, an operation in place on a view becomes the operation and a copy of its result.

    PyTorch records an operation in place on a view, like ``nn.Flatten()`` with ``nn.ReLU(inplace=True)`` behind it, as
    ``CopySlices``, which hides the operation's own node. Values and gradients stay the same.
    """

    def __torch_function__(
        self, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else None
        if not isinstance(target, Tensor) or not target.requires_grad or not target._is_view():
            return function(*args, **kwargs)
        result = _out_of_place(function, args, kwargs)
        return function(*args, **kwargs) if result is None else target.copy_(result)


def _out_of_place(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The result of an operation in place, computed beside its input; None for any other operation."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        twin = getattr(torch.Tensor, name[:-1], None) or getattr(torch, name[:-1], None)
        return twin(*args, **kwargs) if twin is not None and name not in _NOT_COMPUTED else None
    if getattr(function, "__module__", None) != "torch.nn.functional":
        return None
    bound = inspect.signature(function).bind(*args, **kwargs)
    if not bound.arguments.get("inplace"):
        return None
    bound.arguments["inplace"] = False
    result: Tensor = function(*bound.args, **bound.kwargs)
    return result


_NOT_COMPUTED = ("detach_", "requires_grad_", "squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_")
