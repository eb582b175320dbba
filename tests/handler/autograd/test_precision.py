import numpy as np
import pytest
import torch
from torch import backends, nn

from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.models import random_inputs, tiny_classifier

OPERATIONS = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)


class Watched(nn.Sequential):
    """Remembers in which precisions it was run."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )
        self.seen = set()

    def forward(self, pictures):
        self.seen |= {operation.fp32_precision for operation in OPERATIONS}
        return super().forward(pictures)


@pytest.fixture
def fast_process():
    """A process that has chosen speed."""
    before = [operation.fp32_precision for operation in OPERATIONS]
    for operation in OPERATIONS:
        operation.fp32_precision = "tf32"
    yield
    after = [operation.fp32_precision for operation in OPERATIONS]
    for operation, precision in zip(OPERATIONS, before, strict=True):
        operation.fp32_precision = precision
    assert after == ["tf32"] * len(OPERATIONS)


@pytest.mark.usefixtures("fast_process")
@pytest.mark.parametrize("needs", [Needs(), Needs(layers=("0",), guided=True, saliency=True)])
def test_a_network_is_run_in_full_precision_and_the_process_keeps_its_choice(needs):
    network = Watched()
    TorchEngine(tiny_classifier(network)).run(random_inputs(1, side=8), [[TOP]], needs)
    assert network.seen == {"ieee"}


@pytest.mark.usefixtures("fast_process")
def test_the_choice_of_the_process_comes_back_after_an_error():
    network = Watched()
    with pytest.raises(RuntimeError):
        TorchEngine(tiny_classifier(network)).run(np.zeros((1, 5, 8, 8), np.float32), [[TOP]], Needs())
    assert network.seen == {"ieee"}


@pytest.mark.usefixtures("fast_process")
def test_a_network_is_looked_at_in_full_precision():
    network = Watched().eval().requires_grad_(False)
    torch.manual_seed(0)
    of_module(network, "watched", None, Preprocessing(crop_size=16, resize_size=16, mean=(0, 0, 0), std=(1, 1, 1)))
    assert network.seen == {"ieee"}
