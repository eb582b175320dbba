"""Rewrites of a traced explanation into what runtimes do faster; each gives the same numbers, bit for bit.

A pass takes a graph of ATen operators, changes it in place and says how often it did. What it leaves without users is
removed by ``rewrite``. One pass, ``plane_indices``, comes after the export to ONNX.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

aten = torch.ops.aten
Pass = Callable[[fx.Graph], int]


def rewrite(module: fx.GraphModule) -> dict[str, int]:
    """Runs all passes, in place.

    Returns:
        Name of pass to number of rewrites.
    """
    counts = {}
    for one in PASSES:
        counts[one.__name__] = one(module.graph)
        module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return counts


def specialise_sizes(graph: fx.Graph) -> int:
    """Puts numbers for all symbolic sizes that do not depend on the batch.

    Condition: the first input's first dimension is the batch, and its symbol does not occur in the size.
    """
    pictures = next(node for node in graph.nodes if node.op == "placeholder").meta.get("val")
    batch = pictures.shape[0] if isinstance(pictures, torch.Tensor) else None
    if not isinstance(batch, torch.SymInt):
        return 0
    symbols = batch.node.expr.free_symbols
    sizes = [node for node in graph.nodes if isinstance(node.meta.get("val"), int | torch.SymInt)]
    found = [node for node in sizes if node.op == "call_function" and not _symbols(node.meta["val"]) & symbols]
    for node in found:
        size = node.meta["val"]
        _replace_by_number(node, size if isinstance(size, int) else int(size.node.hint))
    return len(found)


def without_mutation(graph: fx.Graph) -> int:
    """``relu_(x)`` to ``relu(x)``; who reads ``x`` later reads the result.

    Condition: the operator exists out of place, ``x`` is no view, and no view of ``x`` was taken before.
    """
    found = [node for node in graph.nodes if _mutates(node) and _out_of_place(node.target) is not None]
    count = 0
    for node in found:
        changed = node.args[0]
        before = [user for user in changed.users if user < node]
        if changed.op != "call_function" or _aliases(changed) or any(_aliases(user) for user in before):
            continue
        node.target = _out_of_place(node.target)
        changed.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: node < user)
        count += 1
    return count


def merge_equal(graph: fx.Graph) -> int:
    """Common subexpressions: the second of two nodes with the same operator and arguments gives way to the first.

    Condition: nothing in the graph mutates a tensor or draws random numbers.
    """
    if any(_mutates(node) or _random(node) for node in graph.nodes):
        return 0
    first: dict[Any, fx.Node] = {}
    count = 0
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = node.op, node.target, _frozen(node.args), _frozen(node.kwargs)
        if key in first:
            node.replace_all_uses_with(first[key])
            graph.erase_node(node)
            count += 1
        else:
            first[key] = node
    return count


def pick_rows(graph: fx.Graph) -> int:
    """``mm(one_hot(i), W)`` to the rows ``i`` of ``W``.

    Condition: the one-hot matrix is ``scatter_add(zeros (N, K), 1, i (N, 1), ones)``.
    """
    count = 0
    for node in _calls(graph, aten.mm.default):
        hot, matrix = node.args
        if not _is(hot, aten.scatter_add.default) or hot.args[1] != 1:
            continue
        zeros, _, index, ones = hot.args
        if not (_is(zeros, aten.new_zeros.default) and _is_column(index) and _is_ones(ones)):
            continue
        with graph.inserting_before(node):
            rows = graph.call_function(aten.squeeze.dim, (index, 1))
            _replace(node, graph.call_function(aten.index_select.default, (matrix, 0, rows)))
        count += 1
    return count


def divide_before_expanding(graph: fx.Graph) -> int:
    """``div(expand(x, (N, C, h, w)), d)`` to ``div(x, d) * ones(1, 1, h, w)``: fewer divisions, and no ``Expand``.

    Condition: ``x`` is (N, C, 1, 1) and h, w, d are numbers.
    """
    count = 0
    for node in _calls(graph, aten.div.Scalar):
        expanded, divisor = node.args
        if not _is(expanded, aten.expand.default) or isinstance(divisor, fx.Node) or len(expanded.args[1]) != 4:
            continue
        small, (*_, height, width) = expanded.args
        value = small.meta.get("val")
        if value is None or tuple(value.shape[2:]) != (1, 1) or not all(isinstance(n, int) for n in (height, width)):
            continue
        if height < 1 or width < 1 or not _same(value.shape[:2], node.meta["val"].shape[:2]):
            continue
        with graph.inserting_before(node):
            divided = graph.call_function(aten.div.Scalar, (small, divisor))
            kind = {"dtype": value.dtype, "device": value.device}
            ones = graph.call_function(aten.full.default, ([1, 1, height, width], 1), kind)
            _replace(node, graph.call_function(aten.mul.Tensor, (divided, ones)))
        count += 1
    return count


PASSES: tuple[Pass, ...] = (specialise_sizes, without_mutation, merge_equal, pick_rows, divide_before_expanding)


def plane_indices(model: onnx.ModelProto) -> int:
    """Indices of maxima within their plane: the remainder by the plane's size, instead of a second pooling.

    ONNX counts them through the whole tensor. The exporter subtracts where each plane starts, which it takes from a
    pooling of the same tensor with kernel 1; that takes as long as the pooling itself. Changes the model in place.

    Condition: ``Sub(MaxPool(x).Indices, Slice(MaxPool(x, kernel 1).Indices))`` and the plane's size is known.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    planes = {value.name: _plane(value) for value in [*graph.input, *graph.value_info]}
    count = 0
    for node in graph.node:
        pooling, start = (makers.get(name) for name in node.input) if node.op_type == "Sub" else (None, None)
        ones = makers.get(start.input[0]) if start is not None and start.op_type == "Slice" else None
        if pooling is None or ones is None or not (_gives_indices(pooling, node.input[0]) and _is_copy(ones)):
            continue
        size = planes.get(pooling.input[0])
        if size is None or pooling.input[0] != ones.input[0]:
            continue
        name = f"{node.output[0]}_plane"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(size), name))
        node.op_type, node.input[1] = "Mod", name
        count += 1
    if count:
        _remove_unused(graph)
    return count


