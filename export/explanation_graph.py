"""Exports the whole explanation as one ONNX graph: scores, evidence at a layer, Grad-CAM, guided backpropagation.

The graph is a trace of the eager explanation (``handler.tape`` and ``handler.cam``), forward and backward, hooks
included; what ONNX has no operator for is replaced by the rules of ``backward_rules``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx, nn

from export.backward_rules import backward_rules
from export.copying import copy_of
from export.graph_file import (
    NotExportableError,
    check_exportable,
    graph_run,
    network_code,
    no_older_file,
    to_onnx,
    write_verified,
)
from export.graph_rewrites import rewrite
from export.poles import has_poles
from export.precision import InDoublePrecision
from export.simplifying import simplified
from export.tracing import trace_batch
from export.verification import (
    Exact,
    Floats,
    Inputs,
    Run,
    Tolerance,
    Verdict,
    batch_sizes,
    fresh_pictures,
    verify,
)
from handler.cam import gradcam
from handler.classifier import Classifier
from handler.errors import Unprocessable
from handler.evidence import TOP, Needs
from handler.graph_description import KIND_EXPLANATION, KIND_GRADCAM, KIND_SALIENCY, KINDS
from handler.tape import differentiate, record
from handler.torch_engine import TorchEngine
from handler.views import CHANNELS_FIRST, ChannelLayout

GATED = ("gradients", "gradcam")  # a ReLU behind the layer is a gate that rounding can flip
_CLOSE = Tolerance(1e-4, relative=True)
# guided backpropagation is judged by its rounding
TOLERANCES = {name: _CLOSE for name in ("logits", "activations", "gradients", "gradcam", "saliency")}
Explain = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class NoRuleError(NotExportableError):
    """The explanation has backward operators for which there is no rule; the message names them."""


def explanation_kind(classifier: Classifier) -> str:
    """Which whole explanation a classifier can have: ``KIND_EXPLANATION``, or ``KIND_SALIENCY`` without a ReLU."""
    side = classifier.preprocessing.crop_size
    with network_code(f"{classifier.architecture} cannot be explained"):
        try:
            needs = _needs(classifier, KIND_EXPLANATION)
            TorchEngine(classifier).run(np.zeros((1, 3, side, side), np.float32), [[TOP]], needs)
        except Unprocessable:
            return KIND_SALIENCY
    return KIND_EXPLANATION


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
        return _write(classifier, path, explanation_kind(classifier))


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


def _write(classifier: Classifier, path: Path, kind: str) -> list[Verdict]:
    model = _export(classifier, kind)

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

    coverage = _coverage(classifier) if kind == KIND_EXPLANATION else ""
    return write_verified(model, path, classifier, kind, verified, coverage=coverage)


def _needs(classifier: Classifier, kind: str) -> Needs:
    return Needs((classifier.default_layer,), guided=kind == KIND_EXPLANATION, saliency=kind == KIND_SALIENCY)


def trace(classifier: Classifier, kind: str = KIND_EXPLANATION) -> fx.GraphModule:
    """Traces the explanation of (N, 3, H, W) pictures and (N) targets with a symbolic batch.

    Args:
        classifier: left as it is.
        kind: of graph, see ``handler.graph_description``.

    Raises:
        NoRuleError: the trace has backward operators without a rule.
        NotExportableError: the network cannot be traced, or is too large for one file.
    """
    check_exportable(classifier)
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with network_code(f"{classifier.architecture} cannot be explained"):
        tape = record(classifier.module, example, Needs((classifier.default_layer,), saliency=True), classifier.views)
        if tape.scores.grad_fn is None:
            raise Unprocessable("its scores have no gradient: forward runs under no_grad, or detaches what it found")
        poles = has_poles(tape.scores)
        view = classifier.views.get(classifier.default_layer, CHANNELS_FIRST)
        module, layer = simplified(classifier.module, classifier.default_layer, example, view)
    needs = replace(_needs(classifier, kind), layers=(layer,))
    explain = _explain(module, needs, view)
    with network_code(f"{classifier.architecture} cannot be traced"):
        graph = trace_batch(explain, (example, torch.tensor([TOP, 0])), backward_rules(poles=poles))
    rewrite(graph)
    left = sorted({str(node.target) for node in graph.graph.nodes if "backward" in str(node.target)})
    if left:
        where = _origins(classifier.module, example)
        named = ", ".join(f"{name} (of {where.get(_stem(name), 'no module of its own')})" for name in left)
        raise NoRuleError(f"the explanation of {classifier.architecture} needs {named}, without a rule")
    return graph


def _explain(module: nn.Module, needs: Needs, view: ChannelLayout) -> Explain:
    (layer,) = needs.layers

    def explain(pictures: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tape = record(module, pictures, needs, {layer: view})
        # an index below zero would count from the end: no class, so that the runtime refuses it as one of K and above
        classes = torch.where(target < TOP, tape.scores.shape[1], target)
        chosen = torch.where(target == TOP, tape.scores.argmax(dim=1), classes)
        found = differentiate(tape, tape.scores.gather(1, chosen[:, None]).sum())
        activation, gradient = tape.layers[layer], found.layers[layer]
        pixels = [one for one in (found.guided, found.saliency) if one is not None]
        return tape.scores, activation.clone(), gradient, gradcam(activation, gradient), *pixels

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
        module(example.clone().requires_grad_(True).clone())
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _stem(operator: str) -> str:
    """``aten.max_pool2d_backward.default`` and ``MaxPool2DBackward0`` to ``maxpool2d``."""
    return operator.removeprefix("aten.").lower().partition("backward")[0].replace("_", "")


def _export(classifier: Classifier, kind: str) -> onnx.ModelProto:
    side = classifier.preprocessing.crop_size
    example = torch.zeros(2, 3, side, side), torch.tensor([TOP, 0])
    inputs, outputs = list(KINDS[kind].inputs), list(KINDS[kind].outputs)
    return to_onnx(trace(classifier, kind), example, inputs, outputs, rewrites=False)


def eager_run(classifier: Classifier, kind: str = KIND_EXPLANATION) -> Run:
    """PyTorch's own answer, picture by picture: what the graph is compared with.

    Args:
        classifier: run eagerly, with its hooks.
        kind: of graph, which says what is among the outputs.
    """
    engine, needs = TorchEngine(classifier), _needs(classifier, kind)

    def run_one(picture: Floats, target: int) -> dict[str, Floats]:
        with network_code(f"{classifier.architecture} cannot be explained"):
            evidence = engine.run(picture[None], [[target]], needs)
        found = evidence.layers[classifier.default_layer]
        outputs = {
            "logits": evidence.logits,
            "activations": found.activation,
            "gradients": found.gradient,
            "gradcam": gradcam(found.activation, found.gradient),
        }
        pixels = {"guided_backprop": evidence.guided, "saliency": evidence.saliency}
        return outputs | {name: values for name, values in pixels.items() if values is not None}

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        rows = [run_one(*one) for one in zip(inputs["input"], inputs["target"].tolist(), strict=True)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return run


def exact_run(classifier: Classifier, kind: str = KIND_EXPLANATION) -> Exact:
    """``eager_run`` in float64, for the classes that float32 found where the top class is asked for."""

    def exact(inputs: Inputs, found: Mapping[str, Floats]) -> Mapping[str, Floats]:
        run = eager_run(replace(classifier, module=copy_of(classifier.module).double()), kind)
        targets = np.where(inputs["target"] < 0, found["logits"].argmax(axis=1), inputs["target"])
        with InDoublePrecision():  # type: ignore[no-untyped-call]
            return run({"input": inputs["input"].astype(np.float64), "target": targets})

    return exact


def _coverage(classifier: Classifier) -> str:
    """How many of the network's activations guided backpropagation reaches, as text."""
    side = classifier.preprocessing.crop_size
    evidence = TorchEngine(classifier).run(np.zeros((1, 3, side, side), np.float32), [[TOP]], Needs(guided=True))
    return evidence.coverage or ""
