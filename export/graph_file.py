"""What all exported graphs share: exporting, running and verifying them, hashing their weights, writing them whole."""

import logging
import platform
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxruntime
import torch
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from torch import nn

from export.flat_scatter import FLAT_SCATTER
from export.tracing import FIXED_BATCH
from export.verification import Floats, Inputs, Run, Verdict, VerificationError, table
from export.whole_file import write_whole
from handler.classifier import Classifier
from handler.errors import ModelError, Unprocessable, in_one_line
from handler.fingerprint import hash_state
from handler.graph_description import GraphDescription

OPSET = 18  # the exporter's own; `make old-runtimes` runs it with ONNX Runtime 1.15, 1.17 and 1.20

_LARGEST = 2**31 - 1  # bytes of a protobuf message: ONNX keeps the weights of larger models in a second file


class NotExportableError(ModelError):
    """No ONNX graph can be made of this network; the message says why."""


@contextmanager
def network_code(doing: str) -> Iterator[None]:
    """Around the network's own code, which may raise anything.

    Raises:
        NotExportableError: the network's code raised an exception; the message says at which step, and the cause.
    """
    try:
        yield
    except ModelError:
        raise
    except Unprocessable as error:
        raise NotExportableError(f"{doing}: {error}") from error
    except Exception as error:
        raise NotExportableError(f"{doing}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an exception of a tracer or an exporter says, without its pages of advice."""
    operators = sorted(set(re.findall(r"<OpOverload\(op='([^']+)'", _chain(error))))
    if operators:
        return f"ONNX has no operator for {', '.join(operators)}"[:300]
    return in_one_line(error)


def _chain(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{_chain(error.__cause__)}"


def fits_one_file(module: nn.Module) -> bool:
    """Whether one ONNX file can hold the weights."""
    return _bytes_of_weights(module) <= _LARGEST


def check_exportable(classifier: Classifier) -> None:
    """Refuses a network before any work is done.

    Raises:
        NotExportableError: it runs pictures one by one, or its weights do not fit into one ONNX file.
    """
    if classifier.alone:
        raise NotExportableError(f"graphs take batches, and pictures must be run one by one: {classifier.alone}")
    if not fits_one_file(classifier.module):
        raise NotExportableError(
            f"the weights take {_bytes_of_weights(classifier.module) / 1e9:.1f} GB, "
            f"and one ONNX file holds at most {_LARGEST / 1e9:.1f} GB"
        )


def _bytes_of_weights(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in module.parameters())


def to_onnx(
    module: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str], *, rewrites: bool
) -> onnx.ModelProto:
    """Exports a module; the first dimension of every input is the same dynamic batch.

    Args:
        module: in eval mode.
        example: its inputs, with a batch of at least 2 (torch.export takes a batch of 1 for a constant).
        inputs: names, in the module's order.
        outputs: likewise.
        rewrites: whether the exporter's own optimiser runs, which also folds batch norms.

    Raises:
        NotExportableError: the exporter fails.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module,
                example,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in example),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                optimize=rewrites,
            )
        except Exception as error:  # of torch.export and of the exporter, which share no base
            raise NotExportableError(f"the network cannot be exported: {first_line(error)}") from error
    if program is None:
        raise RuntimeError("the exporter returned no program")
    sizes = [one.shape[0] for one in program.model.graph.inputs if one.shape is not None]
    if any(isinstance(size, int) for size in sizes):
        raise NotExportableError(FIXED_BATCH.format(sizes[0]))
    return _portable(program.model if rewrites else _tidied(program.model))


def _tidied(model: ir.Model) -> ir.Model:
    """Constants folded, equal and unused nodes removed.

    The exporter's own optimiser also runs rewrite rules, one of which (``SlicesSplit``) takes time quadratic in the
    graph's size: minutes for DenseNet's, for nothing that ONNX Runtime would not do itself.
    """
    common_passes.InlinePass()(model)
    fold_constants_ir(model)
    for one in (
        RewritePass([FLAT_SCATTER]),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.DeduplicateInitializersPass(),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.OutputFixPass(),
        common_passes.NameFixPass(),
    ):
        one(model)
    return model


def _portable(model: ir.Model) -> onnx.ModelProto:
    """In the oldest IR version that the opset allows, which has no metadata of nodes and values."""
    common_passes.ClearMetadataAndDocStringPass()(model)
    found = ir.to_proto(model)
    for value in (*found.graph.value_info, *found.graph.input, *found.graph.output, *found.graph.initializer):
        value.ClearField("metadata_props")
    found.ir_version = onnx.helper.find_min_ir_version_for(found.opset_import)
    _floor_pools(found.graph)
    return found


def _floor_pools(graph: onnx.GraphProto) -> None:
    """Takes ceil mode from pools in which it adds no window.

    PyTorch drops a window that would begin behind the padded input. ONNX's shape inference does not know that.
    """
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    for node in graph.node:
        of = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if not of.get("ceil_mode") or node.input[0] not in shapes or node.output[0] not in shapes:
            continue
        axes = len(of["kernel_shape"])
        ones, pads = [1] * axes, of.get("pads", [0] * 2 * axes)
        reach = [d * (k - 1) + 1 for d, k in zip(of.get("dilations", ones), of["kernel_shape"], strict=True)]
        floor = [
            (size + pads[i] + pads[i + axes] - reach[i]) // of.get("strides", ones)[i] + 1
            for i, size in enumerate(shapes[node.input[0]][2:])
        ]
        if floor == shapes[node.output[0]][2:]:
            next(one for one in node.attribute if one.name == "ceil_mode").i = 0


def graph_run(model: onnx.ModelProto) -> Run:
    """Runs a graph with ONNX Runtime on the CPU, without an arena: it keeps the largest batch's memory to the end."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # nothing: what fails is raised
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise NotExportableError(f"ONNX Runtime does not take the graph: {_refusal(str(error))}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        try:
            outputs = session.run(names, dict(inputs))
        except Exception as error:
            raise VerificationError(f"the graph fails where PyTorch answers: {_refusal(str(error))}") from error
        return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}

    return run


def _refusal(message: str) -> str:
    """ONNX Runtime's message as one line; of what happens often, in words."""
    if found := re.search(r"No Op registered for (\w+)", message):
        return f"it has no operator {found[1]} of opset {OPSET}"
    if found := re.search(r"tensor\((bfloat16|float16)\)", message):
        return f"the network computes in {found[1]}; make its weights float32, and use no autocast"
    return " ".join(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message).split())[:300]


