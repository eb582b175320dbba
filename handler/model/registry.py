"""Torchvision's registry of classifiers: builders, weights and their preprocessing, and what its networks need."""

from dataclasses import replace
from typing import Any

import torchvision
from torch import nn

from handler.errors import ModelError, foreign_code
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Preprocessing

ARCHITECTURES = tuple(torchvision.models.list_models(module=torchvision.models))  # names of classifiers
INPUT_TRANSFORMERS = ("googlenet", "inception_v3")  # networks that normalise their input again, if asked to
PARTS = ("labels", "preprocessing", "transform_input")  # of a checkpoint's description, whose origins are noted
_TAKEN = "as torchvision's weights have it: assumed, say transform_input=0 if yours were trained without it"


def builder_of(architecture: str) -> Any:
    """The function that builds a network of the registry; the ModelError lists all names."""
    if architecture not in ARCHITECTURES:
        valid = f"valid are {', '.join(ARCHITECTURES)}; code of your own is architecture=package.module:factory"
        raise ModelError(f"architecture {architecture!r} is no torchvision classifier, {valid}")
    return torchvision.models.get_model_builder(architecture)


def preprocessing_of(weights: Any) -> Preprocessing:
    """The preprocessing of weights of the registry, read from their transforms."""
    preset = weights.transforms()
    sizes: dict[str, Any] = {"resize_size": preset.resize_size[0], "crop_size": preset.crop_size[0]}
    scale: dict[str, Any] = {"mean": tuple(preset.mean), "std": tuple(preset.std)}
    return Preprocessing(**sizes, **scale, interpolation=preset.interpolation.value)


def find(architecture: str, weights: str | None) -> Checkpoint:
    """The checkpoint of weights of the registry; the ModelError says which there are, or what to do offline."""
    builder_of(architecture)
    if weights is None:
        raise ModelError("give either torchvision's weights, weights=DEFAULT, or a file, checkpoint=")
    choices = torchvision.models.get_model_weights(architecture)
    if weights not in choices.__members__:
        raise ModelError(f"{architecture} has no weights {weights!r}, valid are {', '.join(choices.__members__)}")
    chosen = choices[weights]
    elsewhere = "download the file elsewhere, and give it as checkpoint= together with labels="
    with foreign_code(f"the weights of {architecture} could not be downloaded from {chosen.url}", elsewhere):
        state = chosen.get_state_dict(progress=True, check_hash=True)
    labels, how = list(chosen.meta["categories"]), preprocessing_of(chosen)
    origins = dict.fromkeys(PARTS, f"as torchvision's {chosen.name} weights have it")
    return replace(declare(architecture), labels=labels, preprocessing=how, state=dict(state), origins=origins)


def declare(architecture: str) -> Checkpoint:
    """What is assumed of a plain state dict: that it was trained as torchvision's newest weights were."""
    usual = torchvision.models.get_model_weights(architecture)["DEFAULT"]
    return Checkpoint(
        architecture=architecture,
        preprocessing=preprocessing_of(usual),
        # torchvision sets this option of the builder only if it loads the weights, which need it
        options={"transform_input": True} if architecture in INPUT_TRANSFORMERS else {},
        origins={"preprocessing": f"as torchvision's {usual.name} weights have it", "transform_input": _TAKEN},
    )


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network of a complete checkpoint, or a ModelError if it cannot be built with these options and this side."""
    assert checkpoint.preprocessing is not None
    architecture, how = str(checkpoint.architecture), checkpoint.preprocessing
    options = dict(checkpoint.options)
    if architecture in INPUT_TRANSFORMERS:
        options["init_weights"] = False
    if architecture.startswith("vit_"):
        options["image_size"] = how.crop_size
    detail = f" and options {checkpoint.options}" if checkpoint.options else ""  # of the checkpoint, as the side
    with foreign_code(f"{architecture} cannot be built for pictures of {how.crop_size} pixels{detail}"):
        module: nn.Module = builder_of(architecture)(weights=None, num_classes=len(checkpoint.labels or []), **options)
    if how.channels != 3:  # the first convolution takes these channels, as people change it for their own pictures
        path, first = next((path, part) for path, part in module.named_modules() if isinstance(part, nn.Conv2d))
        same = {name: getattr(first, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        module.set_submodule(path, nn.Conv2d(how.channels, first.out_channels, bias=first.bias is not None, **same))
    return module
