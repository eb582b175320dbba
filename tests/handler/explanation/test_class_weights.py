"""Explanations of mixtures of scores: why one class and not another, and what speaks against a class."""

import copy

import numpy as np
import pytest
import torch
from pytorch_grad_cam import FinerCAM
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

import handler
from handler.autograd.torch_engine import TorchEngine
from handler.errors import BadRequest, Unprocessable
from handler.explanation.class_weights import SECOND, Mixture, Pairs
from handler.explanation.evidence import TOP, Needs
from handler.explanation.gradient_cams import gradcam
from tests.support.models import in_double_precision, random_classifier, random_inputs

LOGITS = np.float32([0.5, 3, -1, 2.5, 2])
SIDE = 64


@pytest.fixture(scope="module")
def classifier():
    return random_classifier("resnet18", side=SIDE)


@pytest.mark.parametrize(
    ("mixture", "weights"),
    [
        (Mixture(target=TOP), [0, 1, 0, 0, 0]),
        (Mixture(target=2, against=True), [0, 0, -1, 0, 0]),
        (Mixture(target=TOP, contrast=SECOND), [0, 1, 0, -1, 0]),
        (Mixture(target=3, contrast=SECOND), [0, -1, 0, 1, 0]),
        (Mixture(target=0, contrast=TOP), [1, -1, 0, 0, 0]),
        (Mixture(target=4, contrast=2, against=True), [0, 0, 1, 0, -1]),
    ],
)
def test_class_weights_are_the_signs_of_the_scores(mixture, weights):
    np.testing.assert_array_equal(mixture.resolved(LOGITS).weights(LOGITS), np.float32(weights))


@pytest.mark.parametrize("target", [TOP, 2])
def test_finercams_weights_are_the_gradient_of_its_score(target):
    mixture = Mixture(target=target, similar=3).resolved(LOGITS)
    scores = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    near = np.argsort(np.abs(LOGITS - LOGITS[mixture.target]), kind="stable")[1:4].tolist()
    FinerWeightedTarget(mixture.target, near, 1)(scores).backward()
    np.testing.assert_allclose(mixture.weights(LOGITS), scores.grad.numpy(), atol=1e-6)


def test_finercam_is_the_peers(classifier):
    picture = random_inputs(1, SIDE)
    (found,) = (
        handler.wrap(classifier.module, layer="layer4")
        .explain(torch.from_numpy(picture[0]), maps=["gradcam"], method="finercam")
        .explanations
    )
    module = copy.deepcopy(classifier.module).requires_grad_(True)
    with FinerCAM(module, [module.layer4]) as cam:
        expected = cam(torch.from_numpy(picture))[0]
    np.testing.assert_allclose(found.maps["gradcam"].values, expected, atol=1e-4)


def test_a_mixtures_gradient_is_a_difference_quotient(classifier):
    """In float64, at the input: it needs neither hooks nor autograd."""
    weights = np.float32([1, -1, *[0] * 8])
    double = in_double_precision(classifier)
    picture = random_inputs(1, SIDE).astype(np.float64)
    found = TorchEngine(double).run(picture, [[weights]], Needs(saliency=True))

    def mixed(pictures):
        with torch.no_grad():
            return double.module(torch.from_numpy(pictures)).numpy() @ weights

    step = np.random.default_rng(5).standard_normal(picture.shape)
    quotient = (mixed(picture + 1e-7 * step) - mixed(picture - 1e-7 * step)) / 2e-7
    assert abs(quotient[0]) > 1e-3
    np.testing.assert_allclose((found.saliency * step).sum(), quotient[0], rtol=1e-4)


def test_rows_with_and_without_class_weights_share_a_pass(classifier):
    engine, needs, inputs = TorchEngine(classifier), Needs(layers=("layer4",)), random_inputs(3, SIDE)
    weights = np.float32([0.5, 0, -2, *[0] * 7])
    together = engine.run(inputs, [[2, weights], [], [weights, TOP]], needs).layers["layer4"].gradient
    alone = [engine.run(inputs[row : row + 1], [[target]], needs) for row, target in [(0, 2), (0, 0), (2, 0), (2, 2)]]
    first, of_0, other_0, other_2 = (evidence.layers["layer4"].gradient[0] for evidence in alone)
    scale = np.abs(first).max()
    np.testing.assert_allclose(together[0], first, atol=1e-6 * scale)
    np.testing.assert_allclose(together[1], 0.5 * of_0 - 2 * first, atol=1e-5 * scale)
    np.testing.assert_allclose(together[2], 0.5 * other_0 - 2 * other_2, atol=1e-5 * scale)


