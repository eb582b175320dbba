"""Deletion and insertion, on networks whose curves are known in closed form, and on both engines of a real network."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import handler
from handler.errors import NotFinite
from handler.explanation.evidence import Evidence, LayerEvidence, Needs, softmax
from handler.explanation.maps import Map, resize
from handler.explanation.methods import METHODS
from handler.explanation.trust import (
    PASSES,
    Question,
    auc,
    blurred,
    brightest,
    deletion,
    examine,
    insertion,
    pixel_order,
    random_orders,
)
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.exports import export_gradcam
from tests.support.models import random_classifier, random_inputs

SIDE = 40
ONES = np.ones((3, SIDE, SIDE), np.float32)
CORNER = np.zeros((SIDE, SIDE), np.float32)
CORNER[: SIDE // 2, : SIDE // 2] = 1  # a quarter of the pixels
LOW, HIGH = 0.1, 0.9


class CornerEngine:
    """The probability of class 1 is linear in the picture's upper left quarter: LOW for zeros, HIGH for ones."""

    name = "torch"

    def __init__(self):
        self.asked = []  # pictures of each pass

    def run(self, inputs, targets, needs):
        self.asked.append(len(inputs))
        seen = (inputs * CORNER).sum(axis=(1, 2, 3)) / (3 * CORNER.sum())
        likely = LOW + (HIGH - LOW) * seen
        logits = np.log(np.stack([1 - likely, likely], axis=1)).astype(np.float32)
        cells = np.ones((len(inputs), 1, 4, 4), np.float32)
        return Evidence(
            logits=logits,
            input_size=(SIDE, SIDE),
            rows=np.arange(len(inputs)),
            classes=np.full(len(inputs), targets[0][0] if targets[0] else 0),
            layers={"c": LayerEvidence(cells, cells)} if needs.layers else {},
        )


def cam(values, degenerate=False):
    return Map(values=np.float32(values), maximum=1.0, degenerate=degenerate, cells=(4, 4))


def examined(values, engine=None, tensor=ONES, degenerate=False, target=1, seed=0, remake=None):
    engine = engine or CornerEngine()
    evidence = CornerEngine().run(tensor[None], [[target]], Needs(layers=("c",)))
    return examine(engine, evidence, 0, {"gradcam": cam(values, degenerate)}, question(tensor, target, remake), seed)


def question(tensor, target=1, remake=None):
    weights = np.eye(2, dtype=np.float32)[target]
    said = "the probability of cat"
    return Question(tensor=tensor, target=target, weights=weights, measure=said, method="gradcam", remake=remake)


def test_pixels_go_from_bright_to_dark_and_ties_keep_an_order():
    values = np.float32([[0, 3, 0], [2, 0, 3]])
    assert pixel_order(values).tolist() == [1, 5, 3, 0, 2, 4]
    assert pixel_order(values, np.array([5, 4, 3, 2, 1, 0])).tolist() == [5, 1, 3, 4, 2, 0]


@pytest.mark.parametrize("steps", [3, (0, 1 / 3, 2 / 3, 1)])
def test_a_curve_has_a_picture_for_each_step_and_its_ends_are_the_whole_and_the_empty_picture(steps):
    tensor, order = random_inputs(1, 3)[0], np.array([4, 0, 8, 1, 2, 3, 5, 6, 7])
    assert brightest(order, steps, (3, 3)).sum(axis=(1, 2)).tolist() == [0, 3, 6, 9]
    deleted, inserted = deletion(tensor, order, steps), insertion(tensor, order, steps)
    assert deleted.shape == inserted.shape == (4, 3, 3, 3)
    np.testing.assert_array_equal(deleted[0], tensor)
    np.testing.assert_array_equal(inserted[3], tensor)
    np.testing.assert_array_equal(inserted[0], blurred(tensor))
    assert (deleted[3] == 0).all()
    first = np.eye(3, dtype=bool)  # pixels 0, 4 and 8
    np.testing.assert_array_equal(deleted[1], np.where(first, 0, tensor))
    np.testing.assert_array_equal(inserted[1], np.where(first, tensor, blurred(tensor)))


def test_a_blurred_pixel_is_a_gaussian_of_eleven_pixels():
    point = np.zeros((3, 21, 21), np.float32)
    point[1, 10, 10] = 1
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 5.0**2))
    expected = np.zeros((21, 21))
    expected[5:16, 5:16] = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(blurred(point), np.stack([0 * expected, expected, 0 * expected]), atol=1e-7)
    assert blurred(ONES)[0, 0, 0] < 0.5, "zeros lie beyond the edge"


