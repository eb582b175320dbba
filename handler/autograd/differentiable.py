"""Lets autograd see all of a network, also what its author hid from it: values stay the same.

Hidden are layers that run under ``torch.no_grad()`` or ``inference_mode()``, as frozen trunks do; activations that
rewrite a view in place, like ``nn.Flatten()`` with ``nn.ReLU(inplace=True)`` behind it, of which PyTorch records
``CopySlices`` alone; and parts that ``torch.utils.checkpoint`` computes again. What is detached stays detached.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Inside the block, what the network computes in this thread is recorded as if none of that were there.

    Other threads wait for their own block, and are not touched otherwise. Buffers that the network changes stay outside
    the graph.
    """
    with _ONE_THREAD, ExitStack() as stack:
        stack.callback(_release_buffers, module)
        for owner, name, replacement in _REPLACED:
            if hasattr(owner, name):  # of some there is one or the other, by PyTorch's version
                here = _in_this_thread(replacement, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, here))
        stack.enter_context(_Visible())
        yield


def _in_this_thread(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does what the replacement does in the calling thread, and elsewhere what the original does."""
    thread = threading.get_ident()

    def either(*args: Any, **kwargs: Any) -> Any:
        return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

    return either


def _release_buffers(module: nn.Module) -> None:
    """Takes buffers out of the graph into which a network has put them that counts under ``no_grad``."""
    for buffer in module.buffers():
        if buffer.requires_grad:
            buffer.detach_()


class _Visible(TorchFunctionMode):
    """Gradients stay enabled, and an operation in place on a view becomes the operation and a copy of its result."""

    def __torch_function__(
        self, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch._C._set_grad_enabled and args == (False,):
            return None
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
        twin = getattr(Tensor, name[:-1], None) or getattr(F, name[:-1], None)
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


_NOT_COMPUTED = (  # in place they change no values, or draw them
    *("detach_", "requires_grad_", "squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_"),
    *("as_strided_", "bernoulli_"),
)


def _nothing(*_args: Any) -> None:
    """Takes the place of what enters and leaves inference mode."""


def _directly(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
    """Takes the place of a reentrant checkpoint, whose gradients only ``backward`` can ask for, and for all leaves."""
    return function(*args)


def _once(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """Takes the place of the generator around a function that is checkpointed without reentry."""
    return iter([None])


_ONE_THREAD = threading.RLock()
_REPLACED: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (torch.inference_mode, "__enter__", _nothing),
    (torch.inference_mode, "__exit__", _nothing),
    (checkpoint.CheckpointFunction, "apply", _directly),
    (checkpoint, "_checkpoint_without_reentrant_generator", _once),
    (checkpoint, "_checkpoint_without_reentrant_generator_impl", _once),
)
