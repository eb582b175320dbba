"""The products of gradients with the input and with every bias, each reduced where it is found, to save memory."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from handler.autograd.backward_contract import alike_in_memory
from handler.autograd.differentiable import differentiable
from handler.errors import Unprocessable


def summed(module: nn.Module, pictures: Tensor, seeds: Tensor) -> list[Tensor]:
    """FullGrad's sums (N, h, w) for each size of layers, see ``fullgrad``; ``seeds`` (N, K) weight the scores."""
    sums: dict[torch.Size, Tensor] = {}

    def add(product: Tensor) -> None:
        values = product.detach().abs()
        values = values - values.amin((2, 3), keepdim=True)
        scaled = (values / (1e-7 + values.amax((2, 3), keepdim=True))).sum(1)
        sums[scaled.shape] = sums[scaled.shape] + scaled if scaled.shape in sums else scaled

    each_product(module, pictures, seeds, add)
    return list(sums.values())


def each_product(module: nn.Module, pictures: Tensor, seeds: Tensor, take: Callable[[Tensor], None]) -> None:
    """Gives ``take`` each product (N, C, h, w) of gradient and bias, or input; Unprocessable if there is none."""
    biases = {part: bias for part in module.modules() if (bias := _bias(part)) is not None}
    if not biases:
        raise Unprocessable("fullgrad needs a convolution with a bias or a batch norm, and this network has none")

    def watch(part: nn.Module, _inputs: Any, output: Tensor) -> None:
        # the hook stays with the layer's own output, also if an activation in place follows
        bias = biases[part][:, None, None]
        if output.requires_grad:
            output.register_hook(lambda gradient: take(gradient * bias))  # type: ignore[no-untyped-call]

    with ExitStack() as stack, differentiable(module):
        for part in biases:
            stack.callback(part.register_forward_hook(watch).remove)
        pictures = pictures.detach().requires_grad_()
        score = (module(pictures.clone()) * seeds).sum()
    with alike_in_memory(score):
        gradient = torch.autograd.grad(score, [pictures], allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise Unprocessable("the scores do not depend on the input, so that it has no gradient")
    take(gradient * pictures)


def _bias(part: nn.Module) -> Tensor | None:
    if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
        at_zero: Tensor = part(part.running_mean.new_zeros(1, part.num_features, 1, 1))
        return at_zero.detach().flatten()
    return part.bias.detach() if isinstance(part, nn.Conv2d) and part.bias is not None else None
