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
        twin = _out_of_place(function, args, kwargs)
        if twin is None:
            return function(*args, **kwargs)
        return target.copy_(twin(target.clone()))  # a copy, because an operation may keep its input


def _out_of_place(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    """What an operation in place computes, as a function of its first argument; None for any other operation."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        twin = getattr(torch.Tensor, name[:-1], None) or getattr(torch, name[:-1], None)
        if twin is None or name in _NOT_COMPUTED:
            return None
        return lambda target: twin(target, *args[1:], **kwargs)
    if getattr(function, "__module__", None) != "torch.nn.functional":
        return None
    bound = inspect.signature(function).bind(*args, **kwargs)
    if not bound.arguments.get("inplace"):
        return None
    bound.arguments["inplace"] = False
    return lambda target: function(target, *bound.args[1:], **bound.kwargs)


_NOT_COMPUTED = ("detach_", "requires_grad_", "squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_")
