"""Finds the layers that Grad-CAM can look at by running the network: names and shapes promise nothing.

A layer has a map if its output has one row per picture, in the pictures' order, each depending on its own picture only;
if its cells lie as the picture's pixels, by the operations that made them or because they change where the picture's
content changes; if it sees the whole picture; and if the scores have a gradient at its cells.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from handler.arrangement import keeps_arrangement
from handler.autograd_graph import Node, followed, leads, nodes
from handler.backward_contract import alike_in_memory
from handler.cells import Cells, Floats, find_cells, parts
from handler.checkpointing import direct_checkpoints
from handler.errors import ModelError, in_one_line
from handler.hooks import captured
from handler.observing import Place, observe
from handler.scenes import nudged, scenes
from handler.views import ChannelLayout

_PASSING_ON = (  # they resample or pass on what another layer found
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    Permute,
)
# what float32 and another batch size may change in a row, as parts
_ALIKE = 1e-3  # of the difference between two pictures' rows
_ROUNDING = 1e-5  # of the row
_GRADIENTS_ALIKE = 0.01  # of the norm
LAST = "the last layer that every way from the picture to the scores passes"
LAST_OF_CELLS = "the last layer through which the picture's tokens reach the class token"


@dataclass(frozen=True)
class SpatialLayer:
    """A layer that returns maps."""

    shape: tuple[int, int, int]  # C, h, w of the maps; the channels of all runs of the layer
    view: ChannelLayout  # of what it returns


@dataclass(frozen=True)
class Findings:
    """What running a network shows of its layers."""

    layers: dict[str, SpatialLayer]  # by module path, in the order in which the layers finish
    default: str  # path of the layer that is looked at where none is named
    rule: str  # why it is this one
    refused: dict[str, str]  # layers whose output looks like maps and is none, and why
    alone: str = ""  # why pictures must be run one by one; empty if they need not


def find_layers(module: nn.Module, architecture: str, side: int) -> Findings:
    """Runs a few pictures and judges every layer that returns tensors of three or four dimensions.

    Args:
        module: a classifier in eval mode, all parameters frozen.
        architecture: for the messages.
        side: of the square pictures, in pixels.

    Raises:
        ModelError: the scores have no gradient at the picture, or no layer has a map that all of it passes.
    """
    device = next(module.parameters()).device
    pictures = [picture[None] for picture in scenes(3, side).to(device)]
    with torch.inference_mode(False):
        look = _Look(module, architecture, pictures)
        together = _together(module, pictures)
        by_first_axis = {place: 0 if output.shape[0] == 1 else _rows(output) for place, output in look.outputs.items()}
        findings = _judge(look, by_first_axis if together.alone else together.axes, together.alone)
        if not findings.default and not together.alone:
            alone = _judge(look, by_first_axis, "its layers have no row for each picture of a batch")
            findings = alone if alone.default else findings
        if findings.default and not findings.alone and not _same_gradients(look, findings):
            findings = replace(findings, alone="a picture's gradients depend on the other pictures of its batch")
    if not findings.default:
        told = "; ".join(f"{path}: {why}" for path, why in list(findings.refused.items())[-3:])
        raise ModelError(
            f"{architecture} has no layer with a map (N, C, h, w) of more than one cell that every way from the "
            f"picture to the scores passes{f' ({told})' if told else ''}"
        )
    return findings


class _Look:
    """One picture run alone, with gradients: what every layer returned, and where that lies in the autograd graph."""

    def __init__(self, module: nn.Module, architecture: str, pictures: Sequence[Tensor]) -> None:
        self.module, self.pictures = module, pictures
        self.outputs: dict[Place, Tensor] = {}  # in the order in which the layers finish
        with torch.enable_grad():
            picture = pictures[0].clone().requires_grad_()
            self.scores: Tensor = _told(architecture, lambda: observe(module, picture, self._keep))
            if not self.scores.requires_grad:
                raise ModelError(
                    f"the scores of {architecture} have no gradient at the picture: all ways lead through "
                    "torch.no_grad(), inference_mode(), detach() or an operation without a gradient; valid is a "
                    "network that gradients pass: freeze weights with requires_grad_(False)"
                )
            self._picture = picture
            self.picture_node = _leaf(picture)
            self.mixture = torch.randn(self.scores.shape, generator=torch.Generator().manual_seed(1)).to(self.scores)
            self.gradients = _told(architecture, self._differentiate)

    def _keep(self, place: Place, output: Tensor) -> Tensor | None:
        if not _may_be_maps(output):
            return None
        self.outputs[place] = output.clone()
        # what follows may be rewritten in place, which must not reach what is kept
        return self.outputs[place].clone() if output.requires_grad else None

    def _differentiate(self) -> dict[Place, Tensor]:
        """The gradient of a mixture of all scores, where there is one."""
        places = [place for place, output in self.outputs.items() if output.requires_grad]
        at_picture, *found = self._gradients([self._picture, *(self.outputs[place] for place in places)])
        self.flat = at_picture is None or not bool(at_picture.any())  # of an untrained head of zeros, all are zero
        return {place: one for place, one in zip(places, found, strict=True) if one is not None}

    def passes_cells(self, place: Place, view: ChannelLayout) -> bool:
        """Whether the cells of the nearest earlier tensor that all of the picture passes reach the scores through one.

        The graph knows tensors, not tokens: that cells do not go around is seen by their gradients.
        """
        output = self.outputs[place]
        earlier = sorted(self._alike(output), key=lambda node: int(node._sequence_nr()), reverse=True)
        passed = next((node for node in earlier if not leads(self.scores.grad_fn, self.picture_node, {node})), None)
        if passed is None or self.flat:
            return False
        left: list[Tensor] = []
        hooks: list[Any] = [
            output.register_hook(torch.zeros_like),  # type: ignore[no-untyped-call]
            passed.register_prehook(lambda arriving: left.append(view.to_maps(arriving[0], len(view.runs) - 1))),
        ]
        try:
            self._gradients([self._picture])
        finally:
            for hook in hooks:
                hook.remove()
        return not any(bool(one.any()) for one in left)

    def _alike(self, output: Tensor) -> list[Node]:
        """The nodes of tensors of the same shape that the output was made of."""
        behind = nodes(output.grad_fn)
        next(behind)
        return [node for node in behind if [tuple(one.shape) for one in node._input_metadata] == [tuple(output.shape)]]

    def _gradients(self, wanted: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Of a mixture of all scores."""
        score = (self.scores * self.mixture).sum()
        with alike_in_memory(score):
            return torch.autograd.grad(score, list(wanted), retain_graph=True, allow_unused=True)

    def last_of(self, runs: Sequence[Place]) -> list[Place]:
        """The runs of a layer that the scores depend on and that no other run of it follows."""
        by_node = {self.outputs[run].grad_fn: run for run in runs if run in self.gradients}
        earlier = followed(by_node) if len(by_node) > 1 else set()
        return [run for node, run in by_node.items() if node not in earlier]

    def is_passed(self, places: Sequence[Place]) -> bool:
        """Whether every way from the picture to the scores leads through one of the tensors."""
        without = {self.outputs[place].grad_fn for place in places}
        return not leads(self.scores.grad_fn, self.picture_node, without)


