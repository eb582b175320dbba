import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from handler.autograd.guided import find_rectifiers, guided
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import Needs
from tests.support.models import random_classifier, random_inputs, tiny_classifier
from tests.support.odd import OwnReLU

# x = (1, 2, 3); behind the first activation (1, 2, 3); times MIXING (2, -1, 5); behind the second (2, 0, 5); times HEAD
PIXEL = np.float32([1, 2, 3]).reshape(1, 3, 1, 1)
MIXING = torch.tensor([[1.0, -1, 1], [2, 0, -1], [0, 1, 1]])
HEAD = torch.tensor([[1.0, 4, -2], [0, 0, 1]])

_once = nn.ReLU()


def _on_a_slice(x):
    x[:, :].relu_()
    return x


class TwoActivations(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second
        self.mix, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.mix.weight.data, self.head.weight.data = MIXING.clone(), HEAD.clone()

    def forward(self, x):
        x = self.first(x.flatten(1) * 1)
        return self.head(self.second(self.mix(x)))


def evidence_of(module, pixel=PIXEL, target=0):
    return TorchEngine(tiny_classifier(module)).run(pixel, [[target]], Needs(guided=True, saliency=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.ReLU(), nn.ReLU()),
        (_once, _once),
        (nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
        (functional.relu, functional.relu),
        (functional.relu_, torch.relu_),
        (lambda x: x.relu(), lambda x: x.relu_()),
        (nn.ReLU6(), nn.ReLU6(inplace=True)),
        (functional.relu6, nn.Hardtanh(0, 100)),
        (functional.relu, nn.ReLU6()),
        (nn.Threshold(0, 0), nn.Threshold(0, 0, inplace=True)),
        (lambda x: x.clamp(min=0), lambda x: x.clamp_min(0)),
        (lambda x: x.clamp(0, 100), lambda x: x.clamp_(min=0)),
        (lambda x: torch.maximum(x, torch.zeros(())), lambda x: torch.max(torch.zeros_like(x), x)),
        (lambda x: functional.relu(x.view(3, 1), inplace=True).view(1, 3), lambda x: x.view(3, 1).relu_().view(1, 3)),
        (nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Flatten(), nn.ReLU(inplace=True)), _on_a_slice),
    ],
    ids=[
        *("module", "reused", "inplace", "functional", "functional-inplace", "method", "6", "6-func", "mixed"),
        *("threshold", "clamp-min", "clamp", "maximum", "view-inplace", "slice-inplace"),
    ],
)
def test_guided_gradient_by_hand_however_the_relu_is_written(first, second):
    found = evidence_of(TwoActivations(first, second))
    np.testing.assert_allclose(found.logits, [[-8, 5]], rtol=1e-6)
    np.testing.assert_allclose(found.guided[0, :, 0, 0], [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(found.saliency[0, :, 0, 0], [1, -3, -1], rtol=1e-6)
    assert found.coverage == "2 of 2 activations"


@pytest.mark.parametrize(
    "other",
    [
        OwnReLU.apply,
        nn.CELU(),
        nn.CELU(inplace=True),
        nn.ELU(inplace=True),
        nn.LeakyReLU(inplace=True),
        nn.Hardsigmoid(),
        nn.Hardtanh(),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x * (x > 0),
        lambda x: x * x,
        lambda x: x.clamp(max=6),
        lambda x: torch.maximum(x, torch.ones(())),
        lambda x: functional.leaky_relu(x.view(3, 1), inplace=True).view(1, 3),
        nn.Softmax(1),
        nn.LayerNorm(3),
    ],
    ids=[
        *("own", "celu", "celu-inplace", "elu-inplace", "leaky-inplace", "hardsigmoid", "hardtanh", "where", "mask"),
        *("square", "clamp-max", "maximum-one", "leaky-view-inplace", "softmax", "layer-norm"),
    ],
)
def test_what_is_no_relu_is_counted_and_not_guided(other):
    assert evidence_of(TwoActivations(nn.ReLU(), other)).coverage == "1 of 2 activations"


def test_relu6_passes_nothing_where_it_is_saturated():
    found = evidence_of(TwoActivations(nn.ReLU(), nn.ReLU6()), np.float32([5, 1, 3]).reshape(1, 3, 1, 1), target=1)
    # mixed to (7, 7, 4): only the third is below 6, and class 1 looks at nothing else
    np.testing.assert_allclose(found.guided[0, :, 0, 0], [0, 1, 1], rtol=1e-6)
    found = evidence_of(TwoActivations(nn.ReLU(), nn.ReLU6()), np.float32([5, 1, 6]).reshape(1, 3, 1, 1), target=1)
    np.testing.assert_array_equal(found.guided[0, :, 0, 0], [0, 0, 0])


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2, 3]))

    def forward(self, x):
        return (x + x.relu()).flatten(1) * self.weight


