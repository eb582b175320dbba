import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import handler.autograd.torch_engine as torch_engine
from handler.autograd.torch_engine import TorchEngine
from handler.errors import BadRequest, Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.explanation.gradient_cams import gradcam
from handler.model.layers.find import find_layers
from tests.support.models import in_double_precision, random_classifier, random_inputs, tiny_classifier

EVERYTHING = Needs(layers=("conv5",), guided=True, saliency=True)  # of the shufflenet
TWO = Needs(layers=("0.0", "0.1"), guided=True, saliency=True)

# one picture of 2x2 pixels, what the 1x1 convolution makes of it (R - G and B), and what is left behind the ReLU
PICTURE = np.float32([[[[1, 2], [3, 4]], [[2, 1], [1, 5]], [[1, 0], [0, 1]]]])
CONVOLVED = np.float32([[[[-1, 1], [2, -1]], [[1, 0], [0, 1]]]])
RECTIFIED = np.float32([[[[0, 1], [2, 0]], [[1, 0], [0, 1]]]])


def hand_net(*, inplace: bool = False) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1, 0], [0, 0, 1]])[:, :, None, None])
        net[4].weight.copy_(torch.tensor([[2.0, -1], [-1, 3]]))
        net[4].bias.copy_(torch.tensor([0.5, -0.25]))
    return net


def assert_same(found, expected, tolerance=1e-6):
    """Equal up to a share of the largest expected value, which must be of ordinary magnitude."""
    largest = np.abs(expected).max()
    assert largest > 1e-3
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * largest


