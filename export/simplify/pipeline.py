"""A network as it is exported: fewer and faster operators, the same scores and gradients up to rounding."""

import logging
from collections.abc import Callable

import torch
from torch import fx, nn

from export.simplify.attention import with_constants
from export.simplify.batch_norms import fold_batch_norms
from export.simplify.channel_padding import pad_channels
from export.simplify.channel_shuffles import fold_shuffles
from export.simplify.copying import copy_of
from export.simplify.flatten import flatten, output_of
from export.simplify.gates import move_gates
from handler.autograd.channel_layout import CHANNELS_FIRST, ChannelLayout
from handler.autograd.tape import Gradients, Tape, differentiate, record
from handler.errors import Unprocessable
from handler.explanation.evidence import Needs

logger = logging.getLogger(__name__)

_ALIKE = 1e-2  # relative RMS error; what rounding and flipped gates differ by, with room: exports are verified anyway


def simplified(
    module: nn.Module, layer: str, example: torch.Tensor, view: ChannelLayout = CHANNELS_FIRST
) -> tuple[nn.Module, str]:
    """A copy with batch norms folded, channels padded, shuffles folded, gates moved.

    A step that fails, or after which scores, evidence or the guided gradient of the example are others, is left out.

    Args:
        module: in eval mode; left as it is.
        layer: path of a layer whose own output matters.
        example: pictures (N, 3, H, W), N at least 2.
        view: of what the layer returns.

    Returns:
        The copy, and the path of the module in it that returns the layer's output.
    """
    best, path = copy_of(module).eval().requires_grad_(False), layer
    expected = _answers(best, path, view, example)
    steps: tuple[tuple[str, Callable[[nn.Module], nn.Module], str], ...] = (
        ("attention is not simplified", lambda one: with_constants(one, example), layer),
        ("batch norms are not folded", lambda one: fold_batch_norms(one, [layer]), layer),
        ("channels are not padded", lambda one: pad_channels(one, [layer]), layer),
        ("the network is not flat", lambda one: flatten(one, [layer]), output_of(layer)),
        ("shuffles are not folded", lambda one: _routed(one, example), output_of(layer)),
        ("gates are not moved", _gated, output_of(layer)),
    )
    for otherwise, step, then in steps:
        try:
            changed = step(best)
            _check_alike(_answers(changed, then, view, example), expected)
        except Exception as error:  # a forward that torch.fx cannot trace raises whatever it stumbles over
            logger.info("%s: %s", otherwise, error)
            continue
        best, path = changed, then
    return best, path


def _routed(network: nn.Module, example: torch.Tensor) -> nn.Module:
    changed = _flat_copy(network)
    fold_shuffles(changed, example)
    return changed


def _gated(network: nn.Module) -> nn.Module:
    changed = _flat_copy(network)
    move_gates(changed)
    return changed


def _flat_copy(network: nn.Module) -> fx.GraphModule:
    if not isinstance(network, fx.GraphModule):
        raise ValueError("only flat networks can be")
    return copy_of(network)


def _answers(module: nn.Module, layer: str, view: ChannelLayout, example: torch.Tensor) -> list[torch.Tensor]:
    """Scores, evidence at the layer and, where it is defined, the guided gradient, of each picture's top class."""
    try:
        tape, found = _explained(module, view, example, Needs((layer,), guided=True))
    except Unprocessable:
        tape, found = _explained(module, view, example, Needs((layer,)))
    answers = [tape.scores, tape.layers[layer], found.layers[layer]]
    return [one.detach() for one in (answers if found.guided is None else [*answers, found.guided])]


def _explained(module: nn.Module, view: ChannelLayout, example: torch.Tensor, needs: Needs) -> tuple[Tape, Gradients]:
    tape = record(module, example, needs, dict.fromkeys(needs.layers, view))
    return tape, differentiate(tape, tape.scores.max(dim=1).values.sum())


def _check_alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        error = float((one - other).norm() / other.norm().clamp(min=1e-30))
        if not error <= _ALIKE:
            raise ValueError(f"the answers would differ by {error:.1e}")
