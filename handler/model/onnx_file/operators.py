"""ONNX's operators as functions of torch, whose parameters are named as in ONNX's schemas.

A constant input comes as a number or a list of numbers if it holds integers or a single number, else as a tensor.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Any]


def _plain(function: Function) -> Function:
    """The operator of a function that takes the inputs in their order; numbers become tensors where it needs them."""

    def operator(*inputs: Any) -> Any:
        like = next(value for value in inputs if isinstance(value, Tensor))
        return function(*(torch.as_tensor(v, device=like.device) if isinstance(v, list) else v for v in inputs))

    return lambda **named: operator(*named.values())


def _accumulated(function: Function, **named: Any) -> Any:
    first, *others = next(iter(named.values()))
    return functools.reduce(lambda a, b: function(a, torch.as_tensor(b, dtype=first.dtype)), others, first)


def _reduced(function: Function) -> Function:
    def operator(data: Tensor, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        if not axes and noop_with_empty_axes:
            return function(data[None], (0,), False)
        return function(data, tuple(axes or range(data.dim())), bool(keepdims))

    return operator


def _product(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    made = functools.reduce(lambda found, axis: found.prod(axis, keepdim=True), axes, data)
    return made if keep else made.squeeze(axes)


def _layer_norm(X: Tensor, Scale: Any, B: Any = None, *, axis: int, epsilon: float, **_: Any) -> Tensor:
    shape = X.shape[axis:]
    if isinstance(Scale, Tensor) and Scale.shape == shape:
        return F.layer_norm(X, shape, Scale, B, epsilon)
    return F.layer_norm(X, shape, eps=epsilon) * Scale + (0 if B is None else B)


def _batch_norm(X: Tensor, scale: Any, B: Any, epsilon: float, **said: Any) -> Tensor:
    mean, var = (said.get(name, said.get(f"input_{name}")) for name in ("mean", "var"))
    return F.batch_norm(X, mean, var, scale, B, eps=epsilon)


def _gemm(A: Tensor, B: Any, C: Any = 0.0, *, alpha: float, beta: float, transA: int, transB: int) -> Tensor:
    return alpha * ((A.T if transA else A) @ (B.T if transB else B)) + beta * C


def _prelu(x: Tensor, slope: Any) -> Tensor:
    by_channel = slope.numel() == 1 or (slope.dim() == x.dim() - 1 and slope.numel() == len(slope))
    return F.prelu(x, slope.flatten()) if by_channel else torch.where(x < 0, slope * x, x)


def _cast(input: Tensor, to: int) -> Tensor:
    """Real numbers stay as precise as they are."""
    real = to in (1, 10, 11, 16)
    if real:
        return input if input.is_floating_point() else input.float()
    return input.to({9: torch.bool, 6: torch.int32}.get(to, torch.int64))


def _unsqueeze(data: Tensor, axes: Any) -> Tensor:
    rank = data.dim() + len(axes)
    return functools.reduce(torch.unsqueeze, sorted(axis % rank for axis in axes), data)


def _average_pool(X: Tensor, pads: Any, kernel_shape: Any, strides: Any, ceil_mode: int = 0, **_: Any) -> Tensor:
    """Average pooling with unequal padding, which does not count: the sums of the cells by their number."""
    pool: Function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_shape) - 1]
    padded = (_pad(part, [0, 0, *pads[: len(pads) // 2], 0, 0, *pads[len(pads) // 2 :]]) for part in (X, torch.ones_like(X[:1])))
    sums, counts = (pool(part, kernel_shape, strides, 0, bool(ceil_mode)) for part in padded)
    return sums / counts


def _is(size: Any, value: int) -> bool:
    """Whether a size is this number; a batch of any size is not."""
    return isinstance(size, int) and size == value


def _reshape(data: Tensor, shape: Any, allowzero: int = 0) -> Tensor:
    return data.reshape([data.shape[i] if _is(size, 0) and not allowzero else size for i, size in enumerate(shape)])


def _expand(input: Tensor, shape: Any) -> Tensor:
    rank = max(input.dim(), len(shape))
    own, wanted = ([1] * (rank - len(sizes)) + [*sizes] for sizes in (input.shape, shape))
    return input.expand([size if _is(had, 1) else had for had, size in zip(own, wanted, strict=True)])


def _concat(inputs: Any, axis: int) -> Tensor:
    """Joins tensors; one that is there once for all pictures, as a class token is, is repeated for each picture."""
    batch = next((part.shape[0] for part in inputs if not _is(part.shape[0], 1)), 1)
    if not _is(batch, 1) and axis % inputs[0].dim():
        inputs = [part.expand(batch, *part.shape[1:]) for part in inputs]
    return torch.cat(inputs, axis)


def _slice(data: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    for i, axis in enumerate(axes or range(len(starts))):
        step, end, size = steps[i] if steps else 1, ends[i], data.shape[axis]
        if step > 0:
            data = data[(slice(None),) * (axis % data.dim()) + (slice(starts[i], end, step),)]
        else:
            chosen = range(*slice(starts[i], end if end >= -size else None, step).indices(size))
            data = data.index_select(axis, torch.tensor([*chosen], dtype=torch.long, device=data.device))
    return data


def _gather(data: Tensor, indices: Any, axis: int) -> Tensor:
    if isinstance(indices, int):
        return data.select(axis, indices)
    axis, where = axis % data.dim(), torch.as_tensor(indices, device=data.device)
    picked = data.index_select(axis, where.flatten().long() % data.shape[axis])
    return picked.reshape(*data.shape[:axis], *where.shape, *data.shape[axis + 1 :])


def _pad(data: Tensor, pads: Any, constant_value: Any = 0.0, axes: Any = None, mode: str = "constant", **old: Any) -> Any:
    half = len(pads) // 2
    by_axis = {axis % data.dim(): (pads[i], pads[i + half]) for i, axis in enumerate(axes or range(half))}
    kind = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    pairs = [by_axis.get(axis, (0, 0)) for axis in reversed(range(data.dim()))]
    while kind != "constant" and pairs[-1] == (0, 0):
        pairs.pop()
    return F.pad(data, [size for pair in pairs for size in pair], kind, old.get("value", constant_value) or 0.0)


_LIKE_TORCH = ("align_corners", "pytorch_half_pixel")  # where an axis does not shrink to one cell


def _resize(X: Tensor, scales: Any = None, sizes: Any = None, mode: str = "nearest", **said: Any) -> Tensor:
    how, rounding = said.get("coordinate_transformation_mode", "asymmetric"), said.get("nearest_mode", "floor")
    axes = [axis % X.dim() for axis in said.get("axes") or range(X.dim())]
    given, before = dict(zip(axes, sizes or scales, strict=True)), dict(enumerate(X.shape))
    factors = None if sizes else [given.get(axis, 1.0) for axis in range(2, X.dim())]
    after = [given.get(i, before[i]) if sizes else math.floor(before[i] * given.get(i, 1.0)) for i in range(2, X.dim())]
    whole = all(size % before[i] == 0 for i, size in enumerate(after, start=2))
    corners = how == "align_corners"
    if mode == "nearest" and how == "asymmetric" and rounding == "floor":
        kind = "nearest"
    elif mode == "nearest" and how == "half_pixel" and (rounding == "round_prefer_ceil" or whole):
        kind = "nearest-exact" if "round" in rounding else ""
    elif mode != "nearest" and (how == "half_pixel" or (min(after) > 1 and (whole or not factors) and how in _LIKE_TORCH)):
        kind = "bicubic" if mode == "cubic" else ("linear", "bilinear", "trilinear")[X.dim() - 3]
    else:
        kind = ""
    if not kind:
        raise NotImplementedError(f"Resize with mode={mode}, {how}, {rounding} is not supported")
    return F.interpolate(X, None if factors else after, factors, kind, None if "nearest" in kind else corners)


def _quantize(x: Tensor, y_scale: Any, y_zero_point: Any = 0, *, limits: tuple[int, int], **_: Any) -> Tensor:
    """Rounds as the file does, in real numbers: clipped values have no gradient, the others as if not rounded."""
    clipped = x.clamp(*(y_scale * (limit - y_zero_point) for limit in limits))
    return clipped + ((clipped / y_scale).round() * y_scale - clipped).detach()


_NAMED_ALIKE = """Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round Sigmoid Sign
Sin Sinh Sqrt Tan Tanh IsNaN Add Sub Mul Pow Where MatMul Greater Less"""
_INPUTS: dict[str, Function] = {  # operators without attributes
    **{name: getattr(torch, name.lower()) for name in _NAMED_ALIKE.split()},
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "Equal": torch.eq,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "Div": lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Relu": F.relu,
    "HardSwish": F.hardswish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "PRelu": _prelu,
    "Expand": _expand,
    "Identity": lambda x: x,
}
_ALL: dict[str, Function] = {"Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum}
OPERATORS: dict[str, Function] = {
    **{name: _plain(function) for name, function in _INPUTS.items()},
    **{name: partial(_accumulated, function) for name, function in _ALL.items()},
    "Mean": lambda data_0: sum(data_0) / len(data_0),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _reduced(lambda data, axes, keep: data.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda data, axes, keep: data.square().sum(axes, keep).sqrt()),
    "ReduceSumSquare": _reduced(lambda data, axes, keep: data.square().sum(axes, keep)),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "Clip": lambda input, min=None, max=None: input if min is max is None else input.clamp(min, max),
    "LeakyRelu": lambda X, alpha: F.leaky_relu(X, alpha),
    "Elu": lambda X, alpha: F.elu(X, alpha),
    "Selu": lambda X, alpha, gamma: gamma * F.elu(X, alpha),
    "ThresholdedRelu": lambda X, alpha: F.threshold(X, alpha, 0.0),
    "HardSigmoid": lambda X, alpha, beta: (alpha * X + beta).clamp(0, 1),
    "Gelu": lambda X, approximate: F.gelu(X, approximate=approximate),
    "Softmax": lambda input, axis: input.softmax(axis),
    "Softmax-1": lambda input, axis: input.flatten(axis).softmax(axis).reshape(input.shape),
    "LogSoftmax": lambda input, axis: input.log_softmax(axis),
    "LogSoftmax-1": lambda input, axis: input.flatten(axis).log_softmax(axis).reshape(input.shape),
    "LRN": lambda X, size, alpha, beta, bias: F.local_response_norm(X, size, alpha, beta, bias),
    "LpNormalization": lambda input, axis, p: F.normalize(input, p, axis, 1e-30),
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": lambda input, scale, B, epsilon: F.instance_norm(input, weight=scale, bias=B, eps=epsilon),
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "Einsum": lambda Inputs, equation: torch.einsum(equation, *Inputs),
    "GlobalAveragePool": lambda X: X.mean(tuple(range(2, X.dim())), keepdim=True),
    "AveragePool": _average_pool,
    "GlobalMaxPool": lambda X: X.amax(tuple(range(2, X.dim())), keepdim=True),
    "Cast": lambda input, to, **_: _cast(input, to),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": lambda x, **_: x,
    "Reshape": _reshape,
    "Flatten": lambda input, axis: input.reshape(math.prod(input.shape[:axis]), -1),
    "Squeeze": lambda data, axes=None: data.squeeze(tuple(axes or range(1, data.dim()))),
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda data, perm=None: data.permute(perm or [*reversed(range(data.dim()))]),
    "Tile": lambda input, repeats: input.repeat(repeats),
    "Concat": _concat,
    "Split": lambda input, axis, outputs, split=None, **_: input.split(split or -(-input.shape[axis] // outputs), axis),
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": lambda data, indices, axis: data.gather(axis, torch.as_tensor(indices) % data.shape[axis]),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "ConstantOfShape": lambda input, value: torch.full(input, value.item()),
    "ArgMax": lambda data, axis, keepdims, **_: data.argmax(axis, bool(keepdims)),
    "TopK": lambda X, K, axis, largest=1, **_: X.topk(K if isinstance(K, int) else K[0], axis, bool(largest)),
}
