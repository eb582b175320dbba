"""Exports the gradient-free prediction graph: pictures in, logits and probabilities out, batch dimension dynamic."""

import logging
import os
import platform
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from export.metadata import KIND_PREDICTION, GraphDescription, hash_weights
from export.verification import Check, Floats, Run, VerificationError, table, verify
from handler.classifier import Classifier

OUTPUTS = ["logits", "probabilities"]
TOLERANCE = 1e-4  # largest absolute difference to PyTorch
OPSET = 18  # the exporter's own, which every ONNX Runtime since 1.14 reads


class PredictionGraph(nn.Module):
    """What is exported: the classifier with its probabilities."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W), normalised, to logits (N, K) and probabilities (N, K)."""
        logits = self.module(pictures)
        return logits, logits.softmax(dim=1)


def export_prediction(classifier: Classifier, path: Path) -> list[Check]:
    """Writes the graph if it equals PyTorch on fresh pictures; otherwise no file is left, an older one included.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        VerificationError: the graph differs from PyTorch.
    """
    model = _trace(classifier)
    try:
        checks = verify(_torch_run(classifier), _onnx_run(model), classifier.preprocessing, TOLERANCE)
    except VerificationError:
        path.unlink(missing_ok=True)  # an older graph must not be taken for this one
        raise
    description = GraphDescription(
        KIND_PREDICTION,
        classifier.architecture,
        classifier.labels,
        classifier.preprocessing,
        hash_state(classifier.module),
        _versions(),
        table(checks),
    )
    onnx.helper.set_model_props(model, description.to_properties())
    write_model(model, path)
    return checks


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks the model with ``onnx.checker`` and writes it, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(model.SerializeToString())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def hash_state(module: nn.Module) -> str:
    """SHA-256 of all weights and buffers."""
    return hash_weights(
        {name: value.cpu().contiguous().numpy().tobytes() for name, value in module.state_dict().items()}
    )


def _trace(classifier: Classifier) -> onnx.ModelProto:
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            PredictionGraph(classifier.module).eval(),
            (example.to(classifier.device),),
            input_names=["input"],
            output_names=OUTPUTS,
            dynamic_shapes={"pictures": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no program")
    return program.model_proto


def _torch_run(classifier: Classifier) -> Run:
    def run(inputs: Floats) -> Mapping[str, Floats]:
        with torch.inference_mode():
            outputs = PredictionGraph(classifier.module)(torch.from_numpy(inputs).to(classifier.device))
        return {name: value.cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}

    return run


def _onnx_run(model: onnx.ModelProto) -> Run:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(inputs: Floats) -> Mapping[str, Floats]:
        names = [output.name for output in session.get_outputs()]
        return {
            name: np.asarray(value) for name, value in zip(names, session.run(None, {"input": inputs}), strict=True)
        }

    return run


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
