"""Turns the gates of guided backpropagation into biases, so that runtimes compute the same numbers in less time."""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_COPIES = aten.detach.default, aten.clone.default


def gate_by_bias(module: fx.GraphModule) -> int:
    """Turns ``relu(convolution) * gate`` into ``relu(convolution + bias)``, the bias 0 or far below zero, and counts.

    The gate is ``y > 0`` for the output ``y`` of a ReLU, and ``0 < y < 6`` for that of a ReLU6. The bias is a clipped
    depthwise convolution of ``y`` with kernel 1, or the sum of two for ReLU6. So all values stay in the blocked layout
    that ONNX Runtime has for convolutions, and the second rectifier becomes part of the first convolution.

    Condition: the ReLU alone reads the convolution's result, or the sum of that and other tensors. Exact for values of
    ``y`` that are 0 or at least 2^-57, and gradients below 2^70.
    """
    graph, count = module.graph, 0
    products: list[Any] = list(graph.find_nodes(op="call_function", target=aten.mul.Tensor))
    for node in products:
        rectified, gate = node.args
        found = _gated(gate)
        if not _is(rectified, aten.relu.default) or len(rectified.users) != 1 or found is None:
            continue
        values, six = found
        gradient, shape = rectified.args[0], values.meta["val"].shape
        if not _is_convolved(gradient) or len(gradient.users) != 1 or str(shape) != str(node.meta["val"].shape):
            continue
        with graph.inserting_before(rectified):
            closed = _closing(graph, values, int(shape[1]), *_ABOVE_ZERO)
            if six:
                below = _closing(graph, values, int(shape[1]), *_BELOW_SIX)
                closed = graph.call_function(aten.add.Tensor, (closed, below))
            summed = graph.call_function(aten.add.Tensor, (gradient, closed))
            node.replace_all_uses_with(graph.call_function(aten.relu.default, (summed,)), propagate_meta=True)
        count += 1
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return count


_CLOSED = -(2.0**70)
_ABOVE_ZERO = 2.0**127, _CLOSED
# float32 values from 4 to 8 are multiples of 2^-21, so that the sum is at least 0 for every value below 6
_BELOW_SIX = -(2.0**91), 6 * 2.0**91 - 2.0**70


def _closing(graph: fx.Graph, values: fx.Node, channels: int, scale: float, offset: float) -> fx.Node:
    """``scale * values + offset``, clipped to ``_CLOSED`` and 0."""
    weight = graph.call_function(aten.full.default, ([channels, 1, 1, 1], scale))
    bias = graph.call_function(aten.full.default, ([channels], offset))
    options = ([1, 1], [0, 0], [1, 1], False, [0, 0], channels)
    scaled = graph.call_function(aten.convolution.default, (values, weight, bias, *options))
    return graph.call_function(aten.hardtanh.default, (scaled, _CLOSED, 0.0))


def _gated(gate: Any) -> tuple[Any, bool] | None:
    """The output of the activation that decides a gate, and whether the gate also closes at 6."""
    if not _is(gate, aten._to_copy.default):
        return None
    decided = gate.args[0]
    if _is(decided, aten.gt.Scalar) and decided.args[1] == 0:
        return _original(decided.args[0]), False
    if not _is(decided, aten.bitwise_and.Tensor):
        return None
    low, high = decided.args
    if not _is(low, aten.gt.Scalar) or not _is(high, aten.lt.Scalar) or low.args[0] is not high.args[0]:
        return None
    before = _original(low.args[0])
    copies = [before, *(user for user in before.users if _is(user, *_COPIES))]
    outputs = [user for copy in copies for user in copy.users if _is(user, aten.hardtanh.default)]
    found = [output for output in outputs if tuple(output.args[1:]) == (0.0, 6.0) == (low.args[1], high.args[1])]
    return (found[0], True) if found else None


def _is(value: Any, *targets: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "call_function" and value.target in targets


def _is_convolved(value: Any) -> bool:
    """Whether a value is the result of a convolution, or the sum of such a result and other tensors."""
    if _is(value, aten.add.Tensor):
        return any(_is_convolved(summand) for summand in value.args)
    return _is(value, aten.convolution.default)


def _original(value: Any) -> fx.Node:
    while _is(value, *_COPIES):
        value = value.args[0]
    return value  # type: ignore[no-any-return]
