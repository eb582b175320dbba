"""ONNX graphs of a few nodes that pass for exported ones: scores are the channels' means, all else is the picture."""

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import KIND_PREDICTION, KINDS, GraphDescription
from handler.picture.preprocess import Preprocessing

SIDE = 2
HOW = Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_OPERATORS = {
    "logits": [("GlobalAveragePool", "input", "means", {}), ("Flatten", "means", "logits", {})],
    "probabilities": [("Softmax", "logits", "probabilities", {"axis": 1})],
    "activations": [("Identity", "input", "activations", {})],
    "gradients": [("Neg", "input", "gradients", {})],
    "gradcam": [("ReduceMean", ["input", "channels"], "gradcam", {"keepdims": 0})],
    "guided_backprop": [("Abs", "input", "guided_backprop", {})],
    "saliency": [("Abs", "input", "saliency", {})],
    **{name: [("ReduceMean", ["input", "channels"], name, {"keepdims": 0})] for name in ATTENTION_METHODS},
}
_SHAPES: dict[str, list[Any]] = {
    "input": ["batch", 3, SIDE, SIDE],
    "target": ["batch"],
    "weights": ["rows", 3],
    "logits": ["batch", 3],
    "probabilities": ["batch", 3],
    **dict.fromkeys(("gradcam", *ATTENTION_METHODS), ["batch", SIDE, SIDE]),
}


def describe(kind: str = KIND_PREDICTION, **changes: Any) -> GraphDescription:
    """Of a graph by ``make_graph``."""
    return GraphDescription(
        **{
            "kind": kind,
            "architecture": "tiny",
            "labels": ["red", "green", "blue"],
            "preprocessing": HOW,
            "weights_sha256": "0" * 64,
            "layer": "last",
            **changes,
        }
    )


def make_graph(
    description: GraphDescription,
    *,
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    shapes: dict[str, list[Any]] | None = None,
    opset: int = 18,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A graph with this description; names and shapes are those of its kind unless given."""
    kind = KINDS.get(description.kind, KINDS[KIND_PREDICTION])
    given, made = inputs or (*kind.inputs, *kind.optional), outputs or list(_names(description))
    defaults = [helper.make_tensor(name, TensorProto.FLOAT, [1, 3], [0] * 3) for name in kind.optional if name in given]
    sizes = {**_SHAPES, **(shapes or {})}
    nodes = [
        helper.make_node(operator, [taken] if isinstance(taken, str) else taken, [gives], **attributes)
        for name in made
        for operator, taken, gives, attributes in _operators(name)
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [_value(name, TensorProto.INT64 if name == "target" else TensorProto.FLOAT, sizes) for name in given],
            [_value(name, TensorProto.FLOAT, sizes) for name in made],
            [helper.make_tensor("channels", TensorProto.INT64, [1], [1]), *defaults],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
    )
    helper.set_model_props(model, description.to_properties())
    return model


def _names(description: GraphDescription) -> tuple[str, ...]:
    return description.outputs if description.kind in KINDS else KINDS[KIND_PREDICTION].outputs


def _operators(name: str) -> list[Any]:
    """The nodes of an output, which may be that of a layer: ``gradients.last``."""
    stem, dot, layer = name.partition(".")
    return [
        (operator, taken, f"{gives}{dot}{layer}", attributes) for operator, taken, gives, attributes in _OPERATORS[stem]
    ]


def write_graph(folder: Path, description: GraphDescription, **how: Any) -> Path:
    """Writes ``make_graph`` under the name that its kind has in an archive."""
    path = folder / KINDS[description.kind].file
    onnx.save(make_graph(description, **how), path)
    return path


def _value(name: str, kind: int, shapes: dict[str, list[Any]]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shapes.get(name.partition(".")[0], ["batch", 3, SIDE, SIDE]))
