"""Repeats the verification of a written graph against the classifier it was made from.

A difference means that the file was changed since, or that another ONNX Runtime or machine computes something else.
"""

from pathlib import Path

from export.verify.compare import Verdict
from export.verify.reference import verify_graph
from export.verify.runtime import run_of
from handler.engine_choice import origin_of
from handler.errors import ModelError
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.graphs.folder import check_origin
from handler.graphs.session import GraphSession
from handler.model.classifier import Classifier


def reverify(path: Path, classifier: Classifier, seed: int = 2) -> list[Verdict]:
    """Compares a graph of any kind with PyTorch on fresh pictures at batch sizes 1, 3 and 8 (see ``batch_sizes``).

    Args:
        path: of the graph.
        classifier: the graph was made from it.
        seed: of the pictures and targets, from 0 on; the export's seed, 1, would find nothing new.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        VerificationError: the graph differs from PyTorch.
        ModelError: the file is no graph, or the graph was made from another classifier or for another layer.
    """
    graph = GraphSession.open(path)
    description = graph.description
    check_origin(path, description, origin_of(classifier))
    if description.kind != KIND_PREDICTION and description.layer != classifier.default_layer:
        raise ModelError(f"graph {path} was made for layer {description.layer}, not for {classifier.default_layer}")
    names = KINDS[description.kind].outputs
    run = run_of(names, lambda inputs: graph.infer(inputs, names))
    return verify_graph(run, classifier, description.kind, seed)
