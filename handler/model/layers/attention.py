"""Finds the attention of vision transformers by running the network: its blocks, and which tokens are cells.

Maps of attention multiply the attention of all blocks, or average over them. So all blocks must attend between the same
tokens, one block behind the other, and every path to the scores must go through each block.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from handler.autograd.attention import AttentionLayout, attend, attention_nodes
from handler.autograd.channel_layout import ChannelLayout
from handler.model.layers.looking import Look
from handler.model.layers.observing import Place


def find_attention(look: Look, views: Mapping[str, ChannelLayout]) -> AttentionLayout | str:
    """Where a network's attention is, or why there are no maps of attention.

    Args:
        look: a run of the network.
        views: the layouts of the layers with maps, by module path.
    """
    nodes = attention_nodes(look.scores)
    if not nodes:
        return "there is no attention in this network"
    sizes = {tuple(node._saved_result.shape[-2:]) for node in nodes}
    tokens = nodes[0]._saved_result.shape[-1]
    blocks = _blocks(look, [_owner(look, node._sequence_nr()) for node in nodes], tokens)
    shapes = {look.outputs[block].shape for block in blocks}
    seen = Counter(
        replace(view, element=0)
        for place, output in look.outputs.items()
        if (view := views.get(place.path)) and view.grid and len(view.runs) == 1 and output.shape in shapes
    )
    if sizes != {(tokens, tokens)} or len(shapes) != 1 or not seen:
        found = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        return f"the attention of this network ({found}) is not between all tokens of a picture in every block"
    if len(blocks) < len(nodes) or not all(look.is_passed([block]) for block in blocks):
        return "the attention of this network does not lie in blocks of which each depends on the one before alone"
    view = replace(seen.most_common(1)[0][0], element=blocks[0].element)
    gradient = look.gradients[blocks[-1]].abs().sum((view.batch_axis, view.channel_axis))
    layout = AttentionLayout(
        blocks=tuple(block.path for block in blocks), read=tuple(gradient.nonzero()[:, 0].tolist()), view=view
    )
    if not layout.read:
        return "the scores of this network have no gradient at the tokens of its last block"
    if not _takes_more_rows(look, layout):
        return "the layers behind the last block of this network take one row per picture only"
    return layout


def _takes_more_rows(look: Look, layout: AttentionLayout) -> bool:
    """Whether the layers behind the last block compute each row by itself, whatever the number of rows."""
    try:
        trial = attend(look.module, look.pictures[0], layout, by_block=True)
    except Exception:  # foreign code can raise any exception
        return False
    whole = trial.explained.shape[0] == len(trial.attention) == len(layout.blocks)
    return whole and torch.allclose(trial.scores, look.scores, rtol=1e-3, atol=1e-3)


def _owner(look: Look, step: int) -> str:
    """The path of the layer that finishes first after a step of the forward pass, by the step's sequence number."""
    outputs = look.outputs.items()
    return next(place for place, made in outputs if made.grad_fn and made.grad_fn._sequence_nr() > step).path


def _blocks(look: Look, owners: Sequence[str], tokens: int) -> list[Place]:
    """For each attention the outermost layer that has no other attention and returns tokens."""
    outputs = {place: look.outputs[place].shape for place in look.gradients}
    returning = {place.path: place for place, shape in outputs.items() if len(shape) == 3 and tokens in shape}
    found = []
    for owner in owners:
        steps = owner.split(".")
        paths = [".".join(steps[:length]) for length in range(1, len(steps) + 1)]
        alone = [path for path in paths if sum(f"{other}.".startswith(f"{path}.") for other in owners) == 1]
        found += [returning[path] for path in alone if path in returning][:1]
    return found
