"""Runs a network that saves memory in training by computing its activations again, without that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint


class _Direct:
    """Takes the place of ``CheckpointFunction``, whose gradients only ``backward`` can ask for, and for all leaves."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def direct_checkpoints() -> Iterator[None]:
    """Inside the block, reentrant checkpoints run their function as if there were none.

    The other kind of checkpoint needs nothing: its graph is an ordinary one.
    """
    original = torch.utils.checkpoint.CheckpointFunction
    torch.utils.checkpoint.CheckpointFunction = _Direct  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = original  # type: ignore[misc]
