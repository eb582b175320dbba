"""Exports the whole explanation as one ONNX graph: scores, evidence at a layer, Grad-CAM, guided backpropagation."""

from pathlib import Path

import numpy as np
import onnx
import torch

from export.errors import network_code
from export.graphs.writing import no_older_file, write_verified
from export.tracing.explanation import STEPS, needs_of_kind, trace_explanation
from export.tracing.exportable import check_exportable
from export.tracing.onnx_export import to_onnx
from export.verify.compare import Inputs, Tolerance, Verdict, batch_sizes, fresh_pictures, verify
from export.verify.reference import eager_run, exact_run
from export.verify.runtime import graph_run
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_SALIENCY, KINDS
from handler.model.classifier import Classifier

GATED = ("gradients", "gradcam")  # a ReLU behind the layer is a gate that rounding can flip
_CLOSE = Tolerance(1e-4, relative=True)
# guided backpropagation is judged by its rounding
TOLERANCES = {name: _CLOSE for name in ("logits", "activations", "gradients", "gradcam", "saliency")}


def explanation_kind(classifier: Classifier) -> str:
    """Which whole explanation a classifier can have: ``KIND_EXPLANATION``, or ``KIND_SALIENCY`` without a ReLU."""
    return KIND_EXPLANATION if _coverage(classifier) else KIND_SALIENCY


def _coverage(classifier: Classifier) -> str:
    """How many of the network's activations guided backpropagation reaches, as text; empty where it is not defined."""
    side = classifier.preprocessing.crop_size
    with network_code(f"{classifier.architecture} cannot be explained"):
        try:
            needs = needs_of_kind(classifier, KIND_EXPLANATION)
            evidence = TorchEngine(classifier).run(np.zeros((1, 3, side, side), np.float32), [[TOP]], needs)
        except Unprocessable:
            return ""
    return str(evidence.coverage)


def export_explanation(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph if it equals eager PyTorch on fresh pictures; whatever fails, no file is left, nor an older one.

    Inputs: ``input`` (N, 3, H, W), normalised, and ``target`` (N), int64 class indices, -1 for the top class. Outputs:
    ``logits`` (N, K), ``activations`` and ``gradients`` (N, C, h, w) of the default layer, ``gradcam`` (N, h, w),
    unscaled, and ``guided_backprop`` (N, 3, H, W); of a network without a ReLU, for which that is not defined,
    ``saliency`` (N, 3, H, W), the plain gradient, instead.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NotExportableError: an operator that cannot be exported, or a network that cannot be traced.
        VerificationError: the graph differs from PyTorch.
    """
    with no_older_file(path):
        check_exportable(classifier)
        coverage = _coverage(classifier)
        return _write(classifier, path, KIND_EXPLANATION if coverage else KIND_SALIENCY, coverage)


def export_gradcam(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph of ``export_explanation`` without the gradient at the input, which takes most of its time.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NotExportableError: an operator that cannot be exported, or a network that cannot be traced.
        VerificationError: the graph differs from PyTorch.
    """
    with no_older_file(path):
        return _write(classifier, path, KIND_GRADCAM)


def _write(classifier: Classifier, path: Path, kind: str, coverage: str = "") -> list[Verdict]:
    model, steps = _export(classifier, kind)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        targets = rng.integers(TOP, len(classifier.labels), count)
        return {"input": fresh_pictures(rng, count, classifier.preprocessing), "target": targets}

    def verified() -> list[Verdict]:
        return verify(
            eager_run(classifier, kind),
            graph_run(model),
            fresh,
            TOLERANCES,
            exact=exact_run(classifier, kind),
            gated=GATED,
            batches=batch_sizes(classifier.preprocessing.crop_size),
        )

    return write_verified(model, path, classifier, kind, verified, coverage=coverage, simplified=steps)


def _export(classifier: Classifier, kind: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    side = classifier.preprocessing.crop_size
    example = torch.zeros(2, 3, side, side), torch.tensor([TOP, 0])
    inputs, outputs = list(KINDS[kind].inputs), list(KINDS[kind].outputs)
    graph = trace_explanation(classifier, kind)
    model = to_onnx(graph, example, inputs, outputs, rewrites=False)
    return model, graph.meta[STEPS]
