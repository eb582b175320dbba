"""The networks of the zoo: torchvision's, one of each family of timm, and Hugging Face's image classifiers."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from examples.random_weights import build, enliven, preprocessing_of, random_classifier
from export.verify.compare import fresh_pictures
from handler.model.checkpoint import Checkpoint
from handler.model.classifier import Classifier, build_classifier, build_network
from handler.model.registry import ARCHITECTURES
from handler.picture.preprocess import Preprocessing
from tests.soundness import huggingface_networks, timm_networks

GROUPS = ("torchvision", "timm", "hf")
CLASSES = 10  # of those that are not torchvision's
# beside one of each family: HaloNet's windows, and a saliency that float32 rounds much
_TIMM = timm_networks.NETWORKS | {"halonet26t": (256, {}), "cspdarknet53": (128, {})}
_PICTURES = 16  # to calibrate with: with few, batch norms that see one token of each divide by next to nothing


def every(group: str = "") -> list[str]:
    """Names of all networks, or of a group's, as MODEL= takes them; timm's are small or shallow variants."""
    names = [*ARCHITECTURES, *(f"timm/{name}" for name in _TIMM)]
    names += [f"hf/{name}" for name in huggingface_networks.NETWORKS]
    return [name for name in names if not group or group_of(name) == group]


def group_of(network: str) -> str:
    """The group of a name."""
    return network.partition("/")[0] if "/" in network else "torchvision"


def side_of(network: str, side: int | None = None) -> int:
    """The side of a network's pictures in pixels, if nothing else is said."""
    group, _, name = network.rpartition("/")
    if side or not group:
        return side or preprocessing_of(network).size[0]
    return _TIMM[name][0] if group == "timm" else huggingface_networks.side(name)


def random_network(network: str, side: int | None = None) -> Classifier:
    """A classifier with random weights; the same one for the same arguments."""
    if group_of(network) == "torchvision":
        return random_classifier(network, side)
    found = bare(network, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_network(found).eval()
        assert found.preprocessing is not None
        fields = fresh_pictures(np.random.default_rng(1000), _PICTURES - 1, found.preprocessing)
        noise = torch.randn(1, *found.preprocessing.shape)
        enliven(module, torch.cat([torch.from_numpy(fields), noise]), 0, CLASSES)
    return build_classifier(replace(found, state=dict(module.state_dict())))


def shapes_of(network: str, side: int | None = None) -> torch.nn.Module:
    """The network without weights, on the device meta."""
    make = (
        (lambda: build(network, side_of(network, side)))
        if "/" not in network
        else lambda: build_network(bare(network, side))
    )
    try:
        with torch.device("meta"):
            return make().eval()
    except (NotImplementedError, RuntimeError):  # its builder computes with tensors
        return make().eval().to("meta")


def bare(network: str, side: int | None = None) -> Checkpoint:
    """The description of a network of timm or Hugging Face, without weights."""
    group, _, name = network.partition("/")
    pixels = side_of(network, side)
    options = _timm_options(name, pixels) if group == "timm" else {"config": _configuration(name)}
    return Checkpoint(
        architecture=network,
        labels=[f"class {index}" for index in range(CLASSES)],
        preprocessing=Preprocessing(resize_size=pixels, crop_size=pixels, mean=(0.5,) * 3, std=(0.25,) * 3),
        state={},
        options=options,
    )


def _timm_options(name: str, side: int) -> dict[str, Any]:
    options = _TIMM[name][1]
    return options | {"img_size": side} if name in timm_networks.SIZED else options


def _configuration(name: str) -> dict[str, Any]:
    builder = huggingface_networks.builder(name)
    options = huggingface_networks.NETWORKS[name][1]
    return dict(builder.config_class(architectures=[builder.__name__], num_labels=CLASSES, **options).to_dict())
