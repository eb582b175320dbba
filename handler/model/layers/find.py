"""Finds the layers with maps by running the network, because names and shapes of layers prove nothing.

A layer has a map if its output has a row per picture, in the pictures' order, and each row depends on its own picture
only; if the cells lie as the picture's pixels, by the operations that made them or because they change where the
picture changes; if the layer sees the whole picture; and if the scores have a gradient at the cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from handler.autograd.attention import AttentionLayout
from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.graph import Node
from handler.autograd.torch_engine import device_of
from handler.errors import ModelError
from handler.model.layers.arrangement import keeps_arrangement
from handler.model.layers.attention import find_attention
from handler.model.layers.batches import goes_by_values, run_together, same_gradients, why_no_rows
from handler.model.layers.cells import Cells, Floats, find_cells, parts
from handler.model.layers.looking import Look, outputs_of
from handler.model.layers.observing import Place, observe
from handler.model.layers.scenes import nudged, scenes

_PASSING_ON = (  # layers that resample or pass on another layer's output
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    Permute,
)
LAST = "the last layer that every path from the picture to the scores goes through"
LAST_OF_CELLS = "the last layer through which the picture's tokens reach the class token"


@dataclass(frozen=True)
class SpatialLayer:
    """A layer that returns maps."""

    shape: tuple[int, int, int]  # C, h, w of the maps; C counts the channels of all runs of the layer
    view: ChannelLayout  # the layout of the layer's output


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The layers of a network, as its runs show them."""

    layers: dict[str, SpatialLayer]  # by module path, in the order in which the layers finish
    default: str  # path of the default layer; empty if there is none
    rule: str  # why this layer is the default
    refused: dict[str, str]  # module paths of layers without a map, and why
    alone: str = ""  # why pictures are run one by one; empty if they are run together
    attention: AttentionLayout | str = ""  # where the attention is, or why there are no maps of attention


@torch.inference_mode(mode=False)  # whatever mode the caller is in
def find_layers(module: nn.Module, architecture: str, shape: tuple[int, int, int]) -> Findings:
    """Runs a network on three pictures, and judges every layer that returns tensors of three or four dimensions.

    Args:
        module: a classifier in eval mode, all parameters frozen.
        architecture: name for the messages.
        shape: (C, H, W) of the pictures.

    Raises:
        ModelError: the scores have no gradient at the picture, or no layer that all paths pass has a map.
    """
    device = device_of(module)
    pictures = [picture[None] for picture in scenes(3, shape).to(device)]
    look = Look(module, architecture, pictures)
    axes, alone = run_together(module, pictures)
    by_first_axis = {
        place: 0 if output.shape[0] == 1 else why_no_rows(output) for place, output in look.outputs.items()
    }
    if not alone and goes_by_values(module, pictures[0]):
        alone = "its code reads values that come from the picture, and may run otherwise for another picture"
        with torch.no_grad():
            common = set.intersection(*(set(outputs_of(module, picture)[1]) for picture in pictures[1:]))
        by_first_axis |= dict.fromkeys(look.outputs.keys() - common, "it does not run for every picture")
    findings = _judge(look, by_first_axis if alone else axes, alone)
    if not findings.default and not alone:
        one_by_one = _judge(look, by_first_axis, "no layer has a row for each picture of a batch")
        findings = one_by_one if one_by_one.default else findings
    if not findings.default:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(findings.refused.items())[-3:])
        raise ModelError(
            f"{architecture} has no layer with a map (N, C, h, w) of more than one cell that every path from "
            f"the picture to the scores goes through{f' ({reasons})' if reasons else ''}"
        )
    view = findings.layers[findings.default].view
    if not findings.alone and not same_gradients(look, findings.default, view):
        findings = replace(findings, alone="a picture's gradients depend on the other pictures of its batch")
    views = {path: layer.view for path, layer in findings.layers.items()}
    return replace(findings, attention=findings.alone or find_attention(look, views))


def _judge(look: Look, axes: Mapping[Place, int | str], alone: str) -> Findings:
    """Judges all layers by the batch axis of each tensor, or the reason why it has none."""
    cells = _cells(look, {place: axis for place, axis in axes.items() if isinstance(axis, int)})
    runs_of: dict[tuple[str, int], list[Place]] = {}  # the runs of each tensor of each layer
    for place in look.outputs:
        runs_of.setdefault((place.path, place.element), []).append(place)
    refused: dict[str, str] = {}
    layers: dict[str, SpatialLayer] = {}
    places: dict[str, list[Place]] = {}
    for (path, _), runs in runs_of.items():
        found = _layer(look, runs, axes, cells)
        if isinstance(found, str):
            refused.setdefault(path, found)
        elif path not in layers:
            layers[path], places[path] = found, look.last_of(runs)
    # a layer finishes with its last run
    order = {place: number for number, place in enumerate(look.outputs)}
    layers = dict(sorted(layers.items(), key=lambda item: order[places[item[0]][-1]]))
    refused = {path: why for path, why in refused.items() if path not in layers}
    default = _last(look, layers, places)
    inside = _last_of_cells(look, default, layers, places) if default else None
    return Findings(
        layers=layers,
        default=inside or default or "",
        rule=LAST_OF_CELLS if inside else LAST,
        refused=refused,
        alone=alone,
    )


