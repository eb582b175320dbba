"""Replaces ATen's backward operators, which ONNX lacks, by forward operators: one short function per rule.

The rules define gradients at inputs only, because parameters are frozen. Runtimes are fastest at products with masks
and matrices of zeros and ones. Such a product is NaN where zero meets an infinite gradient, and PyTorch has zero there;
so rules with a parameter ``poles`` use other operators where gradients can be infinite.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import global_decomposition_table
from torch.utils._python_dispatch import _disable_current_modes

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
    return _gated(gradient, _is_open(inputs - threshold if threshold else inputs), poles)


@rule(aten.clamp.default)
@rule(aten.clip.default)
def clamp(inputs: Tensor, low: float | None = None, high: float | None = None) -> Any:
    """What is cut off at 0 alone, as a ReLU, which more devices take than the operator ``Max``."""
    return F.relu(inputs) if (low, high) == (0, None) else NotImplemented


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(gradient: Tensor, inputs: Tensor, low: float, high: float, *, poles: bool) -> Tensor:
    """dL/dx of ReLU6 and Hardtanh, which is zero at both bounds, as in torch."""
    output = F.hardtanh(inputs, low, high)  # which the forward pass has: the input stays inside a fused convolution
    return _gated(gradient, _is_open(output - low if low else output) * _is_open(high - output), poles)


@rule(aten.rrelu_with_noise.default)
def rrelu(inputs: Tensor, _noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_options: Any) -> Tensor:
    """RReLU in eval mode, whose slope is the mean of its bounds."""
    return F.leaky_relu(inputs, (lower + upper) / 2)


@rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(gradient: Tensor, inputs: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of ``clip(x / 6 + 1/2, 0, 1)``."""
    return _gated(gradient, _is_open(inputs + 3) * _is_open(3 - inputs), poles) / 6


def _is_open(values: Tensor) -> Tensor:
    """1 where a value is above 0, else 0; devices that compare no numbers can multiply and clip them."""
    return F.hardtanh(values * torch.finfo(values.dtype).max, 0.0, 1.0)


def _gated(gradient: Tensor, gate: Tensor, poles: bool) -> Tensor:
    """The gradient where the gate is 1, else zero; ONNX Runtime takes a third of ``Where``'s time for a product."""
    return torch.where(gate > 0, gradient, torch.zeros_like(gradient)) if poles else gradient * gate


