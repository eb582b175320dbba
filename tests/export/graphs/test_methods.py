"""Every method, on both engines and six families of networks, against the library that has it."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.decomposition import KernelPCA
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.autograd.layer_maps import CHANNELS_FIRST, replaced
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.class_weights import SIMILAR, Mixture
from handler.explanation.evidence import CURVATURE, FULL_GRADIENT, Needs
from handler.explanation.maps import make_maps, scale
from handler.explanation.methods import ATTENTION_METHODS, METHODS
from handler.explanation.probe import Probe
from handler.graphs.description import KIND_ATTENTION, KIND_BEHIND, KIND_GRADCAM
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from tests.support.exports import EXPORTERS
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
OF_A_DIFFERENCE = 3e-4  # similar classes' gradients cancel: the peer's float32 map is 8e-5 from its own float64 map
TO_MAPS = {  # the peer's view of a transformer's output as (N, C, h, w)
    "vit_b_16": lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE // 16, SIDE // 16)),
    "swin_t": lambda output: output.permute(0, 3, 1, 2),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """A classifier, and its evidence for two pictures by engine."""
    classifier, inputs = random_classifier(request.param, side=SIDE), random_inputs(2, SIDE)
    engines, needs = (
        engines_of(classifier, tmp_path_factory.mktemp(request.param)),
        Needs(layers=(classifier.default_layer,)),
    )
    return classifier, inputs, {engine: engine.run(inputs, [[TARGET]] * 2, needs) for engine in engines}


def engines_of(classifier, folder):
    graphs = {}
    for kind in (KIND_GRADCAM, KIND_BEHIND):
        EXPORTERS[kind](classifier, folder / kind)
        graphs[kind] = GraphSession.open(folder / kind)
    return TorchEngine(classifier), OnnxEngine(graphs)


def by_peer(peer, classifier, inputs, **options):
    """The peer's maps (2, H, W) on [0, 1].

    DenseNet's last ReLU works in place on the layer's output, which the peer then takes for the activation: it works on
    a copy here, so that the activation is what the layer returned.
    """
    module = copy.deepcopy(classifier.module).requires_grad_(True)
    layers, to_maps = [module.get_submodule(classifier.default_layer)], TO_MAPS.get(classifier.architecture)
    relu = F.relu
    with (
        patch.object(F, "relu", lambda values, inplace=False: relu(values)),
        peer(module, layers, **{"reshape_transform": to_maps, **options}) as cam,
    ):
        return cam(torch.from_numpy(inputs), [ClassifierOutputTarget(TARGET)] * len(inputs))


class FinerCAM(pytorch_grad_cam.FinerCAM):
    """Chooses the similar classes by itself, which the peer does without targets alone."""

    def forward(self, input_tensor, targets):
        return super().forward(input_tensor, target_idx=TARGET)


def test_finercam_is_the_peers(network):
    classifier, inputs, found = network
    layer, expected = classifier.default_layer, by_peer(FinerCAM, classifier, inputs)
    for engine, evidence in found.items():
        mixtures = [Mixture(target=TARGET, similar=SIMILAR).resolved(logits) for logits in evidence.logits]
        weights = [[mixture.weights(logits)] for mixture, logits in zip(mixtures, evidence.logits, strict=True)]
        of_mixture = engine.run(inputs, weights, Needs(layers=(layer,)))
        for pair in range(2):
            values = make_maps(of_mixture, pair, ["gradcam"], "finercam", at_layer=False)["gradcam"].values
            np.testing.assert_allclose(values, expected[pair], atol=OF_A_DIFFERENCE)


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


def changed_by(engine, inputs, classifier, passes):
    """Asks an engine about changed activations of a picture."""
    return Probe(
        picture=None,
        answer=None,
        differentiate=None,
        behind=lambda layer, activations: engine.behind(inputs, layer, activations),
        weights=np.eye(10, dtype=np.float32)[TARGET],
        passes=passes,
        layer=classifier.default_layer,
    )


class ToZero(AblationLayer):
    """Sets the channels with the largest sums to 0, as the paper says: the peer's own layer takes the minimum - 1e7.

    That decides the map where activations can be negative and no ReLU lies behind the layer, and not otherwise.
    """

    def __init__(self, to_maps, count):
        super().__init__()
        self.to_maps, self.count = to_maps or (lambda output: output), count

    def activations_to_be_ablated(self, activations, ratio_channels_to_ablate=1.0):
        self.indices = np.argsort(-activations.sum(axis=(1, 2)), kind="stable")[: self.count]
        return self.indices

    def set_next_batch(self, input_batch_index, activations, num_channels_to_ablate):
        one = activations[input_batch_index]
        self.activations = one[None].repeat(num_channels_to_ablate, *[1] * one.dim())

    def __call__(self, _):
        output = self.activations
        maps = self.to_maps(output)  # a view
        for row in range(len(output)):
            maps[row, self.indices[row]] = 0
        return output


def test_ablationcam_is_the_peers(network):
    classifier, inputs, found = network
    zeros = ToZero(TO_MAPS.get(classifier.architecture), 16)
    expected = by_peer(pytorch_grad_cam.AblationCAM, classifier, inputs, ablation_layer=zeros, batch_size=16)
    for engine, evidence in found.items():
        for pair in range(2):
            probe = changed_by(engine, inputs[pair : pair + 1], classifier, 17)
            values = make_maps(evidence, pair, ["gradcam"], "ablationcam", at_layer=False, probe=probe)[
                "gradcam"
            ].values
            assert probe.taken == 17
            if evidence.logits[pair, TARGET] > 0:  # the peer turns the map of a negative score round
                np.testing.assert_allclose(values, expected[pair], atol=1e-4)


def test_reciprocam_is_the_score_of_each_cell_alone(network):
    classifier, inputs, found = network
    layer = classifier.default_layer
    view = classifier.views.get(layer, CHANNELS_FIRST)
    for engine, evidence in found.items():
        activation = evidence.layers[layer].activation[:1]
        height, width = activation.shape[2:]
        probe = changed_by(engine, inputs[:1], classifier, height * width)
        (values,) = METHODS["reciprocam"].formula(activation, evidence.layers[layer].gradient[:1], probe)
        expected = np.zeros((height, width), np.float32)
        for row, column in np.ndindex(height, width):
            alone = np.zeros_like(activation)
            alone[..., row, column] = activation[..., row, column]
            with replaced(classifier.module, layer, torch.from_numpy(alone), view):
                expected[row, column] = classifier.module(torch.from_numpy(inputs[:1]))[0, TARGET]
        # scores, not the map: ViT's differ by a hundredth, because most of it goes around the layer
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_shapleycam_is_the_peers_on_pytorch_and_refused_by_graphs(network):
    classifier, inputs, found = network
    torch_engine, graphs = found
    needs = Needs(layers=(classifier.default_layer,), beside=CURVATURE)
    with pytest.raises(
        Unprocessable, match=f"do not hold {CURVATURE}, valid are maps none .*, by all methods but shapleycam, fullgrad"
    ):
        graphs.run(inputs, [[TARGET]] * 2, needs)
    evidence = torch_engine.run(inputs, [[TARGET]] * 2, needs)
    by_hand = classifier.architecture in TO_MAPS  # the peer fails on the reshaped outputs of transformers
    expected = [] if by_hand else by_peer(pytorch_grad_cam.ShapleyCAM, classifier, inputs)
    for pair in range(2):
        values = make_maps(evidence, pair, ["gradcam"], "shapleycam", at_layer=by_hand)["gradcam"].values
        wanted = (
            by_second_derivative(classifier, inputs[pair : pair + 1], evidence, pair) if by_hand else expected[pair]
        )
        np.testing.assert_allclose(values, wanted, atol=1e-4)


def by_second_derivative(classifier, picture, evidence, pair):
    """ShapleyCAM of the score as a function of the layer's activation."""
    layer = classifier.default_layer
    found = evidence.layers[layer]
    activation, gradient = (torch.from_numpy(values[pair : pair + 1]) for values in (found.activation, found.gradient))

    def score(maps):
        with replaced(classifier.module, layer, maps, classifier.views[layer]), sdpa_kernel(SDPBackend.MATH):
            return classifier.module(torch.from_numpy(picture))[0, TARGET]

    _, curvature = torch.autograd.functional.hvp(score, activation, activation)
    assert (curvature.abs().max() > 0) == (classifier.architecture == "vit_b_16")
    weights = (gradient - curvature / 2).mean((2, 3), keepdim=True)
    return scale((weights * activation).sum(1)[0].clamp(min=0).numpy())


