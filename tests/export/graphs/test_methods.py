"""Every method, on both engines and six families of networks, against the library that has it."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.decomposition import KernelPCA
from torch.nn import functional as F

from export.graphs.explanation import export_attention, export_gradcam
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import Needs
from handler.explanation.maps import make_maps, scale
from handler.explanation.methods import ATTENTION_METHODS, METHODS
from handler.graphs.description import KIND_ATTENTION, KIND_GRADCAM
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from tests.support.models import random_classifier, random_inputs

SIDE, TARGET = 96, 3
HEAD_IS_LINEAR = {"shufflenet_v2_x0_5", "resnet18", "mobilenet_v2", "swin_t"}  # DenseNet has a ReLU before the average
NETWORKS = [*sorted(HEAD_IS_LINEAR), "densenet121", "vit_b_16"]
PEERS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "gradcam_elementwise": pytorch_grad_cam.GradCAMElementWise,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
    "kpcacam": pytorch_grad_cam.KPCA_CAM,
    "fem": pytorch_grad_cam.FEM,
}
WITHOUT_A_SIGN = {"eigencam", "eigengradcam"}  # the peer takes the sign that LAPACK happens to return
# XGrad-CAM divides by a channel's sum, which is near 0 behind a normalisation: float32 moves its map by that much
COARSE = {("xgradcam", "densenet121"): 1e-3, ("xgradcam", "vit_b_16"): 1e-3}
TO_MAPS = {  # the peer's view of a transformer's output as (N, C, h, w)
    "vit_b_16": lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE // 16, SIDE // 16)),
    "swin_t": lambda output: output.permute(0, 3, 1, 2),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """A classifier, and its evidence for two pictures by engine."""
    classifier, inputs = random_classifier(request.param, side=SIDE), random_inputs(2, SIDE)
    path = tmp_path_factory.mktemp(request.param) / "gradcam.onnx"
    export_gradcam(classifier, path)
    engines = TorchEngine(classifier), OnnxEngine({KIND_GRADCAM: GraphSession.open(path)})
    needs = Needs((classifier.default_layer,))
    return classifier, inputs, {engine.name: engine.run(inputs, [[TARGET]] * 2, needs) for engine in engines}


def by_peer(peer, classifier, inputs):
    """The peer's maps (2, H, W) on [0, 1].

    DenseNet's last ReLU works in place on the layer's output, which the peer then takes for the activation: it works on
    a copy here, so that the activation is what the layer returned.
    """
    module = copy.deepcopy(classifier.module).requires_grad_(True)
    layers, to_maps = [module.get_submodule(classifier.default_layer)], TO_MAPS.get(classifier.architecture)
    relu = F.relu
    with (
        patch.object(F, "relu", lambda values, inplace=False: relu(values)),
        peer(module, layers, reshape_transform=to_maps) as cam,
    ):
        return cam(torch.from_numpy(inputs), [ClassifierOutputTarget(TARGET)] * len(inputs))


def flipped(classifier, evidence, method, pair):
    """The map of the other sign."""
    layer = evidence.layers[classifier.default_layer]
    activation, gradient = layer.activation[pair : pair + 1], layer.gradient[pair : pair + 1]
    values = activation * gradient if method == "eigengradcam" else activation
    cells = values.reshape(values.shape[1], -1).T.astype(np.float64)
    cells = cells - cells.mean(axis=0)
    projection = cells @ np.linalg.svd(cells, full_matrices=False)[2][0]
    sign = -np.sign(projection @ cells.sum(axis=1))
    return scale((sign * projection).clip(min=0).reshape(values.shape[2:]).astype(np.float32))


@pytest.mark.parametrize("method", PEERS)
def test_a_map_is_the_peers(network, method):
    classifier, inputs, found = network
    expected = by_peer(PEERS[method], classifier, inputs)
    for engine, evidence in found.items():
        for pair in range(2):
            values = make_maps(evidence, pair, ["gradcam"], method, at_layer=False)["gradcam"].values
            error = np.abs(values - expected[pair]).max()
            if method in WITHOUT_A_SIGN and error > 1e-4:
                height, width = expected[pair].shape
                other = flipped(classifier, evidence, method, pair)
                error = np.abs(upsampled(other, height, width) - expected[pair]).max()
            if method == "kpcacam" and not is_determined(evidence.layers[classifier.default_layer].activation[pair]):
                continue
            assert error <= COARSE.get((method, classifier.architecture), 1e-4), (engine, pair)


def is_determined(activation):
    """Whether the kernel matrix has one largest eigenvalue; of two equal ones every mixture is a first component."""
    cells = activation.reshape(len(activation), -1).T.astype(np.float64)
    cells -= cells.mean(axis=0)
    values = KernelPCA(2, kernel="sigmoid").fit(cells).eigenvalues_
    return len(values) < 2 or values[1] < 0.99 * values[0]


def upsampled(values, height, width):
    found = F.interpolate(torch.from_numpy(values)[None, None], (height, width), mode="bilinear")[0, 0].numpy()
    return scale(found)


def test_cam_is_torchcams_or_is_refused(network):
    classifier, inputs, found = network
    for evidence in found.values():
        if classifier.architecture not in HEAD_IS_LINEAR:
            with pytest.raises(Unprocessable, match="gradient differs between cells"):
                make_maps(evidence, 0, ["gradcam"], "cam", at_layer=True)
            continue
        for pair in range(2):
            values = make_maps(evidence, pair, ["gradcam"], "cam", at_layer=True)["gradcam"].values
            np.testing.assert_allclose(values, by_hand(classifier, inputs[pair : pair + 1]), atol=1e-4)


def by_hand(classifier, picture):
    """The head's weights on the layer's channels, or torchcam's map where torchcam can read both."""
    module = copy.deepcopy(classifier.module)
    if classifier.architecture in ("shufflenet_v2_x0_5", "resnet18", "mobilenet_v2"):
        head = [path for path, part in module.named_modules() if isinstance(part, torch.nn.Linear)][-1]
        with torchcam.methods.CAM(module, target_layer=classifier.default_layer, fc_layer=head) as extractor:
            module(torch.from_numpy(picture))
            return extractor(TARGET)[0][0].numpy()
    kept = {}
    module.get_submodule(classifier.default_layer).register_forward_hook(
        lambda _module, _inputs, output: kept.update(map=output.clone())
    )
    module(torch.from_numpy(picture))
    maps = kept["map"].permute(0, 3, 1, 2) if classifier.architecture == "swin_t" else kept["map"]
    weights = [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1].weight[TARGET]
    return scale(torch.einsum("c,chw->hw", weights, maps[0]).numpy())


