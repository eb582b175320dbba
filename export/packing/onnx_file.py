"""Makes a checkpoint of a classifier that is an ONNX file, and compares the network with the file in ONNX Runtime.

What the file computes of constants and of shapes alone, ONNX Runtime computes here, for a batch of two and one of three
pictures: a number that differs grows by as much for each picture. What is left becomes a module per node.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import torch
from onnx import numpy_helper

from export.errors import NotExportableError
from export.verify.compare import VerificationError
from export.verify.runtime import graph_run
from handler.errors import ModelError, in_one_line
from handler.graphs.description import GraphDescription
from handler.model.checkpoint import Checkpoint
from handler.model.layers.scenes import scenes
from handler.model.onnx_file.network import PER_PICTURE, SUPPORTED, build
from handler.picture.preprocess import Preprocessing
from handler.picture.preprocess_text import said_over

_ENDS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}  # operators to heads
_SHAPING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")  # pass scores on
_OF_SHAPES = ("Shape", "Size")  # whose results depend on no picture's values
_WHOLE = {("", "DynamicQuantizeLinear"), ("", "SequenceMap")}  # are refused, although they could be taken apart
_LONG = 64  # numbers: longer tensors travel as weights
_ALIKE, _ALIKE_IF_QUANTISED = 1e-3, 0.1  # most difference from the file's scores, relative to the largest score

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[onnx.ModelProto, Iterable[str], slice], Arrays]  # the values of tensors of a model for some pictures


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
        model = onnx.inliner.inline_local_functions(onnx.load(path))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:  # the parser's exceptions have no common base
        raise ModelError(f"{path} cannot be read as ONNX: {in_one_line(error)}") from error
    try:
        own = GraphDescription.from_properties({entry.key: entry.value for entry in model.metadata_props})
    except ModelError:
        own = None
    picture, size, turned = _picture(path, model.graph)
    how = _preprocessing(path, preprocessing, own.preprocessing if own else None, size[1:])
    score, end = _score(path, model.graph, output or ("logits" if own else None))
    pictures = scenes(6, how.crop_size, seed=5)

    def run(of: onnx.ModelProto, names: Iterable[str], rows: slice) -> Arrays:
        shown = onnx.ModelProto()
        shown.CopyFrom(of)
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name)
        given = pictures[rows].movedim(1, 3) if turned else pictures[rows]
        return graph_run(shown)({picture: given.contiguous().numpy()})

    batch = size[0]
    try:
        graph = _simplified(_apart(path, model, picture, score), picture, score, run, batch, turned)
        network = build(graph.SerializeToString()).float().eval()
        with torch.no_grad():
            found = np.concatenate([network(one).numpy() for one in pictures[: batch or 6].split(1)])
        wanted = np.concatenate([run(model, [score], slice(i, i + (batch or 2)))[score] for i in range(0, len(found), batch or 2)])
    except (NotExportableError, VerificationError, NotImplementedError) as error:
        raise ModelError(f"{path}: {error}") from error
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    difference = float(np.abs(found - wanted.reshape(found.shape)).max() / np.abs(wanted).max())
    if not difference <= (_ALIKE_IF_QUANTISED if quantised else _ALIKE):
        raise ModelError(f"{path}: PyTorch's scores differ from ONNX Runtime's by {difference:.1e} of the largest")
    names = labels or (own.labels if own else None)
    if not names:
        raise ModelError(f"{path} does not say its labels: give one for each of its {found.shape[1]} scores, labels=")
    notes = {"onnx_sha256": sha256, "onnx_difference": f"{difference:.1e} of the largest score, from ONNX Runtime's"}
    notes |= {"onnx_end": f"the file's {end} is cut off"} if end else {}
    notes |= {"onnx_quantised": "rounded as in the file; gradients pass as if not rounded"} if quantised else {}
    state = network.state_dict()
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > _LONG:
            tensor.ClearField("raw_data")
    state["onnx_graph"] = torch.frombuffer(bytearray(graph.SerializeToString()), dtype=torch.uint8)
    return Checkpoint(architecture=f"onnx/{path.name}", labels=names, preprocessing=how, state=state, notes=notes)


def _picture(path: Path, graph: onnx.GraphProto) -> tuple[str, tuple[int, int], bool]:
    """The input's name, its batch and the pictures' sides, of which 0 is any, and whether the channels are last."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    found = ", ".join(f"{name} ({onnx.TensorProto.DataType.Name(kind.elem_type).lower()})" for name, kind in inputs.items())
    name, kind = next(iter(inputs.items()), ("", None))
    sizes = [size.dim_value for size in kind.shape.dim] if kind else []
    if len(inputs) != 1 or len(sizes) != 4 or kind.elem_type != onnx.TensorProto.FLOAT or 3 not in (sizes[1], sizes[3]):
        raise ModelError(f"{path} has the inputs {found or 'none'}; valid is one, pictures float (N, 3, H, W) or (N, H, W, 3)")
    turned = sizes[1] != 3
    return name, (sizes[0], sizes[1 if turned else 2], sizes[2 if turned else 3]), turned


