"""A count of non-linearities in the autograd graph."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_NONLINEAR = {  # pointwise ones that no reader would call linear; products, norms, softmax and pooling are left out
    *("Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Silu", "Gelu", "Elu", "Celu", "LeakyRelu", "PreluKernel"),
    *("RreluWithNoise", "Mish", "Softplus", "Softshrink", "Hardshrink", "LogSigmoid", "Tanh", "Sigmoid", "Erf", "Glu"),
    *("Threshold", "Clamp", "ClampMin", "ClampMax", "Maximum", "Minimum", "Abs", "Sin", "Cos", "Atan"),
}


def nonlinear_nodes(scores: Tensor) -> int:
    """How many pointwise non-linearities there are at least below the scores, custom functions counted as one each."""
    return sum(_is_nonlinear(node) for node in nodes(scores))


def nodes(scores: Tensor) -> Iterator[Any]:
    """The autograd graph below a tensor."""
    waiting, seen = [scores.grad_fn], {scores.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        following = {one for one, _ in node.next_functions} - seen
        seen |= following
        waiting += following


def _is_nonlinear(node: Any) -> bool:
    custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    return custom or node.name().rstrip("0123456789").removesuffix("Backward") in _NONLINEAR
