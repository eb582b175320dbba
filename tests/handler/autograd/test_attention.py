"""Maps of attention on tiny transformers, against maps of NumPy loops and central differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.explanation.methods import ATTENTION_METHODS
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.models import in_double_precision, random_classifier, random_inputs
from tests.support.transformers import CELLS, HEADS, SIDE, WIDTH, ByHand, Transformer

HOW = Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
STEP = 1e-5


def classifier_of(**options):
    return of_module(Transformer(**options).eval().requires_grad_(False), "tiny", None, HOW)


def by_hand(module, picture, target):
    """The three maps (4, 4) of a picture: central differences at every share, then products of whole matrices."""
    known = ByHand(module)
    tokens = module.prefix.shape[1] + CELLS
    zero = np.zeros((2, HEADS, tokens, tokens))
    _, attention, _ = known.scores(picture, zero)
    gradients, own = np.zeros_like(zero), np.zeros_like(zero)
    for place in np.ndindex(*zero.shape):
        changed = zero.copy()
        changed[place] = STEP
        (above, _, own_above), (below, _, own_below) = known.scores(picture, changed), known.scores(picture, -changed)
        gradients[place] = (above - below)[target] / (2 * STEP)
        own[place] = (own_above[place[0]] - own_below[place[0]])[target] / (2 * STEP)
    first, second = (shares.mean(axis=0) for shares in attention)
    unit = np.eye(tokens)
    one, two = (np.maximum(gradients[block] * attention[block], 0).mean(axis=0) for block in range(2))
    read = slice(module.prefix.shape[1], None) if module.mean else slice(0, 1)
    rolled = {
        "rollout": (unit + second) / 2 @ (unit + first) / 2,
        "gradient_attention": (unit + two) @ (unit + one) - unit,
    }
    found = {name: joint[read].mean(axis=0) for name, joint in rolled.items()}
    found["legrad"] = np.maximum(own, 0).sum(axis=2).mean(axis=(0, 1))
    return {name: values[module.prefix.shape[1] :].reshape(4, 4) for name, values in found.items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"spelling": "open"}, {"spelling": "module"}, {"prefix": 3}, {"prefix": 0, "mean": True}],
    ids=str,
)
def test_maps_are_those_of_central_differences(options):
    classifier, pictures = classifier_of(**options), random_inputs(2, SIDE).astype(np.float64)
    engine = TorchEngine(in_double_precision(classifier))
    expected = [by_hand(classifier.module, pictures[row], target) for row, target in ((0, 2), (1, 1))]
    for name in ATTENTION_METHODS:
        found = engine.run(pictures, [[2], [1]], Needs(attention=name)).attention
        for row in range(2):
            np.testing.assert_allclose(found[row], expected[row][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_each_pair_of_a_batch_gets_the_map_that_it_gets_alone(name):
    engine, pictures = TorchEngine(classifier_of()), random_inputs(3, SIDE)
    together = engine.run(pictures, [[2, TOP], [0], [1]], Needs(attention=name))
    for pair, (row, target) in enumerate(zip(together.rows, together.classes, strict=True)):
        alone = engine.run(pictures[row : row + 1], [[int(target)]], Needs(attention=name))
        np.testing.assert_allclose(together.attention[pair], alone.attention[0], rtol=1e-4, atol=1e-7)
    assert together.rows.tolist() == [0, 0, 1, 2]
    assert together.classes[1] == together.logits[0].argmax()


def test_other_evidence_is_what_it_is_without_attention():
    engine, pictures = TorchEngine(classifier_of()), random_inputs(2, SIDE)
    both = engine.run(pictures, [[TOP, 0], [1]], Needs(attention="legrad", saliency=True))
    alone = engine.run(pictures, [[TOP, 0], [1]], Needs(saliency=True))
    np.testing.assert_array_equal(both.saliency, alone.saliency)
    np.testing.assert_array_equal(both.classes, alone.classes)
    assert both.attention.shape == (3, 4, 4)


def test_the_network_is_left_as_it_was():
    classifier = classifier_of()
    hooks = [len(part._forward_hooks) for part in classifier.module.modules()]
    pictures = random_inputs(1, SIDE)
    with torch.no_grad():
        before = classifier.module(torch.from_numpy(pictures))
        TorchEngine(classifier).run(pictures, [[0]], Needs(attention="legrad"))
        np.testing.assert_array_equal(classifier.module(torch.from_numpy(pictures)), before)
    assert [len(part._forward_hooks) for part in classifier.module.modules()] == hooks
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(
    ("architecture", "why"),
    [("resnet18", "there is no attention"), ("swin_t", "49 x 49. is not between all tokens")],
)
def test_a_network_without_global_attention_is_refused(architecture, why):
    classifier = random_classifier(architecture)
    with pytest.raises(Unprocessable, match=why):
        TorchEngine(classifier).run(random_inputs(1), [[0]], Needs(attention="rollout"))


def test_attention_in_the_networks_own_code_is_refused_and_the_network_is_loaded():
    class AttendsItself(nn.Module):
        """The last steps are the network's own: attention, and a mean over the tokens."""

        def __init__(self):
            super().__init__()
            self.cells = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())

        def forward(self, pictures):
            tokens = self.cells(pictures).flatten(2).transpose(1, 2)
            return F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)

    torch.manual_seed(0)
    found = of_module(AttendsItself().eval().requires_grad_(False), "tiny", None, HOW)
    assert (found.default_layer, found.default_method) == ("cells", "gradcam")
    assert found.attention.startswith("the attention of this network")


def test_a_head_that_counts_its_pictures_is_refused():
    found = classifier_of(tail=lambda read, pictures: read.reshape(len(pictures), WIDTH)).attention
    assert found == "the layers behind the last block of this network take one row per picture only"
