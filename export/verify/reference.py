"""PyTorch's own answers, ONNX Runtime's of a graph, and the comparison of graphs of any kind with them."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from deploy.devices.forms import OPSET
from export.errors import NotExportableError, network_code
from export.tracing.explanation import PredictionGraph, copy_of, needs_of_kind
from export.verify.compare import (
    Floats,
    Inputs,
    Outputs,
    Run,
    Tolerance,
    Verdict,
    VerificationError,
    batch_sizes,
    fresh_pictures,
    verify,
)
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import AT_LAYER, KIND_BEHIND, KIND_LAYERS, KIND_PREDICTION, KINDS
from handler.model.classifier import Classifier

_OF_PREDICTIONS = {"logits": Tolerance(1e-5, relative=True, least=10.0), "probabilities": Tolerance(1e-4)}
# guided backpropagation is judged by its rounding alone
_OF_EXPLANATIONS = dict.fromkeys(("logits", *AT_LAYER, "saliency", *ATTENTION_METHODS), Tolerance(1e-4, relative=True))
_GATED = ("gradients", "gradcam", "saliency")  # a ReLU on the way is a gate that rounding can flip


def verify_graph(
    graph: Run, classifier: Classifier, kind: str, seed: int = 1, *, portable: bool = False, batch: int = 0
) -> list[Verdict]:
    """Compares a graph of a kind with PyTorch on fresh pictures and targets, see ``verify``."""
    predicts = kind == KIND_PREDICTION

    def exact(inputs: Inputs, found: Outputs) -> Outputs:
        doubled = {name: values.astype(np.float64) if values.ndim == 4 else values for name, values in inputs.items()}
        if "target" in inputs:  # float32 says which class is at the top
            doubled["target"] = np.where(inputs["target"] < 0, found["logits"].argmax(axis=1), inputs["target"])
        doubling = replace(classifier, module=copy_of(classifier.module).double())
        with InDoublePrecision():  # type: ignore[no-untyped-call]
            return eager(doubling, kind, doubled)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        pictures = {"input": fresh_pictures(rng, count, classifier.preprocessing)}
        if predicts:
            return pictures
        if kind == KIND_BEHIND:  # the activations of other pictures
            others, layer = fresh_pictures(rng, count, classifier.preprocessing), classifier.default_layer
            found = TorchEngine(classifier).run(others, [[TOP]] * count, Needs(layers=(layer,)))
            return {**pictures, "activations": found.layers[layer].activation}
        classes = len(classifier.labels)
        weights = np.random.default_rng(count).standard_normal((count, classes), np.float32) / np.float32(classes**0.5)
        if portable:
            weights[::2] = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, len(weights[::2]))]
            return {**pictures, "weights": weights}
        weights[::2] = 0  # the picture's target instead
        return {**pictures, "target": rng.integers(TOP, classes, count), "weights": weights}

    endings = ["", *(f".{path}" for path in needs_of_kind(classifier, kind).layers)]
    of_explanations = {f"{name}{ending}": held for name, held in _OF_EXPLANATIONS.items() for ending in endings}
    tolerances, gated = (
        _OF_PREDICTIONS if predicts else of_explanations,
        [name + end for name in _GATED for end in endings],
    )
    of_torch, batches = partial(eager, classifier, kind), batch_sizes(classifier.preprocessing.size)
    if batch:
        batches = (batch,) * -(-sum(batches) // batch)
    return verify(of_torch, graph, fresh, tolerances, exact=exact, seed=seed, gated=gated, batches=batches)


def eager(classifier: Classifier, kind: str, inputs: Inputs) -> Outputs:
    """PyTorch's outputs; it explains picture by picture, so that no picture can have a part in another's answer."""
    if kind == KIND_PREDICTION:
        pictures = torch.from_numpy(inputs["input"]).to(classifier.device)
        with torch.no_grad(), network_code(f"{classifier.architecture} fails on a batch of {len(pictures)}"):
            found = PredictionGraph(classifier)(pictures)
        return {name: value.cpu().numpy() for name, value in zip(KINDS[kind].outputs, found, strict=True)}
    if kind == KIND_BEHIND:
        engine, picture = TorchEngine(classifier), inputs["input"][:1]
        scores = [engine.behind(picture, classifier.default_layer, one[None]) for one in inputs["activations"]]
        return {"logits": np.concatenate(scores)}
    targets = inputs.get("target", np.zeros(len(inputs["input"]), np.int64))  # a portable graph has weights alone
    asked = zip(inputs["input"], targets.tolist(), inputs["weights"], strict=True)
    rows = [_explained(classifier, kind, *row) for row in asked]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _explained(classifier: Classifier, kind: str, picture: Floats, target: int, weights: Floats) -> Outputs:
    engine, asked = TorchEngine(classifier), [[weights if weights.any() else target]]
    methods = [name for name in KINDS[kind].outputs if name in ATTENTION_METHODS]
    with network_code(f"{classifier.architecture} cannot be explained"):
        maps = {name: engine.run(picture[None], asked, Needs(attention=name)).attention for name in methods}
        evidence = engine.run(picture[None], asked, Needs() if methods else needs_of_kind(classifier, kind))
    outputs = {"logits": evidence.logits, **maps}
    for path, found in evidence.layers.items():
        at_layer = found.activation, found.gradient, gradcam(found.activation, found.gradient)
        ending = f".{path}" if kind == KIND_LAYERS else ""
        outputs |= zip((f"{name}{ending}" for name in AT_LAYER), at_layer, strict=True)
    outputs |= {"guided_backprop": evidence.guided, "saliency": evidence.saliency}
    return {name: values for name, values in outputs.items() if values is not None}


class InDoublePrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes operators compute in float64 instead of other real types, also behind ``.float()`` and autocast."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*tree_map(_widened, args), **tree_map(_widened, kwargs or {}))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(_widened(value.dtype))
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else torch.complex128 if value.is_complex else value
    return value


def graph_run(graph: Path | bytes) -> Run:
    """Runs a graph or its file in ONNX Runtime on the CPU; a NotExportableError says why it does not load it.

    The run raises VerificationError if the graph fails.
    """
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # an arena would keep the largest batch's memory to the end
    options.log_severity_level = 4  # silence, because failures are raised
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NotExportableError(f"ONNX Runtime does not take the graph: {_refusal(str(error))}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> Outputs:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise VerificationError(f"the graph fails where PyTorch answers: {_refusal(str(error))}") from error

    return run


def _refusal(message: str) -> str:
    """ONNX Runtime's message as one line, or in plain words for the frequent causes."""
    if found := re.search(r"No Op registered for (\w+)", message):
        return f"it has no operator {found[1]} of opset {OPSET}"
    if found := re.search(r"tensor\((bfloat16|float16)\)", message):
        return f"the network computes in {found[1]}; make its weights float32, and use no autocast"
    return " ".join(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message).split())[:300]