@pytest.mark.parametrize("method", ATTENTION_METHODS)
def test_maps_of_attention_are_those_of_torchcams_attention_or_are_refused(network, attention_graph, method):
    """LeGrad is torchcam's; the other methods are worked out of the attention that torchcam lays open.

    torchcam takes the mean over the rows of the attention, which scales the map, and adds 1e-8 to the largest value of
    a map where this project adds 1e-7.
    """
    classifier, inputs, _ = network
    needs, targets = Needs(attention=method), [[TARGET]] * len(inputs)
    if classifier.architecture != "vit_b_16":
        with pytest.raises(Unprocessable, match="attention"):
            TorchEngine(classifier).run(inputs, targets, needs)
        return
    module = copy.deepcopy(classifier.module).requires_grad_(True)
    with torchcam.methods.LeGrad(module, list(module.encoder.layers)) as extractor:
        scores = module(torch.from_numpy(inputs))
        attention = list(extractor.hook_attn)
        gradients = torch.autograd.grad(scores[:, TARGET].sum(), attention, retain_graph=True)
        expected = extractor([TARGET] * len(inputs), scores)[0].numpy()
    if method != "legrad":
        joint = unit = torch.eye(attention[0].shape[-1])
        for shares, gradient in zip(attention, gradients, strict=True):
            if method == "rollout":
                joint = (shares.mean(1) + unit) / 2 @ joint
            else:
                joint = joint + (shares * gradient).relu().mean(1) @ joint
        expected = [scale(one) for one in joint[:, 0, 1:].unflatten(1, (SIDE // 16, SIDE // 16)).detach().numpy()]
    for engine in (TorchEngine(classifier), attention_graph):
        found = engine.run(inputs, targets, needs).attention
        for pair in range(2):
            np.testing.assert_allclose(scale(found[pair]), expected[pair], atol=1e-4)


@pytest.fixture(scope="module")
def attention_graph(network, tmp_path_factory):
    classifier, *_ = network
    if classifier.architecture != "vit_b_16":
        return None
    path = tmp_path_factory.mktemp("vit_b_16") / "attention.onnx"
    export_attention(classifier, path)
    return OnnxEngine({KIND_ATTENTION: GraphSession.open(path)})


def test_all_methods_have_a_peer_or_are_worked_out_by_hand():
    masking = {name for name, method in METHODS.items() if method.passes}
    assert set(METHODS) == {*PEERS, *masking, *ATTENTION_METHODS, "cam", "randomcam"}
