"""Explanations by plain autograd, written without any of this project's code: what both engines are compared with.

The gradient of batch norms is spelled out: PyTorch's own is wrong on the CPU for one picture whose gradient arrives in
the strides of transposed tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one picture and its top class."""

    scores: Tensor  # (K,)
    gradcam: Tensor  # (h, w), unscaled
    saliency: Tensor  # (3, H, W)
    guided: Tensor | None  # (3, H, W), where there is a ReLU


def explain(
    module: nn.Module,
    picture: Tensor,
    layer: str,
    *,
    channel_axis: int = 0,
    grid: tuple[int, int] | None = None,
    first: int = 0,
    element: int = 0,
) -> Found:
    """Grad-CAM at a layer, the gradient at the input, and the guided one.

    Args:
        module: in eval mode.
        picture: (1, 3, H, W).
        layer: path of the layer.
        channel_axis: of the channels in what the layer returns for one picture.
        grid: height and width of the cells, where they share an axis.
        first: place of the first cell on that axis; class tokens stand before it.
        element: place of the tensor in an output of several.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensors, form = tree_flatten(output)
        kept.append(tensors[element].clone())
        tensors[element] = kept[-1].clone()
        return tree_unflatten(tensors, form)

    picture = picture.clone().requires_grad_(True)
    hook = module.get_submodule(layer).register_forward_hook(keep)
    try:
        with _SpelledNorms():
            scores = module(picture)[0]
    finally:
        hook.remove()
    gradient, saliency = torch.autograd.grad(scores.max(), [kept[-1], picture])
    activation, gradient = (_as_maps(one[0].detach(), channel_axis, grid, first) for one in (kept[-1], gradient))
    gradcam = (gradient.mean((1, 2))[:, None, None] * activation).sum(0).relu()
    picture = picture.detach().requires_grad_(True)
    with _SpelledNorms(), GuidedReLUs() as mode:
        score = module(picture)[0].max()
    guided = torch.autograd.grad(score, picture)[0][0] if mode.count else None
    return Found(scores=scores.detach(), gradcam=gradcam, saliency=saliency[0], guided=guided)


def _as_maps(output: Tensor, channel_axis: int, grid: tuple[int, int] | None, first: int) -> Tensor:
    """To (C, h, w)."""
    output = output.movedim(channel_axis, 0)
    return output if grid is None else output[:, first : first + grid[0] * grid[1]].reshape(-1, *grid)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
        context.factor = (1 if weight is None else weight) / (var + eps).sqrt()
        return F.batch_norm(inputs, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:
        return gradient * context.factor.view(-1, *[1] * (gradient.dim() - 2)), *[None] * 5


class _SpelledNorms(TorchFunctionMode):
    """Inside the block batch norms with running statistics have the gradient of their formula."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm and torch.is_grad_enabled():
            said = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            if said["running_mean"] is not None and not said.get("training") and said["input"].requires_grad:
                return _BatchNorm.apply(*(said.get(name) for name in _BATCH_NORM[:5]), said.get("eps", 1e-5))
        return function(*args, **kwargs)


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, high: float) -> Tensor:
        context.save_for_backward((inputs > 0) & (inputs < high))
        return inputs.clamp(0, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (gate,) = context.saved_tensors
        return torch.where(gate, gradient.clamp(min=0), torch.zeros_like(gradient)), None


class GuidedReLUs(TorchFunctionMode):
    """Inside the block every call of a ReLU or ReLU6, however it is spelled, is guided and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # inside a custom function's own forward pass no gradient is recorded
        found = _rectified(function, args, kwargs) if torch.is_grad_enabled() else None
        if found is None or not found[0].requires_grad:
            return function(*args, **kwargs)
        self.count += 1
        inputs, high = found
        out = _GuidedReLU.apply(inputs, high)
        # functions whose name ends in an underscore, or that are told so, write into their argument
        in_place = getattr(function, "__name__", "").endswith("_") or kwargs.get("inplace") is True
        return inputs.copy_(out) if in_place else out


def _rectified(function: Any, args: Any, kwargs: Any) -> tuple[Tensor, float] | None:
    """The input, and where the function saturates; None for whatever is no ReLU."""

    def given(place: int, *names: str) -> Any:
        return args[place] if len(args) > place else next((kwargs[one] for one in names if one in kwargs), None)

    name, inputs = getattr(function, "__name__", "").strip("_"), given(0, "input")
    if name in ("maximum", "max") and isinstance(other := given(1, "other"), Tensor):
        inputs, other = (other, inputs) if _is_zero(inputs) else (inputs, other)
        return (inputs, math.inf) if _is_zero(other) else None
    if name in ("relu", "relu6"):
        return inputs, 6.0 if name == "relu6" else math.inf
    if name == "hardtanh" and given(1, "min_val") == 0:
        return inputs, float(given(2, "max_val"))
    if name == "threshold" and given(1, "threshold") == 0 and given(2, "value") == 0:
        return inputs, math.inf
    high = given(2, "max")
    if name in ("clamp", "clip", "clamp_min") and _is_zero(given(1, "min")) and not isinstance(high, Tensor):
        return inputs, math.inf if high is None else float(high)
    return None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return value is not None and value == 0
