"""Shows a visitor every tensor that the layers of a network return during a forward pass."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.autograd.differentiable import differentiable


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
        new = {}
        for element, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and (other := visit(Place(path, element, runs[path]), leaf)) is not None:
                new[element] = other
        runs[path] += 1
        changed = [new.get(element, leaf) for element, leaf in enumerate(leaves)]
        return tree_unflatten(changed, structure) if new else None

    with ExitStack() as stack:
        stack.enter_context(differentiable(module))
        for path, layer in module.named_modules():
            if path:
                stack.callback(layer.register_forward_hook(partial(hook, path)).remove)
        return module(pictures.clone())  # a network may begin with an operation in place
