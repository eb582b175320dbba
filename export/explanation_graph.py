"""Exports the whole explanation as one ONNX graph: scores, evidence at a layer, Grad-CAM, guided backpropagation.

The graph is a trace of the eager explanation (``handler.tape`` and ``handler.cam``), forward and backward, hooks
included; what ONNX has no operator for is replaced by the rules of ``backward_rules``.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.backward_rules import backward_rules
from export.flat_scatter import scatter_flat
from export.graph_file import graph_run, no_older_file, to_onnx, write_verified
from export.graph_rewrites import rewrite
from export.simplifying import simplified
from export.verification import (
    Exact,
    Floats,
    Inputs,
    Run,
    Tolerance,
    Verdict,
    fresh_pictures,
    verify,
)
from handler.cam import gradcam
from handler.classifier import Classifier
from handler.errors import ModelError
from handler.evidence import TOP, Needs
from handler.graph_description import KIND_EXPLANATION, KIND_GRADCAM
from handler.tape import differentiate, record
from handler.torch_engine import TorchEngine
from handler.views import CHANNELS_FIRST, View

INPUTS = ["input", "target"]
OUTPUTS = ["logits", "activations", "gradients", "gradcam", "guided_backprop"]
GRADCAM_OUTPUTS = OUTPUTS[:-1]
_CLOSE = Tolerance(1e-4, relative=True)
TOLERANCES = {name: _CLOSE for name in GRADCAM_OUTPUTS}  # guided backpropagation is judged by its rounding
Explain = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class NoRuleError(ModelError):
    """The explanation has operators that ONNX has not and for which there is no rule; the message names them."""


def export_explanation(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph if it equals eager PyTorch on fresh pictures; whatever fails, no file is left, nor an older one.

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
    return _export_verified(classifier, path, guided=True)


def export_gradcam(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph of ``export_explanation`` without guided backpropagation, which takes most of its time.

    Inputs and outputs are the same but for ``guided_backprop``; no ReLU is needed.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NoRuleError: an operator that cannot be exported.
        VerificationError: the graph differs from PyTorch.
    """
    return _export_verified(classifier, path, guided=False)


def _export_verified(classifier: Classifier, path: Path, guided: bool) -> list[Verdict]:
    with no_older_file(path):
        return _write(classifier, path, guided)


def _write(classifier: Classifier, path: Path, guided: bool) -> list[Verdict]:
    model = _export(classifier, guided)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        targets = rng.integers(TOP, len(classifier.labels), count)
        return {"input": fresh_pictures(rng, count, classifier.preprocessing), "target": targets}

    def verified() -> list[Verdict]:
        exact = exact_run(classifier) if guided else None
        return verify(eager_run(classifier, guided), graph_run(model), fresh, TOLERANCES, exact=exact)

    kind, coverage = (KIND_EXPLANATION, _coverage(classifier)) if guided else (KIND_GRADCAM, "")
    return write_verified(model, path, classifier, kind, verified, coverage=coverage)


def trace(classifier: Classifier, guided: bool = True) -> fx.GraphModule:
    """Traces the explanation of (N, 3, H, W) pictures and (N) targets with a symbolic batch.

    Args:
        classifier: left as it is.
        guided: whether guided backpropagation is part of it.

    Raises:
        NoRuleError: the trace has backward operators without a rule.
    """
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    module, layer = simplified(classifier.module, classifier.default_layer, example)
    tracing = make_fx(
        _explain(module, layer, classifier.views.get(classifier.default_layer, CHANNELS_FIRST), guided),
        decomposition_table=backward_rules(),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    graph = tracing(example, torch.tensor([TOP, 0]))
    rewrite(graph)
    left = sorted({str(node.target) for node in graph.graph.nodes if "backward" in str(node.target)})
    if left:
        where = _origins(classifier.module, example)
        named = ", ".join(f"{name} (of {where.get(_stem(name), 'no module of its own')})" for name in left)
        raise NoRuleError(f"the explanation of {classifier.architecture} needs {named}, without a rule")
    return graph


def _explain(module: nn.Module, layer: str, view: View, guided: bool) -> Explain:
    def explain(pictures: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tape = record(module, pictures, Needs((layer,), guided=guided), {layer: view})
        chosen = torch.where(target < 0, tape.scores.argmax(dim=1), target)
        found = differentiate(tape, tape.scores.gather(1, chosen[:, None]).sum())
        activation, gradient = tape.layers[layer], found.layers[layer]
        outputs = tape.scores, activation.clone(), gradient, gradcam(activation, gradient)
        return outputs if found.guided is None else (*outputs, found.guided)

    return explain


def _origins(module: nn.Module, example: torch.Tensor) -> dict[str, str]:
    """Which module first computes with an operator, by the operator's stem: where its last step is that operator."""
    found: dict[str, str] = {}

    def note(path: str, output: object) -> None:
        step = output.grad_fn if isinstance(output, torch.Tensor) else None
        if step is not None:
            found.setdefault(_stem(step.name()), path)

    modules = [(path, one) for path, one in module.named_modules() if path]
    hooks = [one.register_forward_hook(lambda _1, _2, output, path=path: note(path, output)) for path, one in modules]
    try:
        module(example.clone().requires_grad_(True))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _stem(operator: str) -> str:
    """``aten.max_pool2d_backward.default`` and ``MaxPool2DBackward0`` to ``maxpool2d``."""
    return operator.removeprefix("aten.").lower().partition("backward")[0].replace("_", "")


def _export(classifier: Classifier, guided: bool = True) -> onnx.ModelProto:
    side = classifier.preprocessing.crop_size
    example = torch.zeros(2, 3, side, side), torch.tensor([TOP, 0])
    model = to_onnx(trace(classifier, guided), example, INPUTS, OUTPUTS if guided else GRADCAM_OUTPUTS)
    scatter_flat(model)
    return model


def eager_run(classifier: Classifier, guided: bool = True) -> Run:
    """PyTorch's own answer: what the graph is compared with.

    Args:
        classifier: run eagerly, with its hooks.
        guided: whether ``guided_backprop`` is among the outputs.
    """
    engine, layer = TorchEngine(classifier), classifier.default_layer

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        targets = [[int(target)] for target in inputs["target"]]
        evidence = engine.run(inputs["input"], targets, Needs((layer,), guided=guided))
        found = evidence.layers[layer]
        maps = gradcam(found.activation, found.gradient)
        outputs = dict(zip(GRADCAM_OUTPUTS, [evidence.logits, found.activation, found.gradient, maps], strict=True))
        return outputs if evidence.guided is None else {**outputs, "guided_backprop": evidence.guided}

    return run


def exact_run(classifier: Classifier) -> Exact:
    """``eager_run`` in float64, for the classes that float32 found where the top class is asked for."""
    run = eager_run(replace(classifier, module=copy.deepcopy(classifier.module).double()))

    def exact(inputs: Inputs, found: Mapping[str, Floats]) -> Mapping[str, Floats]:
        targets = np.where(inputs["target"] < 0, found["logits"].argmax(axis=1), inputs["target"])
        return run({"input": inputs["input"].astype(np.float64), "target": targets})

    return exact


def _coverage(classifier: Classifier) -> str:
    """How many of the network's activations guided backpropagation reaches, as text."""
    side = classifier.preprocessing.crop_size
    needs = Needs((classifier.default_layer,), guided=True)
    return TorchEngine(classifier).run(np.zeros((1, 3, side, side), np.float32), [[TOP]], needs).coverage or ""