def _told(architecture: str, step: Callable[[], Any]) -> Any:
    """What a step returns that runs the network's own code, or its error in one line."""
    try:
        return step()
    except Exception as error:  # whatever its author did not foresee
        raise ModelError(
            f"architecture {architecture} fails where gradients are recorded ({in_one_line(error)}); "
            "valid is a network that autograd can differentiate"
        ) from error


def _may_be_maps(output: Tensor) -> bool:
    return output.dim() in (3, 4) and output.is_floating_point() and output.numel() > 0


def _leaf(tensor: Tensor) -> Node:
    """The node at which gradients leave the graph for a leaf."""
    return tensor.expand_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


class _Together:
    """Pictures run in batches of two and three: which axis of each tensor holds the pictures, or why none does."""

    def __init__(self, module: nn.Module, pictures: Sequence[Tensor]) -> None:
        self.alone = ""  # why pictures must not be run together
        self.axes: dict[Place, int | str] = {}
        self._outputs: dict[Place, Tensor] = {}
        self._mixed: set[Place] = set()
        first, second, third = pictures
        shapes: list[dict[Place, torch.Size]] = []
        with torch.no_grad():
            scores: Tensor = observe(module, first, self._keep)
            for batch, place_of_first in (((first, second), 0), ((second, third, first), 2)):
                shapes.append({})
                try:
                    found = observe(module, torch.cat(batch), self._comparing(len(batch), place_of_first, shapes[-1]))
                except Exception as error:  # whatever the network's author did not foresee
                    self.alone = f"it fails on {len(batch)} pictures at once ({in_one_line(error)})"
                    return
                if found.shape[:1] != (len(batch),) or not _same_row(found, scores, 0, place_of_first):
                    self.alone = "a picture's scores depend on the other pictures of its batch"
                    return
        for place, output in self._outputs.items():
            sizes = [output.shape, *(one.get(place, torch.Size()) for one in shapes)]
            axes = [axis for axis, found in enumerate(zip(*sizes, strict=False)) if found == (1, 2, 3)]
            if not axes or len({len(one) for one in sizes}) > 1:
                self.axes[place] = _rows(output)
            elif place in self._mixed:
                self.axes[place] = "a row of it depends on other pictures than its own"
            else:
                self.axes[place] = axes[0]

    @property
    def doubtful(self) -> bool:
        """Whether rounding may be what makes rows differ."""
        return bool(self.alone or self._mixed)

    def _keep(self, place: Place, output: Tensor) -> None:
        if _may_be_maps(output):
            self._outputs[place] = output.clone()

    def _comparing(
        self, pictures: int, first: int, shapes: dict[Place, torch.Size]
    ) -> Callable[[Place, Tensor], Tensor | None]:
        def visit(place: Place, output: Tensor) -> None:
            alone = self._outputs.get(place)
            if alone is None or output.dim() != alone.dim():
                return
            shapes[place] = output.shape
            grown = [
                axis for axis, sizes in enumerate(zip(alone.shape, output.shape, strict=True)) if len({*sizes}) > 1
            ]
            is_batch = len(grown) == 1 and (alone.shape[grown[0]], output.shape[grown[0]]) == (1, pictures)
            if is_batch and not _same_row(output, alone, grown[0], first):
                self._mixed.add(place)

        return visit


