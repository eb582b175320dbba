"""Moves the gates of guided backpropagation from before a split to behind the joins that read the split's pieces.

A ReLU's gate commutes with moving channels. Behind a join the gate directly follows the gradient of the convolution
that reads the join, and can become part of that convolution (``export.tracing.rewrites.gate_by_bias``); behind a split
it cannot.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


class _Open(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, values: torch.Tensor) -> torch.Tensor:
        return values.relu()

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def open_relu(values: torch.Tensor) -> torch.Tensor:
    """A ReLU whose backward pass is the identity, because its gate is somewhere else."""
    opened: torch.Tensor = _Open.apply(values)
    return opened


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
    moving = {node for node, found in joins.items() if found}
    while dropped := {join for join in moving if any(not _readers(one) <= moving for one in joins[join])}:
        moving -= dropped
    for join in moving:
        with network.graph.inserting_after(join):
            gated = network.graph.call_function(F.relu, (join,))
        join.replace_all_uses_with(gated, delete_user_cb=lambda user, gated=gated: user is not gated)
    opened = {rectifier for join in moving for rectifier in joins[join]}
    for rectifier in opened:
        with network.graph.inserting_after(rectifier):
            rectifier.replace_all_uses_with(network.graph.call_function(open_relu, rectifier.args[:1]))
        network.graph.erase_node(rectifier)
    return len(opened)


def _is_join(node: fx.Node) -> bool:
    axis: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return node.op == "call_function" and node.target is torch.cat and axis == 1


def _rectifiers(network: fx.GraphModule, join: fx.Node) -> set[fx.Node]:
    """The ReLUs whose channels a join reads; none if the join has other inputs, too, or inputs that others read."""
    pieces: Any = join.args[0] if join.args and isinstance(join.args[0], list | tuple) else ()
    sources = {_split_of(piece) or piece for piece in pieces}
    alone = len(set(pieces)) == len(pieces) and all(len(piece.users) == 1 for piece in pieces)
    return sources if alone and all(_is_rectifier(network, one) and _read_once(one) for one in sources) else set()


def _read_once(source: fx.Node) -> bool:
    """Whether a tensor has one reader, and each piece has one reader if the tensor is split."""
    pieces = [piece.args[1] for user in source.users if user.target is torch.split for piece in user.users]
    return len(source.users) == 1 and len(set(pieces)) == len(pieces)


def _split_of(piece: fx.Node) -> fx.Node | None:
    """The tensor that a piece was cut from; None for a tensor that is no piece of a split."""
    split: Any = piece.args[0] if piece.target is operator.getitem else None
    return split.args[0] if getattr(split, "target", None) is torch.split else None


def _is_rectifier(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in (torch.relu, F.relu)


def _readers(rectifier: fx.Node) -> set[fx.Node]:
    """The nodes that read a ReLU's channels, behind a split or directly."""
    (user,) = rectifier.users
    return {reader for piece in user.users for reader in piece.users} if user.target is torch.split else {user}
