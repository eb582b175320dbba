"""int8 graphs of float32 graphs: QDQ with a scale per channel of the weights, by ``onnxruntime.quantization``.

Grad-CAM needs no gradient of int8 where the head is linear in the layer's activation, as global average pooling and one
linear layer are: the gradient at the layer is the class's weights by the number of cells, whatever the picture is. The
float32 graph computes it from the target alone. That part of it is kept, and gets activations and scores of the int8
part.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx.utils import Extractor
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from handler.errors import ModelError
from handler.explanation.evidence import Floats

_FORWARD, _EXPLAINED = ("logits", "activations"), ("gradients", "gradcam")
_WITHOUT_VALUES = ("Shape", "ArgMax")  # whose outputs have no part in a gradient
_QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # that make a graph worth it


def check_head(model: onnx.ModelProto, layer: str) -> None:
    """Raises ModelError unless the gradients that a ``gradcam`` graph computes are the same for every picture."""
    makers = {name: node for node in model.graph.node for name in node.output}
    reached, left = set[str](), [_EXPLAINED[0]]
    while left:
        if (name := left.pop()) not in reached:
            reached.add(name)
            left += makers[name].input if name in makers and makers[name].op_type not in _WITHOUT_VALUES else ()
    if "input" in reached:
        needed = f"its head must be linear in layer {layer}: global average pooling and one linear layer"
        raise ModelError(f"this network has no int8 Grad-CAM: {needed}; valid are int8 predictions, and half")


def quantise(model: onnx.ModelProto, pictures: Floats, *, bits: int = 8, left: int = 0) -> onnx.ModelProto:
    """The int8 graph of a float32 ``prediction`` or ``gradcam`` graph, calibrated by pictures (N, C, H, W).

    A graph with ``gradients`` is one that ``check_head`` takes. With eight ``bits`` of the weights, pairs of products
    saturate on x86 without VNNI; with seven they do not. The first ``left`` convolutions stay float32. A ModelError
    says that the graph has nothing to quantise.
    """
    if not any(node.op_type in _QUANTISED for node in model.graph.node):
        raise ModelError(f"the network has nothing to quantise: no {', '.join(_QUANTISED)}")
    explains = any(value.name == _EXPLAINED[0] for value in model.graph.output)
    typed = onnx.shape_inference.infer_shapes(model)
    forward = Extractor(typed).extract_model(["input"], [*_FORWARD]) if explains else typed
    with tempfile.TemporaryDirectory(prefix="int8-") as folder, _silence():
        whole, folded, made = (str(Path(folder, f"{name}.onnx")) for name in ("whole", "folded", "int8"))
        onnx.save(forward, whole)
        quant_pre_process(whole, folded, skip_symbolic_shape=True)  # folds batch norms
        convolutions = [node.name for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        quantization.quantize_static(
            folded,
            made,
            Reader({"input": picture} for picture in pictures[:, None]),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=bits == 7,
            nodes_to_exclude=convolutions[:left],
        )
        found = onnx.load(made)
    del found.metadata_props[:]
    return _explaining(typed, found) if explains else found


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the library a graph's inputs, one run at a time."""

    def __init__(self, inputs: Iterator[dict[str, Any]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs, or None."""
        return next(self._inputs, None)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the library's advice, which it gives to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _explaining(model: onnx.ModelProto, forward: onnx.ModelProto) -> onnx.ModelProto:
    """The int8 part with the part of the float32 graph that makes gradients and the map of its outputs."""
    cam = Extractor(model).extract_model(["input", "target", "weights", *_FORWARD], [*_EXPLAINED]).graph
    kept = {"weights", *(value.name for value in cam.input), *_EXPLAINED}
    inner = {*(tensor.name for tensor in cam.initializer), *(name for node in cam.node for name in node.output)} - kept
    for node in cam.node:
        node.name = f"cam/{node.name}"
        for names in (node.input, node.output):
            names[:] = [f"cam/{name}" if name in inner else name for name in names]
    for tensor in cam.initializer:
        tensor.name = f"cam/{tensor.name}" if tensor.name in inner else tensor.name
    nodes = [*forward.graph.node, *cam.node]
    initializers = [*forward.graph.initializer, *cam.initializer]
    graph = onnx.helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, initializers)
    return onnx.helper.make_model(graph, opset_imports=forward.opset_import, ir_version=forward.ir_version)
