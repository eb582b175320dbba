"""Exports a module, or a traced function, as an ONNX model that old runtimes read."""

import logging
import warnings
from collections.abc import Sequence

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor, nn

from export.errors import NotExportableError, network_code
from export.tracing.trace import FIXED_BATCH

OPSET = 18  # the exporter's own; `make old-runtimes` runs it with ONNX Runtime 1.15, 1.17 and 1.20


def to_onnx(
    module: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], *, rewrites: bool
) -> onnx.ModelProto:
    """Exports a module in eval mode; the first dimension of every input is the same dynamic batch.

    The ``example`` of the inputs has a batch of at least 2, because torch.export takes a batch of 1 for a constant.
    ``rewrites`` says whether the exporter's own optimiser runs, which also folds batch norms. Raises NotExportableError
    if the exporter fails, or the network works on a batch of the example's size only. The model has the oldest IR
    version that the opset allows, and no metadata.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), network_code("the network cannot be exported"):
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=rewrites,
        )
    assert program is not None
    sizes = [value.shape[0] for value in program.model.graph.inputs if value.shape is not None]
    if any(isinstance(size, int) for size in sizes):
        raise NotExportableError(FIXED_BATCH.format(sizes[0]))
    if not rewrites:
        _tidy(program.model)
    for value, name in zip(program.model.graph.outputs, outputs, strict=True):
        value.name = name  # of equal outputs the later have names of the exporter's
    common_passes.ClearMetadataAndDocStringPass()(program.model)  # of nodes; that of values goes below
    found = ir.to_proto(program.model)
    for value in (*found.graph.value_info, *found.graph.input, *found.graph.output, *found.graph.initializer):
        value.ClearField("metadata_props")
    found.ir_version = onnx.helper.find_min_ir_version_for(found.opset_import)
    _floor_pools(found.graph)
    return found


def _tidy(model: ir.Model) -> None:
    """Folds constants, and removes equal and unused nodes, in place.

    The exporter's own optimiser also runs the rewrite rule ``SlicesSplit``, which takes time quadratic in the graph's
    size, minutes for DenseNet, and changes nothing that ONNX Runtime would not change itself.
    """
    common_passes.InlinePass()(model)
    fold_constants_ir(model)
    for apply in (
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.DeduplicateInitializersPass(size_limit=1 << 20),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.OutputFixPass(),
        common_passes.NameFixPass(),
    ):
        apply(model)


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
