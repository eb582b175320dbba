"""Writes the ONNX graphs that travel in an archive, beside the checkpoint that they are made from."""

from collections.abc import Callable
from pathlib import Path

from export.errors import NotExportableError
from export.graphs.explanation import explanation_kind, export_attention, export_explanation, export_gradcam
from export.graphs.prediction import export_prediction
from export.verify.compare import VerificationError
from handler.graphs.description import (
    KIND_ATTENTION,
    KIND_EXPLANATION,
    KIND_GRADCAM,
    KIND_PREDICTION,
    KIND_SALIENCY,
    KINDS,
)
from handler.model.classifier import Classifier
from handler.model.custom_architecture import is_custom

EXPORTERS = {
    KIND_PREDICTION: export_prediction,
    KIND_GRADCAM: export_gradcam,
    KIND_EXPLANATION: export_explanation,
    KIND_SALIENCY: export_explanation,
    KIND_ATTENTION: export_attention,
}


def write_sidecar(
    classifier: Classifier, folder: Path, report: Callable[[str], None], *, attention: bool = False
) -> None:
    """Writes every graph that the classifier's architecture can have, each verified.

    Args:
        classifier: the graphs are made from it.
        folder: for the files.
        report: takes lines about the progress, and about each graph that cannot be made.
        attention: whether the graph of a vision transformer's attention is written, too.

    Raises:
        VerificationError: a graph of torchvision's architecture differs from PyTorch, which is a mistake of this
            project; a custom architecture's graph that differs is left out.
    """
    if classifier.alone:
        report(f"the archive goes without graphs, which take batches: {classifier.alone}")
        return
    kinds = [KIND_PREDICTION, KIND_GRADCAM]
    try:
        kinds.append(explanation_kind(classifier))
    except NotExportableError as error:
        report(f"the archive goes without a graph of the whole explanation: {error}")
    kinds += [KIND_ATTENTION] if attention else []
    for number, kind in enumerate(kinds, start=1):
        report(f"graph {number} of {len(kinds)}: exporting and verifying {KINDS[kind].file} …")
        try:
            EXPORTERS[kind](classifier, folder / KINDS[kind].file)
        except NotExportableError as error:
            report(f"the archive goes without {KINDS[kind].file}: {error}")
        except VerificationError as error:
            if not is_custom(classifier.architecture):
                raise
            report(f"the archive goes without {KINDS[kind].file}, PyTorch answers instead: {error.summary}")
