"""float16 graphs of float32 graphs, whose inputs and outputs stay float32, by ``onnxruntime.transformers.float16``."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import MinMaxCalibrater
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from deploy.devices.int8 import Reader
from handler.errors import ModelError
from handler.explanation.evidence import TOP, Floats

LARGEST = 65504.0  # of float16
_IN_FLOAT32 = [*DEFAULT_OP_BLOCK_LIST, "ScatterElements"]  # which ONNX Runtime's CPU does not add up in float16


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights and computations in float16."""
    source, given = onnx.ModelProto(), {value.name for value in model.graph.input}
    source.CopyFrom(model)
    # the converter would make float16 of the default of an input, which stays float32
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in given]
    for tensor in defaults:
        source.graph.initializer.remove(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights nearer to 0 than float16's least become that
        half: onnx.ModelProto = convert_float_to_float16(source, keep_io_types=True, op_block_list=_IN_FLOAT32)
    OnnxModel.graph_topological_sort(half.graph)  # the casts of inputs are at the end
    half.graph.initializer.extend(defaults)
    return half


def check_range(model: onnx.ModelProto, pictures: Floats) -> None:
    """Raises ModelError if a value that a float32 graph computes for pictures (N, C, H, W) is too large for float16.

    The message names the first node that computes such a value, and the node's weights.
    """
    takes_targets = any(value.name == "target" for value in model.graph.input)
    target = {"target": np.array([TOP])} if takes_targets else {}
    with tempfile.TemporaryDirectory(prefix="float16-") as folder:
        path = Path(folder, "float32.onnx")
        typed = onnx.shape_inference.infer_shapes(model)
        for value in [value for value in typed.graph.input if value.name not in ("input", "target")]:
            typed.graph.input.remove(value)  # its default is left
        onnx.save(typed, path)
        calibrater = MinMaxCalibrater(path, None, str(Path(folder, "augmented.onnx")))
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(Reader({"input": picture, **target} for picture in pictures[:, None]))
        found = {name: float(np.abs(one.range_value).max()) for name, one in calibrater.compute_data().items()}
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for value in (found[name] for name in node.output if name in found):
            if not value <= LARGEST:
                held = ", ".join(name for name in node.input if name in weights) or "none"
                what = f"{node.op_type} {node.name} (weights: {held})"
                raise ModelError(f"float16 ends at {LARGEST:.0f}, and {what} computes {value:.3g}; valid is float32")
