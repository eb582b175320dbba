import copy

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, LayerGradCam
from PIL import Image
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.image import deprocess_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import handler
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.gradient_cams import gradcam
from handler.explanation.maps import make_maps, needs_of
from handler.picture.preprocess import preprocess
from handler.protocol.options import DEFAULT_MAPS
from handler.rendering.render import deprocess, overlay
from tests.support.models import random_classifier, random_inputs

SIDE, TARGET = 96, 3
pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")  # captum's, on every call


def peers_copy(module: nn.Module) -> nn.Module:
    """For the peers, which replace modules, fill ``.grad`` and want parameters that require gradients."""
    return copy.deepcopy(module).requires_grad_(True)


def assert_same(found, expected, tolerance):
    """Equal up to a share of the largest absolute expected value."""
    largest = np.abs(expected).max()
    assert largest > 1e-3
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * largest


def run(classifier, inputs, layers, target=TARGET):
    return TorchEngine(classifier).run(inputs, [[target]] * len(inputs), needs_of(DEFAULT_MAPS, layers))


def gradcam_of_peer(module, inputs, layers, target=TARGET):
    module = peers_copy(module)
    with GradCAM(module, [module.get_submodule(path) for path in layers]) as cam:
        return cam(torch.from_numpy(inputs), [ClassifierOutputTarget(target)] * len(inputs))


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("shufflenet_v2_x2_0", ["conv5"]),
        ("shufflenet_v2_x2_0", ["stage3", "conv5"]),
        ("resnet18", ["layer4"]),
        ("resnet18", ["layer3", "layer4"]),
        pytest.param("vgg11", ["features"], marks=pytest.mark.slow),
    ],
)
def test_gradcam_equals_pytorch_grad_cam(architecture, layers):
    classifier, inputs = random_classifier(architecture, side=SIDE), random_inputs(2, SIDE)
    found = run(classifier, inputs, layers)
    expected = gradcam_of_peer(classifier.module, inputs, layers)
    for pair in range(2):
        values = make_maps(found, pair, ["gradcam"], "gradcam", at_layer=False)["gradcam"].values
        assert values.max() > 0.99
        np.testing.assert_allclose(values, expected[pair], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("shufflenet_v2_x2_0", "conv5"),
        ("resnet18", "layer4"),
        pytest.param("vgg11", "features", marks=pytest.mark.slow),
    ],
)
def test_unscaled_gradcam_equals_captum(architecture, layer):
    classifier, inputs = random_classifier(architecture, side=SIDE), random_inputs(2, SIDE)
    found = run(classifier, inputs, [layer]).layers[layer]
    module = peers_copy(classifier.module)
    expected = LayerGradCam(module, module.get_submodule(layer)).attribute(
        torch.from_numpy(inputs), target=TARGET, relu_attributions=True
    )
    assert_same(gradcam(found.activation, found.gradient), expected[:, 0].detach().numpy(), 1e-5)


@pytest.mark.parametrize(
    "architecture", ["shufflenet_v2_x2_0", "resnet18", pytest.param("vgg11", marks=pytest.mark.slow)]
)
def test_guided_backprop_equals_pytorch_grad_cam_and_captum(architecture):
    classifier, inputs = random_classifier(architecture, side=SIDE), random_inputs(1, SIDE)
    found = make_maps(run(classifier, inputs, []), 0, ["guided_backprop"], "gradcam", at_layer=False)
    values = found["guided_backprop"].values
    by_captum = GuidedBackprop(peers_copy(classifier.module)).attribute(
        torch.from_numpy(inputs).requires_grad_(), target=TARGET
    )
    assert_same(values, by_captum[0].detach().numpy().transpose(1, 2, 0), 1e-6)
    by_pytorch_grad_cam = GuidedBackpropReLUModel(peers_copy(classifier.module))(torch.from_numpy(inputs), TARGET)
    assert_same(values, by_pytorch_grad_cam, 1e-6)


def test_the_seeds_pictures_are_those_of_its_own_script():
    classifier = random_classifier("shufflenet_v2_x2_0", side=224)
    photo = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    seen = preprocess(np.asarray(Image.fromarray(photo).resize((320, 240))), classifier.preprocessing)
    inputs = seen.tensor[None]

    cam = gradcam_of_peer(classifier.module, inputs, ["conv5"])[0]
    guided = GuidedBackpropReLUModel(peers_copy(classifier.module))(torch.from_numpy(inputs), TARGET)
    expected = {
        "gradcam": show_cam_on_image(np.float32(seen.picture) / 255, cam, use_rgb=True),
        "guided_backprop": deprocess_image(guided),
        "guided_gradcam": deprocess_image(np.dstack([cam] * 3) * guided),
    }
    maps = make_maps(run(classifier, inputs, ["conv5"]), 0, DEFAULT_MAPS, "gradcam", at_layer=False)
    pictures = {name: deprocess(one.values) for name, one in maps.items()}
    pictures["gradcam"] = overlay(seen.picture, maps["gradcam"].values, 0.5, "jet")
    for name in DEFAULT_MAPS:
        assert expected[name].std() > 5
        assert np.abs(pictures[name].astype(int) - expected[name]).max() <= 1, name


def test_the_tutorials_script_with_wrap_makes_the_same_pictures():
    """The tutorial of pytorch-grad-cam and ``handler.wrap``, on one batch of tensors, with a class for each row."""
    classifier = random_classifier("shufflenet_v2_x2_0", side=SIDE)
    network = peers_copy(classifier.module).eval()
    inputs = torch.from_numpy(random_inputs(2, SIDE))
    targets = [TARGET, TARGET + 1]

    peer = peers_copy(network)
    with GradCAM(model=peer, target_layers=[peer.conv5]) as cam:
        expected = cam(inputs, [ClassifierOutputTarget(target) for target in targets])

    explainer = handler.wrap(network, layer=network.conv5)
    found = explainer.explain_batch(list(inputs), targets=targets, maps=["gradcam", "guided_backprop"])
    for row, result in enumerate(found):
        maps = result.explanations[0].maps
        np.testing.assert_allclose(maps["gradcam"].values, expected[row], rtol=0, atol=1e-5)
        blended = show_cam_on_image(np.float32(result.canvas.seen.picture) / 255, expected[row], use_rgb=True)
        assert np.abs(result.draw().astype(int) - blended).max() <= 1
        guided = GuidedBackpropReLUModel(peers_copy(network))(inputs[row : row + 1], targets[row])
        assert_same(maps["guided_backprop"].values, guided, 1e-6)
        drawn = result.draw(name="guided_backprop").astype(int)
        assert np.abs(drawn - deprocess_image(guided)).max() <= 1
