"""Walks PyTorch's autograd graph: its nodes, and the paths between them."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

Node = Any  # torch.autograd.graph.Node, whose subclasses have no types


def nodes(root: Node, without: Collection[Node] = ()) -> Iterator[Node]:
    """Yields the nodes that gradients reach from ``root``, root first, on paths that avoid the nodes ``without``."""
    yield from _walk([root], without)


def leads(root: Node, leaf: Node, without: Collection[Node] = ()) -> bool:
    """Whether a path from ``root`` to ``leaf`` avoids the nodes ``without``."""
    return any(node is leaf for node in nodes(root, without))


def followed(among: Collection[Node]) -> set[Node]:
    """The nodes of a collection that gradients reach from another node of the collection."""
    behind = [following for node in among for following, _ in node.next_functions if following is not None]
    return set(among) & set(_walk(behind, ()))


def _walk(starts: Sequence[Node], without: Collection[Node]) -> Iterator[Node]:
    waiting = [node for node in dict.fromkeys(starts) if node not in without]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen and following not in without:
                seen.add(following)
                waiting.append(following)


def operation(node: Node) -> str:
    """The name of a node's operation: ``Relu`` for ReluBackward0, the class's name for a custom function."""
    name: str = node.name()
    return name.partition("Backward")[0]
