"""A torch network from a graph of ONNX: a module per node, at the node's name."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import getitem
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torchvision.ops import Permute

from handler.model.onnx_file.operators import OPERATORS

PER_PICTURE = "//per picture"  # ends the name of a constant that is added to another one for each picture of a batch
_WINDOWED = {"Conv": "Conv", "ConvTranspose": "ConvTranspose", "MaxPool": "MaxPool", "AveragePool": "AvgPool"}
SUPPORTED = frozenset((*(name.partition("-")[0] for name in OPERATORS), *_WINDOWED, "Dropout"))
_ONLY = {  # attributes of which no other value is supported
    **{"select_last_index": 0, "training_mode": 0, "exclude_outside": 0, "antialias": 0, "cubic_coeff_a": -0.75},
    **{"keep_aspect_ratio_policy": "stretch", "block_size": 0, "output_shape": None},
}
_SEVERAL = ("Split", "TopK")  # operators with several outputs

Said = dict[str, Any]


class Operator(nn.Module):
    """A node: a function of tensors that other nodes make and of constants."""

    def __init__(self, function: Callable[..., Any], sources: Sequence[tuple[str, Any]], many: str, said: Said) -> None:
        """Sources are each input's name, and a tensor, a function of the batch's size, or None for other nodes'.

        The inputs of the name ``many`` are given to the function as a list.
        """
        super().__init__()
        self._function, self._many, self._said = function, many, said
        self._sources: list[tuple[str, Any]] = []
        for number, (name, source) in enumerate(sources):
            if isinstance(source, Tensor):
                kept = nn.Parameter(source, requires_grad=False) if source.is_floating_point() else nn.Buffer(source)
                setattr(self, f"{name}_{number}", kept)
            self._sources.append((name, f"{name}_{number}" if isinstance(source, Tensor) else source))

    def forward(self, batch: int, *tensors: Tensor) -> Any:
        """Gives the function its inputs by name."""
        made, named = iter(tensors), {self._many: []} if self._many else {}
        for name, source in self._sources:
            value = next(made) if source is None else source(batch) if callable(source) else getattr(self, source)
            if name == self._many:
                named[name].append(value)
            else:
                named[name] = value
        return self._function(**named, **self._said)


def build(content: bytes) -> nn.Module:
    """Builds the network of a graph that ``export.importing`` wrote, whose longer tensors may lack their values."""
    model = onnx.load_from_string(content)
    builder = _Builder(model)
    for node in model.graph.node:
        builder.add(node)
    builder.flow.output(builder.values[model.graph.output[0].name])
    network = fx.GraphModule(builder.root, builder.flow)
    network.register_buffer("onnx_graph", torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return network


class _Builder:
    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.root, self.flow = nn.Module(), fx.Graph()
        self._opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.value_info)
        }
        self.values = {value.name: self.flow.placeholder(f"input_{i}") for i, value in enumerate(graph.input)}
        self._batch = self.flow.call_method("size", (next(iter(self.values.values())), 0))

    def add(self, node: onnx.NodeProto) -> None:
        """Adds a node's module, and the call of it."""
        kind, schema = node.op_type, onnx.defs.get_schema(node.op_type, self._opset)
        said = {name: what.default_value for name, what in schema.attributes.items() if what.default_value.name}
        said |= {what.name: what for what in node.attribute}
        said = {name: _value(onnx.helper.get_attribute_value(what)) for name, what in said.items()}
        other = [name for name, value in _ONLY.items() if said.get(name, value) != value]
        if other or (any(node.output[1:]) and kind not in _SEVERAL):
            what = " and ".join(f"{name}={said[name]}" for name in other) or "several outputs"
            raise NotImplementedError(f"{kind} with {what} is not supported")
        names = [formal.name for formal in schema.inputs]
        many = names[-1] if schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic else ""
        given = [(names[min(i, len(names) - 1)], value) for i, value in enumerate(node.input) if value]
        made: list[Any] = [self.values[value] for _, value in given if value in self.values]
        constants = {name: _tensor(self._constants[value]) for name, value in given if value in self._constants}
        shape = self._shapes.get(node.input[0], [])
        module, padding = _layer(kind, said, constants, shape) if len(made) == 1 else (None, None)
        if module is None:
            said |= {"outputs": len(node.output)} if kind == "Split" else {}
            if kind == "QuantizeLinear":
                zero = self._constants[node.input[2]].data_type if len(node.input) > 2 else onnx.TensorProto.UINT8
                limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(zero))
                said |= {"limits": (int(limits.min), int(limits.max))}
            function = OPERATORS[f"{kind}-1" if self._opset < 13 and f"{kind}-1" in OPERATORS else kind]
            sources = [(name, None if value in self.values else self._source(kind, value)) for name, value in given]
            module, made = Operator(function, sources, many, said), [self._batch, *made]
        elif padding:
            made = [self.flow.call_function(F.pad, (*made, *padding))]
        path = re.sub(r"\W+", "_", node.name or next(filter(None, node.output))).strip("_") or kind
        while hasattr(self.root, path):
            path += "_"
        self.root.add_module(path, module)
        call = self.flow.call_module(path, tuple(made))
        for i, name in enumerate(node.output):
            self.values[name] = self.flow.call_function(getitem, (call, i)) if kind in _SEVERAL else call

    def _source(self, kind: str, name: str) -> Any:
        """A constant, as numbers or as a tensor: see ``handler.model.onnx_file.operators``."""
        tensor, grown = self._constants[name], self._constants.get(name + PER_PICTURE)
        value = _tensor(tensor)
        if value.dtype == torch.bool or (value.is_floating_point() and value.dim() and kind not in ("Resize", "Upsample")):
            return value
        return partial(_numbers, value.tolist(), None if grown is None else _tensor(grown).tolist())


