"""A torch network from a graph of ONNX: a module per node, at the node's name."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torchvision.ops import Permute

from handler.model.onnx_operators import OPERATORS, POINTWISE, Function

WEIGHT = 64  # numbers: a longer constant of real numbers is a weight, which a graph may have without values
PER_PICTURE = -2  # sizes of a Reshape that are for each picture: -2 is one, -3 are two, …
_MODULES = ("Conv", "BatchNormalization", "Gemm", "Dropout", "Identity", "Softmax", "LogSoftmax")  # not in OPERATORS
_ALONE = {"Identity": nn.Identity, "Dropout": nn.Identity, "Sigmoid": nn.Sigmoid}  # modules without arguments
_ONLY = {  # attributes of which no other value is supported
    **{"select_last_index": 0, "training_mode": 0, "exclude_outside": 0, "antialias": 0, "cubic_coeff_a": -0.75},
    **{"keep_aspect_ratio_policy": "stretch", "block_size": 0, "noop_with_empty_axes": 0, "transA": 0},
}
_SEVERAL = ("Split", "TopK")  # operators with several outputs
SUPPORTED = frozenset((*OPERATORS, *_MODULES))

Said = dict[str, Any]


class Operator(nn.Module):
    """A node: a function of tensors that other nodes make, its constants and its attributes."""

    def __init__(self, function: Function, inputs: Sequence[Any], said: Said) -> None:
        """Inputs are tensors, numbers, lists of numbers, or "" for what other nodes make."""
        super().__init__()
        self._function, self._said, self._inputs = function, said, list(inputs)
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                self._inputs[i] = f"constant_{i}"
                self.register_buffer(f"constant_{i}", value)

    def forward(self, batch: int, *made: Tensor) -> Any:
        """Calls the function; ``batch`` is the number of pictures."""
        others = iter(made)
        values = [(getattr(self, v) if v else next(others)) if isinstance(v, str) else v for v in self._inputs]
        if self._function is OPERATORS["Reshape"]:
            values[1] = [batch * (-1 - size) if size <= PER_PICTURE else size for size in values[1]]
        return self._function(*values, **self._said)


class OnnxNetwork(nn.Module):
    """The network of a graph that ``export.packing.onnx_file`` wrote; weights without values become zeros."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.register_buffer("onnx_graph", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        model = onnx.load_from_string(content)
        graph, opset = model.graph, next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        constants = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info)
        shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
        self._ends, self._steps = (graph.input[0].name, graph.output[0].name), []
        for node in graph.node:
            layer = _layer(node, opset, constants, shapes.get(node.input[0], []))
            path = re.sub(r"\W+", "_", node.name or next(filter(None, node.output))).strip("_") or node.op_type
            while hasattr(self, path):
                path += "_"
            self.add_module(path, layer)
            taken = [name for name in node.input if name and name not in constants]
            self._steps.append((path, taken, list(node.output), node.op_type in _SEVERAL))
        last = {name: path for path, taken, _, _ in self._steps for name in taken}
        self._done = {path: [name for name in taken if last[name] == path] for path, taken, _, _ in self._steps}

    def forward(self, pictures: Tensor) -> Any:
        """(N, C, H, W), normalised, to the scores."""
        values = {self._ends[0]: pictures}
        for path, taken, given, several in self._steps:
            layer, arguments = getattr(self, path), [values[name] for name in taken]
            made = layer(pictures.shape[0], *arguments) if isinstance(layer, Operator) else layer(*arguments)
            values |= zip(given, made if several else (made,), strict=False)
            for name in {*self._done[path]} - {self._ends[1]}:  # frees memory
                del values[name]
        return values[self._ends[1]]


