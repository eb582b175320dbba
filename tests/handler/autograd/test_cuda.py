import copy

import numpy as np
import pytest
import torch

import handler
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.model.checkpoint import Checkpoint
from handler.model.classifier import build_classifier
from tests.support.models import in_double_precision, random_classifier, random_inputs

CHECKPOINT = "examples/shapes/shapes.safetensors"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

RELU = ["shufflenet_v2_x0_5", "resnet18", "mobilenet_v2", "densenet121"]
OTHERS = ["efficientnet_b0", "vit_b_16", "swin_t"]


@pytest.mark.parametrize("name", RELU + OTHERS)
def test_a_gpu_finds_the_layers_scores_and_gradients_that_the_cpu_finds_in_double_precision(name):
    cpu = random_classifier(name)
    gpu = build_classifier(
        Checkpoint(
            architecture=name, labels=cpu.labels, preprocessing=cpu.preprocessing, state=cpu.module.state_dict()
        ),
        "cuda",
    )
    assert (gpu.layers, gpu.default_layer, gpu.alone) == (cpu.layers, cpu.default_layer, cpu.alone)
    layer = gpu.default_layer
    needs = Needs(layers=(layer,), guided=name in RELU, saliency=True)
    pictures, targets = random_inputs(5), [[TOP, 3]] * 5
    found = TorchEngine(gpu).run(pictures, targets, needs)
    exact = TorchEngine(in_double_precision(cpu)).run(pictures.astype(float), targets, needs)
    assert found.classes.tolist() == exact.classes.tolist()
    assert distance(found.logits, exact.logits) < 1e-3
    assert distance(found.layers[layer].activation, exact.layers[layer].activation) < 1e-3
    assert distance(found.layers[layer].gradient, exact.layers[layer].gradient) < 1e-5
    # a ReLU whose input is nearly zero may open in one precision and not in the other
    assert distance(found.saliency, exact.saliency) < 1e-2
    if needs.guided:
        assert distance(found.guided, exact.guided) < 1e-3


def distance(found, expected):
    """As a share of the expected values' norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_the_front_door_explains_on_a_gpu_as_on_the_cpu():
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    maps = ["gradcam", "guided_backprop", "guided_gradcam"]
    on_gpu, on_cpu = (
        handler.load(CHECKPOINT, device=device).explain(picture, maps=maps).explanations[0].maps
        for device in ("cuda", "cpu")
    )
    for name in maps:
        assert distance(on_gpu[name].values, on_cpu[name].values) < 1e-3


def test_a_wrapped_network_stays_on_its_gpu_and_takes_tensors_from_there():
    network = random_classifier("resnet18").module
    pictures = torch.from_numpy(random_inputs(2))
    on_cpu = handler.wrap(network, layer="layer4").explain(pictures)
    there = copy.deepcopy(network).to("cuda")
    on_gpu = handler.wrap(there, layer="layer4").explain(pictures.to("cuda"))
    assert next(there.parameters()).is_cuda
    for ours, expected in zip(on_gpu, on_cpu, strict=True):
        ours, expected = ours.explanations[0].maps["gradcam"], expected.explanations[0].maps["gradcam"]
        assert distance(ours.values, expected.values) < 1e-3
