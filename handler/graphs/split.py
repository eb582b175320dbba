"""Splits a graph into the part that depends on the picture alone, which several targets share, and the rest."""

from collections.abc import Iterable

import onnx
from onnx.utils import Extractor


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph as two, which hold the constants that they need.

    The first takes ``input``. Its outputs are the graph's own outputs that no target changes, and the values that the
    second graph takes beside the graph's other inputs. The outputs of the second are the rest of the graph's outputs.
    """
    model = onnx.shape_inference.infer_shapes(model)  # names the types of all values
    graph, others = model.graph, [value.name for value in model.graph.input if value.name != "input"]
    of_target = _reached(graph, others)
    before = _reached(graph, ["input"]) - of_target
    users = [node for node in graph.node if of_target & {*node.output}]
    saved = dict.fromkeys(name for node in users for name in node.input if name in before)
    outputs = [value.name for value in graph.output]
    kept = dict.fromkeys([*saved, *(name for name in outputs if name not in of_target)])
    extractor = Extractor(model)
    return (
        extractor.extract_model(["input"], [name for name in kept if name != "input"]),
        extractor.extract_model([*saved, *others], [name for name in outputs if name in of_target]),
    )


def _reached(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """The values that depend on others, and these; the nodes are in topological order."""
    found = {*names}
    for node in graph.node:
        if found & {*node.input}:
            found |= {*node.output}
    return found
