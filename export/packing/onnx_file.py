"""Makes a checkpoint of a classifier that is an ONNX file, and compares the network with the file in ONNX Runtime.

What the file computes without the picture's values, ONNX Runtime computes here, once. What is left becomes a module per
node.
"""

import copy
import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper

from export.verify.compare import Floats, Run, VerificationError
from export.verify.runtime import graph_run
from handler.errors import ModelError, in_one_line
from handler.graphs.description import GraphDescription
from handler.model.checkpoint import Checkpoint
from handler.model.layers.scenes import scenes
from handler.model.onnx_network import SUPPORTED, WEIGHT, OnnxNetwork
from handler.picture.preprocess import MOST_CHANNELS
from handler.picture.preprocess_text import said_over

_FLOAT = onnx.TensorProto.FLOAT
_ENDS = ("Softmax", "LogSoftmax", "Sigmoid")
_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear")
_OF_SHAPES = ("Shape", "Size")  # whose results depend on no picture's values
_ALIKE, _ALIKE_IF_QUANTISED = 1e-3, 0.1  # most difference from the file's scores, relative to the largest
_DYNAMIC = "DynamicQuantizeLinear"  # is refused, although it could be taken apart


def read_onnx(path: Path, labels: list[str] | None, preprocessing: str, output: str | None = None) -> Checkpoint:
    """Reads a classifier from an ONNX file, and compares it with the file in ONNX Runtime.

    Args:
        path: of the file; weights in files beside it are read, too.
        labels: one per score; a graph of this project has its own.
        preprocessing: as text, see ``handler.picture.preprocess_text``; sizes may be left out where the file says them.
        output: name of the output with the scores, if there are several.

    Raises:
        ModelError: the file is none, has operators or inputs that are not supported, or the network differs from it.
    """
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
    turned, count = not 0 < shape[1] <= MOST_CHANNELS, shape[0] or 1
    sides = tuple(shape[1:3] if turned else shape[2:])
    size = f"{sides[0]}x{sides[1]}"
    left = ["resize"] * ("resize=" not in preprocessing) + ["crop"] * (not re.search("crop=|input=", preprocessing))
    said = [f"{name}={size}" for name in left if all(sides) and not own]
    how = said_over(" ".join([preprocessing, *said]), own.preprocessing if own else None, "")[0]
    if any(given not in (0, wanted) for given, wanted in zip(sides, how.size, strict=True)):
        raise ModelError(
            f"{path} takes pictures of {size} pixels, and preprocessing= makes {how.size[0]}x{how.size[1]}"
        )
    pictures = scenes(3 * count, how.shape, seed=5)
    given = pictures.movedim(1, 3).contiguous().numpy() if turned else pictures.numpy()
    try:
        model = _apart(model, picture, score)
        graph = _simplified(model, picture, score, given, shape[0], turned)
        network = OnnxNetwork(graph.SerializeToString()).float().eval().requires_grad_(False)
        found = np.concatenate([network(one).numpy() for one in pictures[:, None]])
        run = _showing(model, [score])
        wanted = np.concatenate([run({picture: rows})[score] for rows in np.split(given, 3)]).reshape(found.shape)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # torch's exceptions have no common base
        raise ModelError(f"{path} cannot be computed by PyTorch: {in_one_line(error)}") from error
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    difference = float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1))
    if not difference <= (_ALIKE_IF_QUANTISED if quantised else _ALIKE):
        raise ModelError(f"{path}: PyTorch's scores differ from ONNX Runtime's by {difference:.1e} of the largest")
    names = labels or (own.labels if own else None)
    if not names:
        raise ModelError(f"{path} does not say its labels: give one for each of its {found.shape[1]} scores, labels=")
    notes = {"onnx_file": f"{path.name}, sha256 {sha256}; within {difference:.1e} of ONNX Runtime's largest score"}
    notes |= {"onnx_quantised": "rounds as the file does, and gradients pass as if it did not"} if quantised else {}
    if end:  # is cut off again where the network is read, and described there
        last = helper.make_node(end, [graph.graph.output[0].name], ["probabilities"])
        last.attribute.extend([] if end == "Sigmoid" else [helper.make_attribute("axis", 1)])
        graph.graph.node.append(last)
        graph.graph.output[0].name = "probabilities"
    state = network.state_dict()
    for tensor in graph.graph.initializer:
        if tensor.data_type == _FLOAT and np.prod(tensor.dims) > WEIGHT:
            tensor.ClearField("raw_data")
    state["onnx_graph"] = torch.frombuffer(bytearray(graph.SerializeToString()), dtype=torch.uint8)
    name, said_by = f"onnx/{path.name}", "as said, or as the file says" if own else "as said"
    origins = {"labels": said_by, "preprocessing": said_by}
    return Checkpoint(architecture=name, labels=names, preprocessing=how, state=state, notes=notes, origins=origins)


