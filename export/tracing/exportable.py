"""Whether a network can become a graph at all, which is asked before any work is done."""

from export.errors import NotExportableError
from handler.model.classifier import Classifier


def check_exportable(classifier: Classifier) -> None:
    """Raises NotExportableError if pictures must be run one by one."""
    if classifier.alone:
        raise NotExportableError(f"graphs take batches, and pictures must be run one by one: {classifier.alone}")
