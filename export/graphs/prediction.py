"""Exports the gradient-free prediction graph: pictures in, logits and probabilities out, batch dimension dynamic."""

from pathlib import Path

import numpy as np

from export.graphs.writing import no_older_file, write_verified
from export.tracing.prediction import trace_prediction
from export.verify.compare import Inputs, Tolerance, Verdict, batch_sizes, fresh_pictures, verify
from export.verify.reference import eager_run, exact_run
from export.verify.runtime import graph_run
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.model.classifier import Classifier

TOLERANCES = {name: Tolerance(1e-4) for name in KINDS[KIND_PREDICTION].outputs}


def export_prediction(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph if it equals PyTorch on fresh pictures; whatever fails, no file is left, nor an older one.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NotExportableError: a network that cannot be exported, or is too large for one file.
        VerificationError: the graph differs from PyTorch.
    """
    with no_older_file(path):
        return _write(classifier, path)


def _write(classifier: Classifier, path: Path) -> list[Verdict]:
    model, batches = trace_prediction(classifier), batch_sizes(classifier.preprocessing.crop_size)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        return {"input": fresh_pictures(rng, count, classifier.preprocessing)}

    def verified() -> list[Verdict]:
        reference, exact = eager_run(classifier, KIND_PREDICTION), exact_run(classifier, KIND_PREDICTION)
        return verify(reference, graph_run(model), fresh, TOLERANCES, exact=exact, batches=batches)

    return write_verified(model, path, classifier, KIND_PREDICTION, verified)
