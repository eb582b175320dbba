"""Makes a network one flat, purely functional graph of its leaf modules, and marks layers whose output matters."""

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from export.simplify.applicable import NotApplicable, traced
from export.simplify.copying import copy_of

_VIEWS = {"chunk", "split", "view", "reshape", "transpose", "permute", "contiguous", "flatten", "getitem", "squeeze"}


class LayerOutput(nn.Identity):
    """Marks a layer's output: takes the hooks that were meant for the layer."""


def flatten(module: nn.Module, keep: Sequence[str] = ()) -> fx.GraphModule:
    """A copy of a network as one graph of calls of its leaf modules; the modules keep their paths.

    Activations in place become activations that return a new tensor.

    Args:
        module: in eval mode; left as it is.
        keep: paths of layers whose own output matters; ``output_of`` names the module that returns such an output.

    Raises:
        NotApplicable: the network cannot be traced, a layer to keep does not run, or a tensor that others read is
            changed in place.
    """
    root = copy_of(module)
    tracer = _MarkingTracer(root, keep)
    graph = traced(root, tracer)
    called = {str(node.target) for node in graph.nodes}
    missing = [path for path in keep if output_of(path) not in called]
    if missing:
        raise NotApplicable(f"layer {missing[0]!r} does not run")
    for path in keep:
        root.add_module(output_of(path), LayerOutput())
    network = fx.GraphModule(root, graph, type(module).__name__)
    _out_of_place(network)
    return network


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


def _out_of_place(network: fx.GraphModule) -> None:
    """Makes activations in place return a new tensor.

    Raises:
        NotApplicable: others read a tensor that is changed in place, or share its memory.
    """
    for node in network.graph.nodes:
        if not _in_place(network, node):
            continue
        changed = node.args[0]
        if len(changed.users) > 1 or not node.users or _name(changed) in _VIEWS:
            raise NotApplicable(f"{node.name} changes a tensor in place that others read")
        if node.op == "call_module":
            network.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
        elif "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    network.recompile()


def _in_place(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    name = _name(node)
    augmented = name in ("iadd", "imul", "isub", "itruediv")
    return bool(node.kwargs.get("inplace")) or augmented or (name.endswith("_") and not name.endswith("__"))


def _name(node: fx.Node) -> str:
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", ""))
    return str(node.target) if node.op == "call_method" else ""
