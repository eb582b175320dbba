"""PyTorch's answers and the comparison with them, with PyTorch itself in the place of the graph."""

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import NotExportableError
from export.tracing.explanation import needs_of_kind
from export.verify.compare import VerificationError
from export.verify.reference import verify_graph
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.gradient_cams import gradcam
from handler.graphs.description import (
    AT_LAYER,
    KIND_ATTENTION,
    KIND_BEHIND,
    KIND_EXPLANATION,
    KIND_PREDICTION,
    KIND_SALIENCY,
    KINDS,
)
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.graphs import describe

HOW = Preprocessing(resize_size=8, crop_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Net(nn.Module):
    """A convolution and a head, whose scores are of about ``size``; more pictures than ``most`` are too many."""

    def __init__(self, size=1.0, most=8, explained=True):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 3)
        self.size, self.most, self.explained = size, most, explained

    def forward(self, pictures):
        if len(pictures) > self.most:
            raise RuntimeError("too many")
        if torch.is_grad_enabled() and not self.explained:
            raise RuntimeError("no gradients here")
        return self.head(self.relu(self.conv(pictures)).mean((2, 3))) * self.size


def classifier_of(**how):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(**how).eval().requires_grad_(False)
    net.explained = True
    found = of_module(net, "tiny", None, HOW)
    net.explained = how.get("explained", True)
    return found


def graph_of(classifier, kind, changes=None, seen=None):
    """Answers whole batches, as graphs do; ``changes`` are added to outputs."""

    def run(inputs):
        if seen is not None:
            seen.append(inputs)
        if kind == KIND_PREDICTION:
            with torch.no_grad():
                logits = classifier.module(torch.from_numpy(inputs["input"]))
            found = {"logits": logits.numpy(), "probabilities": logits.softmax(1).numpy()}
        elif kind == KIND_BEHIND:
            layer, activations = classifier.default_layer, inputs["activations"]
            found = {"logits": TorchEngine(classifier).behind(inputs["input"][:1], layer, activations)}
        else:
            pairs = zip(inputs["weights"], inputs["target"].tolist(), strict=True)
            targets = [[weights if weights.any() else target] for weights, target in pairs]
            evidence = TorchEngine(classifier).run(inputs["input"], targets, needs_of_kind(classifier, kind))
            found = {"logits": evidence.logits, "guided_backprop": evidence.guided, "saliency": evidence.saliency}
            for path, layer in evidence.layers.items():
                maps = layer.activation, layer.gradient, gradcam(layer.activation, layer.gradient)
                found |= {f"{name}.{path}": values for name, values in zip(AT_LAYER, maps, strict=True)}
                found |= zip(AT_LAYER, maps, strict=True)
        return {name: found[name] + np.float32((changes or {}).get(name, 0)) for name in outputs_of(classifier, kind)}

    return run


def outputs_of(classifier, kind):
    return describe(kind, layer=classifier.default_layer).outputs


WITH_CELLS = [kind for kind in KINDS if kind != KIND_ATTENTION]  # see tests/export/graphs/test_attention.py


@pytest.mark.parametrize("kind", WITH_CELLS)
def test_every_output_of_a_graph_is_compared(kind):
    classifier = classifier_of()
    checks = verify_graph(graph_of(classifier, kind), classifier, kind)
    assert {check.output for check in checks} == set(outputs_of(classifier, kind))
    for name in outputs_of(classifier, kind):
        with pytest.raises(VerificationError, match=f"{name} .*DIFFERS"):
            verify_graph(graph_of(classifier, kind, {name: 0.1}), classifier, kind)


@pytest.mark.parametrize(
    ("kind", "size", "error", "passes"),
    [
        (KIND_PREDICTION, 1.0, 5e-5, True),
        (KIND_PREDICTION, 1.0, 2e-4, False),
        (KIND_PREDICTION, 1e4, 2e-3, True),
        (KIND_PREDICTION, 1e4, 2.0, False),
        (KIND_EXPLANATION, 1e4, 5e-3, True),
    ],
)
def test_small_scores_of_predictions_are_held_to_an_absolute_error_and_large_ones_to_a_relative_one(
    kind, size, error, passes
):
    classifier = classifier_of(size=size)
    graph = graph_of(classifier, kind, {"logits": error})
    if passes:
        verify_graph(graph, classifier, kind)
    else:
        with pytest.raises(VerificationError, match="logits .*DIFFERS .*1e-05 of the largest, at least of 10"):
            verify_graph(graph, classifier, kind)


def test_pictures_and_targets_follow_the_seed_and_the_top_is_among_the_targets():
    classifier, seen = classifier_of(), {}
    for name, said in {"default": {}, "one": {"seed": 1}, "other": {"seed": 2}}.items():
        seen[name] = []
        verify_graph(graph_of(classifier, KIND_SALIENCY, seen=seen[name]), classifier, KIND_SALIENCY, **said)
    for default, one, other in zip(*seen.values(), strict=True):
        for key in ("input", "target"):
            np.testing.assert_array_equal(default[key], one[key])
        assert (one["input"] != other["input"]).any()
    assert [len(batch["input"]) for batch in seen["one"]] == [1, 3, 8]
    assert {-1, 0, 1, 2} == set(np.concatenate([batch["target"] for batch in seen["one"] + seen["other"]]).tolist())


def test_a_network_that_fails_itself_is_refused():
    classifier = classifier_of(most=2)
    with pytest.raises(NotExportableError, match="^tiny fails on a batch of 3: RuntimeError: too many$"):
        verify_graph(graph_of(classifier_of(), KIND_PREDICTION), classifier, KIND_PREDICTION)
    classifier = classifier_of(explained=False)
    with pytest.raises(NotExportableError, match="^tiny cannot be explained: RuntimeError: no gradients here$"):
        verify_graph(graph_of(classifier_of(), KIND_SALIENCY), classifier, KIND_SALIENCY)
