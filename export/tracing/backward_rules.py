"""Replaces ATen's backward operators, which ONNX lacks, by forward operators: one short function per rule.

A trace of the explanation (``make_fx``) contains backward operators. ``backward_rules`` is the decomposition table that
replaces them by convolutions, matrix products, comparisons and sums, which every ONNX runtime has. The rules define
gradients at inputs only, because parameters are frozen.

Runtimes are fastest at products with masks and matrices of zeros and ones. Such a product is NaN where zero meets an
infinite gradient, and PyTorch has zero there; so rules with a parameter ``poles`` use other operators where gradients
can be infinite.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
Rule = Callable[..., Any]
Windows = list[tuple[int, int]]  # the windows of pooling along one axis: first cell, and the cell after the last
_RULES: dict[Any, Rule] = {}


def rule(operator: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for an ATen operator overload.

    Raises:
        ValueError: the operator has a rule already.
    """

    def register(function: Rule) -> Rule:
        if operator in _RULES:
            raise ValueError(f"{operator} has a rule already")
        _RULES[operator] = function
        return function

    return register


def backward_rules(*, poles: bool = True) -> dict[Any, Rule]:
    """The decomposition table for ``make_fx``: operator overload to function.

    The table has the rules of this module, and torch's own decompositions of the operators that they serve well.

    Args:
        poles: whether gradients can be infinite, see ``export.tracing.poles``.
    """
    own = {
        operator: partial(function, poles=poles) if "poles" in inspect.signature(function).parameters else function
        for operator, function in _RULES.items()
    }
    return {**get_decompositions([getattr(aten, name) for name in _TORCHS_OWN.split()]), **own}


@rule(aten.convolution_backward.default)
def convolution_backward(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    _bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    _output_padding: list[int],
    groups: int,
    output_mask: list[bool],
    *,
    poles: bool,
) -> tuple[Tensor | None, None, None]:
    """dL/dx of a convolution.

    At stride 1 dL/dx is a convolution with the transposed, flipped kernel, which runtimes compute two to three times
    faster than a transposed convolution. The same convolution serves larger strides in two cases: depthwise
    convolutions take gradients with zeros between them, and kernels of one cell get the zeros afterwards. Every other
    case is a transposed convolution.

    Raises:
        NotImplementedError: the gradient at the weight or the bias is asked for.
    """
    if output_mask[1] or output_mask[2]:
        raise NotImplementedError("the gradient at weights")
    if transposed:
        found = aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)
        return found, None, None
    size, kernel = inputs.shape[2:], weight.shape[2:]
    reach = [dilation[i] * (kernel[i] - 1) for i in range(len(size))]
    around = [reach[i] - padding[i] for i in range(len(size))]
    strided, depthwise = any(step > 1 for step in stride), groups == inputs.shape[1] > 1
    small = all(cells == 1 for cells in kernel) and not any(padding)
    direct = not strided or (not poles and (depthwise or small))
    if len(size) != 2 or min(around) < 0 or not direct:
        missing = [
            size[i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1)
            for i in range(len(size))
        ]
        spread = aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, groups)
        return spread, None, None
    mirrored = _transposed_kernel(weight, groups)
    if strided and not small:
        gradient = _zeros_between(gradient, stride, [size[i] + reach[i] - 2 * around[i] for i in range(2)])
    found = aten.convolution(gradient, mirrored, None, [1, 1], around, dilation, False, [0, 0], groups)
    return _zeros_between(found, stride, list(size)) if strided and small else found, None, None


def _zeros_between(values: Tensor, stride: list[int], size: list[int]) -> Tensor:
    """(N, C, h, w) to (N, C, *size): value (i, j) goes to (i * stride, j * stride), all other cells are zero.

    A matrix product turns a row into ``stride`` rows, which takes runtimes a third of the time of padding every value.
    """
    height, width = values.shape[2:]
    single = torch.eye(width, dtype=values.dtype, device=values.device)[:, :, None]
    between = F.pad(single, (0, stride[1] - 1)).flatten(1)
    rows = F.pad(between, (0, (stride[0] - 1) * width * stride[1]))
    spread = (values @ rows).reshape(*values.shape[:2], height * stride[0], width * stride[1])
    return F.pad(spread, (0, size[1] - width * stride[1], 0, size[0] - height * stride[0]))


