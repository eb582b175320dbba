"""Gives gradients the memory layout that PyTorch's backward operators need to return right values."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from handler.autograd.graph import arriving, nodes

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions


def alike_in_memory(score: Tensor) -> AbstractContextManager[None]:
    """Inside the block, gradients of the score reach batch norms in the memory layout of the norms' inputs.

    ``native_batch_norm_backward`` of PyTorch 2.14.1 on a CPU silently returns wrong values if one of input and gradient
    (N, C, H, W) is contiguous and the other has strides of channels-last memory, too: at N = 1, or where a side is 1,
    as in transposed tokens. Remove this when ``tests/handler/autograd/test_backward_contract.py`` reports that the bare
    operator is right.
    """
    norms = {node: node._saved_input for node in nodes(score.grad_fn) if node.name() == "NativeBatchNormBackward0"}
    return arriving({node: _as(given) for node, given in norms.items() if given.dim() in _CHANNELS_LAST})


def _as(given: Tensor) -> Callable[[Tensor], Tensor]:
    layout = torch.contiguous_format if given.is_contiguous() else _CHANNELS_LAST[given.dim()]
    return lambda gradient: gradient.contiguous(memory_format=layout)
