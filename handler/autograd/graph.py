"""PyTorch's autograd graph: its nodes, the paths between them, and hooks on the gradients that arrive at them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

Node = Any  # torch.autograd.graph.Node, whose subclasses have no types


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


def leads(root: Node, leaf: Node, without: Collection[Node] = ()) -> bool:
    """Whether a path from ``root`` to ``leaf`` avoids the nodes ``without``."""
    return any(node is leaf for node in nodes(root, without=without))


def followed(among: Collection[Node]) -> set[Node]:
    """The nodes of a collection that gradients reach from another node of the collection."""
    behind = (following for node in among for following, _ in node.next_functions)
    return set(among) & set(nodes(*behind))


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