def assert_same_evidence(found, expected, pair, at):
    """Compares one pair of each."""
    assert found.classes[pair] == expected.classes[at]
    for path, layer in expected.layers.items():
        assert_same(found.layers[path].activation[pair], layer.activation[at])
        assert_same(found.layers[path].gradient[pair], layer.gradient[at])
    assert_same(found.guided[pair], expected.guided[at])
    assert_same(found.saliency[pair], expected.saliency[at])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("target", "gradient_of_rectified", "expected"),
    [
        (0, [[[0.5, 0.5], [0.5, 0.5]], [[-0.25, -0.25], [-0.25, -0.25]]], [[0, 0.5], [1, 0]]),
        (1, [[[-0.25, -0.25], [-0.25, -0.25]], [[0.75, 0.75], [0.75, 0.75]]], [[0.75, 0], [0, 0.75]]),
    ],
)
def test_scores_and_map_behind_the_relu_by_hand(inplace, target, gradient_of_rectified, expected):
    found = TorchEngine(tiny_classifier(hand_net(inplace=inplace))).run(PICTURE, [[target]], Needs(layers=("1",)))
    np.testing.assert_allclose(found.logits, [[1.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(found.layers["1"].activation, RECTIFIED, rtol=1e-6)
    np.testing.assert_allclose(found.layers["1"].gradient, [gradient_of_rectified], rtol=1e-6)
    np.testing.assert_allclose(gradcam(found.layers["1"].activation, found.layers["1"].gradient), [expected], rtol=1e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_activation_and_gradient_are_those_of_what_the_layer_returned_before_a_relu(inplace):
    found = TorchEngine(tiny_classifier(hand_net(inplace=inplace))).run(
        PICTURE, [[0]], Needs(layers=("0", "1"), saliency=True)
    )
    np.testing.assert_allclose(found.layers["0"].activation, CONVOLVED, rtol=1e-6)
    gradient = [[[[0, 0.5], [0.5, 0]], [[-0.25, 0], [0, -0.25]]]]
    np.testing.assert_allclose(found.layers["0"].gradient, gradient, rtol=1e-6)
    np.testing.assert_allclose(found.layers["1"].activation, RECTIFIED, rtol=1e-6)
    np.testing.assert_allclose(found.logits, [[1.5, 0.5]], rtol=1e-6)
    by_hand = [[[[0, 0.5], [0.5, 0]], [[0, -0.5], [-0.5, 0]], [[-0.25, 0], [0, -0.25]]]]
    np.testing.assert_allclose(found.saliency, by_hand, rtol=1e-6)


def test_densenets_features_are_taken_before_the_inplace_relu_behind_them():
    classifier, inputs = random_classifier("densenet121"), random_inputs(1)
    found = TorchEngine(classifier).run(inputs, [[3]], Needs(layers=("features",)))
    features = classifier.module.features(torch.from_numpy(inputs)).detach().requires_grad_()
    pooled = nn.functional.adaptive_avg_pool2d(features.relu(), 1).flatten(1)
    gradient = torch.autograd.grad(classifier.module.classifier(pooled)[0, 3], features)[0]
    assert features.min() < 0
    assert_same(found.layers["features"].activation, features.detach().numpy())
    assert_same(found.layers["features"].gradient, gradient.numpy())


def test_a_batch_with_a_target_per_row_equals_its_rows_alone(classifier):
    engine, inputs = TorchEngine(in_double_precision(classifier)), random_inputs(3).astype(np.float64)
    targets = [[7], [TOP], [2]]
    together = engine.run(inputs, targets, EVERYTHING)
    np.testing.assert_array_equal(together.rows, [0, 1, 2])
    for row in range(3):
        alone = engine.run(inputs[row : row + 1], targets[row : row + 1], EVERYTHING)
        assert_same(together.logits[row], alone.logits[0])
        assert_same_evidence(together, alone, row, 0)


def test_several_targets_per_row_share_one_forward_pass_and_equal_one_at_a_time(classifier):
    classifier, inputs = in_double_precision(classifier), random_inputs(3).astype(np.float64)
    engine, targets, forwards = TorchEngine(classifier), [[4, 1, TOP], [], [0, 4]], []
    counter = classifier.module.register_forward_hook(lambda *_: forwards.append(1))
    try:
        together = engine.run(inputs, targets, EVERYTHING)
    finally:
        counter.remove()
    assert len(forwards) == 1
    np.testing.assert_array_equal(together.rows, [0, 0, 0, 2, 2])
    for pair, (row, target) in enumerate([(0, 4), (0, 1), (0, TOP), (2, 0), (2, 4)]):
        alone = engine.run(inputs[row : row + 1], [[target]], EVERYTHING)
        assert_same_evidence(together, alone, pair, 0)


@pytest.mark.parametrize("needs", [Needs(), EVERYTHING], ids=["prediction", "everything"])
def test_top_is_the_class_with_the_highest_score_of_each_row(classifier, needs):
    found = TorchEngine(classifier).run(random_inputs(6, seed=1), [[TOP]] * 6, needs)
    best = found.logits.argmax(axis=1)
    assert len(set(best.tolist())) > 1
    np.testing.assert_array_equal(found.classes, best)


def test_evidence_that_is_not_needed_is_not_computed(classifier):
    found = TorchEngine(classifier).run(random_inputs(1), [[TOP]], Needs())
    assert (found.layers, found.guided, found.saliency, found.coverage) == ({}, None, None, None)


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18", "mobilenet_v2", "googlenet"])
def test_pre_relu_map_and_bias_add_up_to_the_logit_where_gap_and_a_linear_layer_follow(architecture):
    classifier = random_classifier(architecture)
    found = TorchEngine(classifier).run(random_inputs(2), [[0], [5]], Needs(layers=(classifier.default_layer,)))
    layer = found.layers[classifier.default_layer]
    assert np.prod(layer.activation.shape[2:]) > 1
    before_relu = (layer.gradient.mean(axis=(2, 3), keepdims=True) * layer.activation).sum(axis=1)  # (2, h, w)
    linear = [layer for layer in classifier.module.modules() if isinstance(layer, nn.Linear)][-1]
    scores = before_relu.sum(axis=(1, 2)) + linear.bias.numpy()[[0, 5]]
    np.testing.assert_allclose(scores, found.logits[[0, 1], [0, 5]], rtol=1e-5, atol=1e-5)


class Treacherous(nn.Module):
    """Raises inside its forward pass when told to."""

    def __init__(self):
        super().__init__()
        self.armed = True

    def forward(self, x):
        if self.armed:
            raise RuntimeError("the module failed")
        return x


class WithIdleLayers(nn.Module):
    """One layer that never runs and one that the scores do not depend on."""

    def __init__(self):
        super().__init__()
        self.used, self.aside, self.idle = hand_net(inplace=True), nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x):
        self.aside(x)
        return self.used(x)


def without_relu() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.SiLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def state_of(module):
    """Whatever an explanation could leave behind on a model."""
    modules = [
        (name, id(layer), layer.training, getattr(layer, "inplace", None))
        + tuple((key, len(value)) for key, value in sorted(vars(layer).items()) if key.endswith("_hooks"))
        for name, layer in module.named_modules(remove_duplicate=False)
    ]
    tensors = [
        (name, id(tensor), tensor._version, tensor.requires_grad, tensor.grad, tensor._backward_hooks)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    ]
    everywhere = [(key, len(value)) for key, value in sorted(vars(nn.modules.module).items()) if key.endswith("_hooks")]
    return modules, tensors, everywhere


@pytest.mark.parametrize(
    ("module", "needs", "error", "message"),
    [
        (hand_net(inplace=True), Needs(), None, ""),
        (hand_net(inplace=True), Needs(layers=("0", "1"), guided=True, saliency=True), None, ""),
        (hand_net(), Needs(layers=("0", "nowhere"), guided=True), Unprocessable, "'nowhere' is no module"),
        (without_relu(), Needs(layers=("0",), guided=True), Unprocessable, "ReLU networks only and this one has SiLU"),
        (nn.Sequential(hand_net(), Treacherous()), TWO, RuntimeError, "module failed"),
        (nn.Sequential(hand_net(), Treacherous()), Needs(), RuntimeError, "module failed"),
        (WithIdleLayers(), Needs(layers=("used.0", "idle"), guided=True), Unprocessable, "'idle' does not run"),
        (WithIdleLayers(), Needs(layers=("used.0", "aside"), guided=True), Unprocessable, "depend on layer 'aside'"),
    ],
    ids=["predicted", "explained", "bad-path", "no-relu", "raises", "raises-predicting", "idle-layer", "layer-aside"],
)
def test_the_model_is_left_as_it_was(module, needs, error, message):
    engine, inputs = TorchEngine(tiny_classifier(module)), PICTURE.copy()
    before = state_of(module)
    if error is None:
        engine.run(inputs, [[0, 1]], needs)
    else:
        with pytest.raises(error, match=message):
            engine.run(inputs, [[0, 1]], needs)
    assert state_of(module) == before
    np.testing.assert_array_equal(inputs, PICTURE)


@pytest.mark.parametrize("target", [-2, 2])
@pytest.mark.parametrize("needs", [Needs(), Needs(layers=("0",))])
def test_a_target_that_is_no_class_is_refused(needs, target):
    with pytest.raises(BadRequest, match="valid are 0 to 1 and -1 for the top class"):
        TorchEngine(tiny_classifier(hand_net())).run(PICTURE, [[target]], needs)


def test_a_real_network_is_left_as_it_was(classifier):
    before = state_of(classifier.module)
    TorchEngine(classifier).run(random_inputs(2), [[TOP], [1, 2]], EVERYTHING)
    assert state_of(classifier.module) == before


def test_the_engine_answers_again_after_an_exception():
    treacherous = Treacherous()
    engine = TorchEngine(tiny_classifier(nn.Sequential(hand_net(), treacherous)))
    with suppress(RuntimeError):
        engine.run(PICTURE, [[0]], Needs(layers=("0.0",)))
    treacherous.armed = False
    found = engine.run(PICTURE, [[0]], Needs(layers=("0.0",), guided=True))
    np.testing.assert_allclose(found.layers["0.0"].activation, CONVOLVED, rtol=1e-6)


def test_explains_under_no_grad_and_leaves_it_so(classifier):
    engine, inputs = TorchEngine(classifier), random_inputs(1)
    expected = engine.run(inputs, [[1]], EVERYTHING)
    with torch.no_grad():
        found = engine.run(inputs, [[1]], EVERYTHING)
        assert not torch.is_grad_enabled()
    assert_same_evidence(found, expected, 0, 0)


class Meeting(nn.Module):
    """A pass in it ends when another thread has come as far as it can."""

    def __init__(self, came):
        super().__init__()
        self.net, self.came, self.passes, self.together = hand_net(), came, 0, 0

    def forward(self, x):
        self.passes += 1
        self.together = max(self.together, self.passes)
        if self.passes > 1:
            self.came.set()
        assert self.came.wait(60), "the other thread came neither into the pass nor to the lock"
        scores = self.net(x)
        self.passes -= 1
        return scores


class Told:
    """A lock that tells when a thread has to wait for it."""

    def __init__(self, waits):
        self._lock, self._waits = threading.Lock(), waits

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


@pytest.mark.parametrize("needs", [Needs(), Needs(layers=("net.0",), guided=True)], ids=["prediction", "explanation"])
def test_threads_sharing_one_engine_are_in_the_network_one_after_the_other(monkeypatch, needs):
    came = threading.Event()
    monkeypatch.setattr(torch_engine, "threading", SimpleNamespace(Lock=lambda: Told(came)))
    module = Meeting(came)
    engine, before = TorchEngine(tiny_classifier(module)), state_of(module)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda target: engine.run(PICTURE, [[target]], needs), (0, 1)))
    assert (module.together, came.is_set()) == (1, True)
    assert state_of(module) == before
    for target, one in enumerate(found):
        alone = TorchEngine(tiny_classifier(hand_net())).run(PICTURE, [[target]], Needs(layers=("0",), guided=True))
        assert one.classes.tolist() == [target]
        np.testing.assert_array_equal(one.logits, alone.logits)
        if needs.guided:
            np.testing.assert_array_equal(one.guided, alone.guided)
            np.testing.assert_array_equal(one.layers["net.0"].gradient, alone.layers["0"].gradient)


class MixesPictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().square().mean((2, 3)))


