"""A torch network from a graph of ONNX: a module per node, at the node's name."""

import math
import re
from collections.abc import Sequence
from operator import getitem
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torchvision.ops import Permute

from handler.model.onnx_file.operators import OPERATORS, POINTWISE, Function

WEIGHT = 64  # numbers: a longer constant of real numbers is a weight, which a graph may have without values
PER_PICTURE = -2  # sizes of a Reshape that are for each picture: -2 is one, -3 are two, …
_MODULES = (
    "Conv",
    "BatchNormalization",
    "Gemm",
    "Dropout",
    "Identity",
    "Softmax",
    "LogSoftmax",
)  # beside those of OPERATORS
SUPPORTED = frozenset((*OPERATORS, *_MODULES))
_ALONE = {"Identity": nn.Identity, "Dropout": nn.Identity, "Sigmoid": nn.Sigmoid}  # modules without arguments
_ONLY = {  # attributes of which no other value is supported
    **{"select_last_index": 0, "training_mode": 0, "exclude_outside": 0, "antialias": 0, "cubic_coeff_a": -0.75},
    **{"keep_aspect_ratio_policy": "stretch", "block_size": 0, "noop_with_empty_axes": 0, "transA": 0},
}

Said = dict[str, Any]


class Operator(nn.Module):
    """A node: a function of tensors that other nodes make, its constants and its attributes."""

    def __init__(self, function: Function, inputs: Sequence[Any], said: Said) -> None:
        """Inputs are tensors, numbers, lists of numbers, or "" for what other nodes make."""
        super().__init__()
        self._function, self._said = function, said
        self._inputs = [f"constant_{i}" if isinstance(value, Tensor) else value for i, value in enumerate(inputs)]
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                self.register_buffer(f"constant_{i}", value)

    def forward(self, batch: int, *made: Tensor) -> Any:
        """Calls the function; ``batch`` is the number of pictures."""
        others = iter(made)
        values = [(getattr(self, v) if v else next(others)) if isinstance(v, str) else v for v in self._inputs]
        if self._function is OPERATORS["Reshape"]:
            values[1] = [batch * (-1 - size) if size <= PER_PICTURE else size for size in values[1]]
        return self._function(*values, **self._said)


def build(content: bytes) -> nn.Module:
    """Builds the network of a graph that ``export.packing.onnx_file`` wrote; weights without values become zeros."""
    model = onnx.load_from_string(content)
    graph, opset = model.graph, next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    root, flow = nn.Module(), fx.Graph()
    found: dict[str, Any] = {value.name: flow.placeholder(f"input_{i}") for i, value in enumerate(graph.input)}
    batch = flow.call_method("size", (next(iter(found.values())), 0))
    for node in graph.node:
        kind, schema = node.op_type, onnx.defs.get_schema(node.op_type, opset)
        said = {name: what.default_value for name, what in schema.attributes.items() if what.default_value.name}
        said |= {what.name: what for what in node.attribute}
        said = {name: _value(onnx.helper.get_attribute_value(what)) for name, what in said.items()}
        if other := [name for name, value in _ONLY.items() if said.get(name, value) != value]:
            raise NotImplementedError(f"{kind} with {other[0]}={said[other[0]]} is not supported")
        axis = said.get("axis", -1)
        if "Softmax" in kind and opset < 13 and math.prod(shapes.get(node.input[0], [])[axis % 9 + 1 :]) > 1:
            raise NotImplementedError(f"{kind} of opset {opset} over several axes is not supported")
        made: list[Any] = [found[name] for name in node.input if name in found]
        own = [_tensor(constants[name]) if name in constants else None for name in node.input]
        module = _module(kind, said, own, shapes.get(node.input[0], []))
        if module is None and kind not in OPERATORS:
            raise NotImplementedError(f"{kind} whose weights depend on the picture is not supported")
        if module is None:
            said |= {"count": len(node.output)} if kind == "Split" else {}
            if kind == "QuantizeLinear":
                kept = constants[node.input[2]].data_type if len(node.input) > 2 else onnx.TensorProto.UINT8
                limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kept))
                said |= {"limits": (int(limits.min), int(limits.max))}
            inputs = ["" if name in found else _plain(kind, value) for name, value in zip(node.input, own, strict=True)]
            module, made = Operator(OPERATORS[kind], inputs, said), [batch, *made]
        path = re.sub(r"\W+", "_", node.name or next(filter(None, node.output))).strip("_") or kind
        while hasattr(root, path):
            path += "_"
        root.add_module(path, module)
        call = flow.call_module(path, tuple(made))
        several = kind in ("Split", "TopK")
        if any(node.output[1:]) and not several:
            raise NotImplementedError(f"{kind} with several outputs is not supported")
        for i, name in enumerate(node.output):
            if name:
                found[name] = flow.call_function(getitem, (call, i)) if several else call
    flow.output(found[graph.output[0].name])
    network = fx.GraphModule(root, flow)
    network.register_buffer("onnx_graph", torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return network.eval().requires_grad_(False)


def _value(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    if not tensor.raw_data and all(tensor.dims):
        return torch.zeros(*tensor.dims)
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _plain(kind: str, value: Tensor | None) -> Any:
    """A constant as an operator takes it: see ``handler.model.onnx_file.operators``."""
    if value is None or not value.dim():
        return value if value is None else value.item()
    numbers = not value.is_floating_point() or kind in ("Resize", "Upsample")
    return value.tolist() if numbers and kind not in POINTWISE else value


def _module(kind: str, said: Said, own: Sequence[Any], shape: Sequence[int]) -> nn.Module | None:
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
        equal, ends = (
            pads[: len(kernel)] == pads[len(kernel) :],
            zip(reversed(pads[: len(kernel)]), reversed(pads[len(kernel) :]), strict=True),
        )
        sizes = (weight.shape[1] * said["group"], len(weight), kernel, strides, pads[: len(kernel)] if equal else 0)
        layer = getattr(nn, f"Conv{len(kernel)}d")(*sizes, dilations, said["group"], bias is not None, device="meta")
        layer = _filled(layer, weight=weight, bias=bias)
        return layer if equal else nn.Sequential(getattr(nn, f"ConstantPad{len(kernel)}d")(sum(ends, ()), 0.0), layer)
    if kind in ("Gemm", "MatMul") and weight is not None and weight.dim() == 2:
        weight = said.get("alpha", 1.0) * (weight if said.get("transB") else weight.T.contiguous())
        bias = None if bias is None else (said["beta"] * bias).expand(1, len(weight))[0]
        return _filled(nn.Linear(*reversed(weight.shape), bias is not None, device="meta"), weight=weight, bias=bias)
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
