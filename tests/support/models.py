"""Classifiers for tests: torchvision architectures with random but lively weights, and nets of a few weights."""

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from handler.explanation.evidence import Floats
from handler.model.checkpoint import Checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.picture.preprocess import Preprocessing

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@functools.cache
def random_classifier(architecture: str, classes: int = 10, side: int = 64, seed: int = 0) -> Classifier:
    """A classifier whose logits, maps and gradients have ordinary magnitudes; the same one for the same arguments."""
    how = Preprocessing(
        resize_size=side + side // 8, crop_size=side, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    labels = [f"class {index}" for index in range(classes)]
    return build_classifier(
        Checkpoint(
            architecture=architecture,
            labels=labels,
            preprocessing=how,
            state=_random_state(architecture, classes, side, seed),
        )
    )


def in_double_precision(classifier: Classifier) -> Classifier:
    """The same with float64 weights: answers that should be equal then differ by mistakes only, not by rounding."""
    return replace(classifier, module=copy.deepcopy(classifier.module).double())


def tiny_classifier(module: nn.Module, classes: int = 2) -> Classifier:
    """A classifier around a net of a few weights, in eval mode and frozen as ``build_classifier`` leaves it."""
    how = Preprocessing(resize_size=2, crop_size=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    labels = [f"class {index}" for index in range(classes)]
    return Classifier(
        module=module.eval().requires_grad_(False),
        architecture="tiny",
        labels=labels,
        preprocessing=how,
        layers={},
        default_layer="",
    )


def random_inputs(rows: int, side: int = 64, seed: int = 0) -> Floats:
    """(rows, 3, side, side), normalised: noise, each row with a tint of its own so that their classes differ."""
    rng = np.random.default_rng(seed)
    noise, tint = rng.standard_normal((rows, 3, side, side)), rng.standard_normal((rows, 3, 1, 1))
    return (noise + tint).astype(np.float32)


def _random_state(architecture: str, classes: int, side: int, seed: int) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    if architecture.startswith("vit_"):
        options["image_size"] = side
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = torchvision.models.get_model(architecture, weights=None, num_classes=classes, **options).eval()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=0.1)
            elif isinstance(layer, _BATCH_NORMS):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.1)
                layer.train().momentum = None  # statistics: the plain average over the batches below
        if any(isinstance(layer, _BATCH_NORMS) for layer in module.modules()):
            for _ in range(2):
                module(torch.randn(8, 3, side, side))
    return module.state_dict()
