"""PyTorch's autograd graph: its nodes, the paths between them, and the gradients that flow through it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Node = Any  # torch.autograd.graph.Node, whose subclasses have no types
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions


def nodes(*roots: Node | None, avoided: Callable[[Node], bool] = lambda _: False) -> Iterator[Node]:
    """Yields the roots and the nodes that gradients reach from them, on paths without a node that is ``avoided``."""
    waiting: list[Any] = [*roots]
    seen = {None}
    while waiting:
        node = waiting.pop()
        if node not in seen and not avoided(node):
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def axes(saved: Sequence[int], dimensions: int) -> list[int]:
    """A node's saved axes counted from 0; autograd keeps negative axes as unsigned 64-bit numbers."""
    return [((axis + (1 << 63)) % (1 << 64) - (1 << 63)) % dimensions for axis in saved]


@contextmanager
def arriving(changes: Mapping[Node, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside the block, the gradients that arrive at nodes are changed, by a function for each node."""

    def hook(change: Callable[[Tensor], Tensor]) -> Any:
        return lambda gradients: tuple(None if gradient is None else change(gradient) for gradient in gradients)

    with ExitStack() as stack:
        for node, change in changes.items():
            stack.callback(node.register_prehook(hook(change)).remove)
        yield


def operation(node: Node) -> str:
    """The name of a node's operation: ``Relu`` for ReluBackward0, the class's name for a custom function."""
    return str(node.name()).partition("Backward")[0]


def gradients_at(tensors: Sequence[Tensor], score: Tensor, *, again: bool = False) -> Sequence[Tensor | None]:
    """The gradients of a scalar at tensors; a gradient is None where the scalar does not depend on the tensor.

    With ``again`` autograd records the gradients, too.

    Gradients reach batch norms in the memory layout of the norms' inputs, because ``native_batch_norm_backward`` of
    PyTorch 2.14.1 on a CPU silently returns wrong values if one of input and gradient (N, C, H, W) is contiguous and
    the other has strides of channels-last memory, too: at N = 1, or where a side is 1, as in transposed tokens. Remove
    this when ``tests/handler/autograd/test_backward_contract.py`` reports that the bare operator is right.
    """
    if not tensors or not score.requires_grad:
        return [None] * len(tensors)
    norms = {node: node._saved_input for node in nodes(score.grad_fn) if node.name() == "NativeBatchNormBackward0"}
    with arriving({node: _as(given) for node, given in norms.items() if given.dim() in _CHANNELS_LAST}):
        return torch.autograd.grad(score, tensors, retain_graph=True, create_graph=again, allow_unused=True)


def _as(given: Tensor) -> Callable[[Tensor], Tensor]:
    layout = torch.contiguous_format if given.is_contiguous() else _CHANNELS_LAST[given.dim()]
    return lambda gradient: gradient.contiguous(memory_format=layout)
