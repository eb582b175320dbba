"""Opens a graph in ONNX Runtime, and refuses files that are no graphs of this project; no other file opens graphs."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from handler.errors import ModelError
from handler.explanation.evidence import Floats
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import KINDS, GraphDescription

_TYPES = {"target": "tensor(int64)"}  # all others are tensor(float)


@dataclass(frozen=True)
class GraphSession:
    """An open graph. Runs may overlap."""

    description: GraphDescription
    session: Any  # onnxruntime.InferenceSession, which has no types
    sha256: str = ""  # of the file

    @classmethod
    def open(cls, path: Path, kind: str | None = None, *, threads: int = 0) -> "GraphSession":
        """Opens a graph that this project wrote.

        Args:
            path: the file.
            kind: the kind that the graph must have, a key of ``KINDS``; None allows any kind.
            threads: number of threads of a run; 0: one per core.

        Raises:
            ModelError: the file does not exist, is no ONNX graph of this project, is too new for this ONNX Runtime, is
                of another kind, or does not have its kind's inputs and outputs.
        """
        if not path.is_file():
            raise ModelError(
                f"graph {path} does not exist; `shufflenet-cam prediction`, `explanation` and `gradcam` write graphs"
            )
        session = _load(path, threads)
        try:
            description = GraphDescription.from_properties(session.get_modelmeta().custom_metadata_map)
        except ModelError as error:
            raise ModelError(f"graph {path}: {error}") from error
        needed = KINDS if kind is None else (kind,)
        if description.kind not in needed:
            raise ModelError(f"graph {path} is of the kind {description.kind!r}, needed is {' or '.join(needed)}")
        _check_signature(path, session, description)
        with path.open("rb") as file:
            return cls(description, session, hashlib.file_digest(file, "sha256").hexdigest())

    def infer(self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[Floats]:
        """Runs the graph; the batch is the first axis of all arrays.

        Args:
            inputs: an array for each of the graph's inputs, by name.
            outputs: names of the wanted outputs.

        Returns:
            The wanted outputs, in that order.
        """
        found: list[Floats] = self.session.run(list(outputs), dict(inputs))
        return found


def _load(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors alone, which are raised, too
    # threads spin during a run, which is faster, and stop afterwards, where they would halve torch's speed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        raise ModelError(f"graph {path} cannot be loaded by ONNX Runtime: {_explained(str(error))}") from error


def _explained(message: str) -> str:
    """ONNX Runtime's message in one line, with its messages about versions in plain words."""
    about = f"ONNX Runtime {onnxruntime.__version__} reads"
    if found := re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", message):
        return f"the file has ONNX IR version {found[1]}, {about} at most {found[2]}"
    if found := re.search(r"Opset (\d+) is under development.*till opset (\d+)", message, re.DOTALL):
        return f"the file has opset {found[1]}, {about} at most {found[2]}"
    return " ".join(message.split())[:300]


def _check_signature(path: Path, session: Any, description: GraphDescription) -> None:
    """Checks names, types and shapes of the inputs and outputs."""
    kind, shapes = KINDS[description.kind], _shapes(description)
    inputs = {tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_overridable_initializers())}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    for what, found, wanted in (("inputs", inputs, (*kind.inputs, *kind.optional)), ("outputs", outputs, kind.outputs)):
        if set(found) != set(wanted):
            raise ModelError(f"graph {path} has the {what} {', '.join(found)}, needed are {', '.join(wanted)}")
    for name, tensor in {**inputs, **outputs}.items():
        needed, shape = _TYPES.get(name, "tensor(float)"), shapes[name]
        if tensor.type != needed or not _fits(tensor.shape, shape):
            raise ModelError(f"graph {path}: {name} is {tensor.type} {tensor.shape}, needed is {needed} {shape}")


def _shapes(description: GraphDescription) -> dict[str, list[int | str]]:
    """The shapes of inputs and outputs; a name stands for any size, "batch" for the size that each run chooses."""
    side, classes = description.preprocessing.crop_size, len(description.labels)
    return {
        "input": ["batch", 3, side, side],
        "target": ["batch"],
        "weights": ["rows", classes],
        "logits": ["batch", classes],
        "probabilities": ["batch", classes],
        "activations": ["batch", "channels", "height", "width"],
        "gradients": ["batch", "channels", "height", "width"],
        **dict.fromkeys(("gradcam", *ATTENTION_METHODS), ["batch", "height", "width"]),
        "guided_backprop": ["batch", 3, side, side],
        "saliency": ["batch", 3, side, side],
    }


def _fits(found: list[int | str | None], needed: list[int | str]) -> bool:
    if len(found) != len(needed) or isinstance(found[0], int):
        return False
    return all(isinstance(size, str) or size == given for size, given in zip(needed, found, strict=True))