def test_fullgrad_is_the_peers_on_pytorch_and_refused_by_graphs(network):
    classifier, inputs, found = network
    torch_engine, graphs = found
    with pytest.raises(Unprocessable, match=f"do not hold {FULL_GRADIENT}, valid are"):
        graphs.run(inputs, [[TARGET]] * 2, Needs(beside=FULL_GRADIENT))
    evidence = torch_engine.run(inputs, [[TARGET]] * 2, Needs(beside=FULL_GRADIENT))
    expected = by_peer(pytorch_grad_cam.FullGrad, classifier, inputs, reshape_transform=None)
    for pair in range(2):
        values = make_maps(evidence, pair, ["gradcam"], "fullgrad", at_layer=False)["gradcam"].values
        np.testing.assert_allclose(values, expected[pair], atol=1e-4)


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
    EXPORTERS[KIND_ATTENTION](classifier, path)
    return OnnxEngine({KIND_ATTENTION: GraphSession.open(path)})


def test_all_methods_have_a_peer_or_are_worked_out_by_hand():
    masking = {name for name, method in METHODS.items() if method.passes}
    by_name = {"cam", "randomcam", "finercam", "shapleycam", "fullgrad"}
    assert set(METHODS) == {*PEERS, *masking, *ATTENTION_METHODS, *by_name}
