"""Traces what a graph computes: the prediction, or the whole explanation.

An explanation is the forward pass, both backward passes and Grad-CAM, or the maps of attention. Its graph is a trace of
the eager explanation (``handler.autograd.tape`` and ``handler.explanation.gradient_cams``) with its hooks.
The rules of ``backward_rules`` replace the operators that ONNX lacks.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from export.errors import NotExportableError, network_code
from export.tracing.backward_rules import backward_rules
from export.tracing.onnx_export import trace_batch
from handler.autograd.attention import attend, relevance
from handler.autograd.graph import nodes, operation
from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout, replaced
from handler.autograd.tape import differentiate, record
from handler.errors import Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.methods import ATTENTION_METHODS, METHODS, OF_BLOCKS
from handler.graphs import description as kinds
from handler.model.classifier import Classifier

Explain = Callable[..., tuple[torch.Tensor, ...]]  # pictures, targets and class weights to the outputs

# autograd's names of operators whose gradient is finite where the gradient at their output is finite
_BOUNDED = """torch::autograd::AccumulateGrad AdaptiveAvgPool2D Add Addmm Alias AsStrided AvgPool2D Baddbmm Bmm Cat Celu
Clamp ClampMax ClampMin Clone ConstantPadNd Convolution Elu Expand Gather Gelu Hardsigmoid Hardswish Hardtanh Index
IndexSelect LeakyRelu MaskedFill Max MaxPool2DWithIndices Mean Mish Mm Mul NativeBatchNorm NativeGroupNorm
NativeLayerNorm Neg Permute PixelShuffle PreluKernel Relu Repeat ReshapeAlias Roll ScaledDotProductFlashAttentionForCpu
Select Sigmoid Silu Slice Softmax Softplus Split SplitWithSizes Squeeze Stack Sub Sum T Tanh Threshold ToCopy Transpose
Unbind UnsafeSplit UnsafeView Unsqueeze UpsampleBilinear2D UpsampleNearest2D View Where"""
_OF_NUMBERS = torch.float64, torch.int64  # how autograd keeps a Python number; networks' own tensors are float32


class PredictionGraph(nn.Module):
    """The classifier with its probabilities."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module, self.head = classifier.module, classifier.reading.head
        # not by ``eval``, at which some networks forget what they keep, and keep a tracer's values
        self.training = False

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, H, W), normalised, to logits (N, K) and probabilities (N, K)."""
        logits = self.module(pictures.clone())  # a network may begin with an operation in place
        return logits, logits.sigmoid() if self.head == "sigmoid" else logits.softmax(dim=1)


def needs_of_kind(classifier: Classifier, kind: str) -> Needs:
    """The evidence that a kind of graph holds, at the default layer and, of ``KIND_LAYERS``, at the further ones."""
    layers = (classifier.default_layer, *(classifier.further_layers if kind == kinds.KIND_LAYERS else ()))
    return Needs(layers=layers, guided=kind == kinds.KIND_EXPLANATION, saliency=kind == kinds.KIND_SALIENCY)


def example_of(
    classifier: Classifier, kind: str = kinds.KIND_EXPLANATION, *, portable: bool = False
) -> tuple[torch.Tensor, ...]:
    """Two pictures, and the other inputs of a kind of graph, to trace with."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, *classifier.preprocessing.shape, generator=rng)
    if kind == kinds.KIND_PREDICTION:
        return (pictures.to(classifier.device),)
    if kind == kinds.KIND_BEHIND:
        return pictures, torch.randn(2, *classifier.layers[classifier.default_layer], generator=rng)
    weights = torch.zeros(2, len(classifier.labels))
    return (pictures, weights) if portable else (pictures, torch.tensor([TOP, 0]), weights)


def trace_graph(classifier: Classifier, kind: str = kinds.KIND_EXPLANATION, portable: bool = False) -> fx.GraphModule:
    """Traces a kind of graph for any batch; a portable graph has no target. NotExportableError says why it fails."""
    module, name, inputs = classifier.module, classifier.architecture, example_of(classifier, kind, portable=portable)
    poles = True
    with network_code(f"{name} cannot be explained"):
        if kind == kinds.KIND_PREDICTION:
            explain: Explain = PredictionGraph(classifier)
        elif kind == kinds.KIND_ATTENTION:
            explain = _attention(classifier)
        else:
            needs = needs_of_kind(classifier, kind)
            views = {layer: classifier.views.get(layer, CHANNELS_FIRST) for layer in needs.layers}
            plain = Needs(layers=(classifier.default_layer,), saliency=True)
            poles = has_poles(record(module, inputs[0], plain, classifier.views).scores)
            copied = without_parametrizations(copy_of(module).requires_grad_(False))
            explain = (_behind if kind == kinds.KIND_BEHIND else _explain)(copied, needs, views)
    with network_code(f"{name} cannot be traced"), torch.set_grad_enabled(kind != kinds.KIND_PREDICTION):
        graph = trace_batch(explain, inputs, backward_rules(poles=poles))
    left = sorted({str(node.target) for node in graph.graph.nodes if "backward" in str(node.target)})
    if left:
        raise NotExportableError(f"the explanation of {name} needs {', '.join(left)}, without a rule")
    return graph


