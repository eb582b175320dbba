"""Maps from changed activations, worked out by hand; and the scores of changed activations, held to a plain hook."""

import numpy as np
import pytest
import torch
from torch import nn

import handler
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import Needs
from handler.explanation.gradient_cams import cam
from handler.explanation.masking_cams import ablationcam, reciprocam
from handler.explanation.probe import Probe
from tests.support.models import random_classifier, random_inputs, tiny_classifier

SIDE, TARGET = 64, 3
CHANNELS = np.float32([[[2, 0], [0, 0]], [[0, 4], [0, 0]], [[0, 0], [0, 8]]])[None]


def linear(weights, bias, passes):
    """An average over the cells, and a score that is linear in its channels."""

    def behind(_layer, activations):
        return activations.mean(axis=(2, 3)) @ np.float32(weights)[:, None] + np.float32(bias)

    return Probe(picture=None, answer=None, differentiate=None, behind=behind, weights=np.float32([1]), passes=passes)


def test_ablationcam_weighs_channels_by_what_the_score_loses():
    probe = linear([1, 3, -1], 1.5, passes=4)  # the score is 0.5 + 3 - 2 + 1.5
    found = ablationcam(CHANNELS, None, probe)
    np.testing.assert_allclose(found, [[[0.5 / 3 * 2, 3 / 3 * 4], [0, 0]]], rtol=1e-6)
    assert probe.taken == 4


def test_ablationcam_takes_the_channels_with_the_largest_sums():
    probe = linear([1, 3, 2], 0, passes=3)
    found = ablationcam(CHANNELS, None, probe)  # the score is 0.5 + 3 + 4
    np.testing.assert_allclose(found, [[[0, 3 / 7.5 * 4], [0, 4 / 7.5 * 8]]], rtol=1e-6)
    assert probe.taken == 3


def test_ablationcam_of_a_negative_score_shows_what_speaks_for_it():
    found = ablationcam(CHANNELS, None, linear([1, 3, -1], -4.5, passes=4))  # the score is -3
    np.testing.assert_allclose(found, [[[0.5 / 3 * 2, 3 / 3 * 4], [0, 0]]], rtol=1e-6)


def test_reciprocam_keeps_squares_of_cells_where_cells_are_more_than_passes():
    activation = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    probe = linear([12], 1, passes=5)
    (found,) = reciprocam(activation, None, probe)
    expected = [[11, 11, 19, 19], [11, 11, 19, 19], [18, 18, 22, 22]]  # 1 + the sum over the square
    np.testing.assert_allclose(found, expected)
    assert probe.taken == 4


def test_reciprocam_minus_the_bias_is_cam_for_an_average_and_a_linear_head():
    classifier, inputs = random_classifier("resnet18", side=96), random_inputs(1, 96)
    engine = TorchEngine(classifier)
    layer = engine.run(inputs, [[TARGET]], Needs(layers=("layer4",))).layers["layer4"]
    probe = Probe(
        picture=inputs[0],
        answer=None,
        differentiate=None,
        behind=lambda path, activations: engine.behind(inputs, path, activations),
        weights=np.eye(10, dtype=np.float32)[TARGET],
        passes=9,
        layer="layer4",
    )
    found = reciprocam(layer.activation, None, probe) - float(classifier.module.fc.bias[TARGET])
    np.testing.assert_allclose(9 * found, cam(layer.activation, layer.gradient), rtol=1e-3, atol=1e-3)
    assert probe.taken == 9


@pytest.mark.parametrize("method", ["ablationcam", "reciprocam", "shapleycam"])
@pytest.mark.parametrize("words", [{"target": "-a"}, {"target": "a", "contrast": "b"}])
def test_they_explain_the_weighted_scores(method, words):
    model = handler.wrap(random_classifier("resnet18", side=SIDE).module, layer="layer3", labels=[*"abcdefghij"])

    def values(**words):
        tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
        found = model.explain(tensor, maps=["gradcam"], method=method, size="layer", **words)
        return found.explanations[0].maps["gradcam"].values

    assert np.abs(values(**words) - values(target="a")).max() > 0.1


def by_hook(module, layer, picture, maps):
    """The scores of pictures, one by one, in each of which a layer's output is another."""
    found = []
    for one in maps:
        hook = module.get_submodule(layer).register_forward_hook(lambda _module, _inputs, _output, one=one: one[None])
        try:
            found.append(module(picture)[0])
        finally:
            hook.remove()
    return torch.stack(found).detach().numpy()


class Stepwise(nn.Module):
    """A network that asks how many pictures there are before its layer, and uses the number behind it."""

    def __init__(self, use):
        super().__init__()
        self.features, self.head, self.use = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 5), use

    def forward(self, pictures):
        cells = self.features(pictures)
        return self.head(self.use(len(pictures), pictures, cells))


USES = {
    "not at all": lambda _count, _pictures, cells: cells.mean((2, 3)),
    "to shape": lambda count, _pictures, cells: cells.mean((2, 3)).reshape(count, 4),
    "to mix": lambda count, _pictures, cells: cells.mean((2, 3)) + cells.reshape(count, 4, -1).std(2),
    "to join": lambda _count, pictures, cells: torch.cat([cells[:, :3], pictures[:, :1, ::8, ::8]], 1).mean((2, 3)),
}


@pytest.mark.parametrize("use", USES)
def test_a_network_behind_a_layer_may_ask_how_many_pictures_there_are(use):
    torch.manual_seed(0)
    module, inputs = Stepwise(USES[use]).eval(), random_inputs(1, 32)
    maps = torch.randn(3, 4, 4, 4)
    found = TorchEngine(tiny_classifier(module, 5)).behind(inputs, "features", maps.numpy())
    np.testing.assert_allclose(found, by_hook(module, "features", torch.from_numpy(inputs), maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("resnet18", "layer2.0.conv1"),  # a way around it
        ("densenet121", "features.denseblock4.denselayer16.conv2"),  # joined with what lies before it
        ("shufflenet_v2_x0_5", "stage4.1.branch2"),
    ],
)
def test_a_layer_with_a_way_around_it_has_scores_behind_it(architecture, layer):
    classifier, inputs = random_classifier(architecture, side=SIDE), random_inputs(1, SIDE)
    engine = TorchEngine(classifier)
    activation = engine.run(inputs, [[TARGET]], Needs(layers=(layer,))).layers[layer].activation
    maps = np.concatenate([activation, activation * 0, activation * 2])
    found = engine.behind(inputs, layer, maps)
    expected = by_hook(classifier.module, layer, torch.from_numpy(inputs), torch.from_numpy(maps))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_lies_before_the_layer_runs_for_one_picture():
    module = Stepwise(USES["not at all"]).eval()
    seen = []
    module.features.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    model, options = handler.wrap(module, layer="features"), {"maps": ["gradcam"], "method": "reciprocam"}
    model.explain(torch.zeros(3, 32, 32), **options)  # the first picture shows the network's layers, too
    seen.clear()
    found = model.explain(torch.ones(3, 32, 32), **options).explanations[0]
    assert (found.passes, sum(seen)) == (16, 3), "one for the evidence, one for all cells, one to compare"
