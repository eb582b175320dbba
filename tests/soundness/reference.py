"""Scores and evidence by plain autograd in float64, one picture at a time, without any of the product's code.

Batch norms are spelled out: PyTorch's own backward of them is wrong on the CPU for one picture whose gradient arrives
in the strides of transposed tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils.checkpoint import CheckpointFunction

from tests.soundness.layout import Layout
from tests.zoo.plain_autograd import GuidedReLUs

Change = Callable[[Tensor], Tensor]  # of the upright cells (1, C, h, w)


@dataclass(frozen=True)
class Truth:
    """Of one picture and one class; None where autograd reaches nothing."""

    scores: Tensor  # (K,)
    activation: Tensor  # (C, h, w), of several runs (runs * C, h, w)
    gradient: Tensor | None
    saliency: Tensor | None  # (3, H, W)


class Reference:
    """A copy of a network, asked about one layer."""

    def __init__(self, module: nn.Module, layer: str, layout: Layout, picture: Tensor, dtype: torch.dtype) -> None:
        """Takes a copy of the network, and runs it once on (1, 3, H, W).

        Raises:
            Exception: whatever a network raises that cannot compute in ``dtype``.
        """
        self.layer, self.layout, self.dtype = layer, layout, dtype
        self.module = module.to(dtype)
        with torch.no_grad(), self._kept() as kept:
            self._run(picture.to(dtype))
        self.runs = len(kept)  # how often the layer runs for a picture
        self.has_others = self.layout.others(kept[-1])  # whether tokens stand beside the cells

    def truths(self, picture: Tensor, targets: Sequence[int]) -> list[Truth]:
        """The definition: each score's gradient at the layer's cells and at the picture (1, 3, H, W)."""
        picture = picture.to(self.dtype).clone().requires_grad_()
        with _plainly(), self._kept() as outputs:
            scores = self._run(picture)
            kept = self._told(list(outputs))
            found = [_gradients(scores[0, target], [*kept, picture]) for target in targets]
        return [self._truth(scores[0].detach(), [one.detach() for one in kept], its) for its in found]

    def _truth(self, scores: Tensor, kept: list[Tensor], gradients: list[Tensor | None]) -> Truth:
        *layer, saliency = gradients
        reached = [one for one in layer if one is not None]
        gradient = self._cells(reached) if layer and len(reached) == len(layer) else None
        return Truth(scores, self._cells(kept), gradient, None if saliency is None else saliency[0])

    def guided(self, picture: Tensor, targets: Sequence[int]) -> tuple[list[Tensor | None], int]:
        """The gradients at the picture with every ReLU guided, and how many ReLUs there are."""
        picture = picture.to(self.dtype).clone().requires_grad_()
        with _plainly(), GuidedReLUs() as mode:
            scores = self._run(picture)
            found = [_gradients(scores[0, target], [picture])[0] for target in targets]
        return [None if one is None else one[0] for one in found], mode.count

    def scores(self, picture: Tensor, change: Change | None = None) -> Tensor:
        """(K,), with the layer's cells changed."""
        with torch.no_grad(), _plainly(), self._changed(change):
            return self._run(picture.to(self.dtype))[0]

    def recorded_scores(self, picture: Tensor) -> Tensor:
        """(1, K), with the autograd graph of the network's own operators."""
        return self._run(picture.to(self.dtype).clone().requires_grad_())

    def bypass(self, picture: Tensor, target: int) -> float:
        """How much of the gradient at the picture does not come through the layer's cells, as a part of its norm."""
        (whole,) = (one.saliency for one in self.truths(picture, [target]))
        picture = picture.to(self.dtype).clone().requires_grad_()
        with _plainly(), self._changed(Tensor.detach):
            (left,) = _gradients(self._run(picture)[0, target], [picture])
        if whole is None or left is None:
            return 0.0
        return float(left.norm() / whole.norm().clamp(min=1e-300))

    def changes(self, base: Tensor, pictures: Tensor) -> Tensor:
        """How much each cell changes from ``base`` (1, 3, H, W) to each of (P, 3, H, W): (P, h, w)."""
        first = self._activation(base)
        return torch.stack([(self._activation(one[None]) - first).square().sum(0).sqrt() for one in pictures])

    def _activation(self, picture: Tensor) -> Tensor:
        with torch.no_grad(), self._kept() as kept:
            self._run(picture.to(self.dtype))
        return self._cells(self._told(kept))

    def _run(self, pictures: Tensor) -> Tensor:
        return self.module(pictures.clone())

    def _cells(self, outputs: list[Tensor]) -> Tensor:
        """(runs * C, h, w), of the runs that count."""
        runs = zip(outputs, self.layout.counted, strict=True)
        return torch.cat([self.layout.upright(self.layout.cells(one), run)[0] for one, run in runs])

    def _told(self, outputs: list[Tensor]) -> list[Tensor]:
        """Of all runs those that count."""
        return [outputs[run] for run in self.layout.counted]

    @contextmanager
    def _kept(self) -> Iterator[list[Tensor]]:
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            kept.append(self.layout.tensor(output).clone())
            return self.layout.replaced(output, kept[-1].clone())

        hook = self.module.get_submodule(self.layer).register_forward_hook(keep)
        try:
            yield kept
        finally:
            hook.remove()

    @contextmanager
    def _changed(self, change: Change | None) -> Iterator[None]:
        run = 0

        def put(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            nonlocal run
            tensor = self.layout.tensor(output).clone()
            if run in self.layout.counted and change:
                cells = self.layout.cells(tensor)
                cells.copy_(self.layout.upright(change(self.layout.upright(cells, run)), run))
            run += 1
            return self.layout.replaced(output, tensor)

        hook = self.module.get_submodule(self.layer).register_forward_hook(put) if change else None
        try:
            yield
        finally:
            if hook:
                hook.remove()


def _gradients(score: Tensor, wanted: list[Tensor]) -> list[Tensor | None]:
    if not score.requires_grad:
        return [None] * len(wanted)
    reached = [one for one in wanted if one.requires_grad]
    found = iter(torch.autograd.grad(score, reached, allow_unused=True, retain_graph=True))
    return [next(found) if one.requires_grad else None for one in wanted]


def _saving_nothing(*_arguments: Any, **_options: Any) -> Iterator[None]:
    yield


@contextmanager
def _plainly() -> Iterator[None]:
    """Batch norms are spelled out, and what saves memory in training is left out."""
    once = mock.patch.object(CheckpointFunction, "apply", lambda run, _preserve, *inputs: run(*inputs))
    # of the other kind: it saves nothing around what it runs
    and_once = mock.patch.object(checkpoint, "_checkpoint_without_reentrant_generator_impl", _saving_nothing)
    # gradients pass what its author closed to them to save memory
    opened = [
        mock.patch.object(kind, name, return_value=None)
        for kind in (torch.no_grad, torch.inference_mode)
        for name in ("__enter__", "__exit__")
    ]
    with _BatchNorms(), once, and_once, ExitStack() as stack:
        for one in opened:
            stack.enter_context(one)
        yield


class _BatchNorms(TorchFunctionMode):
    """Batch norms in elementary operations."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if function is torch.batch_norm:
            inputs, weight, bias, mean, var, training, momentum, eps, *_ = args
            return _batch_norm(inputs, mean, var, weight, bias, training, momentum, eps)
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    shape = [1, -1, *[1] * (input.dim() - 2)]
    if training or running_mean is None or running_var is None:
        axes = [axis for axis in range(input.dim()) if axis != 1]
        running_mean, running_var = input.mean(axes), input.var(axes, correction=0)
    out = (input - running_mean.view(shape)) * (running_var.view(shape) + eps).rsqrt()
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)
