"""A torch network from a graph of ONNX: a module per node, at the node's name."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torchvision.ops import Permute

from handler.model.onnx_operators import OPERATORS, POINTWISE, Function, in_pairs

WEIGHT = 64  # numbers: a longer constant of real numbers is a weight, which a graph may have without values
_DEFAULT = {  # attributes of which only the default is supported
    *("training_mode", "exclude_outside", "antialias", "cubic_coeff_a", "keep_aspect_ratio_policy"),
    *("block_size", "noop_with_empty_axes", "transA"),
}
_MODULES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {  # modules without weights, of a node's attributes
    "Identity": lambda _: nn.Identity(),
    "Dropout": lambda _: nn.Identity(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Softmax": lambda said: nn.Softmax(said["axis"]),
    "LogSoftmax": lambda said: nn.LogSoftmax(said["axis"]),
    "GlobalAveragePool": lambda _: nn.AdaptiveAvgPool2d(1),
    "Transpose": lambda said: Permute(said["perm"]),
}
SUPPORTED = frozenset((*OPERATORS, *_MODULES, "Conv", "BatchNormalization", "Gemm"))


class Operator(nn.Module):
    """A node: a function of tensors that other nodes make, its constants and its attributes."""

    def __init__(self, function: Function, inputs: Sequence[Any], said: dict[str, Any]) -> None:
        """Inputs are tensors, numbers, lists of numbers, or "" for what other nodes make."""
        super().__init__()
        self._function, self._said, self._inputs = function, said, list(inputs)
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                self._inputs[i] = f"constant_{i}"
                self.register_buffer(f"constant_{i}", value)

    def forward(self, *made: Tensor) -> Any:
        """Calls the function."""
        others = iter(made)
        values = [(getattr(self, v) if v else next(others)) if isinstance(v, str) else v for v in self._inputs]
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
        self._start, self._end, self._steps = graph.input[0].name, graph.output[0].name, []
        for node in graph.node:
            layer = _layer(node, opset, constants, shapes.get(node.input[0], []))
            path = re.sub(r"\W+", "_", node.name or next(filter(None, node.output))).strip("_") or node.op_type
            while hasattr(self, path):
                path += "_"
            self.add_module(path, layer)
            taken = [name for name in node.input if name and name not in constants]
            self._steps.append((path, taken, list(node.output) if node.op_type == "Split" else node.output[0]))
        self._last = {name: path for path, taken, _ in self._steps for name in taken} | {self._end: ""}

    def forward(self, pictures: Tensor) -> Any:
        """(N, C, H, W), normalised, to the scores."""
        values: dict[str, Any] = {self._start: pictures}
        for path, taken, given in self._steps:
            made = getattr(self, path)(*(values[name] for name in taken))
            values |= {given: made} if isinstance(given, str) else zip(given, made, strict=True)
            values = {name: value for name, value in values.items() if self._last.get(name) != path}  # frees memory
        return values[self._end]


def _layer(node: onnx.NodeProto, opset: int, constants: dict[str, onnx.TensorProto], shape: Sequence[int]) -> nn.Module:
    kind, value_of = node.op_type, onnx.helper.get_attribute_value
    known = {name: what.default_value for name, what in onnx.defs.get_schema(kind, opset).attributes.items()}
    defaults = {name: value_of(what) for name, what in known.items() if what.name}
    given = {what.name: value_of(what) for what in node.attribute}
    other = [f"{name}={value}" for name, value in given.items() if name in _DEFAULT and value != defaults[name]]
    other += ["several outputs"] * (kind != "Split" and any(node.output[1:]))
    said = {name: value.decode() if isinstance(value, bytes) else value for name, value in (defaults | given).items()}
    own: list[Any] = [_tensor(constants[name]) if name in constants else "" if name else None for name in node.input]
    module: nn.Module | None = None if other else _module(kind, said, own, shape)
    if module is not None:
        return module
    if other or kind not in OPERATORS:
        raise NotImplementedError(f"{kind} with {[*other, 'these inputs'][0]} is not supported")
    if kind == "Split":
        said["count"] = len(node.output)
    if kind == "QuantizeLinear":
        kept = torch.iinfo(own[2].dtype if len(own) > 2 else torch.uint8)
        said["limits"] = (kept.min, kept.max)
    return Operator(OPERATORS[kind], [_plain(kind, value) for value in own], said)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    without = not tensor.raw_data and all(tensor.dims)
    return torch.zeros(*tensor.dims) if without else torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _plain(kind: str, value: Any) -> Any:
    """A constant as an operator takes it: see ``handler.model.onnx_operators``."""
    if not isinstance(value, Tensor) or not value.dim():
        return value.item() if isinstance(value, Tensor) else value
    numbers = not value.is_floating_point() or kind in ("Resize", "Upsample")
    return value.tolist() if numbers and value.dim() == 1 and kind not in POINTWISE else value


def _module(kind: str, said: dict[str, Any], own: Sequence[Any], shape: Sequence[int]) -> nn.Module | None:
    """The module of torch for a node whose further inputs are constants, if there is one; settles the padding."""
    weights = [value for value in own[1:] if isinstance(value, Tensor)]
    if "auto_pad" in said:
        _settle_padding(said, weights, shape)
    if kind in _MODULES and len(own) < 3:  # a third input of Dropout is for training
        return _MODULES[kind](said)
    if not weights or len(weights) < len([value for value in own[1:] if value is not None]):
        return None
    biased, (outputs, inputs, *_) = len(weights) > 1, (*weights[0].shape, 0, 0)
    padding: list[nn.Module] = []  # that torch's convolutions do not have
    layer: nn.Module
    if kind == "Conv":
        axes, pads = len(said["kernel_shape"]), said["pads"]
        if pads[:axes] != pads[axes:]:
            padding, pads = [getattr(nn, f"ConstantPad{axes}d")(in_pairs(pads), 0.0)], [0] * axes
        sizes = (inputs * said["group"], outputs, said["kernel_shape"], said["strides"], pads[:axes], said["dilations"])
        layer = getattr(nn, f"Conv{axes}d")(*sizes, said["group"], biased, device="meta")
    elif kind == "BatchNormalization":
        layer = getattr(nn, f"BatchNorm{max(1, len(shape) - 2)}d")(outputs, said["epsilon"])
    elif kind in ("Gemm", "MatMul") and weights[0].dim() == 2:
        weights[0] = said.get("alpha", 1.0) * (weights[0] if said.get("transB") else weights[0].T.contiguous())
        weights[1:] = [(said["beta"] * bias).expand(1, len(weights[0]))[0] for bias in weights[1:]]
        layer = nn.Linear(weights[0].shape[1], len(weights[0]), biased, device="meta")
    else:
        return None
    names = ("weight", "bias", "running_mean", "running_var")
    layer.load_state_dict(dict(zip(names, weights, strict=False)), strict=False, assign=True)
    return nn.Sequential(*padding, layer) if padding else layer


def _settle_padding(said: dict[str, Any], weights: Sequence[Tensor], shape: Sequence[int]) -> None:
    """Writes the sizes of a convolution's or a pooling's windows, which a file may leave out, into its attributes."""
    kernel = said.setdefault("kernel_shape", [*weights[0].shape[2:]] if weights else [])
    strides, dilations = (said.setdefault(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    said.setdefault("pads", [0] * 2 * len(kernel))
    if said["auto_pad"].startswith("SAME"):  # ceil(size / stride) windows
        windows = zip(shape[2:], kernel, strides, dilations, strict=True)
        total = [max(0, (-(-size // step) - 1) * step + far * (k - 1) + 1 - size) for size, k, step, far in windows]
        less, more = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
        said["pads"] = [*less, *more] if said["auto_pad"] == "SAME_UPPER" else [*more, *less]
