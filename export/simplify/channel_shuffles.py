"""Folds channel shuffles into the weights of the convolutions around them.

Between two convolutions ShuffleNet only moves channels: joins, splits, transpositions. If every convolution writes
its channels in the order in which they are read, one split behind the convolution and one join before each reader
suffice. Exact up to the order of sums.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from export.simplify.applicable import NotApplicable
from export.simplify.channels import NOTHING, reorder_inputs, reorder_outputs, way_to_dense

ALIGNMENT = 4  # the number of channels that ONNX Runtime's blocked convolutions read must be a multiple of this
_JOINS = {torch.cat, torch.concat}
_MOVES_FUNCTIONS = {*_JOINS, torch.chunk, torch.split, torch.transpose, torch.permute, torch.reshape}
_MOVES_METHODS = {"chunk", "split", "view", "reshape", "transpose", "permute", "contiguous"}
_CELLS = 2**32  # more cells than one channel of a batch has


@dataclass(frozen=True)
class _Source:
    """Channels that a dense convolution writes, behind activations and depthwise convolutions."""

    node: fx.Node
    channels: tuple[int, ...]  # numbers
    writers: list[str]  # paths of the modules from the node back to the dense convolution


@dataclass(frozen=True)
class _Join:
    """Channels of one source or more, in the order in which convolutions read them."""

    node: fx.Node
    channels: tuple[int, ...]  # numbers
    readers: list[list[str]]  # for each reader paths of the modules up to the dense convolution


_Group = tuple[tuple[_Join, ...], list[int]]  # joins that read the same channels of one source, and those channels


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
        NotApplicable: the network asks for a size that padding changes; the network is no longer usable.
    """
    if not any(_moves(node) and node.target not in _JOINS for node in network.graph.nodes):
        return 0
    tracker = _ChannelTracker(network)
    with torch.no_grad():
        tracker.run(example)
    count = 0
    asked: set[fx.Node] = set()
    for sources, joins in _routes(network, tracker):
        asked |= tracker.questions([*(source.node for source in sources), *(join.node for join in joins)])
        _fold(network, sources, joins)
        count += len(joins)
    network.graph.eliminate_dead_code()
    if alive := asked & set(network.graph.nodes):
        raise NotApplicable(f"{min(alive).name} asks for the size of what would be padded")
    network.graph.lint()
    network.recompile()
    return count


class _ChannelTracker(fx.Interpreter):
    """Numbers all channels and their cells where they are made, and moves the numbers like the values."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.numbers: dict[fx.Node, Any] = {}  # a node's value, in which the cells' numbers replace tensors
        self.moved: set[fx.Node] = set()
        self._next = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if _moves(n):
            self.numbers[n] = self._move(n)
            self.moved.add(n)
        elif isinstance(value, torch.Tensor) and not any(_moves(user) for user in n.users):
            self.numbers[n] = torch.empty(0)  # no move reads them
        elif isinstance(value, torch.Tensor) and value.dim() == 4:
            made = torch.arange(self._next, self._next + value.shape[1])
            self.numbers[n] = made[None, :, None, None] * _CELLS + _cells(value)
            self._next += value.shape[1]
        else:
            self.numbers[n] = value
        return value

    def _move(self, n: fx.Node) -> Any:
        args: Any = fx.map_arg(n.args, self.numbers.__getitem__)
        kwargs: Any = fx.map_arg(n.kwargs, self.numbers.__getitem__)
        if callable(n.target):
            return n.target(*args, **kwargs)
        numbers, *others = args
        return getattr(numbers, n.target)(*others, **kwargs)

    def channels(self, node: fx.Node) -> tuple[int, ...] | None:
        """The C numbers of a node (N, C, H, W), if each channel is one whole channel with every cell in its place."""
        numbers = self.numbers[node]
        if not isinstance(numbers, torch.Tensor) or numbers.dim() != 4:
            return None
        first = numbers[:1, :, :1, :1]
        whole = bool((numbers == first + _cells(numbers)).all())
        return tuple((first.flatten() // _CELLS).tolist()) if whole else None

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """The users that neither only move a node's channels nor only ask for their size."""
        others = [user for user in node.users if user not in self.moved]
        return [user for user in others if user.op == "output" or _holds_tensor(self.numbers[user])]

    def questions(self, nodes: Sequence[fx.Node]) -> set[fx.Node]:
        """The users that ask for the size of these nodes, or of nodes that moves lead to from these."""
        seen = _reached(nodes, lambda node: (user for user in node.users if user in self.moved))
        users = {user for node in seen for user in node.users if user not in self.moved}
        return {user for user in users if user.op != "output" and not _holds_tensor(self.numbers[user])}


