"""Explanations by plain autograd, written without any of this project's code: what both engines are compared with."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.guided_relus import GuidedReLUs


@dataclass(frozen=True)
class Found:
    """Of one picture and its top class."""

    scores: Tensor  # (K,)
    gradcam: Tensor  # (h, w), unscaled
    saliency: Tensor  # (3, H, W)
    guided: Tensor | None  # (3, H, W), where there is a ReLU


def explain(module: nn.Module, picture: Tensor, layer: str, layout: str) -> Found:
    """Grad-CAM at a layer, the gradient at the input, and the guided one.

    Args:
        module: in eval mode.
        picture: (1, 3, H, W).
        layer: path of the layer.
        layout: how it returns its maps: "channels first", "channels last" or "tokens" (behind a class token).
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.clone())
        return kept[-1].clone()

    picture = picture.clone().requires_grad_(True)
    hook = module.get_submodule(layer).register_forward_hook(keep)
    try:
        scores = module(picture)[0]
    finally:
        hook.remove()
    gradient, saliency = torch.autograd.grad(scores.max(), [kept[-1], picture])
    activation, gradient = (_as_maps(one[0].detach(), layout) for one in (kept[-1], gradient))
    gradcam = (gradient.mean((1, 2))[:, None, None] * activation).sum(0).relu()
    return Found(scores.detach(), gradcam, saliency[0], _guided(module, picture.detach()))


def _as_maps(output: Tensor, layout: str) -> Tensor:
    """To (C, h, w)."""
    if layout == "channels last":
        return output.permute(2, 0, 1)
    if layout == "tokens":
        side = int((len(output) - 1) ** 0.5)
        return output[1:].T.reshape(-1, side, side)
    return output


def _guided(module: nn.Module, picture: Tensor) -> Tensor | None:
    picture = picture.clone().requires_grad_(True)
    with GuidedReLUs() as mode:
        score = module(picture)[0].max()
    if not mode.count:
        return None
    (found,) = torch.autograd.grad(score, picture)
    return found[0]
