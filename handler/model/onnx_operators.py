"""ONNX's operators as functions of torch, which take inputs in ONNX's order and attributes by name.

A constant comes as a number, or as a list if it holds integers; the operators of ``POINTWISE`` get tensors instead of
lists.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Any]
_TYPES = {6: torch.int32, 7: torch.int64, 9: torch.bool}  # by ONNX's numbers; real numbers stay as precise as they are


def _named(library: Any, names: str) -> dict[str, Function]:
    """Functions by ONNX's names: ``Abs`` is ``abs``, and ``Equal:eq`` is ``eq``."""
    pairs = (name.partition(":") for name in names.split())
    return {onnx: getattr(library, ours or onnx.lower()) for onnx, _, ours in pairs}


def _reduced(function: Function) -> Function:
    return lambda data, axes=None, keepdims=1, **_: function(data, axes or [*range(data.dim())], bool(keepdims))


def in_pairs(pads: Sequence[int]) -> list[int]:
    """ONNX's padding, all beginnings and then all ends, as torch has it: a pair for each axis, the last axis first."""
    half = len(pads) // 2
    return [pads[place] for axis in reversed(range(half)) for place in (axis, half + axis)]


def _pooled(kind: str, fill: float) -> Function:
    def operator(
        x: Tensor, *, kernel_shape: Any, pads: Any, strides: Any, dilations: Any, ceil_mode: int = 0, **said: Any
    ) -> Any:
        axes, included, average = len(kernel_shape), bool(said.get("count_include_pad", 1)), kind == "avg_pool"
        even = pads[:axes] == pads[axes:]
        if (average and max(dilations) > 1) or (ceil_mode and not even):
            raise NotImplementedError(f"{kind} with {dilations=}, {pads=} and {ceil_mode=} is not supported")
        how = {"count_include_pad": included} if average else {"dilation": dilations}
        how |= {"ceil_mode": bool(ceil_mode), "padding": pads[:axes] if even else 0}

        def pool(part: Tensor) -> Any:
            padded = part if even else F.pad(part, in_pairs(pads), value=fill)
            return getattr(F, f"{kind}{axes}d")(padded, kernel_shape, strides, **how)

        return pool(x) if included or even else pool(x) / pool(torch.ones_like(x[:1]))

    return operator


def _concat(*parts: Tensor, axis: int) -> Tensor:
    """Joins tensors; what is there once for all pictures, as a class token is, is repeated for each picture."""
    if axis % parts[0].dim() == 0:
        return torch.cat(parts)
    sizes = [part.shape[0] for part in parts]
    batch = next((size for size in sizes if not isinstance(size, int) or size != 1), 1)  # any size is no int
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], axis)


def _at(data: Tensor, indices: Any, axis: int) -> Tensor:
    return data[(slice(None),) * (axis % data.dim()) + (indices,)]


