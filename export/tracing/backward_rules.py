"""Replaces ATen's backward operators, which ONNX lacks, by forward operators: one short function per rule.

The rules define gradients at inputs only, because parameters are frozen. Runtimes are fastest at products with masks
and matrices of zeros and ones. Such a product is NaN where zero meets an infinite gradient, and PyTorch has zero there;
so rules with a parameter ``poles`` use other operators where gradients can be infinite.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import global_decomposition_table

from export.tracing.gates import gated, is_open
from export.tracing.max_pooling import adaptive_max_pool2d, adaptive_max_pool2d_backward, max_pool_backward
from export.tracing.resampling import avg_pool, gathered, multiplied, resampled_backward

aten = torch.ops.aten
Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}


def rule(operator: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for an ATen operator overload; raises ValueError if the operator has one already."""
    if operator in _RULES:
        raise ValueError(f"{operator} has a rule already")
    return lambda function: _RULES.setdefault(operator, function)


def backward_rules(*, poles: bool = True) -> dict[Any, Rule]:
    """The decomposition table for ``make_fx``: operator overload to function.

    The table has the rules of this module, and torch's own of all other backward operators, and of one that ONNX lacks.
    ``poles`` says whether gradients can be infinite, see ``export.tracing.explanation.has_poles``.
    """
    own = {
        operator: partial(function, poles=poles) if "poles" in inspect.signature(function).parameters else function
        for operator, function in _RULES.items()
    }
    known = global_decomposition_table["post_autograd"]
    torchs = {operator: known[operator] for operator in known if "backward" in str(operator)}
    return {aten.roll.default: known[aten.roll.default], **torchs, **own}