def _together(module: nn.Module, pictures: Sequence[Tensor]) -> _Together:
    """In float32; in float64 where that shows rows that differ, which a deep network's rounding can be the cause of."""
    found = _Together(module, pictures)
    if not found.doubtful:
        return found
    try:
        exact = copy.deepcopy(module).double()
        return _Together(exact, [picture.double() for picture in pictures])
    except Exception:  # a network that cannot be copied, or has its own notion of numbers
        return found


def _same_row(output: Tensor, alone: Tensor, axis: int, row: int) -> bool:
    """Whether one row of a batch is what it is alone, and another picture's row is not."""
    rows, expected = output.detach().float().movedim(axis, 0), alone.detach().float().movedim(axis, 0)[0]
    other = rows[(row + 1) % len(rows)]
    allowed = _ALIKE * (other - expected).norm() + _ROUNDING * expected.norm()
    return bool((rows[row] - expected).norm() <= allowed) and not torch.equal(other, expected)


def _same_gradients(look: _Look, findings: Findings) -> bool:
    """Whether a picture's gradients in a batch are those that it has alone; in float64 where float32 doubts it."""
    first, second, _ = look.pictures
    view = findings.layers[findings.default].view
    if _gradients_differ(look.module, findings.default, view, first, second) <= _GRADIENTS_ALIKE:
        return True
    try:  # gates whose input is within rounding of zero flip in float32
        exact = copy.deepcopy(look.module).double()
        return _gradients_differ(exact, findings.default, view, first.double(), second.double()) <= _ALIKE
    except Exception:  # a network that cannot be copied, or has its own notion of numbers
        return False


