"""Networks of one's own for tests, written to a folder as the files that their author would have."""

from pathlib import Path

import torch

NETWORK = """
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ownnet.blocks.pair import Pair

LABELS = (Path(__file__).parent / "labels.txt").read_text().split()
PREPROCESSING = {"resize_size": 40, "crop_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
constant = 3


class Network(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.pair = Pair(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.pair(x)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().state_dict()


def fixed():
    return Network(3)


def tuple_of_scores(num_classes):
    class Two(Network):
        def forward(self, x):
            return super().forward(x), x
    return Two(num_classes)


def maps(num_classes):
    return nn.Conv2d(3, num_classes, 1)


def infinite(num_classes):
    class Infinite(Network):
        def forward(self, x):
            return super().forward(x) / 0
    return Infinite(num_classes)


def ends_in_softmax(num_classes):
    class Softmax(Network):
        def forward(self, x):
            return super().forward(x).softmax(1)
    return Softmax(num_classes)


def random(num_classes):
    class Random(Network):
        def forward(self, x):
            return super().forward(functional.dropout(x))  # training is True unless said otherwise
    return Random(num_classes)


class InPlace(Network):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


def wants_grey(num_classes):
    return nn.Conv2d(1, num_classes, 1)


def no_network(num_classes):
    return {"classes": num_classes}


def no_weights():
    return nn.Flatten()


def fails():
    raise RuntimeError("out of cheese")
"""

PAIR = """
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))))
"""


def write_package(folder: Path) -> Path:
    """``ownnet``, a package with a package inside and a data file; ``ownnet.net`` holds the factories."""
    package = folder / "ownnet"
    (package / "blocks").mkdir(parents=True)
    for name in ("__init__.py", "blocks/__init__.py"):
        (package / name).touch()
    (package / "net.py").write_text(NETWORK, encoding="utf-8")
    (package / "blocks/pair.py").write_text(PAIR, encoding="utf-8")
    (package / "labels.txt").write_text("red green blue", encoding="utf-8")
    return package


def save_state(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path
