"""ONNX's operators as functions of torch, which take inputs in ONNX's order and attributes by name.

A constant comes as a number, or as a list if it holds integers; the operators of ``POINTWISE`` get tensors instead of
lists.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Any]


def _named(library: Any, names: str) -> dict[str, Function]:
    """Functions by ONNX's names: ``Abs`` is ``abs``, and ``Equal:eq`` is ``eq``."""
    pairs = (name.partition(":") for name in names.split())
    return {onnx: getattr(library, ours or onnx.lower()) for onnx, _, ours in pairs}


def _reduced(function: Function) -> Function:
    return lambda data, axes=None, keepdims=1, **_: function(data, axes or [*range(data.dim())], bool(keepdims))


def _pooled(kind: str, fill: float) -> Function:
    def operator(x: Tensor, *, kernel_shape: Any, pads: Any, strides: Any, dilations: Any, **said: Any) -> Any:
        axes, ceil, included = len(kernel_shape), bool(said.get("ceil_mode")), bool(said.get("count_include_pad", 1))
        average, before, behind = kind == "avg_pool", pads[:axes], pads[axes:]
        if (average and max(dilations) > 1) or (ceil and before != behind):
            raise NotImplementedError(f"{kind} with {dilations=}, {pads=} and {ceil=} is not supported")
        how = {"count_include_pad": included} if average else {"dilation": dilations}
        how |= {"ceil_mode": ceil, "padding": before if before == behind else 0}

        def pool(part: Tensor) -> Any:
            padded = part if before == behind else _pad(part, [0, 0, *before, 0, 0, *behind], fill)
            return getattr(F, f"{kind}{axes}d")(padded, kernel_shape, strides, **how)

        return pool(x) if included or before == behind else pool(x) / pool(torch.ones_like(x[:1]))

    return operator


def _is(size: Any, value: int) -> bool:
    """Whether a size is this number, which a batch of any size is not."""
    return isinstance(size, int) and size == value


def _reshape(data: Tensor, shape: Any, allowzero: int = 0) -> Tensor:
    return data.reshape([data.shape[i] if _is(size, 0) and not allowzero else size for i, size in enumerate(shape)])


def _concat(*parts: Tensor, axis: int) -> Tensor:
    """Joins tensors; what is there once for all pictures, as a class token is, is repeated for each picture."""
    batch = next((part.shape[0] for part in parts if not _is(part.shape[0], 1)), 1)
    once = _is(batch, 1) or axis % parts[0].dim() == 0
    return torch.cat(parts if once else [part.expand(batch, *part.shape[1:]) for part in parts], axis)


def _slice(data: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    for i, axis in enumerate(axes or range(len(starts))):
        step, size = steps[i] if steps else 1, data.shape[axis]
        if step > 0:
            data = data[(slice(None),) * (axis % data.dim()) + (slice(starts[i], ends[i], step),)]
        else:  # torch has no negative steps
            chosen = [*range(*slice(starts[i], ends[i] if ends[i] >= -size else None, step).indices(size))]
            data = data.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=data.device))
    return data


def _gather(data: Tensor, indices: Any, axis: int) -> Tensor:
    if isinstance(indices, int):
        return data.select(axis, indices)
    where, axis = torch.as_tensor(indices, device=data.device), axis % data.dim()
    picked = data.index_select(axis, where.flatten().long() % data.shape[axis])
    return picked.reshape(*data.shape[:axis], *where.shape, *data.shape[axis + 1 :])