def test_the_area_is_that_of_rise_with_equal_steps_and_the_trapezoids_with_others():
    curve = np.float32([1, 0.5, 0.25, 0])
    assert auc(curve) == pytest.approx((curve.sum() - 0.5) / 3)
    assert auc(curve, (0, 0.1, 0.5, 1)) == pytest.approx(0.1 * 0.75 + 0.4 * 0.375 + 0.5 * 0.125)
    np.testing.assert_allclose(auc(np.stack([curve, curve + 1])), [auc(curve), auc(curve) + 1])


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_of_random_orders_is_exact_for_a_linear_network(seed):
    tensor, weights = random_inputs(2, SIDE, seed)
    orders = random_orders((4, 4), (SIDE, SIDE), seed)
    assert all(sorted(order) == list(range(SIDE * SIDE)) for order in orders)
    np.testing.assert_array_equal(orders[1], orders[0][::-1])
    whole = float((tensor * weights).sum(dtype=np.float64))
    curves = [(deletion(tensor, order, 5) * weights).sum(axis=(1, 2, 3), dtype=np.float64) for order in orders]
    assert auc(np.stack(curves)).mean() == pytest.approx(whole / 2, rel=1e-4)
    np.testing.assert_array_equal(orders[0], random_orders((4, 4), (SIDE, SIDE), seed)[0])


