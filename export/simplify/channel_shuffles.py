"""Folds channel shuffles into the weights of the convolutions around them.

Between two convolutions ShuffleNet only moves channels: joins, splits, transpositions. If every convolution writes
its channels in the order in which they are read, one split behind it and one join before each reader are all that is
left. Exact up to the order of sums.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from export.simplify.applicable import NotApplicable
from export.simplify.channels import NOTHING, is_dense, is_depthwise, reorder_inputs, reorder_outputs

ALIGNMENT = 4  # ONNX Runtime's blocked convolutions read multiples of so many channels only
_JOINS = {torch.cat, torch.concat}
_MOVES_FUNCTIONS = {*_JOINS, torch.chunk, torch.split, torch.transpose, torch.permute, torch.reshape}
_MOVES_METHODS = {"chunk", "split", "view", "reshape", "transpose", "permute", "contiguous"}
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Channels that a dense convolution writes, behind activations and depthwise convolutions."""

    node: fx.Node
    writers: tuple[str, ...]  # convolutions whose output channels have its order
    first: int  # number of its first channel
    count: int


@dataclass(frozen=True)
class _Join:
    """Channels, of one source or more, in the order in which convolutions read them."""

    node: fx.Node
    channels: tuple[int, ...]  # their numbers
    readers: tuple[tuple[str, ...], ...]  # per channel: depthwise convolutions on the way, then the dense one


_Group = tuple[tuple[_Join, ...], list[int]]  # joins that read the same channels of one source, and those channels


