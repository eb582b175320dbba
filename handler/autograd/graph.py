"""PyTorch's autograd graph: its nodes, the paths between them, and hooks on the gradients that arrive at them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Node = Any  # torch.autograd.graph.Node, whose subclasses have no types
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions


def nodes(*roots: Node | None, without: Collection[Node] = ()) -> Iterator[Node]:
    """Yields the roots and the nodes that gradients reach from them, on paths that avoid the nodes ``without``."""
    waiting = [root for root in dict.fromkeys(roots) if root is not None and root not in without]
    seen = {None, *without, *waiting}
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


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