def test_a_perfect_map_has_the_curves_of_the_closed_form():
    engine = CornerEngine()
    found = examined(CORNER, engine)
    # of the quarter that counts, deletion leaves 1, 0.6 and then nothing; insertion begins with what the blur left
    assert found.deletion_auc == pytest.approx(LOW + (HIGH - LOW) * (0.1 * 0.8 + 0.15 * 0.3), abs=1e-6)
    corner = blurred(ONES)[0][CORNER > 0]
    order = pixel_order(CORNER, random_orders((4, 4), (SIDE, SIDE), 0)[0])
    sharp = np.isin(np.flatnonzero(CORNER), order[: SIDE * SIDE // 10])
    start, tenth = corner.mean(), np.where(sharp, 1, corner).mean()
    inserted = 0.1 * (start + tenth) / 2 + 0.15 * (tenth + 1) / 2 + 0.75
    assert found.insertion_auc == pytest.approx(LOW + (HIGH - LOW) * inserted, abs=1e-6)
    assert found.random["deletion_auc"] > found.deletion_auc + 0.1
    assert found.value == pytest.approx(
        (found.random["deletion_auc"] - found.deletion_auc + found.insertion_auc - found.random["insertion_auc"]) / 2
    )
    assert found.kept_fifth_probability == pytest.approx(LOW + (HIGH - LOW) * 0.8, abs=1e-6)
    assert sum(engine.asked) == found.passes == PASSES - 1 < 32


def test_the_order_of_the_map_decides_and_a_random_one_is_level_with_chance():
    perfect, inverted = examined(CORNER), examined(1 - CORNER)
    assert perfect.value > 0.1
    assert inverted.value < -0.1
    cells = np.random.default_rng(1).random((40, 4, 4), np.float32)
    assert abs(np.mean([examined(values, seed=seed).value for seed, values in enumerate(cells)])) < 0.02
    assert examined(CORNER, target=0).value < -0.1, "the same pixels speak against the other class"


def test_the_sentence_says_the_measures_of_the_number():
    found = examined(CORNER)
    by_chance = found.random
    assert found.sentence == (
        f"Removing the map's brightest pixels first, the probability of cat is {found.deletion_auc:.2f} on average "
        f"(deletion AUC; random orders {by_chance['deletion_auc']:.2f}), showing them first, it is "
        f"{found.insertion_auc:.2f} (insertion AUC; random orders {by_chance['insertion_auc']:.2f}): "
        f"the map is {found.value:.2f} ahead of chance."
    )
    assert f"the map is {-examined(1 - CORNER).value:.2f} behind chance." in examined(1 - CORNER).sentence
    assert "the map is level with chance." in examined(CORNER, tensor=0 * ONES).sentence


@pytest.mark.parametrize(
    ("values", "degenerate", "said"),
    [
        (0 * CORNER, True, "The map is without evidence, so that there is nothing to test."),
        (np.ones((1, 1)), False, "The map is the same everywhere, so that there is nothing to test."),
    ],
)
def test_a_map_without_an_order_is_not_tested(values, degenerate, said):
    engine = CornerEngine()
    found = examined(values, engine, degenerate=degenerate, remake=pytest.fail)
    assert (found.sentence, found.passes, engine.asked) == (said, 0, [])
    assert {found.value, found.deletion_auc, found.random, found.kept_fifth_probability, found.stability} == {None}


CELLS = np.float32([[1, 0], [0, 0]])


@pytest.mark.parametrize(
    ("again", "stability"),
    [
        (CORNER, 1),
        (1 - CORNER, -1),
        (0 * CORNER, 0),
        (CELLS, np.corrcoef(CORNER.ravel(), resize(CELLS, SIDE, SIDE).ravel())[0, 1]),
    ],
)
def test_stability_is_the_correlation_with_the_map_of_a_noisy_picture(again, stability):
    engine, tensor = CornerEngine(), random_inputs(1, SIDE)[0] / 10
    found = examined(CORNER, engine, tensor, remake=lambda _evidence, _pair, names: {names[0]: cam(again)})
    assert found.stability == pytest.approx(stability)
    assert sum(engine.asked) == found.passes == PASSES <= 32


def test_a_picture_with_noise_looks_the_same():
    changed = []

    class Kept(CornerEngine):
        def run(self, inputs, targets, needs):
            changed.append((inputs, targets))
            return super().run(inputs, targets, needs)

    tensor = random_inputs(1, SIDE)[0] / 10
    for seed in (0, 1):
        examined(CORNER, Kept(), tensor, seed=seed, remake=lambda _evidence, _pair, names: {names[0]: cam(CORNER)})
    (first, _), (second, targets) = changed[len(changed) // 2 - 1], changed[-1]
    assert targets == [[1]], "the class that is explained"
    assert (first != second).mean() > 0.99
    noise = second[0] - tensor
    assert noise.std() == pytest.approx(0.02 * np.ptp(tensor), rel=0.05)
    assert abs(noise.mean()) < 0.002 * np.ptp(tensor)


def test_at_a_pixel_with_three_values_the_largest_absolute_value_counts():
    evidence = CornerEngine().run(ONES[None], [[1]], Needs())
    values = np.stack([-CORNER, 0 * CORNER, 0.5 - CORNER / 2], axis=2)
    maps = {"saliency": cam(values), "guided_backprop": cam(-values)}
    found = examine(CornerEngine(), evidence, 0, maps, question(ONES), 0)
    assert found.deletion_auc == pytest.approx(examined(CORNER).deletion_auc)


def test_evidence_of_the_noisy_picture_that_is_not_finite_is_reported():
    class Broken(CornerEngine):
        def run(self, inputs, targets, needs):
            evidence = super().run(inputs, targets, needs)
            for layer in evidence.layers.values():
                layer.activation[:] = np.inf
            return evidence

    with pytest.raises(NotFinite, match="activations at layer c that are not finite"):
        examined(CORNER, Broken(), remake=lambda _evidence, _pair, names: {names[0]: cam(CORNER)})


def test_a_network_without_finite_scores_for_changed_pictures_is_reported():
    class Broken(CornerEngine):
        def run(self, inputs, targets, needs):
            evidence = super().run(inputs, targets, needs)
            evidence.logits[inputs.reshape(len(inputs), -1).max(axis=1) == 0] = np.nan
            return evidence

    with pytest.raises(NotFinite, match="scores that are not finite"):
        examined(CORNER, Broken())


class Corner(nn.Module):
    """Class 0 is the brightness of the upper left quarter; every method finds it by itself."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 8, 8, groups=3, bias=False)
        nn.init.constant_(self.features.weight, 1 / 64)

    def forward(self, pictures):
        cells = self.features(pictures)
        return torch.stack([4 * cells[:, :, :4, :4].mean((1, 2, 3)), 1 + cells[:, :, 4:, 4:].mean((1, 2, 3))], dim=1)


@pytest.fixture(scope="module")
def model():
    return handler.wrap(Corner().eval(), layer="features")


TENSOR = torch.ones(3, 64, 64) + torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["hirescam", "gradcam_elementwise", "occlusion"])
def test_a_map_of_what_the_network_looks_at_is_ahead_of_chance(model, method):
    (found,) = model.explain(TENSOR, target=0, maps="gradcam", method=method, trust=True).explanations
    assert found.trust.value > 0.05, found.trust.sentence
    if METHODS[method].passes:
        assert found.trust.stability is None
    else:
        assert 0.5 < found.trust.stability < 1 - 1e-8, "the map of the picture itself would have 1"
    assert found.trust.passes == PASSES - bool(METHODS[method].passes)
    assert found.passes == (METHODS[method].passes and 197), "the method's own passes are counted apart"


def test_trust_is_of_gradcam_wherever_it_stands_and_of_the_first_map_else(model):
    def trust(maps, **more):
        asked = {"target": 0, "method": "hirescam", "trust": True, **more}
        return model.explain(TENSOR, maps=maps, **asked).explanations[0].trust

    alone = trust("gradcam")
    assert trust("saliency,gradcam") == alone
    assert trust("saliency") != alone
    assert trust("saliency").value > 0.05
    assert trust("gradcam", seed=1).random != alone.random
    assert trust("gradcam", size="layer").value == pytest.approx(alone.value, abs=1e-3)
    smoothed = trust("gradcam", smooth="augment")
    assert (smoothed.stability, smoothed.passes) == (None, PASSES - 1)
    assert model.explain(TENSOR, maps="none", trust=True).explanations == []


def test_an_answer_has_trust_only_where_it_was_asked_for(model):
    for said, present in ((False, False), ("true", True)):
        (explained,) = model.explain(TENSOR, maps="gradcam", trust=said).to_dict()["explanations"]
        assert ("trust" in explained) == present
    assert set(explained["trust"]) == {
        *("value", "sentence", "deletion_auc", "insertion_auc", "random", "kept_fifth_probability", "stability"),
        "passes",
    }


def test_a_contrast_is_tested_with_the_difference_of_the_probabilities():
    model = handler.wrap(random_classifier("resnet18", side=64).module, labels=[*"abcdefghij"])
    tensor = torch.from_numpy(random_inputs(1, 64)[0])
    top, second = (found.label for found in model.predict(tensor, top_k=2))
    one, less, held, opposite = (
        model.explain(tensor, target=target, contrast=contrast, maps="saliency", trust=True).explanations[0].trust
        for target, contrast in [(top, "none"), (second, "none"), (top, second), (f"-{top}", second)]
    )
    assert f"the probability of {top}, less that of {second} is" in held.sentence
    assert f"the negative of the probability of {top}, less that of {second} is" in opposite.sentence
    assert held.random["deletion_auc"] == pytest.approx(-opposite.random["deletion_auc"], abs=1e-5)
    apart = one.random["deletion_auc"] - less.random["deletion_auc"]
    assert held.random["deletion_auc"] == pytest.approx(apart, abs=1e-4), "random orders are the same for all targets"


def test_every_target_is_tested_for_its_own_class():
    model = handler.wrap(random_classifier("resnet18", side=64).module)
    tensor = torch.from_numpy(random_inputs(1, 64)[0])
    both = model.explain(tensor, target=[1, 3], maps="gradcam", trust=True).explanations
    alone = [model.explain(tensor, target=one, maps="gradcam", trust=True).explanations[0] for one in (1, 3)]
    for one, other in zip(both, alone, strict=True):
        assert one.trust.value == pytest.approx(other.trust.value, abs=1e-5)
        assert one.trust.deletion_auc == pytest.approx(other.trust.deletion_auc, abs=1e-5)
    assert both[0].trust.deletion_auc != pytest.approx(both[1].trust.deletion_auc, abs=1e-3)
    whole = softmax(model.explain(tensor).logits)
    assert whole[1] != pytest.approx(whole[3])


def test_the_time_of_trust_is_time_of_explaining(model, monkeypatch):
    calls = []
    monkeypatch.setattr("handler.serving.explainer.examine", lambda *_args, **_said: calls.append(1))
    ticks = iter(range(100))
    monkeypatch.setattr("handler.serving.explainer.time", type("Clock", (), {"perf_counter": lambda: next(ticks)}))
    plain = model.explain(TENSOR, maps="gradcam").timings_ms
    tested = model.explain(TENSOR, maps="gradcam", trust=True).timings_ms
    assert calls == [1]
    assert tested["explain"] - plain["explain"] > 500


HOW = Preprocessing(resize_size=64, crop_size=64, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same network on either engine."""
    path = tmp_path_factory.mktemp("corner") / "gradcam.onnx"
    export_gradcam(of_module(Corner().eval().requires_grad_(False), "corner", ["a", "b"], HOW), path)
    return handler.wrap(Corner().eval(), labels=["a", "b"], preprocessing=HOW), handler.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hirescam", "randomcam", "occlusion"])
def test_both_engines_say_the_same(models, method):
    picture = np.random.default_rng(0).integers(128, 256, (64, 64, 3), np.uint8)
    asked = {"target": 0, "maps": "gradcam", "method": method, "seed": 1, "trust": True}
    found, other = (asdict(model.explain(picture, **asked).explanations[0].trust) for model in models)
    assert found.pop("sentence") == other.pop("sentence")
    assert found.pop("random") == pytest.approx(other.pop("random"), abs=1e-4)
    assert found == pytest.approx(other, abs=1e-4)
