"""The explanation in torch, which the torch engine runs, and of which the explanation graph is a trace.

FullGrad is no part of the graph: products of gradients with the input and with every bias are summed as they are found.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.autograd.differentiable import differentiable
from handler.autograd.graph import Node, gradients_at
from handler.autograd.guided import find_rectifiers, guided
from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout, captured
from handler.errors import Unprocessable
from handler.explanation.evidence import CURVATURE, Needs


@dataclass(frozen=True, kw_only=True)
class Tape:
    """A forward pass, recorded for any number of backward passes."""

    scores: Tensor  # (N, K), the logits
    pictures: Tensor  # (N, C, H, W)
    runs: dict[str, list[Tensor]]  # module path to the activations (N, C, h, w) of the layer's runs
    rectifiers: list[Node]  # for guided gradients; empty if none are wanted
    coverage: str | None  # how many activations are guided, where guided gradients are wanted
    needs: Needs

    @property
    def layers(self) -> dict[str, Tensor]:
        """Module path to activation (N, C, h, w); the channels of all runs of a layer are joined."""
        return {path: _all_channels(runs) for path, runs in self.runs.items()}


@dataclass(frozen=True)
class Gradients:
    """The gradients of a score at the layers and at the input."""

    layers: dict[str, Tensor]  # module path to (N, C, h, w), channels as in ``Tape.layers``
    curvature: dict[str, Tensor]  # module path to the score's Hessian times the activation; empty if not wanted
    at_input: dict[str, Tensor]  # "guided" and "saliency" to (N, C, H, W), as far as they are wanted


def record(module: nn.Module, pictures: Tensor, needs: Needs, views: Mapping[str, ChannelLayout] | None = None) -> Tape:
    """Runs the network, in eval mode, once on normalised pictures (N, C, H, W); views are as in ``Network``.

    Autograd records no more of it than ``needs`` asks for. Unprocessable are layers that run more or fewer times than
    their layout says, and guided gradients of a network without a ReLU.
    """
    views = views or {}
    # fused attention has no second derivative
    plain_attention = sdpa_kernel(SDPBackend.MATH) if needs.beside == CURVATURE else nullcontext()
    with captured(module, needs.layers, views) as kept, differentiable(module), plain_attention:
        pictures = pictures.detach().requires_grad_(needs.guided or needs.saliency)
        scores = module(pictures.clone())  # a network may begin with an operation in place
    for path in needs.layers:
        found, known = len(kept.get(path, ())), views.get(path, CHANNELS_FIRST).counted
        if not found:
            raise Unprocessable(f"layer {path!r} does not run in eval mode, so that it has no map")
        if found != known:
            raise Unprocessable(f"layer {path!r} runs {found} times for this picture and has a map if it runs {known}")
    rectifiers, coverage = find_rectifiers(scores) if needs.guided else ([], None)
    runs = {path: kept[path] for path in needs.layers}
    return Tape(scores=scores, pictures=pictures, runs=runs, rectifiers=rectifiers, coverage=coverage, needs=needs)


def differentiate(tape: Tape, score: Tensor) -> Gradients:
    """The gradients of a scalar of the tape's scores; Unprocessable if it does not depend on a layer or the input."""
    wanted = [(f"layer {path!r}", run) for path, runs in tape.runs.items() for run in runs]
    if tape.needs.saliency:
        wanted.append(("the input", tape.pictures))
    at_input: dict[str, Tensor] = {}
    again = tape.needs.beside == CURVATURE
    plain = iter(_gradients(score, wanted, again=again))
    by_layer = {path: [next(plain) for _ in runs] for path, runs in tape.runs.items()}
    if tape.needs.guided:
        with guided(tape.rectifiers):
            (at_input["guided"],) = _gradients(score, [("the input", tape.pictures)])
    if tape.needs.saliency:
        at_input["saliency"] = next(plain)
    curved = {path: _curvature(tape.runs[path], by_layer[path]) for path in by_layer if again}
    layers, curvature = ({path: _all_channels(runs) for path, runs in by.items()} for by in (by_layer, curved))
    return Gradients(layers, curvature, at_input)


def _curvature(runs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The score's Hessian with respect to a layer's activations, times the activations."""
    products = [(gradient * run.detach()).sum() for gradient, run in zip(gradients, runs, strict=True)]
    found = gradients_at(runs, torch.stack(products).sum())
    # the score may be linear in the activations
    return [torch.zeros_like(run) if one is None else one for run, one in zip(runs, found, strict=True)]


def _gradients(score: Tensor, wanted: Sequence[tuple[str, Tensor]], *, again: bool = False) -> Sequence[Any]:
    found = gradients_at([tensor for _, tensor in wanted], score, again=again)
    for (name, _), gradient in zip(wanted, found, strict=True):
        if gradient is None:
            raise Unprocessable(f"the scores do not depend on {name}, so that it has no gradient")
    return found


def _all_channels(runs: Sequence[Tensor]) -> Tensor:
    return runs[0] if len(runs) == 1 else torch.cat(list(runs), dim=1)


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
    (gradient,) = _gradients(score, [("the input", pictures)])
    take(gradient * pictures)


def _bias(part: nn.Module) -> Tensor | None:
    if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
        at_zero: Tensor = part(part.running_mean.new_zeros(1, part.num_features, 1, 1))
        return at_zero.detach().flatten()
    return part.bias.detach() if isinstance(part, nn.Conv2d) and part.bias is not None else None
