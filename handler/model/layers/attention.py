"""Finds the attention of vision transformers by running the network: its blocks, and which tokens are cells.

Maps of attention multiply the attention of all blocks, or average over them. So all blocks must attend between the same
tokens, and every path to the scores must go through each block.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from handler.autograd.attention import AttentionLayout, attend, attention_nodes
from handler.autograd.layer_maps import ChannelLayout
from handler.model.layers.looking import Look, Place


def find_attention(look: Look, views: Mapping[str, ChannelLayout]) -> AttentionLayout | str:
    """Where a network's attention is, or why there are no maps of it; ``views`` are the layouts of the layers."""
    nodes = attention_nodes(look.scores)
    if not nodes:
        return "there is no attention in this network"
    sizes = {tuple(node._saved_result.shape[-2:]) for node in nodes}
    tokens = nodes[0]._saved_result.shape[-1]
    blocks = _blocks(look, [node._sequence_nr() for node in nodes], tokens)
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
    read = tuple(gradient.nonzero()[:, 0].tolist())
    if not read:
        return "the scores of this network have no gradient at the tokens of its last block"
    layout = AttentionLayout(tuple(block.path for block in blocks), read, view)
    try:
        alike = attend(look.module, look.pictures[0], layout, by_block=True).scores.allclose(look.scores, 1e-3, 1e-3)
    except Exception:  # foreign code can raise any exception
        alike = False
    return layout if alike else "the layers behind the last block of this network take one row per picture only"


def _blocks(look: Look, steps: Sequence[int], tokens: int) -> list[Place]:
    """For each attention, by its step's sequence number, the outermost layer that has no other and returns tokens."""
    finished = [(place.path, made.grad_fn._sequence_nr()) for place, made in look.outputs.items() if made.grad_fn]
    owners = [next((path for path, number in finished if number > step), "") for step in steps]
    outputs = {place: look.outputs[place].shape for place in look.gradients}
    returning = {place.path: place for place, shape in outputs.items() if len(shape) == 3 and tokens in shape}
    found = []
    for owner in owners:
        paths = [owner[: match.start()] for match in re.finditer(r"\.|$", owner)]
        alone = [path for path in paths if sum(f"{other}.".startswith(f"{path}.") for other in owners) == 1]
        found += [returning[path] for path in alone if path in returning][:1]
    return found