@rule(aten.adaptive_max_pool2d_backward.default)
def adaptive_max_pool2d_backward(gradient: Tensor, inputs: Tensor, indices: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of adaptive max pooling, whose windows are those of max pooling where the sizes divide."""
    if kernel := _divided(inputs, gradient.shape[2:]):
        given = gradient, inputs, kernel, kernel, [0, 0], [1, 1], False, indices
        return cast(Tensor, max_pool_backward(*given, poles=poles))
    flat = torch.zeros_like(inputs).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).reshape(inputs.shape)


@rule(aten.max_pool2d_with_indices_backward.default)
@rule(aten.max_pool3d_with_indices_backward.default)
def max_pool_backward(gradient: Tensor, inputs: Tensor, kernel: list[int], *options: Any, poles: bool) -> Tensor:
    """dL/dx of max pooling, one axis after the other, without indices, which runtimes are slow to find or lack.

    Of equal maxima the first has the gradient, row by row, as in torch: that of the first row, and there of the first
    column. Rows are looked at after the maxima of the columns are known.
    """
    (stride, *steps, ceil, _indices), count = options, inputs.dim() - 2
    windows = [(*of, *of[-1:] * (count - len(of))) for of in (kernel, stride or kernel, *steps)]
    pool = aten.max_pool2d_with_indices if count == 2 else aten.max_pool3d_with_indices
    pooled = [inputs]
    for axis in reversed(range(1, count)):
        alone = [
            [of[axis] if one == axis else unit for one in range(count)]
            for of, unit in zip(windows, _ALONE, strict=True)
        ]
        pooled.append(pool(pooled[-1], *alone, ceil)[0])
    pooled.append(pool(inputs, *windows, ceil)[0])  # as in the forward pass
    for axis, window in enumerate(zip(*windows, strict=True)):
        gradient = _at_first_maxima(gradient, pooled[-axis - 2], pooled[-axis - 1], axis + 2, window, poles)
    return gradient


_ALONE = 1, 1, 0, 1  # kernel, stride, padding and dilation of an axis that is not pooled


def _at_first_maxima(
    gradient: Tensor, values: Tensor, maxima: Tensor, axis: int, window: tuple[int, ...], poles: bool
) -> Tensor:
    """dL/d values of the maxima of windows along one axis; a window is kernel, stride, padding and dilation."""
    kernel, stride, padding, dilation = window
    count, size, inner = maxima.shape[axis], values.shape[axis], [0, 0] * (values.dim() - 1 - axis)
    behind = (count - 1) * stride + (kernel - 1) * dilation + 1 - padding - size
    padded = F.pad(values, [*inner, padding, max(behind, 0)], value=torch.finfo(values.dtype).min)
    rows = -(-size // stride)
    lanes: list[list[Tensor]] = [[] for _ in range(stride)]  # cells of the same remainder by the stride
    for cell in range(kernel):
        part, first = gradient, cell * dilation
        if cell + 1 < kernel:  # the last cell has what is left
            lower = _is_open(maxima - aten.slice(padded, axis, first, first + (count - 1) * stride + 1, stride))
            gradient = _gated(part, lower, poles)
            part = _gated(part, 1 - lower, poles) if poles else part - gradient
        row, lane = divmod(first - padding, stride)
        above, before = min(max(-row, 0), count), min(max(row, 0), rows)
        kept = part.narrow(axis, above, max(min(count - above, rows - before), 0))
        around = [*inner, before, rows - before - kept.shape[axis]]
        lanes[lane].append(F.pad(kept, around) if any(around) else kept)
    none = torch.zeros_like(lanes[-padding % stride][0])  # the lane of the first cell
    sums = [sum(parts[1:], parts[0]) if parts else none for parts in lanes]
    return torch.stack(sums, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, size)


def _divided(inputs: Tensor, output_size: Sequence[int]) -> list[int]:
    """The kernel of the max pooling that adaptive max pooling is, or nothing."""
    size = inputs.shape[2:]
    return [] if size[0] % output_size[0] or size[1] % output_size[1] else [size[i] // output_size[i] for i in range(2)]


@rule(aten.adaptive_max_pool2d.default)
def adaptive_max_pool2d(inputs: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling itself, which ONNX lacks: the maxima over the cells of each window, and their indices."""
    if kernel := _divided(inputs, output_size):
        return cast(tuple[Tensor, Tensor], aten.max_pool2d_with_indices(inputs, kernel))
    width = inputs.shape[3]
    rows, columns = (_filled(inputs.shape[2 + i], output_size[i]) for i in range(2))
    cells = torch.tensor([[[y * width + x for y in row for x in column] for column in columns] for row in rows])
    chosen = inputs.flatten(2).index_select(2, cells.flatten())
    best, place = chosen.reshape(*inputs.shape[:2], *cells.shape).max(dim=-1)
    windows = torch.arange(cells.shape[0] * cells.shape[1]).reshape(cells.shape[:2])
    return best, cells.flatten()[windows * cells.shape[2] + place]


def _filled(size: int, count: int) -> list[list[int]]:
    """The cells of adaptive pooling's windows, floor(k·n/m) to ceil((k+1)·n/m) of n, filled up by their first cells."""
    windows = [list(range(k * size // count, -(-(k + 1) * size // count))) for k in range(count)]
    most = max(map(len, windows))
    return [window[:1] * (most - len(window)) + window for window in windows]


def _resampled(forward: Rule, gradient: Tensor, *given: Any, poles: bool) -> Tensor:
    """dL/dx of an operator that is linear, and separable by the axes of maps (N, C, *size): pooling, padding, resizing.

    ``given`` are the inputs and options, or, of resizing, the output's size, the input's shape and options. An operator
    that is not separable raises NotImplementedError.
    """
    if isinstance(given[0], Tensor):
        size, options = list(given[0].shape[2:]), given[1:] or (gradient.shape[2:],)  # adaptive pooling has no options
    else:
        size, options = list(given[1][2:]), (given[0], *given[2:])
    for axis, matrix in enumerate(_matrices(forward, size, *options), start=2):
        gradient = (_gathered if poles else _multiplied)(gradient, matrix, axis)
    return gradient


for _forward in (
    *(aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
    *(aten.replication_pad2d, aten.replication_pad3d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa),
    *(aten.upsample_nearest2d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d),
):
    _backward = getattr(aten, f"{_forward.__name__}_backward")
    rule(_backward.default)(partial(_resampled, _forward.default))


@rule(aten.avg_pool2d.default)
@rule(aten.avg_pool3d.default)
def avg_pool(inputs: Tensor, *options: Any) -> Any:
    """Average pooling with another divisor, or with windows beyond the last cells; all else is the operator itself.

    The exporter ignores the divisor, and runtimes average such windows in ways of their own.
    """
    forward = aten.avg_pool2d if inputs.dim() == 4 else aten.avg_pool3d
    usual: tuple[Any, ...] = ([], [0] * 3, False, True, None)
    kernel, stride, padding, ceil, _, divisor = (*options, *usual[len(options) - 1 :])
    steps = zip(inputs.shape[2:], kernel, stride or kernel, padding, strict=False)
    beyond = ceil and any((size + 2 * pad - window) % step for size, window, step, pad in steps)
    if divisor is None and not beyond:
        return NotImplemented
    for axis, matrix in enumerate(_matrices(forward, list(inputs.shape[2:]), *options), start=2):
        inputs = _multiplied(inputs, [list(column) for column in zip(*matrix, strict=True)], axis)
    return inputs


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
    starts = [window * step for window in range(gradient.shape[dim])]
    matrix = [[float(cell == start + k) for cell in range(sizes[dim])] for start in starts for k in range(size)]
    return (_gathered if poles else _multiplied)(gradient.movedim(-1, dim + 1).flatten(dim, dim + 1), matrix, dim)


@_disable_current_modes()
def _matrices(forward: Rule, size: list[int], *options: Any) -> list[list[list[float]]]:
    """For each axis the matrix (outputs, inputs) of a separable operator, which single lines of ones show."""
    whole = forward(torch.ones(1, 1, *size, dtype=torch.float64), *options)[0, 0]
    centre, found = tuple(count // 2 for count in whole.shape), []
    for axis, count in enumerate(size):
        shape = [count, 1, *(count if other == axis else 1 for other in range(len(size)))]
        lines = torch.eye(count, dtype=torch.float64).reshape(shape).expand(count, 1, *size).contiguous()
        found.append(forward(lines, *options)[(slice(None), 0, *centre[:axis], slice(None), *centre[axis + 1 :])].T)
    found[0] = found[0] / whole[centre] ** (len(size) - 1)
    probe = made = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for axis, matrix in enumerate(found, start=2):
        made = _multiplied(made, matrix.T.tolist(), axis)
    if not torch.allclose(made, forward(probe, *options)):
        raise NotImplementedError("an operator that mixes the axes of maps")
    return [matrix.tolist() for matrix in found]


def _multiplied(values: Tensor, matrix: list[list[float]], axis: int) -> Tensor:
    """Turns the places of an axis, rows of a matrix, into its columns by a matrix product."""
    factor, last = torch.tensor(matrix, dtype=values.dtype), values.dim() - 1
    if axis == last - 1:
        return factor.transpose(0, 1) @ values
    return values @ factor if axis == last else (values.movedim(axis, last) @ factor).movedim(last, axis)


def _gathered(values: Tensor, matrix: list[list[float]], axis: int) -> Tensor:
    """The same by choosing places, so that no value is multiplied by zero."""
    padded = torch.cat([values, torch.zeros_like(values.narrow(axis, 0, 1))], axis)
    of_columns = [[(row, value) for row, value in enumerate(column) if value] for column in zip(*matrix, strict=True)]
    parts = []
    for turn in itertools.zip_longest(*of_columns, fillvalue=(len(matrix), 1.0)):
        rows, factors = zip(*turn, strict=True)
        shape = [len(factors) if other == axis else 1 for other in range(values.dim())]
        factor = torch.tensor(factors, dtype=values.dtype).reshape(shape)
        parts.append(padded.index_select(axis, torch.tensor(rows)) * factor)
    return sum(parts[1:], parts[0])