@contextmanager
def no_older_file(path: Path) -> Iterator[None]:
    """Removes the file if the block fails: an older graph must not be taken for the one that could not be made."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_verified(
    model: onnx.ModelProto,
    path: Path,
    classifier: Classifier,
    kind: str,
    verified: Callable[[], list[Verdict]],
    *,
    coverage: str = "",
) -> list[Verdict]:
    """Verifies a graph, describes it in its metadata and writes it.

    Args:
        model: the graph, without metadata.
        path: of the file.
        classifier: that it was made from.
        kind: of graph, see ``handler.graph_description``.
        verified: compares it with PyTorch.
        coverage: how far guided backpropagation reaches, of explanations only.

    Returns:
        What ``verified`` returned.

    Raises:
        VerificationError: from ``verified``.
    """
    checks = verified()
    description = GraphDescription(
        kind,
        classifier.architecture,
        classifier.labels,
        classifier.preprocessing,
        classifier.weights_sha256 or hash_state(classifier.module),
        package_versions(),
        table(checks),
        classifier.default_layer,
        coverage,
    )
    onnx.helper.set_model_props(model, description.to_properties())
    write_model(model, path)
    return checks


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks the model with ``onnx.checker`` and writes it, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString())


def package_versions() -> dict[str, str]:
    """Of everything that had a part in a graph."""
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
