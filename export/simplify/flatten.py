"""Copies a network, as it is or as one flat graph that calls its leaf modules, with marks at explained layers."""

import copy
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from handler.errors import in_one_line
from handler.model.onnx_network import Operator

MARK = "explained_layer_{}"  # the module of a flat graph that returns the output of a layer, by the layer's number
Network = TypeVar("Network", bound=nn.Module)
_VIEWS = {"chunk", "split", "view", "reshape", "transpose", "permute", "contiguous", "flatten", "getitem", "squeeze"}


class NotApplicable(Exception):
    """A step of simplification does not fit this network; the message says why."""


class LayerOutput(nn.Identity):
    """Marks a layer's output: takes the hooks that were meant for the layer."""


def copy_of(module: Network) -> Network:
    """A deep copy, which shares with the original the objects beside the weights that cannot be copied.

    Examples are a tensor of an autograd graph (which is detached), a script function, a lock, an open file.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # the class of a kept object may raise anything
        apart = ("_parameters", "_buffers", "_modules")
        kept = [value for layer in module.modules() for name, value in vars(layer).items() if name not in apart]
        shared = {id(value): value for value in kept}
        for value in kept:
            with suppress(Exception):
                copy.deepcopy(value)
                shared.pop(id(value), None)
        detached = {key: value.detach() for key, value in shared.items() if isinstance(value, torch.Tensor)}
        return copy.deepcopy(module, shared | detached)


def without_parametrizations(module: Network) -> Network:
    """The module, whose weights keep the values that weight norm, spectral norm and the like compute; in place."""
    for layer in filter(is_parametrized, list(module.modules())):
        values = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
        layer.__class__ = type_before_parametrizations(layer)  # copies of a layer share the class, which stays
        del layer.parametrizations
        for name, value in values.items():
            layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module


def flatten(module: nn.Module, *layers: str) -> fx.GraphModule:
    """A copy of a network as one graph of calls of its leaf modules; the modules keep their paths.

    Activations in place return a new tensor, unless others read the tensor that they change, or share its memory.
    ``MARK.format(0)`` returns the output of the first of ``layers``. NotApplicable if the network cannot be traced,
    keeps what it computes, or a layer does not run.
    """
    root = copy_of(module)
    marks = {MARK.format(number): layer for number, layer in enumerate(layers)}
    tracer = _MarkingTracer({root.get_submodule(layer): mark for mark, layer in marks.items()})
    if root._forward_hooks:  # torch.fx traces a method of the network, and ``forward`` does not run its hooks
        hooked = {"hooked": lambda self, pictures: self._call_impl(pictures)}
        root.__class__, tracer.traced_func_name = type(type(module).__name__, (type(root),), hooked), "hooked"
    try:
        graph = tracer.trace(root)
    except Exception as error:  # the network's own code may raise anything when it runs with proxies
        raise NotApplicable(f"torch.fx cannot trace {type(module).__name__} ({in_one_line(error)})") from error
    kept = {type(value) for part in root.modules() for value in (*vars(part).values(), *part._buffers.values())}
    if fx.Proxy in kept:
        raise NotApplicable(f"{type(module).__name__} keeps what it computes, which torch.fx does not trace")
    for mark, layer in marks.items():
        if all(node.target != mark for node in graph.nodes):
            raise NotApplicable(f"layer {layer!r} does not run")
        root.add_module(mark, LayerOutput())
    network = fx.GraphModule(root, graph, type(module).__name__)
    _make_functional(network)
    return network


class _MarkingTracer(fx.Tracer):
    def __init__(self, marks: dict[nn.Module, str]) -> None:
        super().__init__()
        self._marks = marks

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Operator) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        return self.create_proxy("call_module", self._marks[m], (output,), {}) if m in self._marks else output


def _make_functional(network: fx.GraphModule) -> None:
    nodes = network.graph.nodes
    called: dict[Any, Any] = {node: network.get_submodule(node.target) for node in nodes if node.op == "call_module"}
    in_place = [node for node in nodes if getattr(called.get(node), "inplace", node.kwargs.get("inplace"))]
    kept = {node.target for node in in_place if not _changes_for_itself(node)}
    for node in in_place:
        if node.target in kept:
            continue
        if node in called:
            called[node].inplace = False
        else:
            node.kwargs = {**node.kwargs, "inplace": False}
    network.recompile()


def _changes_for_itself(node: fx.Node) -> bool:
    """Whether the readers of what a node returns are the only ones that see how it changes its input."""
    changed: Any = node.args[0]
    views = getattr(changed.target, "__name__", changed.target) in _VIEWS
    return len(changed.users) == 1 and bool(node.users) and not views
