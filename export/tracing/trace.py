"""Traces a function of tensors, autograd included, into one graph of ATen operators with a symbolic batch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

FIXED_BATCH = (
    "it works on a batch of {} only: a loop over the pictures or int(x.shape[0]) fixes their number, "
    "which a graph leaves open; compute with the whole batch at once"
)


def trace_batch(
    function: Callable[..., Any], example: Sequence[Tensor], decompositions: Mapping[Any, Callable[..., Any]]
) -> fx.GraphModule:
    """Traces ``function(*example)``; the first dimension of all inputs is one symbol, all other sizes are numbers.

    The first dimension of the ``example`` is at least 2, because 1 is taken for a constant. ``decompositions`` are the
    functions that replace operator overloads. Raises ValueError if the function works on a batch of the example's size
    only, and whatever a function raises that branches on values.
    """
    shapes = ShapeEnv()
    fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)
    inputs = []
    for number, tensor in enumerate(example):
        sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * (tensor.dim() - 1)  # equal batches share their symbol
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        inputs.append(fake.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"input_{number}")))
    with ExitStack() as stack:
        # fused attention has no backward operator that could be replaced
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(_OtherWords())
        stack.enter_context(fake)
        stack.enter_context(enable_python_dispatcher())  # without it some operators refuse symbolic sizes
        graph = make_fx(function, decomposition_table=dict(decompositions), _allow_non_fake_inputs=True)(*inputs)
    batches: list[Any] = [tensor.shape[0] for tensor in inputs]
    if any(batch.node.expr.is_number for batch in batches):
        raise ValueError(FIXED_BATCH.format(batches[0]))
    return graph


class _OtherWords(TorchFunctionMode):
    """Global average pooling without ATen's strides, and affine grids whose gradient has any number of pictures."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        axes = {F.adaptive_avg_pool1d: (-1,), F.adaptive_avg_pool2d: (-2, -1)}.get(function)
        if axes and (*args, *kwargs.values())[1] in (1, (1,), [1], (1, 1), [1, 1]):
            return args[0].mean(axes, keepdim=True)
        return _affine_grid(*args, **kwargs) if function is F.affine_grid else function(*args, **kwargs)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places (N, *size, 2 or 3) of an affine grid, from -1 to 1 at corners or at their cells' outer edges."""
    axes = [torch.arange(1 - n, n, 2).to(theta) / (max(n - 1, 1) if align_corners else n) for n in size[2:]]
    places = torch.stack([*torch.meshgrid(*axes, indexing="ij")[::-1], torch.ones(size[2:]).to(theta)], -1)
    return (places.flatten(0, -2) @ theta.mT).reshape(-1, *size[2:], theta.shape[1])
