"""Runs a network on test pictures, and shows every layer's output, the gradients of the scores and their paths."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.autograd.differentiable import differentiable
from handler.autograd.graph import Node, gradients_at, nodes
from handler.autograd.layer_maps import ChannelLayout
from handler.errors import ModelError, foreign_code

_COARSE = 8  # cells of the smooth fields in test pictures, in each direction
_NUDGE = 0.01


def scenes(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Smooth fields with fine grain (count, C, H, W), float32, spread as normalised photographs; equal for a seed."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, shape[0], _COARSE, _COARSE, generator=generator)
    grain = torch.randn(count, *shape, generator=generator)
    return F.interpolate(fields, shape[1:], mode="bicubic") + 0.3 * grain


def nudged(picture: Tensor, rows: slice, columns: slice) -> Tensor:
    """A copy of ``picture`` (1, C, H, W) with a little noise in some rows and columns.

    The noise is small, because a deep network answers a large change with changes everywhere. It is noise, because a
    smooth change would change a cell in fewer independent ways.
    """
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3), dtype=picture.dtype)
    changed = picture.clone()
    changed[:, :, rows, columns] += _NUDGE * noise.to(picture.device)[:, :, rows, columns]
    return changed


class Place(NamedTuple):
    """The origin of a tensor."""

    path: str  # module path of the layer, as in ``module.named_modules()``
    element: int  # index of the tensor in the layer's output
    run: int  # number of the layer's run, from 0


def observe(module: nn.Module, pictures: Tensor, visit: Callable[[Place, Tensor], Tensor | None]) -> Any:
    """Runs a network in eval mode on pictures (N, C, H, W), which stay as they are, and returns its answer.

    ``visit`` is called with every tensor, in the order in which the layers finish; a tensor that it returns takes the
    place of the layer's. All hooks are removed at the end, also after an exception.
    """
    runs: Counter[str] = Counter()

    def hook(path: str, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        leaves, structure = tree_flatten(output)
        for element, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and (other := visit(Place(path, element, runs[path]), leaf)) is not None:
                leaves[element] = other
        runs[path] += 1
        return tree_unflatten(leaves, structure)

    with ExitStack() as stack:
        stack.enter_context(differentiable(module))
        for path, layer in module.named_modules():
            if path:
                stack.callback(layer.register_forward_hook(partial(hook, path)).remove)
        return module(pictures.clone())  # a network may begin with an operation in place


class Look:
    """A run of a single picture: layers' outputs, gradients and the autograd graph."""

    def __init__(self, module: nn.Module, architecture: str, pictures: Sequence[Tensor]) -> None:
        """Runs a network in eval mode on the first of the pictures (1, C, H, W); ModelError if it gives no gradient."""
        self.module, self.pictures = module, pictures
        what = f"architecture {architecture} fails where gradients are recorded"
        failing = foreign_code(what, "valid is a network that autograd can differentiate")
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), failing:  # fused attention would hide its softmax
            self._picture = pictures[0].clone().requires_grad_()
            self.scores, self.outputs = outputs_of(module, self._picture)
            if not self.scores.requires_grad:
                why = "every path goes through detach() or an operation without a gradient"
                valid = "valid is a network that gradients pass: freeze weights with requires_grad_(False)"
                raise ModelError(f"the scores of {architecture} have no gradient at the picture: {why}; {valid}")
            self.picture_node = get_gradient_edge(self._picture).node
            mixture = torch.randn(self.scores.shape, generator=torch.Generator().manual_seed(1)).to(self.scores)
            self._score = (self.scores * mixture).sum()
            places = [place for place, output in self.outputs.items() if output.requires_grad]
            at_picture, *found = gradients_at([self._picture, *(self.outputs[place] for place in places)], self._score)
        self.flat = at_picture is None or not bool(at_picture.any())  # all gradients are 0, as of a head of zeros
        pairs = zip(places, found, strict=True)
        self.gradients = {place: gradient for place, gradient in pairs if gradient is not None}

    def passes_cells(self, place: Place, view: ChannelLayout) -> bool:
        """Whether the cells of the nearest earlier tensor on every path reach the scores only through a layer.

        The graph has paths of tensors, not of tokens: without the layer's gradient, the cells must have none.
        """
        output = self.outputs[place]
        shape = [tuple(output.shape)]
        behind = [node for node in nodes(output.grad_fn) if [tuple(one.shape) for one in node._input_metadata] == shape]
        earlier = sorted(behind[1:], key=lambda node: int(node._sequence_nr()), reverse=True)  # without the output's
        passed = next((node for node in earlier if self._is_on_every_path({node})), None)
        if passed is None or self.flat:
            return False
        left: list[Tensor] = []
        with ExitStack() as stack:
            stack.callback(output.register_hook(torch.zeros_like).remove)  # type: ignore[no-untyped-call]
            keep = passed.register_prehook(lambda arriving: left.append(view.to_maps(arriving[0], len(view.runs) - 1)))
            stack.callback(keep.remove)
            gradients_at([self._picture], self._score)
        return not any(bool(gradient.any()) for gradient in left)

    def last_of(self, runs: Sequence[Place]) -> list[Place]:
        """The runs of a layer on which the scores depend, but no other run of the layer."""
        by_node: dict[Any, Place] = {self.outputs[run].grad_fn: run for run in runs if run in self.gradients}
        behind = (following for node in by_node for following, _ in node.next_functions)
        earlier = set(nodes(*behind)) if len(by_node) > 1 else set()
        return [run for node, run in by_node.items() if node not in earlier]

    def is_passed(self, places: Sequence[Place]) -> bool:
        """Whether every path from the picture to the scores goes through one of the tensors."""
        return self._is_on_every_path({self.outputs[place].grad_fn for place in places})

    def _is_on_every_path(self, passed: Collection[Node]) -> bool:
        return self.picture_node not in nodes(self.scores.grad_fn, avoided=passed.__contains__)


def outputs_of(module: nn.Module, pictures: Tensor) -> tuple[Tensor, dict[Place, Tensor]]:
    """The scores of pictures (N, C, H, W), and the outputs with the dimensions of maps or tokens, as layers finish."""
    outputs: dict[Place, Tensor] = {}

    def keep(place: Place, output: Tensor) -> Tensor | None:
        if output.dim() not in (3, 4) or not output.is_floating_point() or not output.numel():
            return None
        outputs[place] = output.clone()
        # the next layer may work in place, which must not change the kept tensor
        return outputs[place].clone() if output.requires_grad else None

    return observe(module, pictures, keep).clone(), outputs  # a network may answer with its own memory
