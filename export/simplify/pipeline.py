"""Makes the copy of a network that is exported: fewer and faster operators, the same answers up to rounding."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass

import torch
from torch import fx, nn

from export.simplify.attention import with_constants
from export.simplify.convolutions import fold_batch_norms, pad_channels
from export.simplify.flatten import MARK, NotApplicable, copy_of, flatten, without_parametrizations
from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.tape import differentiate, record
from handler.errors import Unprocessable, in_one_line
from handler.explanation.evidence import Needs

logger = logging.getLogger(__name__)

# the largest relative RMS difference between the answers of a changed network and those before the change. Rounding and
# flipped gates make less; what else passes is found when the graph is verified
_ALIKE = 1e-2


@dataclass(frozen=True)
class Simplified:
    """A copy of a network."""

    network: nn.Module
    views: Mapping[str, ChannelLayout]  # by the paths of the modules in ``network`` that return the layers' outputs
    steps: tuple[str, ...]  # the steps that were applied, in words


def simplified(module: nn.Module, views: Mapping[str, ChannelLayout], example: torch.Tensor) -> Simplified:
    """A flat copy of a network in eval mode, with attention simplified, batch norms folded and channels padded.

    A step is left out if it does not fit the network, or if it changes scores, evidence or the guided gradient of the
    ``example``, pictures (N, C, H, W), N at least 2. ``views`` are the layers whose own output matters.
    """
    best, marked = without_parametrizations(copy_of(module).eval().requires_grad_(False)), views
    by_mark = {MARK.format(number): view for number, view in enumerate(views.values())}
    expected = _answers(best, views, example)
    steps: tuple[tuple[str, Callable[[nn.Module], nn.Module]], ...] = (
        ("attention simplified", lambda network: with_constants(network, example)),
        ("flattened", lambda network: flatten(network, *views)),
        ("batch norms folded", lambda network: rewritten(network, fold_batch_norms)),
        ("channels padded", lambda network: rewritten(network, pad_channels)),
    )
    done = []
    for name, step in steps:
        try:
            changed = step(best)
            then = by_mark if isinstance(changed, fx.GraphModule) else views
            _check_alike(changed, then, example, expected)
        except NotApplicable as why:
            logger.info("not %s: %s", name, why)
            continue
        best, marked = changed, then
        done.append(name)
    return Simplified(best, marked, tuple(done))


def rewritten(network: nn.Module, rewrite: Callable[[fx.GraphModule], int]) -> fx.GraphModule:
    """A copy of a network that ``rewrite`` changed in place; NotApplicable if it is not flat, or if nothing changed."""
    if not isinstance(network, fx.GraphModule):
        raise NotApplicable("the network is not flat, because an earlier step did not apply")
    changed = copy_of(network)
    if not rewrite(changed):
        raise NotApplicable("there is nothing to change")
    changed.graph.lint()
    changed.recompile()
    return changed


def _answers(module: nn.Module, views: Mapping[str, ChannelLayout], example: torch.Tensor) -> list[torch.Tensor]:
    """Scores, and for each picture's top class the evidence at the layers and the guided gradient, if it is defined."""
    try:
        tape = record(module, example, Needs(layers=tuple(views), guided=True), views)
    except Unprocessable:
        tape = record(module, example, Needs(layers=tuple(views)), views)
    found = differentiate(tape, tape.scores.max(dim=1).values.sum())
    answers = [tape.scores, *tape.layers.values(), *found.layers.values(), *found.at_input.values()]
    return [answer.detach() for answer in answers]


def _check_alike(
    changed: nn.Module, views: Mapping[str, ChannelLayout], example: torch.Tensor, expected: Sequence[torch.Tensor]
) -> None:
    try:
        with redirect_stderr(io.StringIO()):  # torch.fx prints the traceback of a flat network that fails
            answers = _answers(changed, views, example)
    except Exception as error:  # torch.fx takes values for constants that the network's own code computes anew
        raise NotApplicable(f"the changed network fails ({in_one_line(error)})") from error
    for found, wanted in zip(answers, expected, strict=True):
        difference = float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if not difference <= _ALIKE:
            raise NotApplicable(f"the answers would differ by {difference:.1e}")
