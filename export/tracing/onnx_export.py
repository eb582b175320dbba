"""Traces a function, autograd included, into a graph of ATen operators; exports a module to ONNX for old runtimes."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
import torch.nn.functional as F
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from deploy.devices.blocked_layout import use_blocked_layout
from deploy.devices.forms import OPSET, USUAL, Form, at_opset, check_portable
from export.errors import NotExportableError, network_code

FIXED_BATCH = (
    "it works on a batch of {} only: a loop over the pictures or int(x.shape[0]) fixes their number, "
    "which a graph leaves open; compute with the whole batch at once"
)


def trace_batch(
    function: Callable[..., Any], example: Sequence[Tensor], decompositions: Mapping[Any, Callable[..., Any]]
) -> fx.GraphModule:
    """Traces ``function(*example)``; the first dimension of all inputs is one symbol, all other sizes are numbers.

    The first dimension of the ``example`` is at least 2, because 1 is taken for a constant. ``decompositions`` are the
    functions that replace operator overloads. Raises ValueError if the function works on a batch of the example's size
    only, and whatever a function raises that branches on values.
    """
    shapes = ShapeEnv()
    fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)
    inputs = []
    for number, tensor in enumerate(example):
        sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * (tensor.dim() - 1)  # equal batches share their symbol
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        inputs.append(fake.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"input_{number}")))
    with ExitStack() as stack:
        # fused attention has no backward operator that could be replaced
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(_OtherWords())
        stack.enter_context(fake)
        stack.enter_context(enable_python_dispatcher())  # without it some operators refuse symbolic sizes
        graph = make_fx(function, decomposition_table=dict(decompositions), _allow_non_fake_inputs=True)(*inputs)
    batches: list[Any] = [tensor.shape[0] for tensor in inputs]
    if any(batch.node.expr.is_number for batch in batches):
        raise ValueError(FIXED_BATCH.format(batches[0]))
    graph.graph.eliminate_dead_code()  # half of the operators: gradients that nobody asked for
    graph.recompile()
    return graph


class _OtherWords(TorchFunctionMode):
    """Global average pooling without ATen's strides, and affine grids whose gradient has any number of pictures."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        axes = {F.adaptive_avg_pool1d: (-1,), F.adaptive_avg_pool2d: (-2, -1)}.get(function)
        if axes and (*args, *kwargs.values())[1] in (1, (1,), [1], (1, 1), [1, 1]):
            return args[0].mean(axes, keepdim=True)
        return _affine_grid(*args, **kwargs) if function is F.affine_grid else function(*args, **kwargs)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places (N, *size, 2 or 3) of an affine grid, from -1 to 1 at corners or at their cells' outer edges."""
    axes = [torch.arange(1 - n, n, 2).to(theta) / (max(n - 1, 1) if align_corners else n) for n in size[2:]]
    places = torch.stack([*torch.meshgrid(*axes, indexing="ij")[::-1], torch.ones(size[2:]).to(theta)], -1)
    return (places.flatten(0, -2) @ theta.mT).reshape(-1, *size[2:], theta.shape[1])


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    rewrites: bool,
    form: Form = USUAL,
) -> onnx.ModelProto:
    """Exports a module in eval mode; the first dimension of every input is the same dynamic batch.

    The ``example`` of the inputs has a batch of at least 2, because torch.export takes a batch of 1 for a constant.
    ``rewrites`` says whether the exporter's own optimiser runs, which also folds batch norms. Raises NotExportableError
    if the exporter fails, or the network works on a batch of the example's size only. The model has the oldest IR
    version that the opset allows, and no metadata.
    """
    batch = torch.export.Dim("batch")
    if form.batch:
        example = tuple(values[:1].repeat(form.batch, *[1] * (values.dim() - 1)) for values in example)
    with warnings.catch_warnings(), network_code("the network cannot be exported"):
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        ends: dict[str, Any] = {"input_names": [*inputs], "output_names": [*outputs]}
        how: dict[str, Any] = {"dynamo": True, "verbose": False, "optimize": rewrites}
        shapes = None if form.batch else tuple({0: batch} for _ in example)
        program = torch.onnx.export(module, example, dynamic_shapes=shapes, opset_version=OPSET, **ends, **how)
    assert program is not None
    scattering = [node for node in program.model.graph if node.op_type == "ScatterND"]
    if any(node.attributes.get_string("reduction", "none") != "none" for node in scattering):
        raise NotExportableError("ONNX Runtime loses terms of ScatterND's sums where it has several threads")
    sizes = [value.shape[0] for value in program.model.graph.inputs if value.shape is not None]
    if not form.batch and any(isinstance(size, int) for size in sizes):
        raise NotExportableError(FIXED_BATCH.format(sizes[0]))
    if not rewrites:
        _tidy(program.model, blocked=not (form.portable or form.half))  # for ONNX Runtime's CPU alone
    for value, name in zip(program.model.graph.outputs, outputs, strict=True):
        value.name = name  # of equal outputs the later have names of the exporter's
    common_passes.ClearMetadataAndDocStringPass()(program.model)  # of nodes; that of values goes below
    found = ir.to_proto(program.model)
    for value in (*found.graph.value_info, *found.graph.input, *found.graph.output, *found.graph.initializer):
        value.ClearField("metadata_props")
    _floor_pools(found.graph)
    if form.opset != OPSET:
        found = at_opset(found, form.opset)
    found.ir_version = onnx.helper.find_min_ir_version_for(found.opset_import)
    if form.portable:
        check_portable(found.graph)
    return found