def _cells(look: Look, axes: Mapping[Place, int]) -> dict[Place, Cells | None]:
    """The cells of each tensor, by the operations that made it or else measured; None if they are not arranged."""
    found: dict[Place, Cells | None] = {}
    known: set[Node] = set()
    # how much each cell changes with each part of the picture, by axis that may be the channels' axis
    changes: dict[Place, dict[int, list[Floats]]] = {}
    for place, axis in axes.items():
        output = look.outputs[place]
        if place not in look.gradients or sum(size > 1 for size in output.shape) < 2:
            continue
        usual = axis == 0 and output.dim() == 4 and min(output.shape[2:]) > 1
        if usual and keeps_arrangement(output.grad_fn, look.picture_node, known):
            known.add(output.grad_fn)
            found[place] = Cells(channel_axis=0, grid=(output.shape[2], output.shape[3]), shared_axis=False)
        else:
            changes[place] = {}

    def visit(place: Place, output: Tensor) -> None:
        if place in changes and output.shape == look.outputs[place].shape:
            change = (output.float() - look.outputs[place].detach().float()).select(axes[place], 0)
            for axis in range(change.dim()):
                changes[place].setdefault(axis, []).append(change.norm(dim=axis).double().cpu().numpy())

    first = look.pictures[0]
    with torch.no_grad():
        for rows, columns in parts(*first.shape[2:]) if changes else ():
            observe(look.module, nudged(first, rows, columns), visit)
    ratio = first.shape[3] / first.shape[2]
    return found | {place: find_cells(changed, ratio) for place, changed in changes.items()}


def _layer(
    look: Look,
    runs: Sequence[Place],
    axes: Mapping[Place, int | str],
    arrangements: Mapping[Place, Cells | None],
) -> SpatialLayer | str:
    """A layer with its runs, or why it has no map."""
    if not any(run in look.gradients for run in runs):
        return str(next((axes[run] for run in runs if isinstance(axes[run], str)), "the scores do not depend on it"))
    seen: dict[Place, tuple[int, Cells]] = {}
    last = look.last_of(runs)
    for run in last:
        axis = axes[run]
        if isinstance(axis, str):
            return axis
        cells = arrangements.get(run)
        if sum(size > 1 for size in look.outputs[run].shape) < 2:
            return "it has one cell"
        if cells is None:
            return "its cells do not follow the picture's content from edge to edge"
        seen[run] = axis, cells
    mirrorings = tuple(seen[run][1].mirrored if run in seen else None for run in runs)
    views = [
        ChannelLayout(
            batch_axis=axis,
            channel_axis=cells.channel_axis + (cells.channel_axis >= axis),
            grid=cells.grid if cells.shared_axis else None,
            first_token=cells.first,
            transposed=cells.transposed,
            element=run.element,
            runs=mirrorings,
        )
        for run, (axis, cells) in seen.items()
    ]
    maps = [view.to_maps(look.gradients[run], runs.index(run)) for view, run in zip(views, last, strict=True)]
    if len({(view, gradient.shape) for view, gradient in zip(views, maps, strict=True)}) > 1:
        return f"its {len(last)} runs return different maps"
    if not look.flat and not any(bool(gradient.any()) for gradient in maps):
        return "the scores have no gradient at its cells"
    _, channels, height, width = maps[0].shape
    return SpatialLayer((channels * len(last), height, width), views[0])


def _is_projection(look: Look, path: str, layer: SpatialLayer) -> bool:
    """Whether a layer may be a projection of tokens to queries, keys and values."""
    return isinstance(look.module.get_submodule(path), nn.Linear) and layer.view.grid is not None


def _last(look: Look, layers: dict[str, SpatialLayer], places: Mapping[str, Sequence[Place]]) -> str | None:
    """The last layer on every path from the picture to the scores; a projection only if there is no other layer."""
    projection = None
    for path in reversed(layers):
        if not isinstance(look.module.get_submodule(path), _PASSING_ON) and look.is_passed(places[path]):
            if not _is_projection(look, path, layers[path]):
                return path
            projection = projection or path
    return projection


def _last_of_cells(
    look: Look, default: str, layers: dict[str, SpatialLayer], places: Mapping[str, Sequence[Place]]
) -> str | None:
    """The last layer behind the default through which a block's cells reach the class tokens.

    Class tokens bypass the layer; a block's cells reach them through the block's normalisation.
    """
    for path in reversed(list(layers)[list(layers).index(default) + 1 :]):
        grid, last = layers[path].view.grid, places[path]
        passes_on = isinstance(look.module.get_submodule(path), _PASSING_ON)
        if grid is None or len(last) > 1 or passes_on or _is_projection(look, path, layers[path]):
            continue
        output = look.outputs[last[0]]
        has_others = output.numel() > output.shape[layers[path].view.channel_axis] * grid[0] * grid[1]
        if has_others and look.passes_cells(last[0], layers[path].view):
            return path
    return None
