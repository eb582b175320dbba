import numpy as np
import pytest
import torch

from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.model.checkpoint import hash_state
from handler.model.classifier import in_fast_layout
from tests.support.models import in_double_precision, random_classifier, random_inputs


@pytest.mark.parametrize(("architecture", "changes"), [("resnet18", True), ("shufflenet_v2_x0_5", False)])
def test_the_layout_changes_and_the_evidence_does_not(architecture, changes):
    original = random_classifier(architecture)
    classifier = in_double_precision(original)  # also a copy
    pictures, targets = random_inputs(2).astype(np.float64), [[TOP], [1, 2]]
    needs = Needs(layers=(classifier.default_layer,), guided=True, saliency=True)
    before, weights = TorchEngine(classifier).run(pictures, targets, needs), hash_state(classifier.module)
    assert in_fast_layout(classifier) is classifier
    kernels = [one for one in classifier.module.parameters() if one.dim() == 4 and min(one.shape[1:]) > 1]
    assert all(one.is_contiguous(memory_format=torch.channels_last) == changes for one in kernels)
    assert hash_state(classifier.module) == weights
    after = TorchEngine(classifier).run(pictures, targets, needs)
    np.testing.assert_allclose(after.logits, before.logits, rtol=1e-6)
    layer, expected = after.layers[needs.layers[0]], before.layers[needs.layers[0]]
    pairs = [(layer.activation, expected.activation), (layer.gradient, expected.gradient)]
    for found, wanted in [*pairs, (after.guided, before.guided), (after.saliency, before.saliency)]:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