def _plane(value: onnx.ValueInfoProto) -> int | None:
    """Height times width of (N, C, H, W), where they are known."""
    sizes = [one.dim_value for one in value.type.tensor_type.shape.dim]
    return sizes[2] * sizes[3] if len(sizes) == 4 and sizes[2] * sizes[3] > 0 else None


def _gives_indices(node: onnx.NodeProto, name: str) -> bool:
    return node.op_type == "MaxPool" and len(node.output) == 2 and node.output[1] == name


def _is_copy(node: onnx.NodeProto) -> bool:
    """Whether it is a pooling with kernel 1 that is there for its indices."""
    options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return node.op_type == "MaxPool" and options["kernel_shape"] == [1, 1] and len(node.output) == 2


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


def _calls(graph: fx.Graph, target: Any) -> list[Any]:
    return list(graph.find_nodes(op="call_function", target=target))


def _is(value: Any, target: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "call_function" and value.target == target


def _is_column(index: Any) -> bool:
    value = index.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() == 2 and value.shape[1] == 1


def _is_ones(value: Any) -> bool:
    while _is(value, aten.expand.default):
        value = value.args[0]
    return _is(value, aten.ones_like.default)


def _same(one: Any, other: Any) -> bool:
    return all(str(left) == str(right) for left, right in zip(one, other, strict=True))


def _replace(old: fx.Node, new: fx.Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)


def _replace_by_number(node: fx.Node, number: int) -> None:
    for user in list(node.users):
        user.args = fx.map_arg(user.args, lambda one: number if one is node else one)
        user.kwargs = fx.map_arg(user.kwargs, lambda one: number if one is node else one)


def _symbols(size: int | torch.SymInt) -> set[Any]:
    return set() if isinstance(size, int) else size.node.expr.free_symbols


def _schema(node: fx.Node) -> Any:
    return node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None


def _mutates(node: fx.Node) -> bool:
    schema = _schema(node)
    return schema is not None and schema.is_mutable


def _random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _aliases(node: fx.Node) -> bool:
    """Whether a result may share memory with an argument."""
    schema = _schema(node)
    return schema is not None and not _mutates(node) and any(one.alias_info is not None for one in schema.returns)


def _out_of_place(target: Any) -> Any:
    namespace, _, name = target._schema.name.partition("::")
    if not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return getattr(packet, target._overloadname, None)


def _frozen(value: Any) -> Any:
    """As a dictionary's key; 1, 1.0 and True stay apart."""
    if isinstance(value, dict):
        return tuple((key, _frozen(one)) for key, one in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(one) for one in value)
    return value if isinstance(value, fx.Node) else (type(value), value)