def fold_shuffles(network: fx.GraphModule, example: torch.Tensor) -> int:
    """Rewrites the graph and permutes its weights, in place.

    Folded is what lies between dense convolutions, each called once, if nothing but moves of whole channels comes in
    between and no channel is read twice in a join; all else stays as it is.

    Args:
        network: flat, see ``flattening``; its convolutions must be its own.
        example: pictures (N, 3, H, W) to learn from which channel goes where; N is at least 2.

    Returns:
        The number of joins that have been put in the place of shuffles.

    Raises:
        ValueError: the network needs the sizes of tensors that are others now; it is no longer usable.
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
    """Numbers all channels and their cells where they are made, and moves the numbers as the network moves those."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.numbers: dict[fx.Node, Any] = {}  # like a node's value: of tensors the cells' numbers, all else as it is
        self.moved: set[fx.Node] = set()
        self._next = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if _moves(n):
            self.numbers[n] = self._move(n)
            self.moved.add(n)
        elif isinstance(value, torch.Tensor) and not any(_moves(user) for user in n.users):
            self.numbers[n] = torch.empty(0)  # nobody asks for them
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
        """The numbers of (N, C, H, W)'s channels, if each is one whole channel with every cell in its place."""
        numbers = self.numbers[node]
        if not isinstance(numbers, torch.Tensor) or numbers.dim() != 4:
            return None
        first = numbers[:1, :, :1, :1]
        whole = bool((numbers == first + _cells(numbers)).all())
        return tuple((first.flatten() // _CELLS).tolist()) if whole else None

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether its value is one tensor."""
        return isinstance(self.numbers[node], torch.Tensor)

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Who does more with its channels than to move them or to ask for their size."""
        others = [user for user in node.users if user not in self.moved]
        return [user for user in others if user.op == "output" or _holds_tensor(self.numbers[user])]

    def questions(self, nodes: Sequence[fx.Node]) -> set[fx.Node]:
        """Who asks for the size of these, or of what is moved on the way between them."""
        seen, waiting = set(nodes), list(nodes)
        while waiting:
            for user in waiting.pop().users:
                if user in self.moved and user not in seen:
                    seen.add(user)
                    waiting.append(user)
        users = {user for node in seen for user in node.users if user not in self.moved}
        return {user for user in users if user.op != "output" and not _holds_tensor(self.numbers[user])}


_CELLS = 2**32  # more than a batch has in one channel


def _cells(values: torch.Tensor) -> torch.Tensor:
    """The number of every cell of (N, C, H, W) in its channel: (N, 1, H, W)."""
    rows, _, height, width = values.shape
    return torch.arange(rows * height * width).reshape(rows, 1, height, width)


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(one, torch.Tensor) for one in tree_leaves(value))


def _moves(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _MOVES_METHODS
    return node.op == "call_function" and (node.target in _MOVES_FUNCTIONS or node.target is operator.getitem)


def _routes(network: fx.GraphModule, tracker: _ChannelTracker) -> Iterator[tuple[list[_Source], list[_Join]]]:
    """Joins and the sources of their channels, connected ones together, where all of them can be reordered."""
    order = {node: index for index, node in enumerate(network.graph.nodes)}
    moved = tracker.moved
    ends = [node for node in network.graph.nodes if node in moved and tracker.is_tensor(node) and tracker.readers(node)]
    starts = {arg for node in moved for arg in node.all_input_nodes if arg not in moved and tracker.is_tensor(arg)}
    for nodes in _connected(starts, ends, moved):
        if all(node.target in _JOINS for node in nodes & moved):
            continue  # no shuffle
        sources = [_source(network, tracker, node) for node in sorted(nodes & starts, key=order.__getitem__)]
        joins = [_join(network, tracker, node) for node in sorted(nodes & set(ends), key=order.__getitem__)]
        found = [one for one in (*sources, *joins) if one is not None]
        if len(found) == len(sources) + len(joins):
            yield [one for one in found if isinstance(one, _Source)], [one for one in found if isinstance(one, _Join)]


def _connected(starts: set[fx.Node], ends: list[fx.Node], moved: set[fx.Node]) -> Iterator[set[fx.Node]]:
    left = set(ends)
    for end in ends:
        if end not in left:
            continue
        seen, waiting = {end}, [end]
        while waiting:
            node = waiting.pop()
            before = node.all_input_nodes if node in moved else []
            behind = [user for user in node.users if user in moved] if node in moved or node in starts else []
            for one in (*before, *behind):
                if one not in seen and (one in moved or one in starts):
                    seen.add(one)
                    waiting.append(one)
        left -= seen
        yield seen


def _source(network: fx.GraphModule, tracker: _ChannelTracker, node: fx.Node) -> _Source | None:
    """The source that ends with a node; None if its channels cannot be reordered."""
    writers: list[str] = []
    channels = tracker.channels(node)
    if channels is None or tracker.readers(node):
        return None
    at = node
    while at.op == "call_module" and _called_once(network, at) and (at is node or len(at.users) == 1):
        module = network.get_submodule(str(at.target))
        if is_dense(module):
            return _Source(node=node, writers=(*writers, str(at.target)), first=channels[0], count=len(channels))
        if is_depthwise(module):
            writers.append(str(at.target))
        elif type(module) not in _ELEMENTWISE:
            return None
        before = at.args[0]
        if not isinstance(before, fx.Node):
            return None
        at = before
    return None


def _join(network: fx.GraphModule, tracker: _ChannelTracker, node: fx.Node) -> _Join | None:
    """The join that a node is; None if it has other readers than convolutions, or reads a channel twice."""
    channels = tracker.channels(node)
    readers = [_reader(network, user) for user in tracker.readers(node)]
    found = tuple(one for one in readers if one is not None)
    if channels is None or len(set(channels)) < len(channels) or len(found) < len(readers):
        return None
    return _Join(node, channels, found)


def _reader(network: fx.GraphModule, node: fx.Node) -> tuple[str, ...] | None:
    paths: list[str] = []
    while node.op == "call_module" and _called_once(network, node):
        module = network.get_submodule(str(node.target))
        if is_dense(module):
            return (*paths, str(node.target))
        if is_depthwise(module):
            paths.append(str(node.target))
        elif type(module) not in _ELEMENTWISE:
            return None
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
    return None


def _called_once(network: fx.GraphModule, node: fx.Node) -> bool:
    calls = [one for one in network.graph.nodes if one.op == "call_module" and one.target == node.target]
    return len(calls) == 1


def _fold(network: fx.GraphModule, sources: Sequence[_Source], joins: Sequence[_Join]) -> None:
    pieces: dict[fx.Node, list[tuple[fx.Node, list[int]]]] = {join.node: [] for join in joins}
    grouped = [_groups(source, joins) for source in sources]
    _align(grouped, joins)
    for source, groups in zip(sources, grouped, strict=True):
        wanted = [
            NOTHING if number == NOTHING else number - source.first for _, numbers in groups for number in numbers
        ]
        for path in source.writers:
            reorder_outputs(network.get_submodule(path), wanted)
        for (readers, group), piece in zip(groups, _split(network.graph, source.node, groups), strict=True):
            for join in readers:
                pieces[join.node].append((piece, group))
    for join in joins:
        parts = pieces[join.node]
        numbers = [number for _, part in parts for number in part]
        wanted = [NOTHING if number == NOTHING else join.channels.index(number) for number in numbers]
        for *depthwise, dense in join.readers:
            for path in depthwise:
                reorder_outputs(network.get_submodule(path), wanted)
            reorder_inputs(network.get_submodule(dense), wanted)
        users = [user for user in join.node.users if user.op == "call_module"]
        joined = parts[0][0]
        if len(parts) > 1:
            with network.graph.inserting_before(min(users)):
                joined = network.graph.call_function(torch.cat, ([piece for piece, _ in parts], 1))
        for user in users:
            user.replace_input_with(join.node, joined)


def _groups(source: _Source, joins: Sequence[_Join]) -> list[_Group]:
    """A source's channels by the joins that they go to; the earliest join's first."""
    places = [{number: place for place, number in enumerate(join.channels)} for join in joins]
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in range(source.first, source.first + source.count):
        groups.setdefault(tuple(i for i, place in enumerate(places) if number in place), []).append(number)
    ordered = sorted(groups.items(), key=lambda item: item[0] or (math.inf,))
    return [
        (tuple(joins[i] for i in key), sorted(numbers, key=places[key[0]].__getitem__) if key else numbers)
        for key, numbers in ordered
    ]


def _align(grouped: Sequence[list[_Group]], joins: Sequence[_Join]) -> None:
    """Lengthens joins to a multiple of ``ALIGNMENT`` by channels of nothing, from the last source that each has."""
    for join in joins:
        own = [numbers for groups in grouped for readers, numbers in groups if join in readers]
        alone = [numbers for groups in grouped for readers, numbers in groups if readers == (join,)]
        missing = -sum(len(numbers) for numbers in own) % ALIGNMENT
        if alone:
            alone[-1] += [NOTHING] * missing


def _split(graph: fx.Graph, node: fx.Node, groups: Sequence[tuple[object, list[int]]]) -> list[fx.Node]:
    if len(groups) == 1:
        return [node]
    with graph.inserting_after(node):
        split = graph.call_function(torch.split, (node, [len(numbers) for _, numbers in groups], 1))
    with graph.inserting_after(split):
        return [graph.call_function(operator.getitem, (split, index)) for index in range(len(groups))]
