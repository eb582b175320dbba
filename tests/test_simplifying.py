import pytest
import torch
from torch import nn

from export.simplifying import simplified
from handler.evidence import Needs
from handler.tape import differentiate, record
from tests.models import random_classifier, random_inputs


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.convolution(pictures))
        return found if found.sum() > 0 else -found


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x2_0", "mobilenet_v2"])
def test_scores_and_gradients_stay_and_batch_norms_go(architecture):
    classifier = random_classifier(architecture)
    pictures = torch.from_numpy(random_inputs(2))
    found, layer = simplified(classifier.module, classifier.default_layer, pictures)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in found.modules())
    answers = []
    for module, path in ((found, layer), (classifier.module, classifier.default_layer)):
        tape = record(module, pictures, Needs((path,)))
        answers.append((tape.scores, tape.layers[path], differentiate(tape, tape.scores[:, 3].sum()).layers[path]))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * float(other.detach().abs().max()))


def test_what_cannot_be_traced_is_copied():
    module = Branching().eval()
    pictures = torch.randn(2, 3, 4, 4)
    found, layer = simplified(module, "convolution", pictures)
    assert found is not module
    assert layer == "convolution"
    assert torch.equal(found(pictures), module(pictures))
