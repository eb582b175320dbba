"""Explanations by plain autograd, written without any of this project's code: what both engines are compared with."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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
    with _GuidedReLUs() as mode:
        score = module(picture)[0].max()
    if not mode.count:
        return None
    (found,) = torch.autograd.grad(score, picture)
    return found[0]


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, high: float) -> Tensor:
        context.save_for_backward((inputs > 0) & (inputs < high))
        return inputs.clamp(0, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (open_gates,) = context.saved_tensors
        return gradient.clamp(min=0) * open_gates, None


class _GuidedReLUs(TorchFunctionMode):
    """Every call of ReLU and ReLU6, of a module or a function, becomes a guided one."""

    _RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        limits = (*args[1:3], kwargs.get("min_val"), kwargs.get("max_val"))  # however they are handed over
        six = function is F.relu6 or (function is F.hardtanh and [one for one in limits if one is not None] == [0, 6])
        if (six or function in self._RELUS) and args[0].requires_grad:
            self.count += 1
            return _GuidedReLU.apply(args[0], 6.0 if six else float("inf"))
        return function(*args, **kwargs)
