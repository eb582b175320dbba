"""Traces the prediction: the classifier with its probabilities."""

import onnx
import torch
from torch import nn

from export.errors import network_code
from export.tracing.backward_rules import backward_rules
from export.tracing.onnx_export import to_onnx
from export.tracing.trace import trace_batch
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.model.classifier import Classifier


class PredictionGraph(nn.Module):
    """The module that is exported: the classifier with its probabilities."""

    def __init__(self, module: nn.Module, head: str = "softmax") -> None:
        super().__init__()
        self.module, self.head = module, head

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, H, W), normalised, to logits (N, K) and probabilities (N, K)."""
        logits = self.module(pictures.clone())  # a network may begin with an operation in place
        return logits, logits.sigmoid() if self.head == "sigmoid" else logits.softmax(dim=1)


def trace_prediction(classifier: Classifier, *, rules: bool = False) -> onnx.ModelProto:
    """Exports the network with its probabilities; inputs and outputs are those of ``export_prediction``.

    With ``rules`` the network is traced as explanations are, operator by operator: slower graphs of more networks.
    Raises NotExportableError if the network cannot be exported.
    """
    example = torch.randn(2, *classifier.preprocessing.shape, generator=torch.Generator().manual_seed(0))
    module: nn.Module = PredictionGraph(classifier.module, classifier.reading.head).eval()
    kind, inputs = KINDS[KIND_PREDICTION], (example.to(classifier.device),)
    if rules:
        with network_code(f"{classifier.architecture} cannot be traced"), torch.no_grad():
            module = trace_batch(module, inputs, backward_rules())
    return to_onnx(module, inputs, kind.inputs, kind.outputs, rewrites=not rules)
