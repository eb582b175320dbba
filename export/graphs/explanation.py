"""Exports the whole explanation as one ONNX graph: scores, evidence at a layer, Grad-CAM, guided backpropagation."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import network_code
from export.graphs.writing import no_older_file, write_verified
from export.tracing.explanation import STEPS, example_of, needs_of_kind, trace_explanation
from export.tracing.exportable import check_exportable
from export.tracing.onnx_export import to_onnx
from export.verify.compare import Verdict
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_ATTENTION, KIND_EXPLANATION, KIND_GRADCAM, KIND_SALIENCY, KINDS
from handler.model.classifier import Classifier


def explanation_kind(classifier: Classifier) -> str:
    """``KIND_EXPLANATION``, or ``KIND_SALIENCY`` for a network without a ReLU, which has no guided backpropagation.

    Raises:
        NotExportableError: the network fails on a picture.
    """
    return KIND_EXPLANATION if _coverage(classifier) else KIND_SALIENCY


def _coverage(classifier: Classifier) -> str:
    """How many activations guided backpropagation reaches, as text; empty for a network without a ReLU."""
    side = classifier.preprocessing.crop_size
    with network_code(f"{classifier.architecture} cannot be explained"):
        try:
            needs = needs_of_kind(classifier, KIND_EXPLANATION)
            evidence = TorchEngine(classifier).run(np.zeros((1, 3, side, side), np.float32), [[TOP]], needs)
        except Unprocessable:
            return ""
    return str(evidence.coverage)


def export_explanation(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph if it equals PyTorch on fresh pictures; after a failure no file is left, nor an older one.

    The inputs are ``input`` (N, 3, H, W), normalised pictures, ``target`` (N), int64 class indices, of which -1 is the
    picture's top class, and, optional, ``weights`` (N, K), class weights: a row with a value other than 0 takes the
    place of its target, and the evidence is that for the weighted sum of the scores. The outputs are ``logits`` (N, K),
    ``activations`` and ``gradients`` (N, C, h, w) of the default layer, ``gradcam`` (N, h, w), unscaled, and
    ``guided_backprop`` (N, 3, H, W). The graph of a network without a ReLU has the plain gradient ``saliency``
    (N, 3, H, W) instead of ``guided_backprop``.

    Args:
        classifier: left as it is.
        path: of the file, which is overwritten.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NotExportableError: the network cannot be traced, has an operator that ONNX lacks, or is too large for one file.
        VerificationError: the graph differs from PyTorch.
    """
    with no_older_file(path):
        check_exportable(classifier)
        coverage = _coverage(classifier)
        return _write(classifier, path, KIND_EXPLANATION if coverage else KIND_SALIENCY, coverage)


def export_gradcam(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph of ``export_explanation`` without the gradient at the input, which takes most of the time."""
    with no_older_file(path):
        return _write(classifier, path, KIND_GRADCAM)


def export_attention(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes a graph as ``export_explanation`` does, whose outputs are scores and the maps of ``ATTENTION_METHODS``."""
    with no_older_file(path):
        return _write(classifier, path, KIND_ATTENTION)


def _write(classifier: Classifier, path: Path, kind: str, coverage: str = "") -> list[Verdict]:
    graph = trace_explanation(classifier, kind)
    names = (*KINDS[kind].inputs, *KINDS[kind].optional)
    model = to_onnx(graph, example_of(classifier), names, KINDS[kind].outputs, rewrites=False)
    _give_default(model.graph, "weights", np.zeros((1, len(classifier.labels)), np.float32))
    return write_verified(model, path, classifier, kind, coverage=coverage, simplified=graph.meta[STEPS])


def _give_default(graph: onnx.GraphProto, name: str, default: npt.NDArray[np.float32]) -> None:
    """Makes an input optional; its first dimension gets a name of its own, because the default has one row only."""
    constants, alone = {tensor.name for tensor in graph.initializer}, {name}
    for node in graph.node:
        if alone & {*node.input} and {*node.input} - constants <= alone:
            alone |= {*node.output}
    for value in (*graph.input, *graph.value_info):
        if value.name in alone:
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
    graph.initializer.append(onnx.numpy_helper.from_array(default, name))
