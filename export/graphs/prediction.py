"""Exports the gradient-free prediction graph: pictures in, logits and probabilities out, batch dimension dynamic."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from export.graphs.writing import check_exportable, graph_run, network_code, no_older_file, to_onnx, write_verified
from export.simplify.copying import copy_of
from export.verify.compare import (
    Exact,
    Floats,
    Inputs,
    Run,
    Tolerance,
    Verdict,
    batch_sizes,
    fresh_pictures,
    verify,
)
from export.verify.precision import InDoublePrecision
from handler.graphs.description import KIND_PREDICTION
from handler.model.classifier import Classifier

OUTPUTS = ["logits", "probabilities"]
TOLERANCES = {name: Tolerance(1e-4) for name in OUTPUTS}


class PredictionGraph(nn.Module):
    """What is exported: the classifier with its probabilities."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W), normalised, to logits (N, K) and probabilities (N, K)."""
        logits = self.module(pictures.clone())  # a network may begin with an operation in place
        return logits, logits.softmax(dim=1)


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
    model, batches = _trace(classifier), batch_sizes(classifier.preprocessing.crop_size)

    def fresh(rng: np.random.Generator, count: int) -> Inputs:
        return {"input": fresh_pictures(rng, count, classifier.preprocessing)}

    def verified() -> list[Verdict]:
        exact = exact_run(classifier)
        return verify(torch_run(classifier), graph_run(model), fresh, TOLERANCES, exact=exact, batches=batches)

    return write_verified(model, path, classifier, KIND_PREDICTION, verified)


def _trace(classifier: Classifier) -> onnx.ModelProto:
    check_exportable(classifier)
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    module = PredictionGraph(classifier.module).eval()
    return to_onnx(module, (example.to(classifier.device),), ["input"], OUTPUTS, rewrites=True)


def torch_run(classifier: Classifier) -> Run:
    """PyTorch's own answer: what the graph is compared with."""

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        pictures = torch.from_numpy(inputs["input"]).to(classifier.device)
        doing = f"{classifier.architecture} fails on a batch of {len(pictures)}"
        with torch.no_grad(), network_code(doing):
            outputs = PredictionGraph(classifier.module)(pictures)
        return {name: value.cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}

    return run


def exact_run(classifier: Classifier) -> Exact:
    """``torch_run`` in float64."""

    def exact(inputs: Inputs, _found: Mapping[str, Floats]) -> Mapping[str, Floats]:
        run = torch_run(replace(classifier, module=copy_of(classifier.module).double()))
        with InDoublePrecision():  # type: ignore[no-untyped-call]
            return run({"input": inputs["input"].astype(np.float64)})

    return exact
