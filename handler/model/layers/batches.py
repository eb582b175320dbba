"""Tests whether the pictures of a batch depend on each other: in the scores, in layers' outputs, in gradients."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from handler.autograd.differentiable import differentiable
from handler.autograd.layer_maps import ChannelLayout
from handler.autograd.tape import differentiate, record
from handler.errors import in_one_line
from handler.explanation.evidence import Needs
from handler.model.layers.looking import Look, Place, observe, outputs_of

# the most that float32 and another batch size may change in a picture's row
_ALIKE = 1e-3  # relative to the difference between two pictures' rows
_ROUNDING = 1e-5  # relative to the row
_GRADIENTS_ALIKE = 0.01  # relative to the gradient
_MIXED = "its rows depend on other pictures of the batch"


class _ValueWatch(TorchFunctionMode):
    """Notes whether Python code reads values that come from the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.read = False
        self._values: set[Tensor] = set()  # that come from the picture without a gradient; compared by identity

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if any(tensor.requires_grad or tensor in self._values for tensor in given):
            self.read |= getattr(function, "__name__", "") in _READING
            found = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            self._values.update(tensor for tensor in found if not tensor.requires_grad)
        return result


_READING = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "__array__")


def goes_by_values(module: nn.Module, picture: Tensor) -> bool:
    """Whether the network's code reads values that come from the picture (1, C, H, W), and so may branch on them."""
    watch = _ValueWatch()
    with torch.enable_grad(), differentiable(module), watch:
        module(picture.clone().requires_grad_().clone())
    return watch.read


def run_together(module: nn.Module, pictures: Sequence[Tensor]) -> tuple[dict[Place, int | str], str]:
    """Compares three pictures (1, C, H, W) in float32, and again in float64 if rows differ, which may be rounding.

    The result is the batch axis of each tensor, or why it has none; and why pictures must be run one by one, or "".
    """
    axes, alone = _compare(module, pictures)
    if not alone and _MIXED not in axes.values():
        return axes, alone
    try:
        return _compare(copy.deepcopy(module).double(), [picture.double() for picture in pictures])
    except Exception:  # the network cannot be copied or run in float64
        return axes, alone


@torch.no_grad()
def _compare(module: nn.Module, pictures: Sequence[Tensor]) -> tuple[dict[Place, int | str], str]:
    """Compares a picture's outputs with those of the same picture in batches of two and of three."""
    first, second, third = pictures
    scores, alone = outputs_of(module, first)
    rows: dict[Place, list[int]] = {place: [] for place in alone}  # the axis of the pictures, by batch
    mixed: set[Place] = set()

    def compare(count: int, row: int, place: Place, output: Tensor) -> None:
        axis = _batch_axis(output, alone[place], count) if place in alone else None
        if axis is not None:
            rows[place].append(axis)
            if not _same_row(output, alone[place], axis, row):
                mixed.add(place)

    for batch, row in (((first, second), 0), ((second, third, first), 2)):
        try:
            together = observe(module, torch.cat(batch), partial(compare, len(batch), row))
        except Exception as error:  # foreign code can raise any exception
            return {}, f"it fails on {len(batch)} pictures at once ({in_one_line(error)})"
        if together.shape[:1] != (len(batch),) or not _same_row(together, scores, 0, row):
            return {}, "a picture's scores depend on the other pictures of its batch"
    axes: dict[Place, int | str] = {
        place: found[0] if len(found) == 2 and found[0] == found[1] else why_no_rows(alone[place])
        for place, found in rows.items()
    }
    return axes | {place: _MIXED for place in mixed if isinstance(axes[place], int)}, ""


def _batch_axis(output: Tensor, alone: Tensor, count: int) -> int | None:
    """The axis with a row for each picture in the output for a batch; None if there is none."""
    if output.dim() != alone.dim():
        return None
    grown = [axis for axis in range(output.dim()) if output.shape[axis] != alone.shape[axis]]
    return grown[0] if [(alone.shape[axis], output.shape[axis]) for axis in grown] == [(1, count)] else None


def _same_row(output: Tensor, alone: Tensor, axis: int, row: int) -> bool:
    """Whether a picture's row in a batch is its row alone, up to a small part of its difference from another row."""
    rows, expected = output.detach().movedim(axis, 0), alone.detach().movedim(axis, 0)[0]
    apart = (rows[(row + 1) % len(rows)] - expected).norm()
    return bool((rows[row] - expected).norm() <= _ALIKE * apart + _ROUNDING * expected.norm())


def same_gradients(look: Look, path: str, views: Mapping[str, ChannelLayout]) -> bool:
    """Whether a picture's gradients, at a layer and at the input, are the same in a batch; by float32, else float64."""
    pictures = torch.cat([*look.pictures[:2]])
    if _gradients_differ(look.module, path, views, pictures) <= _GRADIENTS_ALIKE:
        return True
    try:  # in float32, gates flip whose input is within rounding of zero
        return _gradients_differ(copy.deepcopy(look.module).double(), path, views, pictures.double()) <= _ALIKE
    except Exception:  # the network cannot be copied or run in float64
        return False


def _gradients_differ(module: nn.Module, path: str, views: Mapping[str, ChannelLayout], pictures: Tensor) -> float:
    """The largest difference of the first picture's gradients in a batch from those alone, relative to the latter."""

    @torch.enable_grad()
    def gradients(pictures: Tensor) -> list[Tensor]:
        tape = record(module, pictures, Needs(layers=(path,), saliency=True), views)
        mixture = torch.randn(tape.scores.shape[1], generator=torch.Generator().manual_seed(1)).to(tape.scores)
        found = differentiate(tape, (tape.scores[:1] * mixture).sum() - (tape.scores[1:] * mixture).sum())
        return [found.layers[path][0], found.at_input["saliency"][0]]

    pairs = zip(gradients(pictures), gradients(pictures[:1]), strict=True)
    return max(float((found - alone).norm() / alone.norm().clamp(min=1e-30)) for found, alone in pairs)


def why_no_rows(output: Tensor) -> str:
    """Says why the output for a single picture has no axis with a row per picture."""
    rows = output.shape[0]
    return f"it has {rows} rows for one picture" if rows > 1 else "no axis of its output belongs to the pictures"
