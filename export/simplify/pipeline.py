"""A network as it is exported: fewer and faster operators, the same scores and gradients up to rounding."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from export.simplify.applicable import NotApplicable
from export.simplify.attention import with_constants
from export.simplify.batch_norms import fold_batch_norms
from export.simplify.channel_padding import pad_channels
from export.simplify.channel_shuffles import fold_shuffles
from export.simplify.copying import copy_of
from export.simplify.flatten import flatten, output_of
from export.simplify.gates import move_gates
from handler.autograd.channel_layout import CHANNELS_FIRST, ChannelLayout
from handler.autograd.tape import Gradients, Tape, differentiate, record
from handler.errors import Unprocessable, in_one_line
from handler.explanation.evidence import Needs

logger = logging.getLogger(__name__)

_ALIKE = 1e-2  # relative RMS error; what rounding and flipped gates differ by, with room: exports are verified anyway


@dataclass(frozen=True)
class Simplified:
    """A copy of a network."""

    network: nn.Module
    layer: str  # path of the module in it that returns the layer's output
    steps: tuple[str, ...]  # what was done, in words


def simplified(
    module: nn.Module, layer: str, example: torch.Tensor, view: ChannelLayout = CHANNELS_FIRST
) -> Simplified:
    """A copy with batch norms folded, channels padded, shuffles folded, gates moved.

    A step is left out that does not fit the network, or after which scores, evidence or the guided gradient of the
    example are others.

    Args:
        module: in eval mode; left as it is.
        layer: path of a layer whose own output matters.
        example: pictures (N, 3, H, W), N at least 2.
        view: of what the layer returns.
    """
    best, path = copy_of(module).eval().requires_grad_(False), layer
    expected = _answers(best, path, view, example)
    steps: tuple[tuple[str, Callable[[nn.Module], nn.Module], str], ...] = (
        ("attention simplified", lambda network: with_constants(network, example), layer),
        ("batch norms folded", lambda network: fold_batch_norms(network, [layer]), layer),
        ("channels padded", lambda network: pad_channels(network, [layer]), layer),
        ("flattened", lambda network: flatten(network, [layer]), output_of(layer)),
        ("shuffles folded", lambda network: _shuffles_folded(network, example), output_of(layer)),
        ("gates moved", _gates_moved, output_of(layer)),
    )
    done = []
    for name, step, then in steps:
        try:
            changed = step(best)
            if not isinstance(changed, fx.GraphModule) and _outline(changed) == _outline(best):
                raise NotApplicable("there is nothing to change")
            _check_alike(_answers_of_changed(changed, then, view, example), expected)
        except NotApplicable as why:
            logger.info("not %s: %s", name, why)
            continue
        best, path = changed, then
        done.append(name)
    return Simplified(best, path, tuple(done))


def _shuffles_folded(network: nn.Module, example: torch.Tensor) -> nn.Module:
    changed = _flat_copy(network)
    if not fold_shuffles(changed, example):
        raise NotApplicable("there is no shuffle between convolutions")
    return changed


def _gates_moved(network: nn.Module) -> nn.Module:
    changed = _flat_copy(network)
    if not move_gates(changed):
        raise NotApplicable("there is no ReLU whose gate can move")
    return changed


def _outline(network: nn.Module) -> list[tuple[str, type, list[torch.Size]]]:
    """The modules with the shapes of their weights."""
    return [
        (path, type(part), [weight.shape for weight in part.parameters(recurse=False)])
        for path, part in network.named_modules()
    ]


def _flat_copy(network: nn.Module) -> fx.GraphModule:
    if not isinstance(network, fx.GraphModule):
        raise NotApplicable("the network is not flat, because an earlier step did not apply")
    return copy_of(network)


def _answers(module: nn.Module, layer: str, view: ChannelLayout, example: torch.Tensor) -> list[torch.Tensor]:
    """Scores, evidence at the layer and, where it is defined, the guided gradient, of each picture's top class."""
    try:
        tape, found = _explained(module, view, example, Needs((layer,), guided=True))
    except Unprocessable:
        tape, found = _explained(module, view, example, Needs((layer,)))
    answers = [tape.scores, tape.layers[layer], found.layers[layer]]
    return [one.detach() for one in (answers if found.guided is None else [*answers, found.guided])]


def _answers_of_changed(
    module: nn.Module, layer: str, view: ChannelLayout, example: torch.Tensor
) -> list[torch.Tensor]:
    try:
        return _answers(module, layer, view, example)
    except Exception as error:  # torch.fx takes values for constants that the network's own code computes anew
        raise NotApplicable(f"the changed network fails ({in_one_line(error)})") from error


def _explained(module: nn.Module, view: ChannelLayout, example: torch.Tensor, needs: Needs) -> tuple[Tape, Gradients]:
    tape = record(module, example, needs, dict.fromkeys(needs.layers, view))
    return tape, differentiate(tape, tape.scores.max(dim=1).values.sum())


def _check_alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        error = float((one - other).norm() / other.norm().clamp(min=1e-30))
        if not error <= _ALIKE:
            raise NotApplicable(f"the answers would differ by {error:.1e}")
