"""PyTorch's own answers, and the comparison of graphs of any kind with them."""

from dataclasses import replace

import numpy as np
import torch

from export.errors import network_code
from export.simplify.copying import copy_of
from export.tracing.explanation import needs_of_kind
from export.tracing.prediction import PredictionGraph
from export.verify.compare import Floats, Inputs, Outputs, Run, Tolerance, Verdict, batch_sizes, fresh_pictures, verify
from export.verify.precision import InDoublePrecision
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.model.classifier import Classifier

_OF_PREDICTIONS = dict.fromkeys(("logits", "probabilities"), Tolerance(1e-4))
# guided backpropagation is judged by its rounding alone
_OF_EXPLANATIONS = dict.fromkeys(
    ("logits", "activations", "gradients", "gradcam", "saliency", *ATTENTION_METHODS), Tolerance(1e-4, relative=True)
)
_GATED = ("gradients", "gradcam")  # a ReLU behind the layer is a gate that rounding can flip


def verify_graph(graph: Run, classifier: Classifier, kind: str, seed: int = 1) -> list[Verdict]:
    """Compares a graph with PyTorch on fresh pictures and targets, see ``verify``.

    Args:
        graph: runs the graph.
        classifier: the graph was made from it.
        kind: of graph, see ``handler.graphs.description``.
        seed: of the pictures and targets.

    Raises:
        VerificationError: the graph differs from PyTorch.
    """
    predicts = kind == KIND_PREDICTION

    def eager(classifier: Classifier) -> Run:
        return _predicted(classifier) if predicts else _explained(classifier, kind)

    def exact(inputs: Inputs, found: Outputs) -> Outputs:
        run = eager(replace(classifier, module=copy_of(classifier.module).double()))
        doubled = {"input": inputs["input"].astype(np.float64)}
        if not predicts:  # float32 says which class is at the top
            doubled["target"] = np.where(inputs["target"] < 0, found["logits"].argmax(axis=1), inputs["target"])
            doubled["weights"] = inputs["weights"]
        with InDoublePrecision():  # type: ignore[no-untyped-call]
            return run(doubled)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        pictures = {"input": fresh_pictures(rng, count, classifier.preprocessing)}
        if predicts:
            return pictures
        classes = len(classifier.labels)
        weights = rng.standard_normal((count, classes)).astype(np.float32) / np.float32(classes**0.5)
        weights[::2] = 0  # the picture's target instead
        return {**pictures, "target": rng.integers(TOP, classes, count), "weights": weights}

    return verify(
        eager(classifier),
        graph,
        fresh,
        _OF_PREDICTIONS if predicts else _OF_EXPLANATIONS,
        exact=exact,
        seed=seed,
        gated=_GATED,
        batches=batch_sizes(classifier.preprocessing.crop_size),
    )


def _predicted(classifier: Classifier) -> Run:
    def run(inputs: Inputs) -> Outputs:
        pictures = torch.from_numpy(inputs["input"]).to(classifier.device)
        doing = f"{classifier.architecture} fails on a batch of {len(pictures)}"
        with torch.no_grad(), network_code(doing):
            outputs = PredictionGraph(classifier.module)(pictures)
        return {name: value.cpu().numpy() for name, value in zip(KINDS[KIND_PREDICTION].outputs, outputs, strict=True)}

    return run


def _explained(classifier: Classifier, kind: str) -> Run:
    """Explains picture by picture, so that no picture of a batch can have a part in another's answer."""
    engine, needs = TorchEngine(classifier), needs_of_kind(classifier, kind)

    def run_one(picture: Floats, target: int, weights: Floats) -> dict[str, Floats]:
        with network_code(f"{classifier.architecture} cannot be explained"):
            asked = [[weights if weights.any() else target]]
            maps = {
                name: engine.run(picture[None], asked, Needs(attention=name)).attention
                for name in KINDS[kind].outputs
                if name in ATTENTION_METHODS
            }
            evidence = engine.run(picture[None], asked, Needs() if maps else needs)
        if maps:
            return {"logits": evidence.logits, **{name: values for name, values in maps.items() if values is not None}}
        found = evidence.layers[classifier.default_layer]
        outputs = {
            "logits": evidence.logits,
            "activations": found.activation,
            "gradients": found.gradient,
            "gradcam": gradcam(found.activation, found.gradient),
            "guided_backprop": evidence.guided,
            "saliency": evidence.saliency,
        }
        return {name: values for name, values in outputs.items() if values is not None}

    def run(inputs: Inputs) -> Outputs:
        rows = [
            run_one(*row) for row in zip(inputs["input"], inputs["target"].tolist(), inputs["weights"], strict=True)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return run
