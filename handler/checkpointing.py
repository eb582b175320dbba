"""Runs a network that saves memory in training by computing its activations again, without that."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils import checkpoint


class _Direct:
    """Takes the place of ``CheckpointFunction``, whose gradients only ``backward`` can ask for, and for all leaves."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _once(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """Takes the place of the generator around a function that is checkpointed without reentry."""
    return iter([None])


@contextmanager
def direct_checkpoints() -> Iterator[None]:
    """Inside the block, ``torch.utils.checkpoint`` of both kinds runs its function as if it were not there."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(checkpoint, "CheckpointFunction", _Direct))
        for name in ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl"):
            if hasattr(checkpoint, name):  # one of the two, by PyTorch's version
                stack.enter_context(patch.object(checkpoint, name, _once))
        yield