def _pad(
    data: Tensor, pads: Any, fill: Any = None, axes: Any = None, mode: str = "constant", value: float = 0.0
) -> Any:
    ends = {axis % data.dim(): (pads[i], pads[i + len(pads) // 2]) for i, axis in enumerate(axes or range(data.dim()))}
    pairs = [ends.get(axis, (0, 0)) for axis in reversed(range(data.dim()))][: None if mode == "constant" else -2]
    kind = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    return F.pad(data, [size for pair in pairs for size in pair], kind, value if fill is None else fill)


def _resize(X: Tensor, *given: Any, mode: str, **said: Any) -> Tensor:
    """Resizes where ONNX and torch mean the same."""
    how, rounding = said.get("coordinate_transformation_mode", "asymmetric"), said.get("nearest_mode", "floor")
    scales = said.get("scales") or (None if len(given) > 2 else given[-1])
    after = (
        [math.floor(size * by) for size, by in zip(X.shape[2:], scales[2:], strict=True)] if scales else given[2][2:]
    )
    exact = not scales or all(size * by == new for size, by, new in zip(X.shape[2:], scales[2:], after, strict=True))
    whole = all(new % size == 0 for size, new in zip(X.shape[2:], after, strict=True))
    fitting = {
        "asymmetric": mode == "nearest" and rounding == "floor",
        "half_pixel": mode != "nearest" or (whole and "round" in rounding),
        "pytorch_half_pixel": mode != "nearest" and min(after) > 1,
        "align_corners": mode != "nearest",
    }
    if not (exact and fitting.get(how)):
        raise NotImplementedError(f"Resize with {mode}, {how}, {rounding}, scales={scales} is not supported")
    nearest = "nearest" if how == "asymmetric" else "nearest-exact"
    kind = {"nearest": nearest, "cubic": "bicubic"}.get(mode, ("linear", "bilinear", "trilinear")[X.dim() - 3])
    return F.interpolate(X, after, mode=kind, align_corners=None if mode == "nearest" else how == "align_corners")


def _quantize(x: Tensor, scale: Any, zero: Any = 0, *, limits: tuple[int, int], **_: Any) -> Tensor:
    """Rounds as the file does, in real numbers: clipped values have no gradient, the others as if not rounded."""
    if not isinstance(scale, float) or not isinstance(zero, int):
        raise NotImplementedError("QuantizeLinear with a scale for each channel is not supported")
    clipped = x.clamp(*((limit - zero) * scale for limit in limits))
    return clipped + ((clipped / scale).round() * scale - clipped).detach()


_TYPES = {6: torch.int32, 7: torch.int64, 9: torch.bool}  # by ONNX's numbers; real numbers stay as precise as they are


def _dequantize(x: Tensor, *_: Any, **__: Any) -> Tensor:
    if not x.is_floating_point():
        raise NotImplementedError("DequantizeLinear of other numbers than QuantizeLinear's is not supported")
    return x


POINTWISE: dict[str, Function] = {
    **_named(
        torch, "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round Sigmoid"
    ),
    **_named(torch, "Sign Sin Sinh Sqrt Tan Tanh Add Sub Mul Div Pow Where MatMul Greater:gt Less:lt Equal:eq"),
    **_named(torch, "GreaterOrEqual:ge LessOrEqual:le And:logical_and Or:logical_or Not:logical_not"),
    **_named(F, "Relu Softplus Softsign Mish HardSwish"),
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    **{
        name: lambda *parts, f=f: functools.reduce(f, parts)
        for name, f in _named(torch, "Sum:add Max:maximum Min:minimum").items()
    },
    "Mean": lambda *parts: sum(parts) / len(parts),
}
OPERATORS: dict[str, Function] = {
    **POINTWISE,
    **{f"Reduce{name}": _reduced(f) for name, f in _named(torch, "Mean Sum Max:amax Min:amin LogSumExp").items()},
    "ReduceL2": _reduced(lambda data, axes, keep: data.square().sum(axes, keep).sqrt()),
    "ArgMax": lambda data, axis, keepdims, **_: data.argmax(axis, bool(keepdims)),
    "Clip": lambda x, a=None, b=None, min=None, max=None: x.clamp(min if a is None else a, max if b is None else b),
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "Elu": lambda x, alpha: F.elu(x, alpha),
    "Selu": lambda x, alpha, gamma: gamma * F.elu(x, alpha),
    "HardSigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "Gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "LRN": lambda x, size, alpha, beta, bias: F.local_response_norm(x, size, alpha, beta, bias),
    "LpNormalization": lambda x, axis, p: F.normalize(x, p, axis, 1e-30),
    "LayerNormalization": lambda x, scale, bias=0.0, *, axis, epsilon, **_: (
        F.layer_norm(x, x.shape[axis:], eps=epsilon) * scale + bias
    ),
    "InstanceNormalization": lambda x, scale, bias, epsilon: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon),
    "Einsum": lambda *parts, equation: torch.einsum(equation, *parts),
    "AveragePool": _pooled("avg_pool", 0.0),
    "MaxPool": _pooled("max_pool", -math.inf),
    "GlobalAveragePool": lambda x: x.mean([*range(2, x.dim())], keepdim=True),
    "GlobalMaxPool": lambda x: x.amax([*range(2, x.dim())], keepdim=True),
    "Cast": lambda x, to, **_: x.to(_TYPES[to]) if to in _TYPES else x.float() if not x.is_floating_point() else x,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Reshape": _reshape,
    "Flatten": lambda x, axis: x.reshape(math.prod(x.shape[:axis]), -1),
    "Squeeze": lambda x, axes=None: x.squeeze(axes or [*range(1, x.dim())]),
    "Unsqueeze": lambda x, axes: functools.reduce(torch.unsqueeze, sorted(a % (x.dim() + len(axes)) for a in axes), x),
    "Transpose": lambda x, perm=None: x.permute(perm or [*reversed(range(x.dim()))]),
    "Expand": lambda x, shape: x.expand([-1 if size == 1 else size for size in shape]),
    "Tile": lambda x, repeats: x.repeat(repeats),
    "Concat": _concat,
    "Split": lambda x, split=None, *, axis, count, **_: x.split(split or -(-x.shape[axis] // count), axis),
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "TopK": lambda x, k, axis, largest=1, **_: x.topk(k[0], axis, bool(largest)),
}
