"""Rewrites gradients so that ONNX Runtime computes the same in less time: values stay in the layout of convolutions.

ONNX Runtime keeps the channels of convolutions in blocks, and copies values for most other operators, gates and the
scales of batch norms among them. Both become parts of convolutions here.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

_CLOSED = -(2.0**70)
_ABOVE_ZERO = 2.0**127, 0.0  # factor and offset
# float32 values from 4 to 8 are multiples of 2^-21, so that the sum is at least 0 for every value below 6
_BELOW_SIX = -(2.0**91), 6 * 2.0**91 + _CLOSED


def use_blocked_layout(model: ir.Model) -> None:
    """Applies both rewrites in place; the nodes that they leave without a use stay."""
    for node in list(model.graph):
        if node.op_type == "Mul":
            _close_by_bias(model.graph, node)
    for node in list(model.graph):
        if node.op_type == "Mul":
            _scale_kernels(model.graph, node)


def _scale_kernels(graph: ir.Graph, product: Any) -> None:
    """``convolution(scale · values, kernel)`` becomes ``convolution(values, scale · kernel)``, a scale per channel.

    ONNX Runtime computes the kernel when it loads the graph.
    """
    for values, scale in (product.inputs, product.inputs[::-1]):
        factors, readers = _constant(scale), list(product.outputs[0].uses())
        if factors is None or factors.ndim not in (3, 4) or values.shape is None or len(values.shape) != 4:
            continue
        if not factors.size == factors.shape[-3] == values.shape[1] or not readers:
            continue
        if product.outputs[0].is_graph_output() or any(
            use.node.op_type != "Conv" or use.idx or not _depends_on_no_input(use.node.inputs[1]) for use in readers
        ):
            continue
        for use in readers:
            kernel = use.node.inputs[1]
            outputs, per_group = kernel.shape[:2]
            of_groups = factors.reshape(-1, per_group)
            of_outputs = of_groups.repeat(outputs // len(of_groups) if len(of_groups) > 1 else 1, axis=0)
            scaled = ir.node("Mul", [kernel, _initializer(graph, of_outputs[:, :, None, None])])
            graph.insert_before(use.node, scaled)
            scaled.outputs[0].shape, scaled.outputs[0].type = kernel.shape, kernel.type
            use.node.replace_input_with(1, scaled.outputs[0])
            use.node.replace_input_with(0, values)
        return


def _depends_on_no_input(value: Any) -> bool:
    made = value.producer()
    known = value.is_initializer() if made is None else all(map(_depends_on_no_input, made.inputs))
    return known and value.shape is not None


def _close_by_bias(graph: ir.Graph, product: Any) -> None:
    """``relu(values) · gate`` becomes ``relu(values + bias)``, the bias 0 or far below zero.

    The gate is ``y > 0`` for the output ``y`` of a ReLU, and ``0 < y < 6`` for that of a ReLU6. The bias is a clipped
    depthwise convolution of ``y``, or the sum of two for ReLU6. Exact for values of ``y`` that are 0 or at least 2^-57,
    and for gradients below 2^70.
    """
    for rectified, gate in (product.inputs, product.inputs[::-1]):
        relu, decided = rectified.producer(), _decided(gate)
        if relu is None or relu.op_type != "Relu" or len(rectified.uses()) != 1 or decided is None:
            continue
        outputs, lines = decided
        before, total = relu.inputs[0].producer(), relu.inputs[0]
        if before is None or len(total.uses()) != 1:
            continue
        shapes = [tuple(value.shape or ()) for value in (total, outputs)]
        if any(len(shape) != 4 or not isinstance(shape[1], int) or shape[1] != shapes[0][1] for shape in shapes):
            continue
        if before.op_type not in ("Conv", "Add"):  # a convolution that changes nothing takes bias and ReLU
            ones = _initializer(graph, np.ones((outputs.shape[1], 1, 1, 1)))
            same = ir.node("Conv", [total, ones], {"group": outputs.shape[1]})
            graph.insert_before(product, [same])
            total = same.outputs[0]
        for line in lines:
            added = [*_bias(graph, outputs, *line)]
            added.append(ir.node("Add", [total, added[-1].outputs[0]]))
            graph.insert_before(product, added)
            total = added[-1].outputs[0]
        again = ir.node("Relu", [total])
        graph.insert_before(product, [again])
        again.outputs[0].shape, again.outputs[0].type = product.outputs[0].shape, product.outputs[0].type
        ir.convenience.replace_all_uses_with(product.outputs[0], again.outputs[0], replace_graph_outputs=True)
        return


def _bias(graph: ir.Graph, values: Any, factor: float, offset: float) -> list[ir.Node]:
    channels = values.shape[1]
    kernel = _initializer(graph, np.full((channels, 1, 1, 1), factor, np.float32))
    offsets = _initializer(graph, np.full(channels, offset or _CLOSED, np.float32))
    scaled = ir.node("Conv", [values, kernel, offsets], {"group": channels})
    bounds = [_initializer(graph, np.float32(bound)) for bound in (_CLOSED, 0.0)]
    return [scaled, ir.node("Clip", [scaled.outputs[0], *bounds])]


def _decided(gate: Any) -> tuple[Any, list[tuple[float, float]]] | None:
    """The output of an activation that decides a gate, and by which lines."""
    made = gate.producer()
    if made is None or made.op_type not in ("Clip", "Mul"):
        return None
    if made.op_type == "Mul":
        one, other = (_decided(value) for value in made.inputs)
        return (one[0], one[1] + other[1]) if one and other and one[0] is other[0] else None
    product = made.inputs[0].producer()
    if product is None or product.op_type != "Mul" or not _is(product.inputs[1], float(np.finfo(np.float32).max)):
        return None
    if len(made.inputs) != 3 or not all(map(_is, made.inputs[1:], (0, 1))):
        return None
    values = product.inputs[0]
    offset = values.producer()
    if offset is None or offset.op_type != "Sub":
        return values, [_ABOVE_ZERO]
    return (offset.inputs[1], [_BELOW_SIX]) if _is(offset.inputs[0], 6) else None


def _is(value: Any, number: float) -> bool:
    constant = _constant(value)
    return constant is not None and constant.size == 1 and constant.item() == number


def _constant(value: Any) -> Any:
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _initializer(graph: ir.Graph, values: Any) -> ir.Value:
    values = np.asarray(values, np.float32)
    tensor = ir.tensor(values)
    kind: Any = {"shape": ir.Shape(values.shape), "type": ir.TensorType(tensor.dtype)}
    added = ir.Value(name=f"blocked_{len(graph.initializers)}", const_value=tensor, **kind)
    graph.register_initializer(added)
    return added
