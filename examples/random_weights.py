"""Random weights with which a network behaves like a trained one: nothing vanishes, explodes or saturates.

A deep random network with batch norms is chaotic: it blows a difference in the last bit up layer by layer (Yang et al.
2019, arXiv 1902.08129), until float32 itself is far from float64. Here most ReLUs are open, which keeps it tame, and
every layer's output has the variance 1 on pictures of the kind that exports are verified with.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from export.verify.compare import fresh_pictures
from handler.model.checkpoint import Checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.picture.preprocess import Preprocessing

CLASSES = 1000
_SPREAD = 2.0  # standard deviation of the scores
_PICTURES = 4
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def random_classifier(architecture: str, side: int | None = None, seed: int = 0, classes: int = CLASSES) -> Classifier:
    """A torchvision classifier; the same one for the same arguments.

    Args:
        architecture: a name of torchvision's registry.
        side: of the pictures; None is that of the architecture's own weights.
        seed: of the weights.
        classes: number of scores.
    """
    how = preprocessing_of(architecture, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # also for what is not drawn anew, and for the pictures that calibrate
        module = build(architecture, how.size[0], classes)
        fields = fresh_pictures(np.random.default_rng(1000 + seed), _PICTURES - 1, how)
        noise = torch.randn(1, *how.shape)
        enliven(module, torch.cat([torch.from_numpy(fields), noise]), seed, classes)
    labels = [f"class {index}" for index in range(classes)]
    state = module.state_dict()
    return build_classifier(Checkpoint(architecture=architecture, labels=labels, preprocessing=how, state=state))


def enliven(module: nn.Module, pictures: Tensor, seed: int = 0, classes: int = CLASSES) -> None:
    """Draws the weights of any network in place, whatever it set to zero.

    Args:
        module: in eval mode.
        pictures: (N, 3, H, W), to calibrate with.
        seed: of the weights.
        classes: how many scores it has: layers that return as many are heads.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        _draw(module)
        _calibrate(module, pictures, classes)


def build(architecture: str, side: int, classes: int = CLASSES) -> nn.Module:
    """The network as torchvision builds it, in eval mode."""
    options: dict[str, Any] = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    if architecture.startswith("vit_"):
        options["image_size"] = side
    module: nn.Module = get_model(architecture, weights=None, num_classes=classes, **options).eval()
    return module


def preprocessing_of(architecture: str, side: int | None = None) -> Preprocessing:
    """That of the architecture's default weights, which need not be there for it."""
    preset = get_model_weights(architecture)["DEFAULT"].transforms()
    return Preprocessing(
        resize_size=side or preset.resize_size[0],
        crop_size=side or preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def _draw(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, _WEIGHTED) and not _is_derived(layer):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, _BATCH_NORMS) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.bias, 0.5, 0.3)
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter) or not parameter.is_floating_point():
            continue
        if name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter, std=0.5)
        elif _is_faint(parameter):
            if "bias" in name or "token" in name or "embed" in name:
                nn.init.normal_(parameter, std=0.1)
            else:  # scales of residual branches
                nn.init.uniform_(parameter, 0.1, 0.5)


def _is_faint(parameter: Tensor) -> bool:
    """Whether it is a constant next to zero, which would switch its part of the network off."""
    return parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all() and parameter.abs().max() < 0.2)


def _is_derived(layer: nn.Module) -> bool:
    """Whether the weight is computed from others, by a parametrization."""
    return "weight" not in layer._parameters


def _calibrate(module: nn.Module, pictures: Tensor, classes: int = CLASSES) -> None:
    """One pass: weights are divided by the spread of what their layer returns, batch norms take statistics."""

    def to_unit_spread(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        spread = output.std()
        if not spread > 0 or not bool(spread.isfinite()):
            return output
        for parameter in layer.parameters():
            parameter.div_(spread)
        return output / spread

    weighted = [layer for layer in module.modules() if isinstance(layer, _WEIGHTED) and not _is_derived(layer)]
    hooks = [layer.register_forward_hook(to_unit_spread) for layer in weighted]
    for norm in module.modules():
        if isinstance(norm, _BATCH_NORMS) and norm.track_running_stats:
            norm.train().momentum = None  # statistics are those of the next batch alone
    try:
        module(pictures)
    finally:
        for hook in hooks:
            hook.remove()
        module.eval()
    for head in weighted:
        if isinstance(head, nn.Linear) and head.out_features == classes:
            for parameter in head.parameters():
                parameter.mul_(_SPREAD)
