"""Makes a checkpoint of a classifier that is an ONNX file, and compares the network with the file in ONNX Runtime.

What the file computes without the picture's values, ONNX Runtime computes here, once. What is left becomes a module per
node.
"""

import copy
import hashlib
import itertools
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import ModelProto, helper, numpy_helper

from export.verify.compare import Floats, Run, VerificationError
from export.verify.reference import graph_run
from handler.errors import ModelError, in_one_line
from handler.graphs.description import GraphDescription
from handler.model.checkpoint import Checkpoint, check_file
from handler.model.layers.looking import scenes
from handler.model.onnx_network import SUPPORTED, WEIGHT, OnnxNetwork
from handler.picture.preprocess import MOST_CHANNELS
from handler.picture.preprocess_text import said_over

_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear")
_ALIKE, _ALIKE_IF_QUANTISED = 1e-3, 0.1  # most difference from the file's scores, relative to the largest


def read_onnx(path: Path, labels: list[str] | None, preprocessing: str, output: str | None = None) -> Checkpoint:
    """Reads a classifier from an ONNX file, and compares it with the file in ONNX Runtime.

    ``preprocessing`` is a text, see ``handler.picture.preprocess_text``, and may leave out the sizes that the file
    says. A graph of this project has its own, as well as labels, of which there is one per score. ``output`` names the
    scores, if the file has several outputs. A ModelError says what is not supported, or how much the scores differ.
    """
    check_file(path, "ONNX file")
    try:
        model, sha256 = onnx.load(path), hashlib.sha256(path.read_bytes()).hexdigest()
        model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the parser's exceptions have no common base
        raise ModelError(f"{path} cannot be read as ONNX: {in_one_line(error)}") from error
    own = None
    with suppress(ModelError):
        own = GraphDescription.from_properties({entry.key: entry.value for entry in model.metadata_props})
    picture, shape = _picture(path, model.graph)
    score, end = _score(path, model.graph, output or ("logits" if own else ""))
    turned = not 0 < shape[1] <= MOST_CHANNELS
    channels, *sides = (shape[axis] for axis in ((3, 1, 2) if turned else (1, 2, 3)))
    size = f"{sides[0]}x{sides[1]}"
    left = f" resize={size}" * ("resize=" not in preprocessing)
    left += f" crop={size}" * (not re.search("crop=|input=", preprocessing))
    said = preprocessing + left * (all(sides) and not own)
    said += f" channels={channels}" * ("channels=" not in preprocessing and not own)
    how = said_over(said, own.preprocessing if own else None, "")[0]
    if any(given not in (0, wanted) for given, wanted in zip((channels, *sides), how.shape, strict=True)):
        what, made = (f"{a} channels of {b}x{c} pixels" for a, b, c in ((channels, *sides), how.shape))
        raise ModelError(f"{path} takes pictures of {what}, and preprocessing= makes {made}")
    pictures = scenes(3 * (shape[0] or 1), how.shape, seed=5)
    given = (pictures.movedim(1, 3).contiguous() if turned else pictures).numpy()
    try:
        model = _apart(model, picture, score)
        graph = _simplified(model, picture, score, given, shape[0], turned)
        network = OnnxNetwork(graph.SerializeToString()).float().eval().requires_grad_(False)
        found = np.concatenate([network(one).numpy() for one in pictures[:, None]])
        run = _showing(model, [score])
        wanted = np.concatenate([run({picture: rows})[score] for rows in np.split(given, 3)]).reshape(found.shape)
    except Exception as error:  # torch's exceptions have no common base
        why = error if isinstance(error, ModelError) else f"PyTorch cannot compute it: {in_one_line(error)}"
        raise ModelError(f"{path}: {why}") from error
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    difference = float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1))
    if not difference <= (_ALIKE_IF_QUANTISED if quantised else _ALIKE):
        raise ModelError(f"{path}: PyTorch's scores differ from ONNX Runtime's by {difference:.1e} of the largest")
    names = labels or (own.labels if own else None)
    if not names:
        raise ModelError(f"{path} does not say its labels: give one for each of its {found.shape[1]} scores, labels=")
    notes = {"onnx_file": f"{path.name}, sha256 {sha256}; within {difference:.1e} of ONNX Runtime's largest score"}
    notes |= {"onnx_quantised": "rounds as the file does, and gradients pass as if it did not"} if quantised else {}
    origins = dict.fromkeys(("labels", "preprocessing"), "as said, or as the file says" if own else "as said")
    state, name = network.state_dict() | {"onnx_graph": _stored(graph, end)}, f"onnx/{path.name}"
    return Checkpoint(architecture=name, labels=names, preprocessing=how, state=state, notes=notes, origins=origins)


def _picture(path: Path, graph: onnx.GraphProto) -> tuple[str, list[int]]:
    """The name and the shape of the input, in which 0 is any size; raises ModelError unless it is one of pictures."""
    constants = {tensor.name for tensor in graph.initializer}
    kinds = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    shapes = {name: [size.dim_value for size in kind.shape.dim] for name, kind in kinds.items()}
    types = {name: onnx.TensorProto.DataType.Name(kind.elem_type).lower() for name, kind in kinds.items()}
    name, shape = next(iter(shapes.items()), ("", []))
    valid = len(shape) == 4 and any(0 < shape[axis] <= MOST_CHANNELS for axis in (1, 3))
    if [*types.values()] != ["float"] or not valid:
        named = ", ".join(f"{name} {types[name]} {shapes[name]}" for name in kinds)
        raise ModelError(f"{path} takes {named or 'nothing'}; valid is one input, float (N, C, H, W) or (N, H, W, C)")
    return name, shape