def _transposed_kernel(weight: Tensor, groups: int) -> Tensor:
    """(O, I/g, …) to (I, O/g, …), flipped in space: a constant, which runtimes fold when they load the graph."""
    outputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, outputs // groups, per_group, *kernel).transpose(1, 2)
    swapped = grouped.reshape(groups * per_group, outputs // groups, *kernel)
    return swapped if all(size == 1 for size in kernel) else swapped.flip(list(range(2, 2 + len(kernel))))


@rule(aten.threshold_backward.default)
def threshold_backward(gradient: Tensor, inputs: Tensor, threshold: float, *, poles: bool) -> Tensor:
    """dL/dx of ReLU."""
    return _gated(gradient, inputs > threshold, poles)


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(gradient: Tensor, inputs: Tensor, low: float, high: float, *, poles: bool) -> Tensor:
    """dL/dx of ReLU6 and Hardtanh, which is zero at both bounds, as in torch."""
    return _gated(gradient, (inputs > low) & (inputs < high), poles)


@rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(gradient: Tensor, inputs: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of ``clip(x / 6 + 1/2, 0, 1)``."""
    return _gated(gradient, (inputs > -3) & (inputs < 3), poles) / 6


def _gated(gradient: Tensor, gate: Tensor, poles: bool) -> Tensor:
    """The gradient where the gate is open, else zero; ONNX Runtime takes a third of ``Where``'s time for a product."""
    return torch.where(gate, gradient, torch.zeros_like(gradient)) if poles else gradient * gate.to(gradient.dtype)


@rule(aten.adaptive_max_pool2d_backward.default)
def adaptive_max_pool2d_backward(gradient: Tensor, inputs: Tensor, indices: Tensor) -> Tensor:
    """dL/dx of max pooling: gradients are added up at the indices of the maxima, the first index among equal maxima."""
    height, width = inputs.shape[2:]
    flat = torch.zeros_like(inputs).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).reshape(*inputs.shape[:2], height, width)


@rule(aten.max_pool2d_with_indices_backward.default)
def max_pool2d_backward(gradient: Tensor, inputs: Tensor, *options: Any) -> Tensor:
    """dL/dx of max pooling with windows of one size; the last option is the indices."""
    found: Tensor = adaptive_max_pool2d_backward(gradient, inputs, options[-1])
    return found


@rule(aten.adaptive_max_pool2d.default)
def adaptive_max_pool2d(inputs: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling itself, which ONNX lacks: the maxima over the cells of each window, and their indices."""
    width = inputs.shape[3]
    rows, columns = (_filled(inputs.shape[2 + i], output_size[i]) for i in range(2))
    cells = torch.tensor([[[y * width + x for y in row for x in column] for column in columns] for row in rows])
    chosen = inputs.flatten(2).index_select(2, cells.flatten())
    best, place = chosen.reshape(*inputs.shape[:2], *cells.shape).max(dim=-1)
    windows = torch.arange(cells.shape[0] * cells.shape[1]).reshape(cells.shape[:2])
    return best, cells.flatten()[windows * cells.shape[2] + place]


def _filled(size: int, count: int) -> list[list[int]]:
    """The cells of adaptive pooling's windows, filled up to the same number by repeating each window's first cell."""
    windows = [list(range(*window)) for window in _adaptive_windows(size, count)]
    most = max(map(len, windows))
    return [window[:1] * (most - len(window)) + window for window in windows]


def _adaptive_windows(size: int, count: int) -> Windows:
    """Window k of m covers the cells from floor(k·n/m) up to ceil((k+1)·n/m) of n."""
    return [(k * size // count, -(-(k + 1) * size // count)) for k in range(count)]


@rule(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    gradient: Tensor,
    inputs: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    _ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    *,
    poles: bool,
) -> Tensor:
    """dL/dx of average pooling: each cell gets the gradients of the windows that it lies in."""
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride) if len(stride) else kernel
    inside: list[Windows] = []
    padded: list[Windows] = []
    for i in range(2):
        size, starts = inputs.shape[2 + i], [k * stride[i] - padding[i] for k in range(gradient.shape[2 + i])]
        padded.append([(start, min(start + kernel[i], size + padding[i])) for start in starts])
        inside.append([(max(start, 0), min(stop, size)) for start, stop in padded[i]])
    return _spread(gradient, inputs, inside, padded if count_include_pad else inside, divisor_override, poles)


@rule(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(gradient: Tensor, inputs: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of adaptive average pooling."""
    windows = [_adaptive_windows(inputs.shape[2 + i], gradient.shape[2 + i]) for i in range(2)]
    return _spread(gradient, inputs, windows, windows, None, poles)


def _spread(
    gradient: Tensor, inputs: Tensor, inside: list[Windows], counted: list[Windows], divisor: int | None, poles: bool
) -> Tensor:
    """Spreads the gradient (N, C, m, n) of averages over m · n windows to the inputs (N, C, H, W).

    The windows of rows and of columns are ``inside`` the inputs; ``counted`` are the same windows with the padding that
    counts as cells. A ``divisor`` replaces the number of a window's cells.
    """
    rows, columns = ([stop - start for start, stop in windows] for windows in counted)
    counts = torch.tensor([[divisor or height * width for width in columns] for height in rows]).to(gradient)
    spread = gradient / counts
    for axis in (3, 2):
        spread = (_gathered if poles else _multiplied)(spread, inside[axis - 2], inputs.shape[axis], axis)
    return spread


def _multiplied(values: Tensor, windows: Windows, size: int, axis: int) -> Tensor:
    """Adds up the values of each cell's windows by a product with a constant matrix."""
    matrix = torch.tensor([[float(start <= cell < stop) for cell in range(size)] for start, stop in windows])
    return values @ matrix.to(values) if axis == 3 else matrix.to(values).transpose(0, 1) @ values


def _gathered(values: Tensor, windows: Windows, size: int, axis: int) -> Tensor:
    """Adds up the values of each cell's windows by choosing them, so that no value is multiplied by zero."""
    none = len(windows)
    padded = torch.cat([values, torch.zeros_like(values.narrow(axis, 0, 1))], axis)
    of_cell = [[k for k, (start, stop) in enumerate(windows) if start <= cell < stop] for cell in range(size)]
    turns = zip_longest(*of_cell, fillvalue=none)
    first, *others = (padded.index_select(axis, torch.tensor(turn)) for turn in turns)
    return sum(others, first)


def _pair(values: Sequence[int]) -> list[int]:
    return list(values) * 2 if len(values) == 1 else list(values)


_TORCHS_OWN = """
elu_backward gelu_backward hardswish_backward leaky_relu_backward mish_backward native_batch_norm_backward
native_group_norm_backward native_layer_norm_backward reflection_pad2d_backward roll softplus_backward
_softmax_backward_data select_backward sigmoid_backward silu_backward slice_backward tanh_backward
"""