def test_class_weights_must_be_as_many_as_classes(classifier):
    with pytest.raises(BadRequest, match=r"class weights have the shape \(3,\), valid is \(10,\)"):
        TorchEngine(classifier).run(random_inputs(1, SIDE), [[np.zeros(3, np.float32)]], Needs())


@pytest.fixture(scope="module")
def wrapped(classifier):
    return handler.wrap(classifier.module, layer="layer4", labels=[*"abcdefghij"])


def explain(wrapped, **options):
    return wrapped.explain(torch.from_numpy(random_inputs(1, SIDE)[0]), maps=["gradcam"], **options).explanations[0]


def test_an_answer_names_the_class_that_the_target_is_held_against(wrapped):
    found = explain(wrapped, contrast="second")
    assert found.contrast.logit < found.target.logit
    assert found.title(lambda _: True) == f"{found.target.label} {found.target.probability:.2f}, not " + (
        f"{found.contrast.label} {found.contrast.probability:.2f}"
    )
    swapped = explain(wrapped, target=found.contrast.label, contrast="top")
    opposite = explain(wrapped, target=f"-{found.target.label}", contrast="second")
    np.testing.assert_allclose(swapped.maps["gradcam"].values, opposite.maps["gradcam"].values, atol=1e-5)
    assert opposite.against
    assert opposite.title(lambda _: True).startswith("against ")


def test_evidence_for_and_against_are_the_two_sides_of_one_sum(classifier, wrapped):
    evidence = TorchEngine(classifier).run(random_inputs(1, SIDE), [[4]], Needs(layers=("layer4",))).layers["layer4"]
    against = explain(wrapped, target="-e", size="layer").maps["gradcam"]
    expected = gradcam(evidence.activation, -evidence.gradient)[0]
    assert against.maximum == pytest.approx(expected.max(), rel=1e-4)


@pytest.mark.parametrize("method", ["occlusion", "scorecam", "rise"])
def test_methods_that_mask_the_picture_explain_the_weighted_scores(wrapped, method):
    passes = {"passes": 26}
    one, other = (explain(wrapped, method=method, target=name, **passes) for name in ("a", "-a"))
    assert np.abs(one.maps["gradcam"].values - other.maps["gradcam"].values).max() > 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"method": "eigencam", "contrast": "second"},
            "method that depends on the class, not eigencam",
        ),
        ({"method": "randomcam", "target": "-a"}, "method that depends on the class, not randomcam"),
        ({"method": "finercam", "contrast": "second"}, "method finercam chooses the contrast by itself"),
    ],
)
def test_a_contrast_that_a_method_lacks_is_refused(wrapped, options, said):
    with pytest.raises(Unprocessable, match=said):
        explain(wrapped, **options)


def test_a_class_is_not_held_against_itself(wrapped):
    top = explain(wrapped).target.label
    with pytest.raises(Unprocessable, match="top class and so is the target"):
        explain(wrapped, contrast=top)


def test_targets_are_flattened_and_the_top_is_that_of_the_pairs_own_row():
    logits = np.float32([[3, 1, 2], [0, 9, 0], [0, 1, 4]])
    pairs = Pairs.of([[1, TOP], [], [TOP]], 3)
    found = (pairs.rows, pairs.wanted, pairs.classes(logits[pairs.rows]))
    for values, expected in zip(found, ([0, 0, 2], [1, TOP, TOP], [1, 0, 2]), strict=True):
        np.testing.assert_array_equal(values, expected)
        assert values.flags.c_contiguous
        assert values.dtype == np.int64


@pytest.mark.parametrize("targets", [[], [[]], [[], []]])
def test_no_targets_are_no_pairs(targets):
    pairs = Pairs.of(targets, 3)
    assert pairs.rows.shape == pairs.classes(np.zeros((0, 3), np.float32)).shape == (0,)
    assert pairs.weights.shape == (0, 3)
