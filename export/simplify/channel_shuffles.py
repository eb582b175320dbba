"""Folds channel shuffles into the weights of the convolutions around them.

Between two convolutions ShuffleNet only moves channels: joins, splits, transpositions. If every convolution writes
its channels in the order in which they are read, one split behind the convolution and one join before each reader
suffice. Exact up to the order of sums.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from export.simplify.channels import called_once, reorder_inputs, reorder_outputs, way_to_dense
from export.simplify.flatten import NotApplicable

_JOINS = {torch.cat, torch.concat}
_MOVES = _JOINS | {
    *(torch.chunk, torch.split, torch.transpose, torch.permute, torch.reshape, operator.getitem),
    *("chunk", "split", "view", "reshape", "transpose", "permute", "contiguous"),
}
_CELLS = 2**32  # more cells than one channel of a batch has


@dataclass(frozen=True, eq=False)
class _End:
    """Where moves begin, behind a dense convolution, or end, before the dense convolutions that read a join."""

    node: fx.Node
    places: dict[int, int]  # numbers of the node's channels, in their order, to their places
    ways: list[list[nn.Module]]  # the modules from the node to each dense convolution, that convolution included

    def order(self, numbers: Sequence[int]) -> list[int]:
        """The places of some channels."""
        return [self.places[number] for number in numbers]


_Group = tuple[list[_End], list[int]]  # joins that read the same channels of one source, and those channels


def fold_shuffles(network: fx.GraphModule, example: torch.Tensor) -> int:
    """Rewrites the graph and permutes the weights of its convolutions, in place.

    The moves between dense convolutions are folded, if each convolution is called once, all moves are of whole
    channels, and no join reads a channel twice; other moves stay as they are.

    Args:
        network: flat, see ``flatten``; shares its convolutions with no other network.
        example: pictures (N, 3, H, W), N at least 2, that show which channel goes where.

    Returns:
        The number of joins that have taken the place of shuffles.

    Raises:
        NotApplicable: the network asks for the size of what is folded; the network is no longer usable.
    """
    if not any(_moves(node) and node.target not in _JOINS for node in network.graph.nodes):
        return 0
    tracker = _ChannelTracker(network)
    with torch.no_grad():
        tracker.run(example)
    count = 0
    replaced: set[fx.Node] = set()
    for sources, joins, moves in _routes(tracker, called_once(network)):
        replaced |= moves.union(*(source.node.users for source in sources))
        _fold(network.graph, sources, joins)
        count += len(joins)
    network.graph.eliminate_dead_code()
    if alive := replaced & set(network.graph.nodes):
        raise NotApplicable(f"{min(alive).name} asks for the size of what would be folded")
    return count


class _ChannelTracker(fx.Interpreter):
    """Numbers all channels and their cells where they are made, and moves the numbers like the values."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.numbers: dict[fx.Node, Any] = {}  # a node's value, in which the cells' numbers replace tensors
        self.moved: set[fx.Node] = set()
        self._next = 0

    def run_node(self, n: fx.Node) -> Any:
        value = self.numbers[n] = super().run_node(n)
        if _moves(n):
            args, kwargs = (fx.map_arg(given, self.numbers.__getitem__) for given in (n.args, n.kwargs))
            self.numbers[n] = getattr(self, n.op)(n.target, args, kwargs)
            self.moved.add(n)
        elif isinstance(value, torch.Tensor) and not any(_moves(user) for user in n.users):
            self.numbers[n] = torch.empty(0)  # no move reads them
        elif isinstance(value, torch.Tensor) and value.dim() == 4:
            made = torch.arange(self._next, self._next + value.shape[1])
            self.numbers[n] = made[None, :, None, None] * _CELLS + _cells(value)
            self._next += value.shape[1]
        return value

    def end(self, node: fx.Node, ways: list[list[nn.Module]]) -> _End | None:
        """A source or a join; None if its channels cannot be reordered.

        They can be if each is one whole channel with every cell in its place, no other has the same number, and every
        way ends in a dense convolution.
        """
        numbers = self.numbers[node]
        if not isinstance(numbers, torch.Tensor) or numbers.dim() != 4 or not all(ways):
            return None
        first = numbers[:1, :, :1, :1]
        places = {number: place for place, number in enumerate((first.flatten() // _CELLS).tolist())}
        whole = bool((numbers == first + _cells(numbers)).all()) and len(places) == numbers.shape[1]
        return _End(node, places, ways) if whole else None

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """The users that neither only move a node's channels nor only ask for their size."""
        others = [user for user in node.users if user not in self.moved]
        return [user for user in others if user.op == "output" or _holds_tensor(self.numbers[user])]


def _cells(values: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, 1, H, W): the number of every cell in its channel."""
    rows, _, height, width = values.shape
    return torch.arange(rows * height * width).reshape(rows, 1, height, width)


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value))


def _moves(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and node.target in _MOVES


def _routes(
    tracker: _ChannelTracker, layers: Mapping[fx.Node, nn.Module]
) -> Iterator[tuple[list[_End], list[_End], set[fx.Node]]]:
    """Connected sources and joins, and the moves between them, where all can be reordered and some is a shuffle."""
    moved = tracker.moved
    tensors = {node for node, numbers in tracker.numbers.items() if isinstance(numbers, torch.Tensor)}
    starts = {before for node in moved for before in node.all_input_nodes} & (tensors - moved)
    ends = {node for node in moved & tensors if tracker.readers(node)}
    steps = [(before, node) for node in sorted(moved) for before in node.all_input_nodes if before in moved | starts]
    for nodes in networkx.connected_components(networkx.Graph(steps)):
        if not nodes & ends or all(node.target in _JOINS for node in nodes & moved):
            continue
        sources = [
            None if tracker.readers(node) else tracker.end(node, [way_to_dense(layers, node, _before)])
            for node in sorted(nodes & starts)
        ]
        joins = [
            tracker.end(node, [way_to_dense(layers, user) for user in tracker.readers(node)])
            for node in sorted(nodes & ends)
        ]
        if None not in (*sources, *joins):
            yield [one for one in sources if one], [one for one in joins if one], nodes & moved


def _before(node: fx.Node) -> fx.Node | None:
    """The node that another node alone reads."""
    source = node.args[0]
    return source if isinstance(source, fx.Node) and len(source.users) == 1 else None


def _fold(graph: fx.Graph, sources: Sequence[_End], joins: Sequence[_End]) -> None:
    pieces: dict[_End, list[tuple[fx.Node, list[int]]]] = {join: [] for join in joins}
    for source in sources:
        groups = _groups(source, joins)
        wanted = source.order([number for _, numbers in groups for number in numbers])
        for layer in source.ways[0]:
            reorder_outputs(layer, wanted)
        for (readers, numbers), piece in zip(groups, _split(graph, source.node, groups), strict=True):
            for join in readers:
                pieces[join].append((piece, numbers))
    for join, parts in pieces.items():
        wanted = join.order([number for _, numbers in parts for number in numbers])
        for *between, dense in join.ways:
            for layer in between:
                reorder_outputs(layer, wanted)
            reorder_inputs(dense, wanted)
        users = [user for user in join.node.users if user.op == "call_module"]
        joined = parts[0][0]
        if len(parts) > 1:
            with graph.inserting_before(min(users)):
                joined = graph.call_function(torch.cat, ([piece for piece, _ in parts], 1))
        for user in users:
            user.replace_input_with(join.node, joined)


def _groups(source: _End, joins: Sequence[_End]) -> list[_Group]:
    """A source's channels by the joins that read them; the earliest join's channels come first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in source.places:
        groups.setdefault(tuple(i for i, join in enumerate(joins) if number in join.places), []).append(number)
    ordered = sorted(groups.items(), key=lambda item: item[0] or (math.inf,))
    return [
        ([joins[i] for i in key], sorted(numbers, key=joins[key[0]].places.__getitem__) if key else numbers)
        for key, numbers in ordered
    ]


def _split(graph: fx.Graph, node: fx.Node, groups: Sequence[tuple[object, list[int]]]) -> list[fx.Node]:
    if len(groups) == 1:
        return [node]
    with graph.inserting_after(node):
        split = graph.call_function(torch.split, (node, [len(numbers) for _, numbers in groups], 1))
    with graph.inserting_after(split):
        return [graph.call_function(operator.getitem, (split, index)) for index in range(len(groups))]
