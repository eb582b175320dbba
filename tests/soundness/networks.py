"""The fixed list: every network's group, name, side and factory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

GROUPS = ("odd", "torchvision", "timm", "huggingface")
MANY_MODULES = 40  # graphs of networks with more take minutes to make: they are left to `make zoo`


@dataclass(frozen=True)
class Network:
    """One of the list."""

    group: str
    name: str
    side: int  # of the square pictures, in pixels
    architecture: str  # as the product is given it
    classes: int
    build: Callable[[], nn.Module]  # the same weights each time
    odd: Any = None  # its entry in the table of odd ones

    @property
    def key(self) -> str:
        """Unique in the list."""
        return f"{self.group}.{self.name}"


def networks(group: str) -> list[Network]:
    """All of a group, in a fixed order.

    Raises:
        ModuleNotFoundError: timm or transformers are not installed.
    """
    if group == "odd":
        from tests.soundness import odd

        return [
            Network(group, name, odd.SIDE, f"tests.soundness.odd:{name}", its.classes, its.build, its)
            for name, its in odd.TABLE.items()
        ]
    if group == "torchvision":
        from tests.soundness import torchvision_networks as known

        return [
            Network(group, name, side, name, 1000, _seeded(known.network, name)) for name, side in known.sides().items()
        ]
    if group == "timm":
        from tests.soundness import timm_networks as timm

        return [
            Network(group, name, side, f"{timm.__name__}:{name}", timm.CLASSES, _seeded(timm.network, name))
            for name, (side, _) in timm.NETWORKS.items()
        ]
    from tests.soundness import huggingface_networks as hugging

    return [
        Network(
            group,
            name,
            hugging.side(name),
            f"{hugging.__name__}:{name}",
            hugging.CLASSES,
            _seeded(hugging.network, name),
        )
        for name in hugging.NETWORKS
    ]


def find_network(key: str) -> Network:
    """By its key."""
    return next(one for one in networks(key.partition(".")[0]) if one.key == key)


def _seeded(build: Callable[[str], nn.Module], name: str) -> Callable[[], nn.Module]:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return build(name)

    return seeded