def _numbers(base: Any, per_picture: Any, batch: int) -> Any:
    if not per_picture or not isinstance(base, list):
        return base + per_picture * batch if per_picture else base
    return [_numbers(number, more, batch) for number, more in zip(base, per_picture, strict=True)]


def _value(value: Any) -> Any:
    """An attribute's value, with texts and lists as Python has them."""
    if isinstance(value, bytes):
        return value.decode()
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    """A constant; zeros if the graph is without the weights."""
    if not tensor.raw_data and all(tensor.dims):
        return torch.zeros(*tensor.dims)
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _layer(
    kind: str, said: Said, constants: dict[str, Tensor], shape: Sequence[int]
) -> tuple[nn.Module | None, tuple[Any, ...] | None]:
    """The module of torch that a node of one input is, if there is one, and the arguments of a padding before it."""
    if kind in _WINDOWED:
        return _windowed(kind, said, constants, shape)
    weight = constants.get("B") if kind in ("Gemm", "MatMul") else None
    if weight is not None and weight.dim() == 2 and not said.get("transA"):
        weight = said.get("alpha", 1.0) * (weight if said.get("transB") else weight.T.contiguous())
        bias = constants["C"] * said["beta"] if "C" in constants else None
        if bias is None or bias.shape == weight.shape[:1]:
            linear = nn.Linear(*reversed(weight.shape), bias is not None, device="meta")
            return _filled(linear, weight=weight, bias=bias), None
    if kind == "BatchNormalization" and len(shape) == 4 and len(constants) == 4:
        scale, bias, mean, var = constants.values()
        norm = nn.BatchNorm2d(len(scale), said["epsilon"])
        return _filled(norm, weight=scale, bias=bias, running_mean=mean, running_var=var), None
    if kind in ("Identity", "Dropout"):
        return nn.Identity(), None
    if kind == "GlobalAveragePool" and len(shape) == 4:
        return nn.AdaptiveAvgPool2d(1), None
    return (Permute(said["perm"]) if kind == "Transpose" and "perm" in said else None), None


def _windowed(
    kind: str, said: Said, constants: dict[str, Tensor], shape: Sequence[int]
) -> tuple[nn.Module | None, tuple[Any, ...] | None]:
    weight, bias, group = constants.get("W"), constants.get("B"), said.get("group", 1)
    kernel = said.get("kernel_shape") or list(weight.shape[2:])  # type: ignore[union-attr]
    axes = len(kernel)
    strides, dilations = (said.get(name) or [1] * axes for name in ("strides", "dilations"))
    said |= {"strides": strides, "pads": _pads(said, kernel, strides, dilations, shape)}
    if (kind == "AveragePool" and max(dilations) > 1) or (kind == "ConvTranspose" and said["auto_pad"] != "NOTSET"):
        raise NotImplementedError(f"{kind} with dilations={dilations} and auto_pad={said['auto_pad']} is not supported")
    left, behind = said["pads"][:axes], said["pads"][axes:]
    padding = None
    if left != behind or ("Pool" in kind and any(2 * pad > size for pad, size in zip(left, kernel, strict=True))):
        if kind == "ConvTranspose" or (kind == "AveragePool" and not said["count_include_pad"]):
            return None, None
        sizes = [size for pair in zip(reversed(left), reversed(behind), strict=True) for size in pair]
        padding, left = (sizes, "constant", -math.inf if kind == "MaxPool" else 0.0), [0] * axes
    layer = getattr(nn, f"{_WINDOWED[kind]}{axes}d")
    if weight is None:
        further = {"dilation": dilations} if kind == "MaxPool" else {"count_include_pad": bool(said["count_include_pad"])}
        return layer(kernel, strides, left, ceil_mode=bool(said.get("ceil_mode")), **further), padding
    channels = (weight.shape[1] * group, len(weight)) if kind == "Conv" else (len(weight), weight.shape[1] * group)
    further = {} if kind == "Conv" else {"output_padding": said.get("output_padding", 0)}
    made = layer(*channels, kernel, strides, left, dilation=dilations, groups=group, bias=bias is not None, device="meta", **further)
    return _filled(made, weight=weight, bias=bias), padding


def _pads(said: Said, kernel: list[int], strides: list[int], dilations: list[int], shape: Sequence[int]) -> list[int]:
    """Padding before each axis, then behind; "same" padding leaves ceil(size / stride) windows."""
    if not said["auto_pad"].startswith("SAME"):
        return list(said.get("pads") or [0] * 2 * len(kernel))
    windows = zip(shape[2:], kernel, strides, dilations, strict=True)
    total = [max(0, (-(-size // step) - 1) * step + far * (k - 1) + 1 - size) for size, k, step, far in windows]
    less, more = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
    return [*less, *more] if said["auto_pad"] == "SAME_UPPER" else [*more, *less]


def _filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, tensor in tensors.items():
        if tensor is not None:
            parameter = name in module._parameters
            setattr(module, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)
    return module