def _reached(starts: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    seen, waiting = set(starts), list(starts)
    while waiting:
        found = set(following(waiting.pop())) - seen
        seen |= found
        waiting += found
    return seen


def _cells(values: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, 1, H, W): the number of every cell in its channel."""
    rows, _, height, width = values.shape
    return torch.arange(rows * height * width).reshape(rows, 1, height, width)


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value))


def _moves(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _MOVES_METHODS
    return node.op == "call_function" and (node.target in _MOVES_FUNCTIONS or node.target is operator.getitem)


def _routes(network: fx.GraphModule, tracker: _ChannelTracker) -> Iterator[tuple[list[_Source], list[_Join]]]:
    """Connected sources and joins, where all of them can be reordered and some shuffle lies between them."""
    moved = tracker.moved
    tensors = {node for node, numbers in tracker.numbers.items() if isinstance(numbers, torch.Tensor)}
    ends = [node for node in network.graph.nodes if node in moved & tensors and tracker.readers(node)]
    starts = {before for node in moved for before in node.all_input_nodes} & (tensors - moved)
    for nodes in _connected(starts, ends, moved):
        if all(node.target in _JOINS for node in nodes & moved):
            continue
        sources = [_source(network, tracker, node) for node in sorted(nodes & starts)]
        joins = [_join(network, tracker, node) for node in sorted(nodes & set(ends))]
        if None not in (*sources, *joins):
            yield [source for source in sources if source], [join for join in joins if join]


def _connected(starts: set[fx.Node], ends: list[fx.Node], moved: set[fx.Node]) -> Iterator[set[fx.Node]]:
    def neighbours(node: fx.Node) -> list[fx.Node]:
        before = [other for other in node.all_input_nodes if other in moved or other in starts]
        return [*(before if node in moved else []), *(user for user in node.users if user in moved)]

    left = set(ends)
    for end in ends:
        if end in left:
            nodes = _reached([end], neighbours)
            left -= nodes
            yield nodes


def _source(network: fx.GraphModule, tracker: _ChannelTracker, node: fx.Node) -> _Source | None:
    """The source that ends with a node; None if its channels cannot be reordered."""

    def before(node: fx.Node) -> fx.Node | None:
        source = node.args[0]
        return source if isinstance(source, fx.Node) and len(source.users) == 1 else None

    channels, writers = tracker.channels(node), way_to_dense(network, network.graph, node, before)
    return None if channels is None or not writers or tracker.readers(node) else _Source(node, channels, writers)


def _join(network: fx.GraphModule, tracker: _ChannelTracker, node: fx.Node) -> _Join | None:
    """The join that a node is; None if it has other readers than convolutions, or reads a channel twice."""
    channels = tracker.channels(node)
    readers = [way_to_dense(network, network.graph, user) for user in tracker.readers(node)]
    if channels is None or len(set(channels)) < len(channels) or not all(readers):
        return None
    return _Join(node, channels, readers)


def _fold(network: fx.GraphModule, sources: Sequence[_Source], joins: Sequence[_Join]) -> None:
    pieces: dict[fx.Node, list[tuple[fx.Node, list[int]]]] = {join.node: [] for join in joins}
    grouped = [_groups(source, joins) for source in sources]
    _align(grouped, joins)
    for source, groups in zip(sources, grouped, strict=True):
        places = _places(source)
        wanted = [places[number] for _, numbers in groups for number in numbers]
        for path in source.writers:
            reorder_outputs(network.get_submodule(path), wanted)
        for (readers, group), piece in zip(groups, _split(network.graph, source.node, groups), strict=True):
            for join in readers:
                pieces[join.node].append((piece, group))
    for join in joins:
        parts = pieces[join.node]
        places = _places(join)
        wanted = [places[number] for _, numbers in parts for number in numbers]
        for *between, dense in join.readers:
            for path in between:
                reorder_outputs(network.get_submodule(path), wanted)
            reorder_inputs(network.get_submodule(dense), wanted)
        users = [user for user in join.node.users if user.op == "call_module"]
        joined = parts[0][0]
        if len(parts) > 1:
            with network.graph.inserting_before(min(users)):
                joined = network.graph.call_function(torch.cat, ([piece for piece, _ in parts], 1))
        for user in users:
            user.replace_input_with(join.node, joined)


def _places(channels: _Source | _Join) -> dict[int, int]:
    """Number of a channel to its place."""
    return {NOTHING: NOTHING, **{number: place for place, number in enumerate(channels.channels)}}


def _groups(source: _Source, joins: Sequence[_Join]) -> list[_Group]:
    """A source's channels by the joins that read them; the earliest join's channels come first."""
    places = [_places(join) for join in joins]
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in source.channels:
        groups.setdefault(tuple(i for i, place in enumerate(places) if number in place), []).append(number)
    ordered = sorted(groups.items(), key=lambda item: item[0] or (math.inf,))
    return [
        (tuple(joins[i] for i in key), sorted(numbers, key=places[key[0]].__getitem__) if key else numbers)
        for key, numbers in ordered
    ]


def _align(grouped: Sequence[list[_Group]], joins: Sequence[_Join]) -> None:
    """Lengthens joins to multiples of ``ALIGNMENT`` by zero channels, behind a group that no other join reads."""
    for join in joins:
        read = [numbers for groups in grouped for readers, numbers in groups if join in readers]
        alone = [numbers for groups in grouped for readers, numbers in groups if readers == (join,)]
        if alone:
            alone[-1] += [NOTHING] * (-sum(map(len, read)) % ALIGNMENT)


def _split(graph: fx.Graph, node: fx.Node, groups: Sequence[tuple[object, list[int]]]) -> list[fx.Node]:
    if len(groups) == 1:
        return [node]
    with graph.inserting_after(node):
        split = graph.call_function(torch.split, (node, [len(numbers) for _, numbers in groups], 1))
    with graph.inserting_after(split):
        return [graph.call_function(operator.getitem, (split, index)) for index in range(len(groups))]
