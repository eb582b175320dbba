"""Whether the pictures of a batch keep apart: in the scores, in every layer's rows, in the gradients."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from handler.autograd.backward_contract import alike_in_memory
from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.differentiable import differentiable
from handler.autograd.hooks import captured
from handler.errors import in_one_line
from handler.model.layers.looking import Look, may_be_maps
from handler.model.layers.observing import Place, observe

# what float32 and another batch size may change in a row, as parts
_ALIKE = 1e-3  # of the difference between two pictures' rows
_ROUNDING = 1e-5  # of the row
_GRADIENTS_ALIKE = 0.01  # of the norm


class _Asking(TorchFunctionMode):
    """Notes whether Python code asks for values that come from the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self._values: dict[int, Tensor] = {}  # that come from the picture without a gradient, kept alive by identity

    def __torch_function__(
        self, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        if any(one.requires_grad or id(one) in self._values for one in given):
            self.asked |= getattr(function, "__name__", "") in _QUESTIONS
            found = [one for one in tree_flatten(result)[0] if isinstance(one, Tensor) and not one.requires_grad]
            self._values.update((id(one), one) for one in found)
        return result


_QUESTIONS = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "__array__")


def places_of(module: nn.Module, picture: Tensor) -> set[Place]:
    """What runs for a picture (1, 3, H, W)."""
    found: set[Place] = set()
    with torch.no_grad():
        observe(module, picture, lambda place, _output: found.add(place))
    return found


def goes_by_values(module: nn.Module, picture: Tensor) -> bool:
    """Whether the network's own code decides something by the picture (1, 3, H, W)."""
    asking = _Asking()
    with torch.enable_grad(), differentiable(module), asking:
        module(picture.clone().requires_grad_().clone())
    return asking.asked


class Together:
    """Pictures run in batches of two and three: which axis of each tensor holds the pictures, or why none does."""

    def __init__(self, module: nn.Module, pictures: Sequence[Tensor]) -> None:
        self.alone = ""  # why pictures must not be run together
        self.axes: dict[Place, int | str] = {}
        self._outputs: dict[Place, Tensor] = {}
        self._mixed: set[Place] = set()
        first, second, third = pictures
        shapes: list[dict[Place, torch.Size]] = []
        with torch.no_grad():
            scores: Tensor = observe(module, first, self._keep).clone()  # a network may answer with its own memory
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
                self.axes[place] = rows_of(output)
            elif place in self._mixed:
                self.axes[place] = "a row of it depends on other pictures than its own"
            else:
                self.axes[place] = axes[0]

    @property
    def doubtful(self) -> bool:
        """Whether rounding may be what makes rows differ."""
        return bool(self.alone or self._mixed)

    def _keep(self, place: Place, output: Tensor) -> None:
        if may_be_maps(output):
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


def run_together(module: nn.Module, pictures: Sequence[Tensor]) -> Together:
    """In float32; in float64 where that shows rows that differ, which a deep network's rounding can be the cause of."""
    found = Together(module, pictures)
    if not found.doubtful:
        return found
    try:
        exact = copy.deepcopy(module).double()
        return Together(exact, [picture.double() for picture in pictures])
    except Exception:  # a network that cannot be copied, or has its own notion of numbers
        return found


def _same_row(output: Tensor, alone: Tensor, axis: int, row: int) -> bool:
    """Whether one row of a batch is what it is alone, but for a part of what another picture's row differs by."""
    rows, expected = output.detach().movedim(axis, 0), alone.detach().movedim(axis, 0)[0]
    other = rows[(row + 1) % len(rows)]
    allowed = _ALIKE * (other - expected).norm() + _ROUNDING * expected.norm()
    return bool((rows[row] - expected).norm() <= allowed)


def same_gradients(look: Look, path: str, view: ChannelLayout) -> bool:
    """Whether a picture's gradients in a batch are those that it has alone; in float64 where float32 doubts it."""
    first, second, _ = look.pictures
    if _gradients_differ(look.module, path, view, first, second) <= _GRADIENTS_ALIKE:
        return True
    try:  # gates whose input is within rounding of zero flip in float32
        exact = copy.deepcopy(look.module).double()
        return _gradients_differ(exact, path, view, first.double(), second.double()) <= _ALIKE
    except Exception:  # a network that cannot be copied, or has its own notion of numbers
        return False


def _gradients_differ(module: nn.Module, path: str, view: ChannelLayout, first: Tensor, second: Tensor) -> float:
    """How far a picture's gradients in a batch are from those that it has alone, as a part of these."""

    def gradients(pictures: Tensor) -> list[Tensor]:
        with torch.enable_grad(), differentiable(module), captured(module, [path], {path: view}) as kept:
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


def rows_of(output: Tensor) -> str:
    """Why the output for one picture has no row for it."""
    if output.shape[0] > 1:
        return f"it has {output.shape[0]} rows for one picture"
    return "no axis of its output is that of the pictures"
