"""Whether a network can become a graph at all, which is asked before any work is done."""

from torch import nn

from export.errors import NotExportableError
from handler.model.classifier import Classifier

_LARGEST = 2**31 - 1  # bytes of a protobuf message: ONNX keeps the weights of larger models in a second file


def fits_one_file(module: nn.Module) -> bool:
    """Whether one ONNX file can hold the weights."""
    return _bytes_of_weights(module) <= _LARGEST


def check_exportable(classifier: Classifier) -> None:
    """Raises NotExportableError if pictures must be run one by one, or the weights do not fit into one ONNX file."""
    if classifier.alone:
        raise NotExportableError(f"graphs take batches, and pictures must be run one by one: {classifier.alone}")
    if not fits_one_file(classifier.module):
        raise NotExportableError(
            f"the weights take {_bytes_of_weights(classifier.module) / 1e9:.1f} GB, "
            f"and one ONNX file holds at most {_LARGEST / 1e9:.1f} GB"
        )


def _bytes_of_weights(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())
