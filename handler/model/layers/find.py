"""Finds the layers with maps by running the network, because names and shapes of layers prove nothing.

A layer has a map if its output has a row per picture, in the pictures' order, and each row depends on its own picture
only; if the cells lie as the picture's pixels, by the operations that made them or because they change where the
picture changes; if the layer sees the whole picture; and if the scores have a gradient at the cells.

Maps of attention multiply the attention of all blocks, or average over them. So all blocks must attend between the same
tokens, and every path to the scores must go through each block.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from handler.autograd.attention import AttentionLayout, attend, attention_nodes
from handler.autograd.graph import Node
from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout
from handler.autograd.torch_engine import Network, device_of
from handler.errors import ModelError
from handler.model.layers.batches import goes_by_values, run_together, same_gradients, why_no_rows
from handler.model.layers.cells import Floats, find_cells, keeps_arrangement, parts
from handler.model.layers.looking import Look, Place, nudged, observe, outputs_of, scenes

# layers that resample or pass on another layer's output
_PASSING_ON = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, Permute)
LAST = "the last layer that every path from the picture to the scores goes through"
LAST_OF_CELLS = "the last layer through which the picture's tokens reach the class token"


class SpatialLayer(NamedTuple):
    """A layer that returns maps."""

    shape: tuple[int, int, int]  # C, h, w of the maps; C counts the channels of all runs of the layer
    view: ChannelLayout  # the layout of the layer's output
    runs: list[Place]  # those that have maps


@dataclass(frozen=True, kw_only=True)
class MappedNetwork(Network):
    """A network, and what runs of it show about its layers."""

    layers: dict[str, tuple[int, int, int]]  # layers with maps: module path to (C, h, w), as the layers finish
    default_layer: str  # a key of layers; empty if no layer can be the default
    layer_rule: str = ""  # why ``default_layer`` is the default
    refused_layers: dict[str, str] = field(default_factory=dict)  # module paths without a map, and why


@torch.inference_mode(mode=False)  # whatever mode the caller is in
def find_layers(module: nn.Module, architecture: str, shape: tuple[int, int, int]) -> MappedNetwork:
    """Runs a network in eval mode, all parameters frozen, on three pictures of ``shape`` (C, H, W).

    Every layer is judged that returns tensors of three or four dimensions. The ModelError of a network whose scores
    have no gradient at the picture, or without a layer with a map that all paths pass, names the ``architecture``.
    """
    pictures = [picture[None] for picture in scenes(3, shape).to(device_of(module))]
    look = Look(module, architecture, pictures)
    axes, alone = run_together(module, pictures)
    by_first_axis = {place: 0 if one.shape[0] == 1 else why_no_rows(one) for place, one in look.outputs.items()}
    if not alone and goes_by_values(module, pictures[0]):
        alone = "its code reads values that come from the picture, and may run otherwise for another picture"
        with torch.no_grad():
            common = set.intersection(*(set(outputs_of(module, picture)[1]) for picture in pictures[1:]))
        by_first_axis |= dict.fromkeys(look.outputs.keys() - common, "it does not run for every picture")
    findings = _judge(look, by_first_axis if alone else axes, alone)
    if not findings.default_layer and not alone:
        one_by_one = _judge(look, by_first_axis, "no layer has a row for each picture of a batch")
        findings = one_by_one if one_by_one.default_layer else findings
    if not findings.default_layer:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(findings.refused_layers.items())[-3:])
        raise ModelError(
            f"{architecture} has no layer with a map (N, C, h, w) of more than one cell that every path from "
            f"the picture to the scores goes through{f' ({reasons})' if reasons else ''}"
        )
    if not findings.alone and not same_gradients(look, findings.default_layer, findings.views):
        findings = replace(findings, alone="a picture's gradients depend on the other pictures of its batch")
    return replace(findings, attention=findings.alone or find_attention(look, findings.views))


def _judge(look: Look, axes: Mapping[Place, int | str], alone: str) -> MappedNetwork:
    """Judges all layers by the batch axis of each tensor, or the reason why it has none."""
    layouts = _layouts(look, axes)
    runs_of: dict[tuple[str, int], list[Place]] = {}  # the runs of each tensor of each layer
    for place in look.outputs:
        runs_of.setdefault((place.path, place.element), []).append(place)
    refused: dict[str, str] = {}
    found: dict[str, SpatialLayer] = {}
    for (path, _), runs in runs_of.items():
        layer = _layer(look, runs, layouts)
        if isinstance(layer, str):
            refused.setdefault(path, layer)
        else:
            found.setdefault(path, layer)
    order = list(look.outputs)  # a layer finishes with its last run
    layers = dict(sorted(found.items(), key=lambda item: order.index(item[1].runs[-1])))
    refused = {path: why for path, why in refused.items() if path not in layers}
    default, rule = _default(look, layers)
    return MappedNetwork(
        module=look.module,
        views={path: layer.view for path, layer in layers.items() if layer.view != CHANNELS_FIRST},
        alone=alone,
        layers={path: layer.shape for path, layer in layers.items()},
        default_layer=default,
        layer_rule=rule,
        refused_layers=refused,
    )


def _layouts(look: Look, axes: Mapping[Place, int | str]) -> dict[Place, ChannelLayout | str]:
    """The layout of each tensor, by the operations that made it or else measured, or why it has no map."""
    found: dict[Place, ChannelLayout | str] = {}
    known: set[Node] = set()
    unknown: dict[Place, int] = {}
    for place, axis in axes.items():
        output = look.outputs[place]
        usual = axis == 0 and output.dim() == 4 and min(output.shape[2:]) > 1
        if isinstance(axis, str):
            found[place] = axis
        elif place not in look.gradients:
            found[place] = "the scores do not depend on it"
        elif sum(size > 1 for size in output.shape) < 2:
            found[place] = "it has one cell"
        elif usual and keeps_arrangement(output.grad_fn, look.picture_node, known):
            known.add(output.grad_fn)
            found[place] = ChannelLayout(element=place.element)
        else:
            unknown[place] = axis
    return found | _measured(look, unknown)


def _measured(look: Look, axes: Mapping[Place, int]) -> dict[Place, ChannelLayout | str]:
    """The layout of each tensor, by the tensor's batch axis, or why it has no map; parts of the picture are changed."""
    found: dict[Place, ChannelLayout | str] = {}
    # how much each cell changes with each part of the picture, by axis that may be the channels' axis
    changes: dict[Place, dict[int, list[Floats]]] = {place: {} for place in axes}

    def visit(place: Place, output: Tensor) -> None:
        if place in changes and output.shape == look.outputs[place].shape:
            change = output.float() - look.outputs[place].detach().float()
            for axis in (axis for axis in range(change.dim()) if axis != axes[place]):
                norms = change.norm(dim=axis, keepdim=True).squeeze((axis, axes[place]))
                changes[place].setdefault(axis, []).append(norms.double().cpu().numpy())

    first = look.pictures[0]
    with torch.no_grad():
        for rows, columns in parts(*first.shape[2:]) if changes else ():
            observe(look.module, nudged(first, rows, columns), visit)
    for place, changed in changes.items():
        layout = find_cells(changed, first.shape[3] / first.shape[2])
        why = "its cells do not follow the picture's content from edge to edge"
        found[place] = replace(layout, batch_axis=axes[place], element=place.element) if layout else why
    return found