def _preprocessing(path: Path, said: str, known: Preprocessing | None, sides: Sequence[int]) -> Preprocessing:
    if any(sides) and known is None:
        said += "".join(f" {name}={sides[0]}" for name in ("resize", "crop") if not re.search(rf"\b{name}\s*=", said))
    how = said_over(said, known, "")[0] if said.strip() or known is None else known
    if any(side not in (0, how.crop_size) for side in sides):
        raise ModelError(f"{path} takes pictures of {sides[0]}x{sides[1]} pixels, preprocessing= says {how.crop_size}")
    return how


def _score(path: Path, graph: onnx.GraphProto, output: str | None) -> tuple[str, str]:
    """The name of the tensor with the scores, and the operator that the file makes probabilities of them with."""
    names = [value.name for value in graph.output]
    if (output or names[0]) not in names or (output is None and len(names) > 1):
        raise ModelError(f"{path} has the outputs {', '.join(names)}; valid is output= with the one of the scores")
    makers = {name: node for node in graph.node for name in node.output}
    score = name = output or names[0]
    while name in makers and makers[name].op_type in _SHAPING:
        name = makers[name].input[0]
    if name in makers and makers[name].op_type in _ENDS:
        return makers[name].input[0], makers[name].op_type
    return score, ""


def _apart(path: Path, model: onnx.ModelProto, picture: str, score: str) -> onnx.ModelProto:
    """The model with further operators taken apart; raises ModelError if unsupported ones are left."""
    tried: set[tuple[str, str]] = set()
    while found := _unsupported(_dependent(model.graph, picture, score)) - tried:
        tried |= found
        for name in found - _WHOLE:
            with suppress(Exception):  # the inliner knows not all types; its exceptions have no common base
                model = onnx.inliner.inline_selected_functions(model, [name], inline_schema_functions=True)
    if left := _unsupported(_dependent(model.graph, picture, score)):
        named = ", ".join(sorted(".".join(filter(None, name)) for name in left))
        raise ModelError(f"{path} has operators that are not supported: {named}; valid are {', '.join(sorted(SUPPORTED))}")
    return model


def _unsupported(nodes: Iterable[onnx.NodeProto]) -> set[tuple[str, str]]:
    names = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in nodes}
    return {(domain, kind) for domain, kind in names if domain or kind not in SUPPORTED}


def _dependent(graph: onnx.GraphProto, picture: str, score: str) -> list[onnx.NodeProto]:
    """The nodes whose results depend on the values of the picture, and on which the scores depend."""
    known, nodes = {picture}, []
    for node in graph.node:
        inner = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
        if node.op_type not in _OF_SHAPES and (inner or known & set(node.input)):
            known |= set(node.output)
            nodes.append(node)
    return _leading_to(score, nodes)


def _leading_to(score: str, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    wanted, found = {score}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _simplified(
    model: onnx.ModelProto, picture: str, score: str, run: Run, batch: int, turned: bool
) -> onnx.ModelProto:
    """The nodes that depend on the picture, or on the batch's size, with all that others compute as constants."""
    nodes = _leading_to(score, model.graph.node)
    names = [name for node in nodes for name in node.output]
    first, second = run(model, names, slice(0, batch or 2)), None
    if not batch:
        try:
            first, second = run(model, names, slice(0, 2)), run(model, names, slice(0, 3))
        except VerificationError:  # it takes one picture only, whatever its input says
            batch, first = 1, run(model, names, slice(0, 1))
    kept, wanted = [], {score}
    dependent = {name for node in _dependent(model.graph, picture, score) for name in node.output}
    for node in reversed(nodes):
        varies = [name for name in node.output if second and name in first and first[name].shape != second[name].shape]
        if wanted & set(node.output) and (varies or dependent & set(node.output)):
            kept.append(copy.deepcopy(node))
            kept[-1].output[:] = [name if name in wanted else "" for name in node.output]
            wanted |= set(node.input)
    own = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants: dict[str, npt.NDArray[Any]] = {}
    for name in sorted(wanted - {picture, "", *(name for node in kept for name in node.output)}):
        constants[name] = own[name] if name in own else first[name]
        if name not in own and second and not np.array_equal(first[name], second[name]):
            constants[name + PER_PICTURE] = grown = second[name] - first[name]
            constants[name] = first[name] - 2 * grown
    for node in kept if batch else ():  # takes any batch if it can: whether pictures keep apart is tested as usual
        sizes = constants.get(node.input[1], ()) if node.op_type == "Reshape" else ()
        if len(sizes) and sizes[0] > 0 and sizes[0] % batch == 0:
            node.input[1] = name = f"{node.output[0]}//shape"
            constants[name] = np.where(np.arange(len(sizes)), sizes, 0)
            constants[name + PER_PICTURE] = np.where(np.arange(len(sizes)), 0, sizes // batch)
    kept.reverse()
    make, floats, shape = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, list(first[score].shape)
    result = score
    if len(shape) > 2:
        result = "scores"
        kept.append(onnx.helper.make_node("Flatten", [score], [result], axis=1))
    entry = picture
    if turned:
        entry = "pictures"
        kept.insert(0, onnx.helper.make_node("Transpose", [entry], [picture], perm=[0, 2, 3, 1]))
    graph = onnx.helper.make_graph(
        kept,
        "classifier",
        [make(entry, floats, [None] * 4)],
        [make(result, floats, [None] * 2)],
        [numpy_helper.from_array(_single(value), name) for name, value in constants.items()],
        value_info=[make(name, floats, list(first[name].shape)) for node in kept for name in node.output if name in first],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _single(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Real numbers as float32."""
    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value
