"""Exports the gradient-free prediction graph: pictures in, logits and probabilities out, batch dimension dynamic."""

from pathlib import Path

from export.graphs.writing import no_older_file, write_verified
from export.tracing.prediction import trace_prediction
from export.verify.compare import Verdict
from handler.graphs.description import KIND_PREDICTION
from handler.model.classifier import Classifier


def export_prediction(classifier: Classifier, path: Path) -> list[Verdict]:
    """Writes the graph if it equals PyTorch on fresh pictures; after a failure no file is left, nor an older one.

    The input is ``input`` (N, 3, H, W), normalised pictures; the outputs are ``logits`` and ``probabilities`` (N, K).
    Arguments, result and errors are those of ``export.graphs.explanation.export_explanation``.
    """
    with no_older_file(path):
        return write_verified(trace_prediction(classifier), path, classifier, KIND_PREDICTION)
