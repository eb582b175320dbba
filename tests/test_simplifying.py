import torch
from torch import nn

from export.simplifying import simplified
from tests.models import random_classifier


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.convolution(pictures))
        return found if found.sum() > 0 else -found


def test_scores_stay_and_batch_norms_go():
    module = random_classifier("shufflenet_v2_x2_0").module
    found = simplified(module)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in found.modules())
    pictures = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(found(pictures), module(pictures), rtol=1e-4, atol=1e-3)


def test_what_cannot_be_traced_is_copied():
    module = Branching().eval()
    found = simplified(module)
    assert found is not module
    pictures = torch.randn(2, 3, 4, 4)
    assert torch.equal(found(pictures), module(pictures))
