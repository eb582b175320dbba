"""The explanation itself, in torch: one forward pass, then gradients down to the layers and to the input.

The torch engine runs it eagerly, and the explanation graph is a trace of it: there is no second definition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from handler.errors import Unprocessable
from handler.evidence import Needs
from handler.guided import Gates, find_gates, guided
from handler.hooks import captured
from handler.views import View


@dataclass(frozen=True)
class Tape:
    """One forward pass, recorded for as many backward passes as wanted."""

    scores: torch.Tensor  # (N, K), the logits
    pictures: torch.Tensor  # (N, 3, H, W)
    layers: dict[str, torch.Tensor]  # path to activation (N, C, h, w)
    gates: Gates | None  # where guided gradients are wanted
    saliency: bool  # whether the plain gradient at the input is wanted


@dataclass(frozen=True)
class Gradients:
    """Of one score, with respect to everything on the tape."""

    layers: dict[str, torch.Tensor]  # path to (N, C, h, w)
    guided: torch.Tensor | None  # (N, 3, H, W)
    saliency: torch.Tensor | None  # (N, 3, H, W)


def record(module: nn.Module, pictures: torch.Tensor, needs: Needs, views: Mapping[str, View] | None = None) -> Tape:
    """Runs the network once; gradients are recorded only as far down as ``needs`` wants them.

    Args:
        module: in eval mode.
        pictures: (N, 3, H, W), normalised.
        needs: what is wanted.
        views: of layers that have their channels elsewhere than (N, C, h, w).

    Raises:
        Unprocessable: a layer that does not run, or no ReLU to guide.
    """
    with captured(module, needs.layers, views) as kept:
        pictures = pictures.detach().requires_grad_(needs.guided or needs.saliency)
        scores = module(pictures.clone())  # a network may begin with an operation in place
    missing = [path for path in needs.layers if path not in kept]
    if missing:
        raise Unprocessable(f"layer {missing[0]!r} does not run in eval mode, so that it has no map")
    layers = {path: kept[path] for path in needs.layers}
    return Tape(scores, pictures, layers, find_gates(scores) if needs.guided else None, needs.saliency)


def differentiate(tape: Tape, score: torch.Tensor) -> Gradients:
    """The gradients of one scalar made of the tape's scores: the plain ones first, then the guided one.

    Raises:
        Unprocessable: a layer, or the input, that the score does not depend on.
    """
    wanted = {f"layer {path!r}": tensor for path, tensor in tape.layers.items()}
    if tape.saliency:
        wanted["the input"] = tape.pictures
    plain = _gradients(score, wanted)
    through_gates = None
    if tape.gates is not None:
        with guided(tape.gates):
            (through_gates,) = _gradients(score, {"the input": tape.pictures})
    return Gradients(
        dict(zip(tape.layers, plain, strict=False)),
        through_gates,
        plain[-1] if tape.saliency else None,
    )


def _gradients(score: torch.Tensor, wanted: dict[str, torch.Tensor]) -> Sequence[torch.Tensor]:
    if not wanted:
        return []
    found = torch.autograd.grad(score, list(wanted.values()), retain_graph=True, allow_unused=True)
    for name, gradient in zip(wanted, found, strict=True):
        if gradient is None:
            raise Unprocessable(f"the scores do not depend on {name}, so that it has no gradient")
    return found
