"""Moves the gates of guided backpropagation from before a split to behind the joins that read the split's pieces.

A ReLU's gate commutes with moving channels. Behind a join the gate directly follows the gradient of the convolution
that reads the join, and can become part of that convolution (``export.tracing.rewrites.gate_by_bias``); behind a split
it cannot.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_RECTIFIERS = {torch.relu, F.relu}


class OpenReLU(nn.Module):
    """A ReLU whose backward pass is the identity, because its gate is somewhere else."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Rectifies values of any shape."""
        opened: torch.Tensor = _Open.apply(values)
        return opened


class _Open(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, values: torch.Tensor) -> torch.Tensor:
        return values.relu()

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def move_gates(network: fx.GraphModule) -> int:
    """Rewrites a flat graph, in place; scores, plain gradients and guided gradients stay the same.

    A gate moves if every channel behind its ReLU goes to one join, and all gates before that join move. Where a channel
    is read twice, the gate must see the sum of two gradients, and stays.

    Args:
        network: flat, see ``flatten``.

    Returns:
        The number of ReLUs whose gates have moved.
    """
    joins = {node: _rectifiers(network, node) for node in network.graph.nodes if _is_join(node)}
    readers = {rectifier: _joins(rectifier) for found in joins.values() for rectifier in found}
    moving = {node for node, found in joins.items() if found}
    while dropped := {join for join in moving if any(not readers[rectifier] <= moving for rectifier in joins[join])}:
        moving -= dropped
    opened = {rectifier for join in moving for rectifier in joins[join]}
    for join in moving:
        _insert(network, join, nn.ReLU(), f"gate_of_{join.name}")
    for rectifier in opened:
        _replace(network, rectifier, OpenReLU(), f"open_{rectifier.name}")
    network.graph.lint()
    network.recompile()
    return len(opened)


def _is_join(node: fx.Node) -> bool:
    axis: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return node.op == "call_function" and node.target is torch.cat and axis == 1


def _rectifiers(network: fx.GraphModule, join: fx.Node) -> set[fx.Node]:
    """The ReLUs whose channels a join reads; none if the join has other inputs, too, or inputs that others read."""
    found: set[fx.Node] = set()
    pieces = join.args[0] if join.args else ()
    if not isinstance(pieces, list | tuple) or len(set(pieces)) < len(pieces):
        return set()
    for piece in pieces:
        if not isinstance(piece, fx.Node) or len(piece.users) != 1:
            return set()
        source = _split_of(piece) or piece
        if not _is_rectifier(network, source) or not _read_once(source):
            return set()
        found.add(source)
    return found


def _read_once(source: fx.Node) -> bool:
    """Whether a tensor has one reader, and each piece has one reader if the tensor is split."""
    if len(source.users) != 1:
        return False
    split = next(iter(source.users))
    pieces = [piece.args[1] for piece in split.users] if split.target is torch.split else []
    return len(set(pieces)) == len(pieces)


def _split_of(piece: fx.Node) -> fx.Node | None:
    """The tensor that a piece was cut from; None for a tensor that is no piece of a split."""
    split: Any = piece.args[0] if piece.target is operator.getitem else None
    tensor = split.args[0] if getattr(split, "target", None) is torch.split else None
    return tensor if isinstance(tensor, fx.Node) else None


def _is_rectifier(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in _RECTIFIERS


def _joins(rectifier: fx.Node) -> set[fx.Node]:
    """The nodes that read a ReLU's channels, behind a split or directly."""
    readers: set[fx.Node] = set()
    for user in rectifier.users:
        pieces: Iterable[fx.Node] = user.users if user.target is torch.split else ()
        readers |= {reader for piece in pieces for reader in piece.users} if pieces else {user}
    return readers


def _insert(network: fx.GraphModule, node: fx.Node, module: nn.Module, name: str) -> None:
    network.add_module(name, module)
    with network.graph.inserting_after(node):
        behind = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)


def _replace(network: fx.GraphModule, node: fx.Node, module: nn.Module, name: str) -> None:
    network.add_module(name, module)
    with network.graph.inserting_after(node):
        instead = network.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(instead)
    network.graph.erase_node(node)