def _score(path: Path, graph: onnx.GraphProto, output: str) -> tuple[str, str]:
    """The name of the tensor with the scores, and the operator by which the file makes probabilities of them."""
    names = [value.name for value in graph.output]
    if output not in names and (output or len(names) != 1):
        raise ModelError(f"{path} has the outputs {', '.join(names)}; valid is output= with the one of the scores")
    makers = {name: node for node in graph.node for name in node.output}
    name = output = output or names[0]
    while (last := makers.get(name, onnx.NodeProto())).op_type in _PASSING:
        name = last.input[0]
    return (last.input[0], last.op_type) if last.op_type in ("Softmax", "LogSoftmax", "Sigmoid") else (output, "")


def _dependent(graph: onnx.GraphProto, picture: str, score: str) -> list[onnx.NodeProto]:
    """The nodes that the values of the picture reach, and that reach the scores."""
    reached, wanted, found = {picture}, {score}, []
    for node in graph.node:
        inner = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
        if inner or (node.op_type not in ("Shape", "Size") and reached & {*node.input}):
            reached |= {*node.output}
    for node in reversed(graph.node):
        if wanted & reached & {*node.output}:
            wanted |= {*node.input}
            found.append(node)
    return found[::-1]


def _apart(model: ModelProto, picture: str, score: str) -> ModelProto:
    """Takes operators apart that are functions of others; raises ModelError if unsupported ones are left."""
    before = set[tuple[str, str]]()
    supported = {*itertools.product(("", "ai.onnx"), SUPPORTED)}
    while left := {(node.domain, node.op_type) for node in _dependent(model.graph, picture, score)} - supported:
        if left == before:
            named = ", ".join(sorted(".".join(filter(None, kind)) for kind in left))
            raise ModelError(f"the operators {named} are not supported; valid are {', '.join(sorted(SUPPORTED))}")
        for kind in left - {("", "DynamicQuantizeLinear")}:  # which would not round, in real numbers
            with suppress(Exception):  # the inliner knows not every type; its exceptions have no common base
                typed = onnx.shape_inference.infer_shapes(model)
                model = onnx.inliner.inline_selected_functions(typed, [kind], inline_schema_functions=True)
        before = left
    return model


def _showing(model: ModelProto, names: Iterable[str]) -> Run:
    """Runs a model whose outputs are the tensors of these names."""
    shown = copy.deepcopy(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return graph_run(shown.SerializeToString())


def _simplified(model: ModelProto, picture: str, score: str, given: Floats, fixed: int, turned: bool) -> ModelProto:
    """The nodes that depend on the picture, with what the others compute as constants, for any number of pictures.

    The size of a Reshape's result that grows with the pictures is left to torch; in a file for a fixed number of
    pictures, that is taken to be the first. Whether pictures keep apart is tested as for every network.
    """
    nodes = copy.deepcopy(_dependent(model.graph, picture, score))
    run = _showing(model, {name for node in model.graph.node for name in node.output if name})
    values, grown = run({picture: given[: fixed or 1]}), None
    with suppress(VerificationError):  # it takes one picture, whatever its input says
        grown = None if fixed else run({picture: given[:2]})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants |= {**values, picture: given[:1]}
    wanted = {score, *(name for node in nodes for name in node.input)}
    for node in nodes:
        node.output[:] = [name if name in wanted else "" for name in node.output]
        if node.op_type == "Reshape":
            result = node.output[0]
            sizes = np.array(values[result].shape)
            grows = sizes != grown[result].shape if grown else np.arange(len(sizes)) == 0
            node.input[1] = name = f"{result}//shape"
            constants[name] = np.where(grows, -1, sizes)
    entry, result = picture, score
    if turned:
        entry = "pictures"
        for node in nodes:  # as the file turns them back, at its beginning
            if node.op_type == "Transpose" and node.input[0] == picture and [*node.attribute[0].ints] == [0, 3, 1, 2]:
                node.CopyFrom(helper.make_node("Identity", [entry], node.output, node.name))
        if any(picture in node.input for node in nodes):
            nodes.insert(0, helper.make_node("Transpose", [entry], [picture], perm=[0, 2, 3, 1]))
    if values[score].ndim > 2:
        nodes.append(helper.make_node("Flatten", [score], [result := "scores"], axis=1))
    made = {entry, *(name for node in nodes for name in node.output)}
    used = {name: constants[name] for node in nodes for name in node.input if name and name not in made}
    tensors = [numpy_helper.from_array(v.astype("f4") if v.dtype.kind == "f" else v, n) for n, v in used.items()]
    shapes = {name: constants[name].shape if name in constants else () for name in made}
    infos = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name]) for name in made}
    ends = [infos[entry]], [infos[result]]
    graph = helper.make_graph(nodes, "classifier", *ends, tensors, value_info=[*infos.values()])
    return helper.make_model(graph, opset_imports=model.opset_import)


def _stored(model: ModelProto, end: str) -> torch.Tensor:
    """The graph as the checkpoint has it, which has the weights; ``end`` is cut off again where the network is read."""
    graph = model.graph
    if end:
        axis: dict[str, Any] = {} if end == "Sigmoid" else {"axis": 1}
        graph.node.append(helper.make_node(end, [graph.output[0].name], ["probabilities"], **axis))
        graph.output[0].name = "probabilities"
    for tensor in graph.initializer:
        if tensor.data_type == tensor.FLOAT and np.prod(tensor.dims) > WEIGHT:
            tensor.ClearField("raw_data")
    return torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)
