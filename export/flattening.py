"""One flat graph of a network's leaf modules, in which the layers whose output matters are marked."""

from collections.abc import Sequence
from typing import Any

from torch import fx, nn


class LayerOutput(nn.Identity):
    """Marks what a layer returns: hooks that belonged on the layer go here."""


def flatten(module: nn.Module, keep: Sequence[str] = ()) -> fx.GraphModule:
    """A network as one graph of calls of its leaf modules, whose paths and weights it shares.

    Args:
        module: in eval mode; left as it is.
        keep: paths of layers whose own output matters; ``output_of`` names the module that returns it.

    Raises:
        Exception: whatever a forward raises that ``torch.fx`` cannot trace, as one that branches on values.
        ValueError: a layer to keep does not run.
    """
    marks = {output_of(path): LayerOutput() for path in keep}
    graph = _MarkingTracer(module, keep).trace(module)
    called = {str(node.target) for node in graph.nodes}
    missing = [path for path in keep if output_of(path) not in called]
    if missing:
        raise ValueError(f"layer {missing[0]!r} does not run")
    members: dict[str, Any] = {**dict(module.named_modules()), **dict(module.named_parameters())}
    return fx.GraphModule({**members, **dict(module.named_buffers()), **marks}, graph, type(module).__name__)


def output_of(path: str) -> str:
    """The name of the module in a flat graph that marks a layer's output."""
    return f"output_of_{path.replace('.', '_')}"


class _MarkingTracer(fx.Tracer):
    def __init__(self, module: nn.Module, keep: Sequence[str]) -> None:
        super().__init__()
        self._marks = {module.get_submodule(path): output_of(path) for path in keep}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        mark = self._marks.get(m)
        return output if mark is None else self.create_proxy("call_module", mark, (output,), {})
