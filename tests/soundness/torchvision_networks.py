"""Torchvision's classifiers, at the smallest side that suits each family."""

from torch import nn

from examples.random_weights import build
from handler.model.registry import ARCHITECTURES

SIDE = 64
SIDES = {"inception_v3": 160, "alexnet": 96, "maxvit_t": 224, "vit_h_14": 112}  # pixels
DEEP = ("mobilenet", "mnasnet", "efficientnet", "shufflenet")  # of 64 pixels each of their cells sees all


def sides() -> dict[str, int]:
    """Every network's side in pixels."""
    return {name: SIDES.get(name, 128 if name.startswith(DEEP) else SIDE) for name in ARCHITECTURES}


def network(name: str) -> nn.Module:
    """With weights that nobody should look at."""
    return build(name, sides()[name])