def has_poles(scores: torch.Tensor) -> bool:
    """Whether a network's gradients can become infinite, as those of ``sqrt``, ``log``, norms and quotients at zero.

    Where they can, a closed gate must not multiply them: ``0 · inf`` is NaN where PyTorch has 0. Operators behind the
    scores (N, K) that are not known to have a bounded gradient count.
    """
    return not all(_is_bounded(node) for node in nodes(scores.grad_fn))


def _is_bounded(node: Any) -> bool:
    if node.name() == "DivBackward0":
        return node._saved_other.dim() == 0 and node._saved_other.dtype in _OF_NUMBERS
    if node.name() == "PowBackward0":
        return bool(node._saved_exponent >= 1)
    return operation(node) in _BOUNDED.split()


def _explain(module: nn.Module, needs: Needs, views: Mapping[str, ChannelLayout]) -> Explain:
    def explain(pictures: torch.Tensor, *asked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tape = record(module, pictures, needs, views)
        found = differentiate(tape, (tape.scores * _seeds(tape.scores, *asked)).sum())
        pairs = [(tape.layers[layer], found.layers[layer]) for layer in needs.layers]
        maps = [(activation.clone(), at_layer, gradcam(activation, at_layer)) for activation, at_layer in pairs]
        return tape.scores, *(values for of_layer in maps for values in of_layer), *found.at_input.values()

    return explain


def _behind(module: nn.Module, needs: Needs, views: Mapping[str, ChannelLayout]) -> Explain:
    """The scores (N, K) of changed activations (N, C, h, w); what lies before the layer runs for the first picture."""
    (layer,) = needs.layers

    def behind(pictures: torch.Tensor, activations: torch.Tensor) -> tuple[torch.Tensor]:
        with torch.no_grad(), replaced(module, layer, activations, views[layer]):
            return (module(pictures[:1].clone()),)

    return behind


def _attention(classifier: Classifier) -> Explain:
    module, layout = classifier.module, classifier.attention
    if isinstance(layout, str):
        raise Unprocessable(layout)

    def explain(pictures: torch.Tensor, *asked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # two forward passes, which become one where they compute the same
        passes = {by_block: attend(module, pictures, layout, by_block=by_block) for by_block in (False, True)}
        seeds, methods = _seeds(passes[False].scores, *asked), [METHODS[name] for name in ATTENTION_METHODS]
        maps = [relevance(passes[method.attention == OF_BLOCKS], layout, method, seeds) for method in methods]
        return passes[False].scores, *maps

    return explain


def _seeds(scores: torch.Tensor, *asked: torch.Tensor) -> torch.Tensor:
    """The weights (N, K) of the scores: class weights, or 1 for the target, if there is one, where they are all 0."""
    if len(asked) == 1:
        return asked[0]
    target, weights = asked
    # a negative index would count from the end; it becomes K, which runtimes refuse like every index above
    classes = torch.where(target < TOP, scores.shape[1], target)
    chosen = torch.where(target == TOP, scores.argmax(dim=1), classes)
    of_class = torch.zeros_like(scores).scatter(1, chosen[:, None], 1.0)
    return torch.where(weights.abs().amax(dim=1, keepdim=True) > 0, weights, of_class)


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy, which shares with the original the objects beside the weights that cannot be copied.

    Examples are a tensor of an autograd graph (which is detached), a script function, a lock, an open file.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # the class of a kept object may raise anything
        apart = ("_parameters", "_buffers", "_modules")
        kept = [value for layer in module.modules() for name, value in vars(layer).items() if name not in apart]
        shared = {id(value): value for value in kept}
        for value in kept:
            with suppress(Exception):
                copy.deepcopy(value)
                shared.pop(id(value), None)
        detached = {key: value.detach() for key, value in shared.items() if isinstance(value, torch.Tensor)}
        return copy.deepcopy(module, shared | detached)


def without_parametrizations(module: nn.Module) -> nn.Module:
    """The module, whose weights keep the values that weight norm, spectral norm and the like compute; in place."""
    for layer in filter(is_parametrized, list(module.modules())):
        values = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
        layer.__class__ = type_before_parametrizations(layer)  # copies of a layer share the class, which stays
        del layer.parametrizations
        for name, value in values.items():
            layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module
