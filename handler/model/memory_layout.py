"""Puts a classifier into the memory layout in which PyTorch runs it fastest on a CPU; values and shapes stay."""

import torch

from handler.model.classifier import Classifier
from handler.model.custom_architecture import is_custom

_SHUFFLING = "shufflenet"  # the gradients of channel shuffles take longer in this layout than the rest gains


def in_fast_layout(classifier: Classifier) -> Classifier:
    """Puts the weights into channels-last layout in place, which activations and gradients follow.

    Measured on two cores: predictions and explanations of resnet18, resnet50 and mobilenet_v2 take 4 to 26 % less time,
    explanations of ShuffleNets 5 to 16 % more. ShuffleNets keep their layout, as do networks on a GPU and custom
    architectures, whose code may call ``view`` on activations, which fails in this layout.
    """
    kept = is_custom(classifier.architecture) or classifier.architecture.startswith(_SHUFFLING)
    if classifier.device.type == "cpu" and not kept:
        classifier.module.to(memory_format=torch.channels_last)
    return classifier
