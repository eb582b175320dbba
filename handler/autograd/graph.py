"""Walks over PyTorch's autograd graph: its nodes, and whether a way through it remains without some of them."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

Node = Any  # torch.autograd.graph.Node, whose subclasses have no types


def nodes(root: Node, without: Collection[Node] = ()) -> Iterator[Node]:
    """The nodes that gradients pass from ``root`` on, root first, without entering those of ``without``."""
    yield from _walk([root], without)


def leads(root: Node, leaf: Node, without: Collection[Node] = ()) -> bool:
    """Whether gradients pass from ``root`` to ``leaf`` around the nodes ``without``."""
    return any(node is leaf for node in nodes(root, without))


def followed(among: Collection[Node]) -> set[Node]:
    """The nodes that gradients reach from another node of the collection."""
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
    """The name of a node's operation: ``Relu`` of ReluBackward0; of a custom function the name of its class."""
    name: str = node.name()
    return name.partition("Backward")[0]
