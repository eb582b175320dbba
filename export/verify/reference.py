"""PyTorch's own answers: what graphs are compared with."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from export.errors import network_code
from export.simplify.copying import copy_of
from export.tracing.explanation import needs_of_kind
from export.tracing.prediction import PredictionGraph
from export.verify.compare import Exact, Floats, Inputs, Run
from export.verify.precision import InDoublePrecision
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.cam import gradcam
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.model.classifier import Classifier


def eager_run(classifier: Classifier, kind: str) -> Run:
    """PyTorch in float32.

    Args:
        classifier: run eagerly, with its hooks.
        kind: of graph, which says what is among the outputs.
    """
    return _predicted(classifier) if kind == KIND_PREDICTION else _explained(classifier, kind)


def exact_run(classifier: Classifier, kind: str) -> Exact:
    """PyTorch in float64, for the classes that float32 found where the top class is asked for."""

    def exact(inputs: Inputs, found: Mapping[str, Floats]) -> Mapping[str, Floats]:
        run = eager_run(replace(classifier, module=copy_of(classifier.module).double()), kind)
        doubled = {"input": inputs["input"].astype(np.float64)}
        if "target" in inputs:
            doubled["target"] = np.where(inputs["target"] < 0, found["logits"].argmax(axis=1), inputs["target"])
        with InDoublePrecision():  # type: ignore[no-untyped-call]
            return run(doubled)

    return exact


def _predicted(classifier: Classifier) -> Run:
    def run(inputs: Inputs) -> Mapping[str, Floats]:
        pictures = torch.from_numpy(inputs["input"]).to(classifier.device)
        doing = f"{classifier.architecture} fails on a batch of {len(pictures)}"
        with torch.no_grad(), network_code(doing):
            outputs = PredictionGraph(classifier.module)(pictures)
        return {name: value.cpu().numpy() for name, value in zip(KINDS[KIND_PREDICTION].outputs, outputs, strict=True)}

    return run


def _explained(classifier: Classifier, kind: str) -> Run:
    """Picture by picture."""
    engine, needs = TorchEngine(classifier), needs_of_kind(classifier, kind)

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