def _picture(path: Path, graph: onnx.GraphProto) -> tuple[str, list[int]]:
    """The name and the shape of the input, in which 0 is any size; raises ModelError unless it is one of pictures."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    shapes = {name: [size.dim_value for size in kind.shape.dim] for name, kind in inputs.items()}
    kinds = {name: onnx.TensorProto.DataType.Name(kind.elem_type).lower() for name, kind in inputs.items()}
    name, shape = next(iter(shapes.items()), ("", []))
    valid = len(shape) == 4 and any(0 < shape[axis] <= MOST_CHANNELS for axis in (1, 3))
    if len(inputs) != 1 or kinds[name] != "float" or not valid:
        named = ", ".join(f"{name} {kinds[name]} {shapes[name]}" for name in inputs)
        raise ModelError(f"{path} takes {named or 'nothing'}; valid is one input, float (N, C, H, W) or (N, H, W, C)")
    return name, shape


def _score(path: Path, graph: onnx.GraphProto, output: str) -> tuple[str, str]:
    """The name of the tensor with the scores, and the operator by which the file makes probabilities of them."""
    names = [value.name for value in graph.output]
    if output not in names and (output or len(names) != 1):
        raise ModelError(f"{path} has the outputs {', '.join(names)}; valid is output= with the one of the scores")
    makers = {name: node for node in graph.node for name in node.output}
    name = output or names[0]
    while name in makers and makers[name].op_type in _PASSING:
        name = makers[name].input[0]
    end = makers[name] if name in makers and makers[name].op_type in _ENDS else None
    return (end.input[0], end.op_type) if end else (output or names[0], "")


def _dependent(graph: onnx.GraphProto, picture: str, score: str) -> list[onnx.NodeProto]:
    """The nodes that the values of the picture reach, and that reach the scores."""
    reached, wanted, nodes = {picture}, {score}, []
    for node in graph.node:
        inner = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
        if node.op_type not in _OF_SHAPES and (inner or reached & {*node.input}):
            reached |= {*node.output}
            nodes.append(node)
    found = []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            found.append(node)
    return found[::-1]


def _apart(model: onnx.ModelProto, picture: str, score: str) -> onnx.ModelProto:
    """The model with further operators taken apart; raises ModelError if unsupported ones are left."""
    left: set[tuple[str, str]] = set()
    before: set[tuple[str, str]] | None = None
    while left != before:
        before = left
        for kind in before - {("", _DYNAMIC)}:
            with suppress(Exception):  # the inliner knows not every type; its exceptions have no common base
                typed = onnx.shape_inference.infer_shapes(model)
                model = onnx.inliner.inline_selected_functions(typed, [kind], inline_schema_functions=True)
        nodes = _dependent(model.graph, picture, score)
        kinds = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in nodes}
        left = {(domain, kind) for domain, kind in kinds if domain or kind not in SUPPORTED}
    if left:
        named = ", ".join(sorted(".".join(filter(None, kind)) for kind in left))
        raise ModelError(f"the operators {named} are not supported; valid are {', '.join(sorted(SUPPORTED))}")
    return model


def _showing(model: onnx.ModelProto, names: Iterable[str]) -> Run:
    """Runs a model whose outputs are the tensors of these names."""
    shown = copy.deepcopy(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name)
    return graph_run(shown)


def _simplified(
    model: onnx.ModelProto, picture: str, score: str, given: Floats, fixed: int, turned: bool
) -> onnx.ModelProto:
    """The nodes that depend on the picture, with what the others compute as constants, for any number of pictures.

    A Reshape's sizes that are for each picture are those that double with the pictures; in a file for a fixed number of
    pictures, that is taken to be the first. Whether pictures keep apart is tested as for every network.
    """
    nodes = copy.deepcopy(_dependent(model.graph, picture, score))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    shapes = {node.input[1] for node in nodes if node.op_type == "Reshape"}
    values = _showing(model, made)({picture: given[: fixed or 1]})
    constants |= {**values, picture: given[:1]}
    grown = dict(constants)
    with suppress(VerificationError):  # it takes one picture, whatever its input says
        grown |= {} if fixed else _showing(model, shapes & made)({picture: given[:2]})
        fixed = fixed or -1
    wanted = {score, *(name for node in nodes for name in node.input)}
    for node in nodes:
        node.output[:] = [name if name in wanted else "" for name in node.output]
        if node.op_type == "Reshape":
            sizes = constants[node.input[1]]
            each = grown[node.input[1]] == 2 * sizes if fixed < 0 else np.arange(len(sizes)) == 0
            node.input[1] = name = f"{node.output[0]}//shape"
            constants[name] = np.where(each & (sizes > 0), -1 - sizes // abs(fixed or 1), sizes)
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
    known = {name for node in nodes for name in node.output} | {entry, ""}
    used = {name: constants[name] for node in nodes for name in node.input if name not in known}
    real = {name for name, value in used.items() if np.issubdtype(value.dtype, np.floating)}
    infos = [helper.make_tensor_value_info(name, _FLOAT, constants[name].shape) for name in known & {*constants}]
    start, end = (
        helper.make_tensor_value_info(name, _FLOAT, [None] * rank) for name, rank in ((entry, 4), (result, 2))
    )
    tensors = [numpy_helper.from_array(v.astype(np.float32) if n in real else v, n) for n, v in used.items()]
    graph = helper.make_graph(nodes, "classifier", [start], [end], tensors, value_info=infos)
    return helper.make_model(graph, opset_imports=model.opset_import)