def _layer(look: Look, runs: Sequence[Place], layouts: Mapping[Place, ChannelLayout | str]) -> SpatialLayer | str:
    """A layer with its runs, or why it has no map."""
    seen: dict[Place, ChannelLayout] = {}
    last = look.last_of(runs)
    for run in last or runs:
        layout = layouts[run]
        if isinstance(layout, str):
            return layout
        seen[run] = layout
    mirrorings = tuple(seen[run].runs[0] if run in seen else None for run in runs)
    views = [replace(layout, runs=mirrorings) for layout in seen.values()]
    maps = [view.to_maps(look.gradients[run], runs.index(run)) for view, run in zip(views, last, strict=True)]
    if len({(view, gradient.shape) for view, gradient in zip(views, maps, strict=True)}) > 1:
        return f"its {len(last)} runs return different maps"
    if not look.flat and not any(bool(gradient.any()) for gradient in maps):
        return "the scores have no gradient at its cells"
    _, channels, height, width = maps[0].shape
    return SpatialLayer((channels * len(last), height, width), views[0], last)


def _default(look: Look, layers: dict[str, SpatialLayer]) -> tuple[str, str]:
    """The path of the default layer, or "", and the rule by which it is the default.

    It is the last layer on every path from the picture to the scores; a projection of tokens, to queries, keys and
    values, only if there is no other. Class tokens bypass this layer, and a block's cells reach them through the
    block's normalisation: then it is the last layer behind it through which they do.
    """
    modules = {path: look.module.get_submodule(path) for path in reversed(layers)}
    making = [path for path, module in modules.items() if not isinstance(module, _PASSING_ON)]  # the last one first
    projections = {path for path in making if layers[path].view.grid and isinstance(modules[path], nn.Linear)}
    candidates = sorted(making, key=projections.__contains__)
    last = next((path for path in candidates if look.is_passed(layers[path].runs)), "")
    for path in making[: making.index(last)] if last else ():
        view, runs = layers[path].view, layers[path].runs
        if view.grid is None or len(runs) > 1 or path in projections:
            continue
        output = look.outputs[runs[0]]
        has_others = output.numel() > output.shape[view.channel_axis] * view.grid[0] * view.grid[1]
        if has_others and look.passes_cells(runs[0], view):
            return path, LAST_OF_CELLS
    return last, LAST


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