def _slice(data: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    for i, axis in enumerate(axes or range(len(starts))):
        part = slice(starts[i], ends[i], steps[i] if steps else 1)
        data = _at(data, part if part.step > 0 else [*range(data.shape[axis])[part]], axis)  # torch has no step back
    return data


def _pad(data: Tensor, pads: Any, fill: Any = None, *, mode: str = "constant", value: float = 0.0) -> Any:
    sizes = in_pairs(pads)[: None if mode == "constant" else -4]  # torch's other modes are for the axes of pictures
    kind = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    return F.pad(data, sizes, kind, value if fill is None else fill)


def _resize(X: Tensor, *given: Any, mode: str, **said: Any) -> Tensor:
    """Resizes where ONNX and torch mean the same."""
    how, rounding = said.get("coordinate_transformation_mode", "asymmetric"), said.get("nearest_mode", "floor")
    before, scales = X.shape[2:], None if len(given) > 2 else (said.get("scales") or given[-1])
    after = [size * by for size, by in zip(before, scales[2:], strict=True)] if scales else given[2][2:]
    fitting = {
        "asymmetric": mode == "nearest" and rounding == "floor",
        "half_pixel": mode != "nearest" or (not any(np.mod(after, before)) and "round" in rounding),
        "pytorch_half_pixel": mode != "nearest" and min(after) > 1,
        "align_corners": mode != "nearest",
    }
    if any(size % 1 for size in after) or not fitting.get(how):
        raise NotImplementedError(f"Resize with {mode}, {how}, {rounding}, scales={scales} is not supported")
    nearest = "nearest" if how == "asymmetric" else "nearest-exact"
    kind = {"nearest": nearest, "cubic": "bicubic"}.get(mode, ("linear", "bilinear", "trilinear")[X.dim() - 3])
    corners = None if mode == "nearest" else how == "align_corners"
    return F.interpolate(X, [int(size) for size in after], mode=kind, align_corners=corners)


def _quantize(x: Tensor, scale: Any, zero: Any = 0, *, limits: tuple[int, int], **_: Any) -> Tensor:
    """Rounds as the file does, in real numbers: clipped values have no gradient, the others as if not rounded."""
    if not isinstance(scale, float):
        raise NotImplementedError("QuantizeLinear with a scale for each channel is not supported")
    clipped = x.clamp(*((limit - zero) * scale for limit in limits))
    return clipped + ((clipped / scale).round() * scale - clipped).detach()


POINTWISE: dict[str, Function] = {
    **_named(torch, "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round"),
    **_named(torch, "Sigmoid Sign Sin Sinh Sqrt Tan Tanh Add Sub Mul Div Pow Where MatMul Greater:gt Less:lt Equal:eq"),
    **_named(torch, "GreaterOrEqual:ge LessOrEqual:le And:logical_and Or:logical_or Not:logical_not"),
    **_named(F, "Relu Softplus Softsign Mish HardSwish Elu Gelu"),
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Sum": lambda *parts: functools.reduce(torch.add, parts),
    "Max": lambda *parts: functools.reduce(torch.maximum, parts),
    "Min": lambda *parts: functools.reduce(torch.minimum, parts),
}
OPERATORS: dict[str, Function] = {
    **POINTWISE,
    **{f"Reduce{name}": _reduced(f) for name, f in _named(torch, "Mean Sum Max:amax Min:amin LogSumExp").items()},
    "ReduceL2": _reduced(lambda data, axes, keep: data.square().sum(axes, keep).sqrt()),
    "Clip": lambda x, a=None, b=None, min=None, max=None: x.clamp(min if a is None else a, max if b is None else b),
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "Selu": lambda x, alpha, gamma: gamma * F.elu(x, alpha),
    "HardSigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "LRN": lambda x, size, alpha, beta, bias: F.local_response_norm(x, size, alpha, beta, bias),
    "LayerNormalization": lambda x, w, b=None, *, axis, epsilon, **_: F.layer_norm(x, x.shape[axis:], w, b, epsilon),
    "InstanceNormalization": lambda x, scale, bias, epsilon: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon),
    "Einsum": lambda *parts, equation: torch.einsum(equation, *parts),
    "AveragePool": _pooled("avg_pool", 0.0),
    "MaxPool": _pooled("max_pool", -math.inf),
    "GlobalMaxPool": lambda x: x.amax([*range(2, x.dim())], keepdim=True),
    "Cast": lambda x, to, **_: x.to(_TYPES[to]) if to in _TYPES else x.float() if not x.is_floating_point() else x,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": lambda x, *_, **__: x,  # of what stayed in real numbers; ONNX Runtime computes the weights
    "Reshape": lambda data, shape, **_: data.reshape(shape),
    "Flatten": lambda x, axis: x.reshape(math.prod(x.shape[:axis]), -1),
    "Squeeze": lambda x, axes=None: x.squeeze(axes or [*range(1, x.dim())]),
    "Unsqueeze": lambda x, axes: functools.reduce(torch.unsqueeze, sorted(a % (x.dim() + len(axes)) for a in axes), x),
    "Expand": lambda x, shape: x.expand([-1 if size == 1 else size for size in shape]),
    "Tile": lambda x, repeats: x.repeat(repeats),
    "Concat": _concat,
    "Split": lambda x, split=None, *, axis, count, **_: x.split(split or -(-x.shape[axis] // count), axis),
    "Slice": _slice,
    "Gather": _at,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