def _gradients_differ(module: nn.Module, path: str, view: ChannelLayout, first: Tensor, second: Tensor) -> float:
    """How far a picture's gradients in a batch are from those that it has alone, as a part of these."""

    def gradients(pictures: Tensor) -> list[Tensor]:
        with torch.enable_grad(), direct_checkpoints(), captured(module, [path], {path: view}) as kept:
            pictures = pictures.clone().requires_grad_()
            scores = module(pictures.clone())
            mixture = torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(1)).to(scores)
            score = (scores[:1] * mixture).sum() - (scores[1:] * mixture).sum()
        with alike_in_memory(score):
            found = torch.autograd.grad(score, [*kept[path], pictures], allow_unused=True)
        return [one[0] for one in found if one is not None]

    alone, together = gradients(first), gradients(torch.cat([first, second]))
    return max(
        float((one - other).norm() / other.norm().clamp(min=1e-30)) for one, other in zip(together, alone, strict=True)
    )


def _rows(output: Tensor) -> str:
    if output.shape[0] > 1:
        return f"it has {output.shape[0]} rows for one picture"
    return "no axis of its output is that of the pictures"


def _judge(look: _Look, axes: Mapping[Place, int | str], alone: str) -> Findings:
    """The verdict on all layers; the default is empty if none of them can be it."""
    refused: dict[str, str] = {}
    cells = _cells(look, {place: axis for place, axis in axes.items() if isinstance(axis, int)})
    layers: dict[str, SpatialLayer] = {}
    places: dict[str, list[Place]] = {}
    for (path, _), runs in _by_layer(look.outputs).items():
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
    return Findings(layers, inside or default or "", LAST_OF_CELLS if inside else LAST, refused, alone)


def _by_layer(outputs: Mapping[Place, Tensor]) -> dict[tuple[str, int], list[Place]]:
    """The runs of each tensor of each layer."""
    found: dict[tuple[str, int], list[Place]] = {}
    for place in outputs:
        found.setdefault((place.path, place.element), []).append(place)
    return found


def _cells(look: _Look, axes: Mapping[Place, int]) -> dict[Place, Cells | None]:
    """How the cells of each tensor lie in the picture, None if they do not: by what made them, else measured."""
    found: dict[Place, Cells | None] = {}
    known: set[Node] = set()
    for place, axis in axes.items():
        output = look.outputs[place]
        usual = place in look.gradients and axis == 0 and output.dim() == 4 and min(output.shape[2:]) > 1
        if usual and keeps_arrangement(output.grad_fn, look.picture_node, known):
            known.add(output.grad_fn)
            found[place] = Cells(0, (output.shape[2], output.shape[3]), shared_axis=False)
    changes = _changes(look, {place: axis for place, axis in axes.items() if place not in found})
    return found | {place: find_cells(one) for place, one in changes.items()}


def _changes(look: _Look, axes: Mapping[Place, int]) -> dict[Place, dict[int, list[Floats]]]:
    """How much each cell changes with each part of the picture, for each axis that may hold the channels."""
    found: dict[Place, dict[int, list[Floats]]] = {
        place: {}
        for place in axes
        if place in look.gradients and sum(size > 1 for size in look.outputs[place].shape) > 1
    }
    first, second, _ = look.pictures

    def visit(place: Place, output: Tensor) -> None:
        alone = look.outputs.get(place)
        if place not in found or alone is None or output.shape != alone.shape:
            return
        change = (output.float() - alone.detach().float()).select(axes[place], 0)
        for axis in range(change.dim()):
            found[place].setdefault(axis, []).append(change.norm(dim=axis).double().cpu().numpy())

    with torch.no_grad():
        for rows, columns in parts(first.shape[2]) if found else ():
            observe(look.module, nudged(first, second, rows, columns), visit)
    return found


