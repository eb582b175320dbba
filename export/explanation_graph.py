"""Exports the whole explanation as one ONNX graph: scores, evidence at a layer, Grad-CAM, guided backpropagation.

The graph is a trace of the eager explanation (``handler.tape`` and ``handler.cam``), forward and backward, hooks
included; what ONNX has no operator for is replaced by the rules of ``backward_rules``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.backward_rules import backward_rules
from export.folding import fold_batch_norms
from export.graph_file import graph_run, to_onnx, write_verified
from export.metadata import KIND_EXPLANATION
from export.verification import (
    Check,
    Floats,
    Inputs,
    Run,
    Tolerance,
    fresh_pictures,
    verify,
)
from handler.cam import gradcam
from handler.classifier import Classifier
from handler.errors import ModelError
from handler.evidence import TOP, Needs
from handler.tape import differentiate, record
from handler.torch_engine import TorchEngine

INPUTS = ["input", "target"]
OUTPUTS = ["logits", "activations", "gradients", "gradcam", "guided_backprop"]
_CLOSE = Tolerance(1e-4, relative=True)
TOLERANCES = {
    **{name: _CLOSE for name in OUTPUTS},
    "guided_backprop": Tolerance(1e-4, relative=True, share_beyond=0.1, most=0.02),
}
Explain = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class NoRuleError(ModelError):
    """The explanation has operators that ONNX has not and for which there is no rule; the message names them."""


def export_explanation(classifier: Classifier, path: Path) -> list[Check]:
    """Writes the graph if it equals eager PyTorch on fresh pictures; otherwise no file is left, an older one included.

    Inputs: ``input`` (N, 3, H, W), normalised, and ``target`` (N), int64 class indices, -1 for the top class. Outputs:
    ``logits`` (N, K), ``activations`` and ``gradients`` (N, C, h, w) of the default layer, ``gradcam`` (N, h, w),
    unscaled, and ``guided_backprop`` (N, 3, H, W).

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NoRuleError: an operator that cannot be exported.
        Unprocessable: guided backpropagation is not defined for the architecture.
        VerificationError: the graph differs from PyTorch.
    """
    model = _export(classifier)
    side, classes = classifier.preprocessing, len(classifier.labels)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        targets = rng.integers(TOP, classes, count)
        return {"input": fresh_pictures(rng, count, side), "target": targets}

    def verified() -> list[Check]:
        return verify(_eager_run(classifier), graph_run(model), fresh, TOLERANCES)

    return write_verified(model, path, classifier, KIND_EXPLANATION, verified)


def trace(classifier: Classifier) -> fx.GraphModule:
    """Traces the explanation of (N, 3, H, W) pictures and (N) targets with a symbolic batch.

    Raises:
        NoRuleError: the trace has backward operators without a rule.
    """
    layer = classifier.default_layer
    folded = fold_batch_norms(classifier.module, keep=[layer])
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    tracing = make_fx(
        _explain(folded, layer),
        decomposition_table=backward_rules(),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    graph = tracing(example, torch.tensor([TOP, 0]))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    left = sorted({str(node.target) for node in graph.graph.nodes if "backward" in str(node.target)})
    if left:
        raise NoRuleError(f"the explanation of {classifier.architecture} needs {', '.join(left)}, without a rule")
    return graph


def _explain(module: nn.Module, layer: str) -> Explain:
    def explain(pictures: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tape = record(module, pictures, Needs((layer,), guided=True))
        chosen = torch.where(target < 0, tape.scores.argmax(dim=1), target)
        found = differentiate(tape, tape.scores.gather(1, chosen[:, None]).sum())
        activation, gradient = tape.layers[layer], found.layers[layer]
        assert found.guided is not None
        return tape.scores, activation.clone(), gradient, gradcam(activation, gradient), found.guided

    return explain


def _export(classifier: Classifier) -> onnx.ModelProto:
    side = classifier.preprocessing.crop_size
    example = torch.zeros(2, 3, side, side), torch.tensor([TOP, 0])
    return to_onnx(trace(classifier), example, INPUTS, OUTPUTS)


def _eager_run(classifier: Classifier) -> Run:
    engine, layer = TorchEngine(classifier), classifier.default_layer

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        targets = [[int(target)] for target in inputs["target"]]
        evidence = engine.run(inputs["input"], targets, Needs((layer,), guided=True))
        found = evidence.layers[layer]
        assert evidence.guided is not None
        maps = gradcam(found.activation, found.gradient)
        return dict(
            zip(
                OUTPUTS,
                [evidence.logits, found.activation, found.gradient, maps, evidence.guided],
                strict=True,
            )
        )

    return run
