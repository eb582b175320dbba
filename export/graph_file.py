"""What all exported graphs share: exporting, running and verifying them, hashing their weights, writing them whole."""

import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from export.verification import Floats, Inputs, Run, Verdict, table
from export.whole_file import write_whole
from handler.classifier import Classifier
from handler.fingerprint import hash_state
from handler.graph_description import GraphDescription

OPSET = 18  # the exporter's own, which every ONNX Runtime since 1.14 reads


def to_onnx(
    module: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """Exports a module; the first dimension of every input is the same dynamic batch.

    Args:
        module: in eval mode.
        example: its inputs, with a batch of at least 2 (torch.export takes a batch of 1 for a constant).
        inputs: names, in the module's order.
        outputs: likewise.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no program")
    return program.model_proto


def graph_run(model: onnx.ModelProto) -> Run:
    """Runs a graph with ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        outputs = session.run(names, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}

    return run


@contextmanager
def no_older_file(path: Path) -> Iterator[None]:
    """Removes the file if the block fails: an older graph must not be taken for the one that could not be made."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_verified(
    model: onnx.ModelProto,
    path: Path,
    classifier: Classifier,
    kind: str,
    verified: Callable[[], list[Verdict]],
    *,
    coverage: str = "",
) -> list[Verdict]:
    """Verifies a graph, describes it in its metadata and writes it.

    Args:
        model: the graph, without metadata.
        path: of the file.
        classifier: that it was made from.
        kind: of graph, see ``handler.graph_description``.
        verified: compares it with PyTorch.
        coverage: how far guided backpropagation reaches, of explanations only.

    Returns:
        What ``verified`` returned.

    Raises:
        VerificationError: from ``verified``.
    """
    checks = verified()
    description = GraphDescription(
        kind,
        classifier.architecture,
        classifier.labels,
        classifier.preprocessing,
        hash_state(classifier.module),
        package_versions(),
        table(checks),
        classifier.default_layer,
        coverage,
    )
    onnx.helper.set_model_props(model, description.to_properties())
    write_model(model, path)
    return checks


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks the model with ``onnx.checker`` and writes it, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString())


def package_versions() -> dict[str, str]:
    """Of everything that had a part in a graph."""
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
