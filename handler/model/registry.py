"""Torchvision's registry of classifiers: their builders, and what their weights say of pictures."""

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

INPUT_TRANSFORMERS = ("googlenet", "inception_v3")  # normalise once more themselves, if made for torchvision's weights


def known_architectures() -> list[str]:
    """The classifiers of torchvision's registry."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def builder_of(architecture: str) -> Callable[..., nn.Module]:
    """The function that builds a network of the registry.

    Raises:
        ModelError: no such classifier; the message lists those that there are.
    """
    if architecture not in known_architectures():
        raise ModelError(
            f"architecture {architecture!r} is no torchvision classifier, valid are "
            f"{', '.join(known_architectures())}; one of your own is package.module:factory (ARCH=)"
        )
    builder: Callable[..., nn.Module] = torchvision.models.get_model_builder(architecture)
    return builder


def preprocessing_of(weights: Any) -> Preprocessing:
    """The preprocessing that weights of the registry were trained with, from their transforms."""
    preset = weights.transforms()
    return Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def options_of_weights(architecture: str) -> dict[str, Any]:
    """The options that torchvision's builder sets only when it loads the weights itself."""
    return {"transform_input": True} if architecture in INPUT_TRANSFORMERS else {}
