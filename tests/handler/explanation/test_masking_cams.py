"""Maps from masked pictures, held to torchcam and to networks of which every answer is known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchcam.methods import ScoreCAM

import handler
from handler.errors import BadRequest, TooLarge, Unprocessable
from handler.explanation.evidence import softmax
from handler.explanation.masking_cams import Probe, occlusion, rise, scorecam
from handler.explanation.methods import METHODS
from handler.serving.budget import Budget
from tests.support.models import random_classifier, random_inputs

SIDE = 64
NOTHING = np.zeros((1, 1, 1, 1), np.float32)
MASKING = [name for name, method in METHODS.items() if method.passes]


@pytest.fixture(scope="module")
def network():
    return random_classifier("resnet18", side=SIDE).module


def asking(answer, weights, passes, side):
    """A white picture of as many pixels as its masks have cells, so that inputs are masks."""
    picture = np.ones((3, side, side), np.float32)
    return Probe(picture=picture, answer=answer, differentiate=None, weights=np.float32(weights), passes=passes)


def of_a_corner(passes, side):
    """The picture's score is how much of its upper left quarter can be seen."""

    def answer(inputs):
        seen = inputs[:, 0, : side // 2, : side // 2].mean(axis=(1, 2))
        return np.stack([np.zeros_like(seen), 4 * seen], axis=1)

    return asking(answer, [0, 1], passes, side)


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_scorecam_is_torchcams(network, layer):
    tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
    channels = 256 if layer == "layer3" else 512
    options = {"target": 3, "maps": ["gradcam"], "method": "scorecam", "size": "layer", "passes": channels}
    (found,) = handler.wrap(network, layer=layer).explain(tensor, **options).explanations
    assert found.passes == channels
    with ScoreCAM(copy.deepcopy(network), target_layer=layer) as extractor:
        extractor.model(tensor[None])
        expected = extractor(3)[0][0].numpy()
    np.testing.assert_allclose(found.maps["gradcam"].values, expected, atol=1e-4)


def test_scorecam_weighs_the_channels_with_the_largest_sums():
    corner, other, faint = np.zeros((3, 4, 4), np.float32)
    corner[:2, :2], other[2:, 2:], faint[1, 1] = 1, 2, 0.1
    probe = of_a_corner(2, 4)
    found = scorecam(np.stack([faint, corner, other])[None], NOTHING, probe)
    weights = softmax(np.float32([4, 0]))
    np.testing.assert_allclose(found[0], weights[0] * corner + weights[1] * other, atol=1e-6)
    assert probe.taken == 2


@pytest.mark.parametrize(("passes", "side"), [(2, 1), (5, 2), (197, 14), (200, 14)])
def test_occlusion_shows_where_the_score_falls(passes, side):
    probe = of_a_corner(passes, 2 * side)
    (found,) = occlusion(NOTHING, NOTHING, probe)
    assert found.shape == (side, side)
    assert probe.taken == side * side + 1 <= passes
    middle = side // 4
    assert found[middle, middle] == found.max() > 0
    assert (found[side // 2 + 1 :] == 0).all()


def test_an_occluding_window_reaches_half_a_cell_into_its_neighbours():
    asked = []

    def answer(inputs):
        asked.append(inputs[:, 0])
        return np.zeros((len(inputs), 2), np.float32)

    occlusion(NOTHING, NOTHING, asking(answer, [1, 0], 10, 6))
    plain, first, *_, last = asked[0]
    assert (plain == 1).all()
    hidden = np.zeros((6, 6), bool)
    hidden[:3, :3] = True  # the cell's own two halves, and one of the next cell
    np.testing.assert_array_equal(first == 0, hidden)
    np.testing.assert_array_equal(last == 0, hidden[::-1, ::-1])


def test_rise_is_the_average_of_what_was_seen():
    probe = of_a_corner(400, 8)
    (found,) = rise(NOTHING, NOTHING, probe, seed=1)
    assert probe.taken == 400
    assert found[:4, :4].mean() > max(found[4:].max(), found[:, 4:].max()), "the corner alone counts"
    np.testing.assert_array_equal(found, rise(NOTHING, NOTHING, of_a_corner(400, 8), seed=1)[0])
    assert (found != rise(NOTHING, NOTHING, of_a_corner(400, 8), seed=2)[0]).any()


@pytest.mark.parametrize("method", MASKING)
def test_a_network_that_looks_at_one_corner_is_found_out(method):
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 3, 8, 8, groups=3, bias=False)
            nn.init.constant_(self.features.weight, 1 / 64)

        def forward(self, pictures):
            cells = self.features(pictures)
            return torch.stack([9 * cells[:, :, :4, :4].mean((1, 2, 3)), cells.mean((1, 2, 3))], dim=1)

    tensor = torch.ones(3, SIDE, SIDE) + torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = handler.wrap(Corner().eval(), layer="features")
    options = {"maps": ["gradcam"], "method": method, "target": 0, "size": "input"}
    (found,) = model.explain(tensor, **options).explanations
    assert found.passes <= METHODS[method].passes
    if method != "scorecam":  # its three channels look everywhere
        values = found.maps["gradcam"].values
        assert values[:24, :24].mean() > 2 * values[40:].mean()
    assert model.explain(tensor, **options).to_dict()["explanations"][0]["passes"] == found.passes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradcam", "passes": 5}, "not gradcam; valid are scorecam, occlusion, rise, integrated"),
        ({"method": "rise", "smooth": "augment"}, "not rise; valid are all but scorecam, occlusion, rise, "),
        ({"method": "scorecam", "smooth": "eigen"}, "not scorecam; valid are gradcam"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused(network, options, message):
    with pytest.raises(Unprocessable, match=message):
        handler.wrap(network).explain(torch.zeros(3, SIDE, SIDE), **options)


@pytest.mark.parametrize("passes", [1, 4097, "many", 2.5])
def test_another_number_of_passes_is_refused(network, passes):
    with pytest.raises(BadRequest, match="valid are 2 to 4096"):
        handler.wrap(network).explain(torch.zeros(3, SIDE, SIDE), method="rise", passes=passes)


def test_a_request_has_a_limit_of_masked_pictures():
    budget = Budget(100, 100, 1024)
    budget.mask(1000)
    with pytest.raises(TooLarge, match="asks for 1025 masked pictures or more, valid are at most 1024"):
        budget.mask(25)