def test_the_path_beside_a_relu_stays_unguided():
    pixel = np.float32([1, 2, -3]).reshape(1, 3, 1, 1)
    expected = np.float32([[2, 0, 0], [0, -2, 0], [0, 0, 3]])  # the third is off in the ReLU, the second negative
    for target in range(3):
        np.testing.assert_allclose(
            evidence_of(PreActivation(), pixel, target).guided[0, :, 0, 0], expected[target], rtol=1e-6
        )


def test_after_the_block_the_same_graph_has_its_plain_gradient_again():
    pixel = torch.from_numpy(PIXEL).clone().requires_grad_()
    score = TwoActivations(nn.ReLU(), nn.ReLU())(pixel)[0, 0]
    rectifiers, _ = find_rectifiers(score)
    with pytest.raises(KeyError), guided(rectifiers):
        raise KeyError
    with guided(rectifiers):
        inside = torch.autograd.grad(score, pixel, retain_graph=True)[0]
    after = torch.autograd.grad(score, pixel)[0]
    assert (inside.flatten().tolist(), after.flatten().tolist()) == ([1, 0, 1], [1, -3, -1])


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("googlenet", 57),
        ("inception_v3", 94),
        ("mobilenet_v2", 35),
        ("resnet18", 17),  # nine modules, eight of which run twice
        ("densenet121", 121),  # the last one is functional
    ],
)
def test_all_relus_of_an_architecture_are_found(architecture, count):
    side = 96 if architecture == "inception_v3" else 64
    found = TorchEngine(random_classifier(architecture, side=side)).run(
        random_inputs(1, side), [[0]], Needs(guided=True)
    )
    assert found.coverage == f"{count} of {count} activations"


def test_all_relus_of_a_shufflenet_are_found(classifier):
    count = sum(isinstance(layer, nn.ReLU) for layer in classifier.module.modules())
    assert count > 30
    found = TorchEngine(classifier).run(random_inputs(1), [[0]], Needs(guided=True))
    assert found.coverage == f"{count} of {count} activations"


def test_a_network_with_other_activations_too_says_how_many_are_guided():
    found = TorchEngine(random_classifier("mobilenet_v3_large")).run(random_inputs(1), [[0]], Needs(guided=True))
    # 21 Hardswish; 8 gates of a Hardsigmoid and a product of two activations each
    assert found.coverage == "19 of 56 activations"


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.SiLU(), "SiLU"),
        (nn.GELU(), "GELU"),
        (nn.LeakyReLU(), "LeakyReLU"),
        (nn.Hardtanh(), "Hardtanh"),
        (nn.Identity(), "no activation"),
    ],
)
def test_a_net_without_relu_is_refused_by_the_name_of_its_activation(activation, name):
    with pytest.raises(Unprocessable, match=f"ReLU networks only and this one has {name}; valid maps are"):
        evidence_of(TwoActivations(activation, activation))


@pytest.mark.parametrize(
    ("architecture", "side", "name"),
    [
        ("efficientnet_b0", 64, "SiLU"),
        ("convnext_tiny", 64, "GELU"),
        pytest.param("vit_b_16", 224, "GELU", marks=pytest.mark.slow),
    ],
)
def test_an_architecture_without_relu_is_refused_but_has_saliency(architecture, side, name):
    engine, inputs = TorchEngine(random_classifier(architecture, side=side)), random_inputs(1, side)
    with pytest.raises(Unprocessable, match=f"this one has {name}; valid maps are gradcam and saliency"):
        engine.run(inputs, [[0]], Needs(guided=True))
    saliency = engine.run(inputs, [[0]], Needs(saliency=True)).saliency
    assert 1e-6 < np.abs(saliency).max() < np.inf
