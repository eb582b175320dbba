"""Moves the gates of guided backpropagation from before a split to behind the joins that read its pieces.

A ReLU's gate commutes with moving channels. Behind a join it follows the gradient of the convolution that reads the
join, and can become part of that convolution (``graph_rewrites.gate_by_bias``), which it cannot behind a split.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_RECTIFIERS = {torch.relu, F.relu}


class OpenReLU(nn.Module):
    """Forward a ReLU, backward nothing: its gate is somewhere else."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Any shape."""
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
    """Rewrites a flat graph, in place: scores stay, and so do plain and guided gradients.

    A gate moves if every channel behind its ReLU goes to one join, where all others that come have moved, too. Where a
    channel is read twice the gate must see the sum of two gradients, and stays.

    Returns:
        The number of ReLUs whose gates have moved.
    """
    joins = {node: _rectifiers(network, node) for node in network.graph.nodes if _is_join(node)}
    rectifiers = {one: _joins(one) for found in joins.values() for one in found or ()}
    moving = {node for node, found in joins.items() if found}
    while dropped := {join for join in moving if any(not rectifiers[one] <= moving for one in joins[join] or ())}:
        moving -= dropped
    opened = {one for join in moving for one in joins[join] or ()}
    for join in moving:
        _insert(network, join, nn.ReLU(), f"gate_of_{join.name}")
    for one in opened:
        _replace(network, one, OpenReLU(), f"open_{one.name}")
    network.graph.lint()
    network.recompile()
    return len(opened)


def _is_join(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is torch.cat and _axis(node) == 1


def _axis(node: fx.Node) -> Any:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)


def _rectifiers(network: fx.GraphModule, join: fx.Node) -> set[fx.Node] | None:
    """The ReLUs whose channels a join reads; None if it reads others, too, or what others read."""
    found = set()
    pieces = join.args[0] if join.args else ()
    if not isinstance(pieces, list | tuple) or len(set(pieces)) < len(pieces):
        return None
    for piece in pieces:
        if not isinstance(piece, fx.Node) or len(piece.users) != 1:
            return None
        source = _split_of(piece) or piece
        if not _is_rectifier(network, source) or not _read_once(source):
            return None
        found.add(source)
    return found


def _read_once(source: fx.Node) -> bool:
    """Whether there is one reader, and if that is a split, of each piece one."""
    if len(source.users) != 1:
        return False
    split = next(iter(source.users))
    pieces = [piece.args[1] for piece in split.users] if split.target is torch.split else []
    return len(set(pieces)) == len(pieces)


def _split_of(piece: fx.Node) -> fx.Node | None:
    """The tensor that a piece was cut from."""
    if piece.op != "call_function" or piece.target is not operator.getitem:
        return None
    split = piece.args[0]
    if not isinstance(split, fx.Node) or split.op != "call_function" or split.target is not torch.split:
        return None
    return split.args[0] if isinstance(split.args[0], fx.Node) else None


def _is_rectifier(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in _RECTIFIERS


def _joins(rectifier: fx.Node) -> set[fx.Node]:
    """Everyone who reads its channels, behind a split or without one."""
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
