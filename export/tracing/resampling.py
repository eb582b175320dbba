"""Operators that are linear and separable by the axes of maps, as matrices: pooling by means, padding, resizing."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def resampled_backward(forward: Callable[..., Any], gradient: Tensor, *given: Any, poles: bool) -> Tensor:
    """dL/dx of an operator that is linear, and separable by the axes of maps (N, C, *size): pooling, padding, resizing.

    ``given`` are the inputs and options, or, of resizing, the output's size, the input's shape and options. An operator
    that is not separable raises NotImplementedError.
    """
    if isinstance(given[0], Tensor):
        size, options = list(given[0].shape[2:]), given[1:] or (gradient.shape[2:],)  # adaptive pooling has no options
    else:
        size, options = list(given[1][2:]), (given[0], *given[2:])
    for axis, matrix in enumerate(matrices(forward, size, *options), start=2):
        gradient = (gathered if poles else multiplied)(gradient, matrix, axis)
    return gradient


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
    for axis, matrix in enumerate(matrices(forward, list(inputs.shape[2:]), *options), start=2):
        inputs = multiplied(inputs, [list(column) for column in zip(*matrix, strict=True)], axis)
    return inputs


@_disable_current_modes()
def matrices(forward: Callable[..., Any], size: list[int], *options: Any) -> list[list[list[float]]]:
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
        made = multiplied(made, matrix.T.tolist(), axis)
    if not torch.allclose(made, forward(probe, *options)):
        raise NotImplementedError("an operator that mixes the axes of maps")
    return [matrix.tolist() for matrix in found]


def multiplied(values: Tensor, matrix: list[list[float]], axis: int) -> Tensor:
    """Turns the places of an axis, rows of a matrix, into its columns by a matrix product."""
    factor, last = torch.tensor(matrix, dtype=values.dtype), values.dim() - 1
    if axis == last - 1:
        return factor.transpose(0, 1) @ values
    return values @ factor if axis == last else (values.movedim(axis, last) @ factor).movedim(last, axis)


def gathered(values: Tensor, matrix: list[list[float]], axis: int) -> Tensor:
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