def test_pictures_that_mix_are_answered_as_if_each_was_alone():
    torch.manual_seed(0)
    classifier = replace(tiny_classifier(MixesPictures()), alone="they mix")
    engine, inputs = TorchEngine(classifier), random_inputs(3, 8)
    needs = Needs(layers=("conv",), guided=True, saliency=True)
    together = engine.run(inputs, [[0], [1, 0], []], needs)
    assert (together.rows.tolist(), together.classes.tolist()) == ([0, 1, 1], [0, 1, 0])
    pairs = 0
    for row, targets in enumerate([[0], [1, 0], []]):
        alone = engine.run(inputs[row : row + 1], [targets], needs)
        np.testing.assert_array_equal(together.logits[row], alone.logits[0])
        part = slice(pairs, pairs + len(targets))
        pairs += len(targets)
        for found, expected in (
            (together.layers["conv"].activation, alone.layers["conv"].activation),
            (together.layers["conv"].gradient, alone.layers["conv"].gradient),
            (together.guided, alone.guided),
            (together.saliency, alone.saliency),
        ):
            np.testing.assert_array_equal(found[part], expected)
    assert together.coverage == "1 of 3 activations"


class FlipAveraging(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2)

    def forward(self, x):
        return sum(self.fc(self.conv(view).relu().mean((2, 3))) for view in (x, x.flip(3)))


def test_the_maps_of_all_runs_of_a_layer_are_put_back_and_added():
    torch.manual_seed(0)
    module = FlipAveraging()
    classifier = tiny_classifier(module)
    views = find_layers(classifier.module, "flips", (3, 16, 16)).views
    inputs = random_inputs(2, 16)
    evidence = TorchEngine(replace(classifier, views=views)).run(inputs, [[1], [0]], Needs(layers=("conv",)))
    its = evidence.layers["conv"]
    for row, target in enumerate([1, 0]):
        parts = []
        for view in (inputs[row : row + 1], inputs[row : row + 1, :, :, ::-1].copy()):
            activation = module.conv(torch.from_numpy(view)).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(module.fc(activation.relu().mean((2, 3)))[0, target], activation)
            parts.append((gradient.mean((2, 3), keepdim=True) * activation).sum(1)[0].detach().numpy())
        expected = (parts[0] + parts[1][:, ::-1]).clip(min=0)
        np.testing.assert_allclose(gradcam(its.activation, its.gradient)[row], expected, atol=1e-6)
