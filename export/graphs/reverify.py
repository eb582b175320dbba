"""Repeats the verification of a written graph against the classifier it was made from.

It tells whether the file was changed since, and whether another ONNX Runtime or machine computes something else.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from export.graphs import explanation, prediction
from export.verify.compare import (
    Floats,
    Inputs,
    Run,
    Verdict,
    VerificationError,
    batch_sizes,
    fresh_pictures,
    verify,
)
from export.verify.reference import eager_run, exact_run
from handler.engine_choice import origin_of
from handler.errors import ModelError
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.graphs.folder import check_origin
from handler.graphs.session import GraphSession
from handler.model.classifier import Classifier

SEED = 2  # not the export's: its pictures would find nothing new


def reverify(path: Path, classifier: Classifier, seed: int = SEED) -> list[Verdict]:
    """Compares a graph of any kind with PyTorch on fresh pictures at batch sizes 1, 3 and 8 (see ``batch_sizes``).

    Args:
        path: of the graph.
        classifier: that it was made from.
        seed: of the pictures and targets.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        VerificationError: the graph differs from PyTorch.
        ModelError: no graph, or one that was made from another classifier or for another layer.
    """
    graph = GraphSession.open(path)
    description = graph.description
    origin = origin_of(classifier)
    check_origin(path, description, origin)
    if description.kind != KIND_PREDICTION and description.layer != classifier.default_layer:
        raise ModelError(f"graph {path} was made for layer {description.layer}, not for {classifier.default_layer}")
    reference, exact = eager_run(classifier, description.kind), exact_run(classifier, description.kind)
    tolerances = prediction.TOLERANCES if description.kind == KIND_PREDICTION else explanation.TOLERANCES
    takes = KINDS[description.kind].inputs

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        pictures = {"input": fresh_pictures(rng, count, classifier.preprocessing)}
        targets = {"target": rng.integers(TOP, len(classifier.labels), count)}
        return pictures | targets if "target" in takes else pictures

    batches = batch_sizes(classifier.preprocessing.crop_size)
    return verify(reference, _graph_run(graph), fresh, tolerances, seed, exact, explanation.GATED, batches)


def _graph_run(graph: GraphSession) -> Run:
    names = KINDS[graph.description.kind].outputs

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        try:
            return dict(zip(names, graph.infer(inputs, names), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise VerificationError(f"the graph fails where PyTorch answers: {str(error)[:300]}") from error

    return run