def _tidy(model: ir.Model, *, blocked: bool) -> None:
    """Folds constants, and removes equal and unused nodes, in place; ``blocked`` is for ``use_blocked_layout``.

    The exporter's own optimiser also runs the rewrite rule ``SlicesSplit``, which takes time quadratic in the graph's
    size, minutes for DenseNet, and changes nothing that ONNX Runtime would not change itself.
    """
    common_passes.InlinePass()(model)
    fold_constants_ir(model)
    for_blocks: list[Callable[[ir.Model], Any]] = [use_blocked_layout, common_passes.DeduplicateInitializersPass()]
    steps: list[Callable[[ir.Model], Any]] = [
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.DeduplicateInitializersPass(size_limit=1 << 20),
        common_passes.CommonSubexpressionEliminationPass(),
        _keep_matrices,
        *(for_blocks if blocked else []),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.OutputFixPass(),
        common_passes.NameFixPass(),
    ]
    for apply in steps:
        apply(model)


def _keep_matrices(model: ir.Model) -> None:
    """Gives linear layers their matrices as PyTorch has them, (outputs, inputs), which the backward pass takes, too."""
    nodes: list[Any] = [*model.graph]
    turned = [node for node in nodes if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)]
    matrices: Any = {node.inputs[1].name: node.inputs[1] for node in turned if node.inputs[1].const_value is not None}
    for matrix in matrices.values():  # each once, even if several layers share it
        values, name = np.ascontiguousarray(matrix.const_value.numpy().T), f"{matrix.name}_kept"
        tensor = ir.tensor(values, name=name)
        kind: Any = {"shape": ir.Shape(values.shape), "type": ir.TensorType(tensor.dtype)}
        kept = ir.Value(name=name, const_value=tensor, **kind)
        model.graph.register_initializer(kept)
        for use in list(matrix.uses()):
            if use.node in turned and use.idx == 1:
                use.node.replace_input_with(1, kept)
                use.node.attributes["transB"] = ir.AttrInt64("transB", 1)
            elif use.node.op_type == "Transpose":  # of two axes: the only one that is not folded away
                ir.convenience.replace_all_uses_with(use.node.outputs[0], kept)


def _floor_pools(graph: onnx.GraphProto) -> None:
    """Takes ceil mode from pools in which it adds no window.

    PyTorch drops a window that would begin behind the padded input; ONNX's shape inference counts this window.
    """
    types = {value.name: value.type for value in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        ceil = next((attribute for attribute in node.attribute if attribute.name == "ceil_mode"), None)
        if ceil is None or not ceil.i or node.input[0] not in types or node.output[0] not in types:
            continue
        schema, before, after = onnx.defs.get_schema(node.op_type, OPSET), node.input[0], node.output[0]
        ceil.i = 0
        floor = onnx.shape_inference.infer_node_outputs(schema, node, {before: types[before]})[after]
        sizes = [[size.dim_value for size in tensor.tensor_type.shape.dim] for tensor in (floor, types[after])]
        ceil.i = int(sizes[0] != sizes[1])
