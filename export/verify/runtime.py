"""Runs a graph with ONNX Runtime, for the comparison with PyTorch."""

import re
from pathlib import Path

import onnxruntime

from export.errors import NotExportableError
from export.tracing.onnx_export import OPSET
from export.verify.compare import Inputs, Outputs, Run, VerificationError


def graph_run(graph: Path | bytes) -> Run:
    """Runs a graph or its file in ONNX Runtime on the CPU; a NotExportableError says why it does not load it.

    The run raises VerificationError if the graph fails.
    """
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # an arena would keep the largest batch's memory to the end
    options.log_severity_level = 4  # silence, because failures are raised
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NotExportableError(f"ONNX Runtime does not take the graph: {_refusal(str(error))}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> Outputs:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise VerificationError(f"the graph fails where PyTorch answers: {_refusal(str(error))}") from error

    return run


def _refusal(message: str) -> str:
    """ONNX Runtime's message as one line, or in plain words for the frequent causes."""
    if found := re.search(r"No Op registered for (\w+)", message):
        return f"it has no operator {found[1]} of opset {OPSET}"
    if found := re.search(r"tensor\((bfloat16|float16)\)", message):
        return f"the network computes in {found[1]}; make its weights float32, and use no autocast"
    return " ".join(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message).split())[:300]
