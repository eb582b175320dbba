"""Exports graphs as ONNX files: traced, compared with PyTorch, and written with their description, or not at all."""

import platform
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploy.devices.calibration import draw
from deploy.devices.forms import USUAL, Form
from deploy.devices.pictures import PICTURE, compare_pictures, take_pictures
from deploy.devices.precision import FP16, Precision, compare
from export.errors import NotExportableError, network_code
from export.tracing.explanation import PredictionGraph, example_of, needs_of_kind, trace_graph
from export.tracing.onnx_export import to_onnx
from export.verify.compare import Verdict, VerificationError, table
from export.verify.reference import eager, graph_run, verify_graph
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError, Unprocessable
from handler.explanation.evidence import TOP, Floats
from handler.graphs import description as kinds
from handler.graphs.session import GraphSession, check_origin, taking_input, weights_file
from handler.loading import origin_of
from handler.model.classifier import Classifier

LARGEST = 2**31 - 2**26  # bytes of weights in the graph's own file, which protobuf limits to 2 GB
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")  # whose versions a graph notes


def explanation_kind(classifier: Classifier) -> str:
    """``KIND_EXPLANATION``, or ``KIND_SALIENCY`` for a network without a ReLU, or NotExportableError if it fails."""
    return kinds.KIND_EXPLANATION if _coverage(classifier) else kinds.KIND_SALIENCY


def _coverage(classifier: Classifier) -> str:
    """How many activations guided backpropagation reaches, as text; empty for a network without a ReLU."""
    with network_code(f"{classifier.architecture} cannot be explained"), suppress(Unprocessable):
        needs = needs_of_kind(classifier, kinds.KIND_EXPLANATION)
        blank = np.zeros((1, *classifier.preprocessing.shape), np.float32)
        return str(TorchEngine(classifier).run(blank, [[TOP]], needs).coverage)
    return ""


def export_graph(classifier: Classifier, path: Path, kind: str, form: Form = USUAL) -> list[Verdict]:
    """Writes a kind of graph if it equals PyTorch on fresh pictures; after a failure no file is left, nor an older one.

    The inputs are ``input`` (N, C, H, W), normalised pictures, and, but for predictions, ``target`` (N), int64 class
    indices, of which -1 is the picture's top class, and, optional, ``weights`` (N, K), class weights: a row with a
    value other than 0 takes the place of its target, and the evidence is that for the weighted sum of the scores. The
    outputs are ``logits`` (N, K), and by kind ``probabilities`` (N, K), ``activations`` and ``gradients`` (N, C, h, w)
    of the default layer, ``gradcam`` (N, h, w), unscaled, and ``guided_backprop`` (N, C, H, W), or for a network
    without a ReLU the plain gradient ``saliency`` (N, C, H, W). A portable graph has ``weights`` alone, and one that
    takes pictures ``picture`` instead of ``input``, see ``take_pictures``. The result is the comparison, an entry per
    output and batch size. Raises NotExportableError if the network cannot be traced or has an operator that ONNX lacks,
    and VerificationError if the graph differs from PyTorch.
    """
    try:
        if classifier.alone:
            raise NotExportableError(f"graphs take batches, and pictures must be run one by one: {classifier.alone}")
        if kind != kinds.KIND_PREDICTION:
            return _write_traced(classifier, path, kind, form)
        module, names = PredictionGraph(classifier), (kinds.KINDS[kind].inputs, kinds.KINDS[kind].outputs)
        try:
            has_norms = any(name.endswith("running_mean") for name in classifier.module.state_dict())
            rewrites = form.folded or not has_norms
            model = to_onnx(module, example_of(classifier, kind), *names, rewrites=rewrites, form=form)
            return write_verified(model, path, classifier, kind, form)
        except (NotExportableError, VerificationError):  # the exporter lacks operators that the rules have
            with suppress(NotExportableError, VerificationError):
                return _write_traced(classifier, path, kind, form)
            raise
    except BaseException:  # an older graph must not be taken for the one that could not be made
        for file in (path, weights_file(path)):
            file.unlink(missing_ok=True)
        raise


def _write_traced(classifier: Classifier, path: Path, kind: str, form: Form) -> list[Verdict]:
    """Writes a graph that is traced operator by operator: of predictions slower, of explanations the only one."""
    coverage = _coverage(classifier) if kind == kinds.KIND_EXPLANATION else ""
    if kind == kinds.KIND_EXPLANATION and not coverage:
        kind = kinds.KIND_SALIENCY
    known, graph = _description(classifier, kind, form), trace_graph(classifier, kind, portable=form.portable)
    names, example = known.inputs + known.optional, example_of(classifier, kind, portable=form.portable)
    model = to_onnx(graph, example, names, known.outputs, rewrites=False, form=form)
    if "weights" in known.optional:
        _give_default(model.graph, "weights", np.zeros((1, len(classifier.labels)), np.float32))
    return write_verified(model, path, classifier, kind, form, coverage=coverage)