def _layer(
    node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto], shape: Sequence[int]
) -> nn.Module:
    kind, schema = node.op_type, onnx.defs.get_schema(node.op_type, opset)
    found = {name: what.default_value for name, what in schema.attributes.items() if what.default_value.name}
    found |= {what.name: what for what in node.attribute}
    values = {name: onnx.helper.get_attribute_value(what) for name, what in found.items()}
    said: Said = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    own = [_tensor(constants[name]) if name in constants else None for name in node.input]
    other = [f"{name}={said[name]}" for name, value in _ONLY.items() if said.get(name, value) != value]
    other += ["several outputs"] if any(node.output[1:]) and kind not in _SEVERAL else []
    other += ["training_mode"] if kind == "Dropout" and any(own[2:]) else []
    flat = "Softmax" in kind and opset < 13 and math.prod(shape[said["axis"] % max(1, len(shape)) + 1 :]) > 1
    module: nn.Module | None = None if other else _module(kind, said, own, shape)
    if flat or (module is None and (other or kind not in OPERATORS)):
        raise NotImplementedError(f"{kind} with {other[0] if other else 'these inputs'} is not supported")
    if module is not None:
        return module
    if kind == "Split":
        said["count"] = len(node.output)
    if kind == "QuantizeLinear":
        kept = constants[node.input[2]].data_type if len(node.input) > 2 else onnx.TensorProto.UINT8
        limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kept))
        said["limits"] = (int(limits.min), int(limits.max))
    inputs = [
        _plain(kind, value) if name in constants or not name else ""
        for name, value in zip(node.input, own, strict=True)
    ]
    return Operator(OPERATORS[kind], inputs, said)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    without = not tensor.raw_data and all(tensor.dims)
    return torch.zeros(*tensor.dims) if without else torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _plain(kind: str, value: Tensor | None) -> Any:
    """A constant as an operator takes it: see ``handler.model.onnx_operators``."""
    if value is None or not value.dim():
        return value if value is None else value.item()
    numbers = not value.is_floating_point() or kind in ("Resize", "Upsample")
    return value.tolist() if numbers and value.dim() == 1 and kind not in POINTWISE else value


def _module(kind: str, said: Said, own: Sequence[Any], shape: Sequence[int]) -> Any:
    """The module of torch for a node whose further inputs are constants, if there is one; settles the padding."""
    weight, bias, *further = (*own[1:], None, None)
    if kernel := said.get("kernel_shape") or (list(weight.shape[2:]) if kind == "Conv" and weight is not None else []):
        strides, dilations = (said.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
        pads = said.get("pads") or [0] * 2 * len(kernel)
        if said["auto_pad"].startswith("SAME"):  # ceil(size / stride) windows
            windows = zip(shape[2:], kernel, strides, dilations, strict=True)
            total = [max(0, (-(-size // step) - 1) * step + far * (k - 1) + 1 - size) for size, k, step, far in windows]
            less, more = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
            pads = [*less, *more] if said["auto_pad"] == "SAME_UPPER" else [*more, *less]
        said |= {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    if kind == "Conv" and weight is not None:
        before, behind = pads[: len(kernel)], pads[len(kernel) :]
        sizes = (weight.shape[1] * said["group"], len(weight), kernel, strides, before if before == behind else 0)
        layer = getattr(nn, f"Conv{len(kernel)}d")(*sizes, dilations, said["group"], bias is not None, device="meta")
        ends = [size for pair in zip(before[::-1], behind[::-1], strict=True) for size in pair]
        padding = [getattr(nn, f"ConstantPad{len(kernel)}d")(ends, 0.0)] if before != behind else []
        layer = _filled(layer, weight=weight, bias=bias)
        return nn.Sequential(*padding, layer) if padding else layer
    if kind in ("Gemm", "MatMul") and weight is not None and weight.dim() == 2:
        weight = said.get("alpha", 1.0) * (weight if said.get("transB") else weight.T.contiguous())
        bias = None if bias is None else (said["beta"] * bias).expand(1, len(weight))[0]
        linear = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
        return _filled(linear, weight=weight, bias=bias)
    if kind == "BatchNormalization" and weight is not None:
        norm = getattr(nn, f"BatchNorm{max(1, len(shape) - 2)}d")(len(weight), said["epsilon"])
        return _filled(norm, weight=weight, bias=bias, running_mean=further[0], running_var=further[1])
    if kind == "GlobalAveragePool" and len(shape) == 4:
        return nn.AdaptiveAvgPool2d(1)
    if kind == "Transpose" and "perm" in said:
        return Permute(said["perm"])
    if kind in ("Softmax", "LogSoftmax"):
        return getattr(nn, kind)(said["axis"])
    return _ALONE[kind]() if kind in _ALONE else None


def _filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(module, name, nn.Parameter(tensor) if name in module._parameters else tensor)
    return module
