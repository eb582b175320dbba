"""The one rewrite that comes after the export to ONNX: what max-pooling's gradient is scattered by."""

from typing import Any

import numpy as np
import onnx


def scatter_flat(model: onnx.ModelProto) -> int:
    """Scatters by the indices of maxima in the whole tensor, as ONNX counts them, instead of by those in their planes.

    The exporter subtracts from ONNX's indices where each plane starts, which it takes from a pooling of the same
    tensor with kernel 1; that takes as long as the pooling itself. Changes the model in place.

    Condition: ``ScatterElements(data, index, updates, axis 2, add)`` of 3-D tensors, and the index is a reshaped
    ``Sub(MaxPool(x).Indices, Slice(MaxPool(x, kernel 1).Indices))`` where the data is as large as ``x``.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = {value.name: _dims(value) for value in [*graph.input, *graph.value_info]}
    count = 0
    for node in [one for one in graph.node if one.op_type == "ScatterElements"]:
        data, index, updates = node.input
        pooling = _pooling(makers, index)
        if pooling is None or _attributes(node) != {"axis": 2, "reduction": b"add"}:
            continue
        planes, whole = shapes.get(data, ()), shapes.get(pooling.input[0], ())
        if len(planes) != 3 or len(whole) != 4 or planes[1:] != (whole[1], whole[2] * whole[3]) or 0 in planes[1:]:
            continue
        at = list(graph.node).index(node)
        names = [f"{node.name}_{one}" for one in ("data", "index", "updates", "sums")]
        pieces = [(data, names[0]), (pooling.output[1], names[1]), (updates, names[2])]
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), f"{node.name}_flat"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, *planes[1:]]), f"{node.name}_planes"))
        flat = [onnx.helper.make_node("Reshape", [one, f"{node.name}_flat"], [name], name) for one, name in pieces]
        sums = onnx.helper.make_node("ScatterElements", names[:3], names[3:], names[3], axis=0, reduction="add")
        back = onnx.helper.make_node("Reshape", [names[3], f"{node.name}_planes"], list(node.output), node.name)
        graph.node.remove(node)
        for new in reversed([*flat, sums, back]):
            graph.node.insert(at, new)
        count += 1
    if count:
        _remove_unused(graph)
    return count


def _pooling(makers: dict[str, onnx.NodeProto], index: str) -> onnx.NodeProto | None:
    """The max pooling whose indices in planes these are."""
    node = makers.get(index)
    while node is not None and node.op_type == "Reshape":
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Sub":
        return None
    pooling, start = (makers.get(name) for name in node.input)
    ones = makers.get(start.input[0]) if start is not None and start.op_type == "Slice" else None
    if pooling is None or ones is None or not (_gives_indices(pooling, node.input[0]) and _is_copy(ones)):
        return None
    return pooling if pooling.input[0] == ones.input[0] else None


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """0 where a dimension is not a number."""
    return tuple(one.dim_value for one in value.type.tensor_type.shape.dim)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _gives_indices(node: onnx.NodeProto, name: str) -> bool:
    return node.op_type == "MaxPool" and len(node.output) == 2 and node.output[1] == name


def _is_copy(node: onnx.NodeProto) -> bool:
    """Whether it is a pooling with kernel 1 that is there for its indices."""
    return node.op_type == "MaxPool" and _attributes(node)["kernel_shape"] == [1, 1] and len(node.output) == 2


def _remove_unused(graph: onnx.GraphProto) -> None:
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    initializers = [one for one in graph.initializer if one.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
