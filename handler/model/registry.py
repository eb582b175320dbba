"""Torchvision's registry of classifiers: builders, and the preprocessing of their weights."""

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

INPUT_TRANSFORMERS = ("googlenet", "inception_v3")  # networks that normalise their input again, if asked to


def known_architectures() -> list[str]:
    """Names of the classifiers in torchvision's registry."""
    return list(torchvision.models.list_models(module=torchvision.models))


def builder_of(architecture: str) -> Callable[..., nn.Module]:
    """The function that builds a network of the registry.

    Raises:
        ModelError: the registry has no such classifier; the message lists all names.
    """
    if architecture not in known_architectures():
        raise ModelError(
            f"architecture {architecture!r} is no torchvision classifier, valid are "
            f"{', '.join(known_architectures())}; code of your own is architecture=package.module:factory"
        )
    builder: Callable[..., nn.Module] = torchvision.models.get_model_builder(architecture)
    return builder


def preprocessing_of(weights: Any) -> Preprocessing:
    """The preprocessing of weights of the registry, read from their transforms."""
    preset = weights.transforms()
    return Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def options_of_weights(architecture: str) -> dict[str, Any]:
    """The builder's options that torchvision's weights need; torchvision sets them only if it loads the weights."""
    return {"transform_input": True} if architecture in INPUT_TRANSFORMERS else {}
