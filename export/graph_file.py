"""What all exported graphs share: running them, hashing the weights they were made from, writing them whole."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from torch import nn

from export.metadata import hash_weights
from export.verification import Floats, Inputs, Run

OPSET = 18  # the exporter's own, which every ONNX Runtime since 1.14 reads


def graph_run(model: onnx.ModelProto) -> Run:
    """Runs a graph with ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> Mapping[str, Floats]:
        outputs = session.run(names, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}

    return run


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
    state = module.state_dict().items()
    return hash_weights({name: value.cpu().contiguous().numpy().tobytes() for name, value in state})


def package_versions() -> dict[str, str]:
    """Of everything that had a part in a graph."""
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