def _description(classifier: Classifier, kind: str, form: Form) -> kinds.GraphDescription:
    further = classifier.further_layers if kind == kinds.KIND_LAYERS else ()
    known = {**vars(origin_of(classifier)), "method": classifier.default_method, "layer": classifier.default_layer}
    known |= {"portable": form.portable, "batch": form.batch, "takes": PICTURE if form.pictures else ""}
    return kinds.GraphDescription(**known, kind=kind, further_layers=further)


def _give_default(graph: onnx.GraphProto, name: str, default: Floats) -> None:
    """Makes an input optional; its first dimension gets a name of its own, because the default has one row only."""
    constants, alone = {tensor.name for tensor in graph.initializer}, {name}
    for node in graph.node:
        if alone & {*node.input} and {*node.input} - constants <= alone:
            alone |= {*node.output}
    for value in (*graph.input, *graph.value_info):
        if value.name in alone:
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
    graph.initializer.append(onnx.numpy_helper.from_array(default, name))


def write_verified(
    model: onnx.ModelProto, path: Path, classifier: Classifier, kind: str, form: Form = USUAL, **said: Any
) -> list[Verdict]:
    """Compares a graph with PyTorch, describes the graph in its metadata, ``said`` included, and writes it whole.

    Raises NotExportableError if ONNX Runtime does not load the graph, and VerificationError if it differs from PyTorch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graph-", dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST
        onnx.save(model, unfinished, save_as_external_data=external, location=weights_file(path).name)
        known = _description(classifier, kind, form)
        checks = verify_graph(graph_run(unfinished), classifier, kind, portable=form.portable, batch=form.batch)
        described = onnx.load(unfinished, load_external_data=False)
        noted = table(checks)
        if form.pictures:
            if external:
                raise NotExportableError("a graph that takes pictures is one file, and its weights exceed 2 GB")
            described = take_pictures(described, classifier.preprocessing)
            noted += f"\n{compare_pictures(described, classifier.preprocessing, graph_run)}"
        versions = {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}
        description = replace(known, versions=versions, verification=noted, **said)
        onnx.helper.set_model_props(described, description.to_properties())
        onnx.save(described, unfinished)
        onnx.checker.check_model(unfinished, full_check=True)
        weights_file(path).unlink(missing_ok=True)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            file.replace(path.with_name(file.name))
    return checks


def export_reduced(classifier: Classifier, path: Path, kind: str, precision: Precision) -> str:
    """Writes a kind of graph in int8 or float16 if it agrees with the float32 graph; see ``Precision.write``.

    After a failure no file is left, nor an older one, but for pictures that cannot be used.
    """
    pictures = precision.pictures(classifier.preprocessing)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="graph-", dir=path.parent) as folder:
            export_graph(classifier, source := Path(folder, path.name), kind, Form(half=precision.numbers == FP16))
            return precision.write(source, path, pictures)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def reverify(path: Path, classifier: Classifier, seed: int = 2, pictures: Floats | None = None) -> list[Verdict] | str:
    """Compares a written graph of any kind with PyTorch once more, on fresh pictures (see ``batch_sizes``).

    A difference means that the file was changed since, or that another ONNX Runtime or machine computes something else.
    The export's seed, 1, would find nothing new. Graphs in int8 and float16 are held to the agreement that their export
    needed, on ``pictures`` (N, C, H, W) or drawn ones, and the result is that agreement in words. Raises
    VerificationError if the graph differs, and ModelError if the file is no graph, or the graph was made from another
    classifier or for another layer.
    """
    description = GraphSession.open(path).description
    check_origin(path, description, origin_of(classifier))
    if description.kind != kinds.KIND_PREDICTION and description.layer != classifier.default_layer:
        raise ModelError(f"graph {path} was made for layer {description.layer}, not for {classifier.default_layer}")
    if known := description.precision:
        pictures = draw(classifier.preprocessing, 64, seed) if pictures is None else pictures
        found = compare(partial(eager, classifier, description.kind), GraphSession.open(path), pictures)
        held = f"on {len(pictures)} pictures, by its own threshold, {known['needed']:g}: {found}"
        if not found.suffices(known["needed"]):
            raise VerificationError(f"the {known['numbers']} graph does not agree with PyTorch {held}")
        return f"the {known['numbers']} graph agrees with PyTorch {held}"
    if pictures is not None:
        raise ModelError(f"{path} is in float32, and compared on drawn pictures: leave --calibrate (CALIBRATE) out")
    classifier = replace(classifier, further_layers=description.further_layers)
    if description.takes:
        compare_pictures(onnx.load(path), description.preprocessing, graph_run)
        run = graph_run(taking_input(path.read_bytes()))
    else:
        run = graph_run(path)
    written: Any = {"portable": description.portable, "batch": description.batch}
    return verify_graph(run, classifier, description.kind, seed, **written)