def _layer(
    look: _Look,
    runs: Sequence[Place],
    axes: Mapping[Place, int | str],
    arrangements: Mapping[Place, Cells | None],
) -> SpatialLayer | str:
    """A layer with its runs, or why it has no map."""
    if not any(run in look.gradients for run in runs):
        why = next((axes[run] for run in runs if isinstance(axes[run], str)), None)
        return str(why) if why else "the scores do not depend on it"
    seen: dict[Place, Cells] = {}
    last = look.last_of(runs)
    for run in last:
        axis = axes[run]
        if isinstance(axis, str):
            return axis
        cells = arrangements.get(run)
        if cells is None:
            return "its cells do not follow the picture's content from edge to edge"
        seen[run] = cells
    alike = {(axes[run], replace(cells, mirrored=(False, False), likeness=1.0)) for run, cells in seen.items()}
    if len(alike) > 1:
        return f"its {len(last)} runs return different maps"
    view = _view(runs, seen, axes)
    maps = [view.to_maps(look.gradients[run], runs.index(run)) for run in last]
    if len({one.shape for one in maps}) > 1:
        return f"its {len(last)} runs return different maps"
    if not look.flat and not any(bool(one.any()) for one in maps):
        return "the scores have no gradient at its cells"
    _, channels, height, width = maps[0].shape
    return SpatialLayer((channels * len(last), height, width), view)


def _view(runs: Sequence[Place], seen: Mapping[Place, Cells], axes: Mapping[Place, int | str]) -> ChannelLayout:
    run, first = next(iter(seen.items()))
    batch_axis = axes[run]
    assert isinstance(batch_axis, int)
    return ChannelLayout(
        batch_axis=batch_axis,
        channel_axis=first.channel_axis + (first.channel_axis >= batch_axis),
        grid=first.grid if first.shared_axis else None,
        first_token=first.first,
        transposed=first.transposed,
        element=run.element,
        runs=tuple(seen[run].mirrored if run in seen else None for run in runs),
    )


def _may_be_default(look: _Look, path: str, layer: SpatialLayer) -> bool:
    kind = look.module.get_submodule(path)
    projection = isinstance(kind, nn.Linear) and layer.view.grid is not None  # queries, keys and values of attention
    return not isinstance(kind, _PASSING_ON) and not projection


def _last(look: _Look, layers: dict[str, SpatialLayer], places: Mapping[str, Sequence[Place]]) -> str | None:
    """The last layer that every way from the picture to the scores passes."""
    return next(
        (
            path
            for path in reversed(layers)
            if _may_be_default(look, path, layers[path]) and look.is_passed(places[path])
        ),
        None,
    )


def _last_of_cells(
    look: _Look, default: str, layers: dict[str, SpatialLayer], places: Mapping[str, Sequence[Place]]
) -> str | None:
    """Behind the default: the last layer with class tokens that a block's other tokens pass on their way to them.

    The class tokens go on by themselves: a block's cells reach them through the block's normalisation.
    """
    for path in reversed(list(layers)[list(layers).index(default) + 1 :]):
        grid, last = layers[path].view.grid, places[path]
        if grid is None or len(last) > 1 or not _may_be_default(look, path, layers[path]):
            continue
        output = look.outputs[last[0]]
        has_others = output.numel() > output.shape[layers[path].view.channel_axis] * grid[0] * grid[1]
        if has_others and look.passes_cells(last[0], layers[path].view):
            return path
    return None
