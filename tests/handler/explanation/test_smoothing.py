"""Smooth maps, held to pytorch-grad-cam's ``aug_smooth`` and ``eigen_smooth``."""

import copy

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import handler
from handler.errors import BadRequest, Unprocessable
from handler.explanation.maps import AUGMENTATIONS, augmented, averaged
from handler.explanation.methods import METHODS
from tests.support.models import random_classifier, random_inputs

SIDE = 64


@pytest.fixture(scope="module")
def network():
    return random_classifier("resnet18", side=SIDE).module


def by_peer(peer, network, layer, tensor, **how):
    module = copy.deepcopy(network).requires_grad_(True)
    with peer(module, [module.get_submodule(layer)]) as cam:
        return cam(tensor[None], [ClassifierOutputTarget(3)], **how)[0]


@pytest.mark.parametrize(("method", "peer"), [("gradcam", GradCAM), ("layercam", LayerCAM)])
@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_maps_of_changed_copies_are_averaged_as_the_peer_does(network, method, peer, layer):
    tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
    wrapped = handler.wrap(network, layer=layer)
    asked = {"target": 3, "maps": ["gradcam"], "method": method}
    found = wrapped.explain(tensor, **asked, smooth="augment").explanations[0].maps["gradcam"].values
    expected = by_peer(peer, network, layer, tensor, aug_smooth=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    plain = wrapped.explain(tensor, **asked).explanations[0].maps["gradcam"].values
    assert np.abs(found - plain).max() > 0.01


@pytest.mark.parametrize("layer", ["layer2", "layer3"])
def test_the_weighted_channels_component_is_the_peers(network, layer):
    tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
    asked = {"target": 3, "maps": ["gradcam"], "smooth": "eigen"}
    found = handler.wrap(network, layer=layer).explain(tensor, **asked).explanations[0].maps["gradcam"]
    expected = by_peer(GradCAM, network, layer, tensor, eigen_smooth=True)
    opposite = by_peer(Opposite, network, layer, tensor, eigen_smooth=True)  # LAPACK's sign is any
    errors = [np.abs(found.values - either).max() for either in (expected, opposite)]
    assert min(errors) <= 1e-4


class Opposite(GradCAM):
    """The peer with the other sign of its component."""

    def get_cam_image(self, *args, **kwargs):
        return -super().get_cam_image(*args, **kwargs)


def test_both_can_be_asked_for_and_reach_the_product(network):
    tensor = torch.from_numpy(random_inputs(1, SIDE)[0])
    (found,) = handler.wrap(network).explain(tensor, target=3, smooth="augment,eigen").explanations
    product = found.maps["guided_backprop"].values * found.maps["gradcam"].values[:, :, None]
    np.testing.assert_allclose(found.maps["guided_gradcam"].values, product, atol=1e-7)


def test_copies_are_mirrored_and_brightened_and_their_maps_mirrored_back():
    picture = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    copies = augmented(picture)
    assert len(copies) == len(AUGMENTATIONS) == 5
    for (mirrored, factor), copy_ in zip(AUGMENTATIONS, copies, strict=True):
        expected = (picture[:, :, ::-1] if mirrored else picture) * np.float32(factor)
        np.testing.assert_array_equal(copy_, expected)
    maps = [values[0] / np.float32(factor) for (_, factor), values in zip(AUGMENTATIONS, copies, strict=True)]
    np.testing.assert_allclose(averaged(picture[0], maps), picture[0], rtol=1e-6)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.takes("combine")])
def test_a_method_without_weighted_channels_has_no_component_of_them(network, method):
    with pytest.raises(Unprocessable, match=f"not {method}; valid are gradcam, gradcam"):
        handler.wrap(network).explain(torch.zeros(3, SIDE, SIDE), method=method, smooth="eigen")


@pytest.mark.parametrize("value", ["soft", "none,eigen", "", 3])
def test_another_smoothing_is_refused(network, value):
    with pytest.raises(BadRequest, match="valid are none"):
        handler.wrap(network).explain(torch.zeros(3, SIDE, SIDE), smooth=value)
