"""Averaged gradients at the input, against captum and against sums worked out apart from the product."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients

import handler
from examples.random_weights import random_classifier as well_conditioned
from handler.errors import Unprocessable
from handler.explanation.input_gradients import expected_gradients, integrated_gradients, smoothgrad
from handler.explanation.maps import scale
from handler.explanation.probe import Probe
from handler.graphs.description import KIND_EXPLANATION, KIND_SALIENCY
from tests.support.exports import EXPORTERS, export_explanation
from tests.support.models import random_classifier, random_inputs

SIDE, TARGET = 64, 3
PICTURE = np.random.default_rng(9).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
METHODS = ["integrated_gradients", "expected_gradients", "smoothgrad"]


@pytest.fixture(scope="module")
def network():
    return random_classifier("resnet18", side=SIDE).module


def explain(network, **options):
    options = {"target": TARGET, "maps": ["gradcam"], **options}
    tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
    return handler.wrap(network, layer="layer4").explain(tensor, **options).explanations[0]


def test_integrated_gradients_are_captums(network):
    found = explain(network, method="integrated_gradients", passes=20)
    pictures = torch.from_numpy(random_inputs(1, SIDE))
    expected = IntegratedGradients(network).attribute(pictures, target=TARGET, n_steps=20, method="riemann_middle")
    positive = expected[0].sum(dim=0).clamp(min=0).detach().float().numpy()
    np.testing.assert_allclose(found.maps["gradcam"].values, scale(positive), atol=1e-4)
    assert found.maps["gradcam"].maximum == pytest.approx(positive.max(), rel=1e-3)
    assert (found.passes, found.layers, found.method) == (20, (), "integrated_gradients")


def test_integrated_gradients_of_a_contrast_are_a_difference(network):
    one, other = (explain(network, method="integrated_gradients", passes=4, target=target) for target in (3, 5))
    both = explain(network, method="integrated_gradients", passes=4, target=3, contrast=5)
    swapped = explain(network, method="integrated_gradients", passes=4, target=5, contrast=3)

    def unscaled(found):
        return found.maps["gradcam"].values * found.maps["gradcam"].maximum

    apart = unscaled(both) - unscaled(swapped)  # both signs; of one and other the positive side is left
    positive = (unscaled(one) > 0) & (unscaled(other) > 0)
    np.testing.assert_allclose(
        apart[positive], (unscaled(one) - unscaled(other))[positive], atol=1e-3 * np.abs(apart).max()
    )


def quadratic(passes, picture=None):
    """The score is the sum of the squares of the red values, and 3 times the green ones."""
    picture = np.random.default_rng(0).standard_normal((3, 5, 4), np.float32) if picture is None else picture

    def differentiate(inputs):
        gradients = np.zeros_like(inputs)
        gradients[:, 0], gradients[:, 1] = 2 * inputs[:, 0], 3
        return gradients

    return Probe(
        picture=picture,
        answer=None,
        differentiate=differentiate,
        behind=None,
        weights=np.float32([1]),
        passes=passes,
    )


@pytest.mark.parametrize("passes", [2, 16, 17, 40])
def test_integrated_gradients_add_up_to_the_score(passes):
    probe = quadratic(passes)
    red, green, _ = probe.picture
    np.testing.assert_allclose(integrated_gradients(None, None, probe)[0], (red**2 + 3 * green).clip(min=0), atol=1e-5)
    assert probe.taken == passes


def test_expected_gradients_come_close_to_their_expectation():
    probe = quadratic(4096)
    red, green, _ = probe.picture
    expected = red**2 - 1 + 3 * green  # the mean of squares of normal values is 1, of the values 0
    np.testing.assert_allclose(expected_gradients(None, None, probe)[0], expected.clip(min=0), atol=0.15)


def test_smoothgrad_is_the_mean_of_noisy_gradients():
    probe = quadratic(4096)
    red = probe.picture[0]
    noise = 0.15 * np.ptp(probe.picture)
    expected = np.maximum(np.abs(2 * red), 3)
    np.testing.assert_allclose(smoothgrad(None, None, probe)[0], expected, atol=10 * noise / 64)


@pytest.mark.parametrize("method", ["expected_gradients", "smoothgrad"])
def test_a_seed_decides_about_the_map(network, method):
    first, again, other = (explain(network, method=method, passes=3, seed=seed) for seed in (1, 1, 2))
    values = [found.maps["gradcam"].values for found in (first, again, other)]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.abs(values[0] - values[2]).max() > 0.05


@pytest.mark.parametrize(
    ("architecture", "export"),
    [("efficientnet_b0", EXPORTERS[KIND_EXPLANATION]), ("resnet18", EXPORTERS[KIND_SALIENCY])],
)
def test_a_graph_with_the_plain_gradient_gives_the_same_maps(tmp_path, architecture, export):
    classifier = well_conditioned(architecture, side=SIDE)
    export(classifier, tmp_path / "graph.onnx")
    models = [
        handler.load(tmp_path / "graph.onnx"),
        handler.wrap(classifier.module, layer=classifier.default_layer, preprocessing=classifier.preprocessing),
    ]
    for method in METHODS:
        options = {"target": TARGET, "maps": ["gradcam"], "method": method, "passes": 3}
        found, expected = (model.explain(PICTURE, **options).explanations[0].maps["gradcam"] for model in models)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-3)
        assert found.maximum == pytest.approx(expected.maximum, rel=1e-3)


def test_a_graph_without_the_plain_gradient_refuses(tmp_path):
    export_explanation(random_classifier("shufflenet_v2_x0_5", side=SIDE), tmp_path / "graph.onnx")
    with pytest.raises(Unprocessable, match="the ONNX graphs do not hold this evidence"):
        handler.load(tmp_path / "graph.onnx").explain(PICTURE, method="smoothgrad", maps=["gradcam"])