@rule(aten.convolution_backward.default)
def convolution_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor, *options: Any, poles: bool
) -> tuple[Tensor | None, None, None]:
    """dL/dx of a convolution; the gradient at the weight or the bias is a NotImplementedError.

    At stride 1 dL/dx is a convolution with the transposed, flipped kernel, which runtimes compute two to three times
    faster than a transposed convolution. The same convolution serves larger strides in two cases: depthwise
    convolutions take gradients with zeros between them, and kernels of one cell get the zeros afterwards. Every other
    case is a transposed convolution.
    """
    _bias_sizes, stride, padding, dilation, transposed, _output_padding, groups, output_mask = options
    if output_mask[1] or output_mask[2]:
        raise NotImplementedError("the gradient at weights")
    if transposed:
        found = aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)
        return found, None, None
    size, kernel = inputs.shape[2:], weight.shape[2:]
    padding = padding * (len(size) // len(padding))  # "valid" is [0]
    axes = range(len(size))
    reach = [dilation[i] * (kernel[i] - 1) for i in axes]
    around = [reach[i] - padding[i] for i in axes]
    strided, depthwise = any(step > 1 for step in stride), groups == inputs.shape[1] > 1
    small = all(cells == 1 for cells in kernel) and not any(padding)
    direct = not strided or (not poles and (depthwise or small))
    if len(size) != 2 or min(around) < 0 or not direct:
        missing = [size[i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in axes]
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
    return gated(gradient, is_open(inputs - threshold if threshold else inputs), poles)


@rule(aten.clamp.default)
@rule(aten.clip.default)
def clamp(inputs: Tensor, low: float | None = None, high: float | None = None) -> Any:
    """What is cut off at 0 alone, as a ReLU, which more devices take than the operator ``Max``."""
    return F.relu(inputs) if (low, high) == (0, None) else NotImplemented


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(gradient: Tensor, inputs: Tensor, low: float, high: float, *, poles: bool) -> Tensor:
    """dL/dx of ReLU6 and Hardtanh, which is zero at both bounds, as in torch."""
    output = F.hardtanh(inputs, low, high)  # which the forward pass has: the input stays inside a fused convolution
    return gated(gradient, is_open(output - low if low else output) * is_open(high - output), poles)


@rule(aten.rrelu_with_noise.default)
def rrelu(inputs: Tensor, _noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_options: Any) -> Tensor:
    """RReLU in eval mode, whose slope is the mean of its bounds."""
    return F.leaky_relu(inputs, (lower + upper) / 2)


@rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(gradient: Tensor, inputs: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of ``clip(x / 6 + 1/2, 0, 1)``."""
    return gated(gradient, is_open(inputs + 3) * is_open(3 - inputs), poles) / 6


@rule(aten.cumprod.default)
def cumprod(inputs: Tensor, dim: int) -> Tensor:
    """The products up to each place of an axis, which ONNX lacks and the gradient of a product needs."""
    reached = torch.ones(inputs.shape[dim], inputs.shape[dim], dtype=torch.bool).tril()
    return torch.where(reached, inputs.movedim(dim, -1).unsqueeze(-2), 1.0).prod(-1).movedim(-1, dim)


@rule(aten.grid_sampler_2d_backward.default)
def grid_sampler_backward(
    gradient: Tensor, inputs: Tensor, grid: Tensor, mode: int, padding: int, aligned: bool, mask: list[bool]
) -> tuple[Tensor, Tensor]:
    """dL/dx and dL/d grid (N, h, w, 2) of bilinear sampling with zeros outside, by the four cells around each place."""
    if mode or padding:
        raise NotImplementedError("sampling other than bilinear, with zeros outside")
    size = torch.tensor([inputs.shape[3], inputs.shape[2]], dtype=grid.dtype)
    half = (size - 1 if aligned else size) / 2
    place = grid * half + (size - 1) / 2
    found, slope = torch.zeros_like(inputs).flatten(2), torch.zeros_like(grid)
    for corner in itertools.product((0.0, 1.0), repeat=2):
        cell = place.floor() + torch.tensor(corner)
        part = 1 - (place - cell).abs()
        inside = ((cell >= 0) & (cell < size)).all(-1).to(grid.dtype)
        inner = torch.minimum(cell.clamp(min=0), size - 1).to(torch.int64)
        index = (inner[..., 1] * inputs.shape[3] + inner[..., 0]).flatten(1)[:, None].expand(-1, inputs.shape[1], -1)
        found = found.scatter_add(2, index, (gradient * (part.prod(-1) * inside)[:, None]).flatten(2))
        value = (inputs.flatten(2).gather(2, index).reshape(gradient.shape) * gradient).sum(1) * inside
        slope = slope + (value[..., None] * part.flip(-1) * (2 * torch.tensor(corner) - 1))
    return found.reshape(inputs.shape), slope * half


@rule(aten.unfold_backward.default)
def unfold_backward(gradient: Tensor, sizes: list[int], dim: int, size: int, step: int, *, poles: bool) -> Tensor:
    """dL/dx of windows along one axis, whose cells are the last axis."""
    dim %= len(sizes)
    starts = [window * step for window in range(gradient.shape[dim])]
    matrix = [[float(cell == start + k) for cell in range(sizes[dim])] for start in starts for k in range(size)]
    return (gathered if poles else multiplied)(gradient.movedim(-1, dim + 1).flatten(dim, dim + 1), matrix, dim)


@rule(aten.index_put.default)
@rule(aten._unsafe_index_put.default)
def index_put(values: Tensor, indices: list[Tensor | None], terms: Tensor, accumulate: bool = False) -> Any:
    """Sums at indices by ScatterElements: the exporter's ScatterND loses terms on several threads of ONNX Runtime."""
    if not accumulate:
        return NotImplemented
    places = aten.index(torch.arange(values.numel()).reshape(values.shape), indices)
    return values.flatten().scatter_add(0, places.flatten(), terms.expand_as(places).flatten()).reshape(values.shape)


@rule(aten.index_add.default)
def index_add(values: Tensor, axis: int, index: Tensor, terms: Tensor, alpha: float = 1) -> Any:
    """Sums at the indices of one axis."""
    return aten.index_put(values, [None] * (axis % values.dim()) + [index], terms * alpha, True)


for _forward in (F.hardtanh, F.hardswish):  # in place, for each of which the exporter takes a tenth of a second
    _copied_back = partial(lambda forward, values, *given: values.copy_(forward(values, *given)), _forward)
    rule(getattr(aten, f"{_forward.__name__}_").default)(_copied_back)
_POOLING: dict[Any, Rule] = {
    aten.adaptive_max_pool2d.default: adaptive_max_pool2d,
    aten.adaptive_max_pool2d_backward.default: adaptive_max_pool2d_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.max_pool3d_with_indices_backward.default: partial(max_pool_backward, count=3),
    aten.avg_pool2d.default: avg_pool,
    aten.avg_pool3d.default: avg_pool,
}
for _operator, _function in _POOLING.items():
    rule(_operator)(_function)
for _forward in (
    *(aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
    *(aten.replication_pad2d, aten.replication_pad3d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa),
    *(aten.upsample_nearest2d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d),
):
    rule(getattr(aten, f"{_forward.__name__}_backward").default)(partial(resampled_backward, _forward.default))
