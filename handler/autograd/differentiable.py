"""Lets autograd record the parts of a network that its author hid from autograd, without a change of values.

Hidden are layers that run under ``torch.no_grad()`` or ``inference_mode()``, as frozen trunks do; activations in place
on a view, such as ``nn.ReLU(inplace=True)`` behind ``nn.Flatten()``, which PyTorch records as ``CopySlices``; and parts
that ``torch.utils.checkpoint`` computes again. Detached tensors stay detached.
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
    """Inside the block, which one thread enters, autograd records that thread's operations but changes of buffers."""
    with _ONE_THREAD, ExitStack() as stack:
        stack.callback(_release_buffers, module)
        for owner, name, replacement in _REPLACED:
            if hasattr(owner, name):  # some names depend on PyTorch's version
                stack.enter_context(patch.object(owner, name, _in_this_thread(replacement, getattr(owner, name))))
        stack.enter_context(_Visible())
        yield


def _in_this_thread(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls the replacement in the thread that made it, and the original in all other threads."""
    thread = threading.get_ident()

    def either(*args: Any, **kwargs: Any) -> Any:
        return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

    return either


def _release_buffers(module: nn.Module) -> None:
    """Detaches the buffers of networks that update buffers under ``no_grad``, which the block switched off."""
    for buffer in module.buffers():
        if buffer.requires_grad:
            buffer.detach_()


class _Visible(TorchFunctionMode):
    """Keeps gradients enabled; computes an operation in place on a view out of place, and copies the result back."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch._C._set_grad_enabled and args == (False,):
            return None
        target: Any = args[0] if args else None
        on_view = isinstance(target, Tensor) and target.requires_grad and target._is_view()
        twin = _out_of_place(function, args, kwargs) if on_view else None
        # works on a copy, because an operation may keep its input
        return target.copy_(twin(target.clone())) if twin else function(*args, **kwargs)


def _out_of_place(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """An operation in place as a function of its first argument that works out of place; None for other operations."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        twin = getattr(Tensor, name[:-1], None) or getattr(F, name[:-1], None)
        return (lambda target: twin(target, *args[1:], **kwargs)) if twin and name not in _NOT_COMPUTED else None
    if getattr(function, "__module__", None) != "torch.nn.functional":
        return None
    bound = inspect.signature(function).bind(*args, **kwargs)
    if not bound.arguments.get("inplace"):
        return None
    bound.arguments["inplace"] = False
    return lambda target: function(target, *bound.args[1:], **bound.kwargs)


_NOT_COMPUTED = (  # these operations change no values, or draw random values
    *("detach_", "requires_grad_", "squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_"),
    *("as_strided_", "bernoulli_"),
)
_ONE_THREAD = threading.RLock()
_REPLACED: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (torch.inference_mode, "__enter__", lambda *_: None),
    (torch.inference_mode, "__exit__", lambda *_: None),
    # a reentrant checkpoint, which ``torch.autograd.grad`` cannot differentiate
    (checkpoint.CheckpointFunction, "apply", lambda function, _preserve_rng_state, *args: function(*args)),
    # the generator around a function that is checkpointed without reentry
    (checkpoint, "_checkpoint_without_reentrant_generator", lambda *_, **_kwargs: iter([None])),
    (checkpoint, "_checkpoint_without_reentrant_generator_impl", lambda *_, **_kwargs: iter([None])),
)
