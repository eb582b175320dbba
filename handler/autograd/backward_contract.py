"""Gives gradients the memory layout that PyTorch's backward operators need to return right values."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from handler.autograd.graph import nodes

Gradients = tuple[torch.Tensor | None, ...]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions


@contextmanager
def alike_in_memory(score: torch.Tensor) -> Iterator[None]:
    """Inside the block, gradients of the score reach batch norms in the memory layout of the norms' inputs.

    ``native_batch_norm_backward`` of PyTorch 2.14.1 on a CPU silently returns wrong values if one of input and gradient
    (N, C, H, W) is contiguous and the other has strides of channels-last memory, too: at N = 1, or where a side is 1,
    as in transposed tokens. Remove this when ``tests/handler/autograd/test_backward_contract.py`` reports that the bare
    operator is right.
    """
    with ExitStack() as stack:
        for node in nodes(score.grad_fn) if score.grad_fn is not None else ():
            if node.name() == "NativeBatchNormBackward0" and node._saved_input.dim() in _CHANNELS_LAST:
                stack.callback(node.register_prehook(_in_layout_of(node._saved_input)).remove)
        yield


def _in_layout_of(tensor: torch.Tensor) -> Callable[[Gradients], Gradients]:
    layout = torch.contiguous_format if tensor.is_contiguous() else _CHANNELS_LAST[tensor.dim()]

    def hook(arriving: Gradients) -> Gradients:
        return tuple(None if gradient is None else gradient.contiguous(memory_format=layout) for gradient in arriving)

    return hook
