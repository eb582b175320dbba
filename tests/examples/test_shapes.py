"""The embedded model and the pictures it was trained on."""

import cv2
import numpy as np
import pytest

from examples.shapes.draw import SIZES, draw, draw_random
from examples.shapes.outlines import LABELS, OUTLINES
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import Needs
from handler.model.checkpoint import read_checkpoint
from handler.model.sources import load_classifier
from tests.support.serving import CHECKPOINT, ONE, TWO


def test_the_checkpoint_is_small_and_describes_itself():
    checkpoint = read_checkpoint(CHECKPOINT)
    assert CHECKPOINT.stat().st_size <= 2_000_000
    assert checkpoint.architecture == "shufflenet_v2_x0_5"
    assert checkpoint.labels == LABELS
    assert checkpoint.preprocessing is not None
    assert float(checkpoint.notes["held_out_accuracy"]) >= 0.98
    assert "seed" in checkpoint.notes


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first, again, other = (draw_random(np.random.default_rng(seed)).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("label", LABELS)
def test_an_object_lies_in_its_box_and_fills_it(label):
    (thing,) = draw(np.random.default_rng(3), [label]).things
    top, left, bottom, right = thing.box
    assert 0 <= top < bottom <= 224
    assert 0 <= left < right <= 224
    assert SIZES[0] * 224 * 0.999 <= max(bottom - top, right - left) <= SIZES[1] * 224 * 1.001
    corners = np.concatenate(OUTLINES[label])
    assert np.abs(corners).max() <= 0.5 + 1e-9


def test_two_objects_do_not_touch():
    for seed in range(50):
        a, b = draw_random(np.random.default_rng(seed), count=2).things
        assert a.label != b.label
        assert a.box[2] <= b.box[0] or b.box[2] <= a.box[0] or a.box[3] <= b.box[1] or b.box[3] <= a.box[1]


def test_the_demos_pictures_are_drawn_by_the_script():
    for path, labels, seed in [(ONE, ["star"], 1), (TWO, ["heart", "arrow"], 3)]:
        drawn = draw(np.random.default_rng(seed), labels, 480).image
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert np.abs(stored.astype(int) - drawn).mean() < 5  # JPEG


def test_fresh_pictures_are_named_right():
    classifier = load_classifier(checkpoint=CHECKPOINT)
    side = classifier.preprocessing.crop_size
    pictures = [draw_random(np.random.default_rng([11, seed]), side=side) for seed in range(200)]
    inputs = np.stack([classifier.preprocessing.normalise(one.image) for one in pictures])
    engine = TorchEngine(classifier)
    named = np.concatenate(
        [engine.run(inputs[start : start + 20], [[]] * 20, Needs()).logits.argmax(1) for start in range(0, 200, 20)]
    )
    assert np.mean(named == [LABELS.index(one.things[0].label) for one in pictures]) >= 0.97
