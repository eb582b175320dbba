"""The entry point for programs: a model from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.client.graph import GraphModel
from handler.client.model import Model
from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

_GRAPH, _ARCHIVE = ".onnx", ".mar"
_ARGUMENTS = {_GRAPH: (), _ARCHIVE: ("architecture", "device")}  # of ``load``, by the file's suffix


def load(
    source: Path | str,
    *,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
    transform_input: bool | None = None,
    head: str | None = None,
    output: str | None = None,
    device: "torch.device | str | None" = None,
) -> Model:
    """Loads a model from a file; PyTorch is imported only for checkpoints and archives.

    Args:
        source: an ONNX graph or a TorchServe archive of this project, or a checkpoint: safetensors or a state dict.
        architecture: of a checkpoint that does not say it, "resnet18"; of custom code, "package.module:factory", also
            for an archive, which allows the code to run.
        labels: of a checkpoint, one per score.
        preprocessing: of a checkpoint: a ``Preprocessing`` or its text, see ``preprocess_text``.
        transform_input: of a checkpoint of a GoogLeNet or Inception, see ``handler.model.sources.find_checkpoint``.
        head: of a checkpoint: "softmax", "sigmoid" or "binary", see ``handler.model.reading.find_reading``.
        output: of a checkpoint: key, attribute or index of the scores, if the network returns several tensors.
        device: torch device of a checkpoint's or archive's network; None is the CPU.

    Raises:
        ModelError: the file cannot be used, or an argument does not belong to its kind; the message says why and what
            is valid.
    """
    given: dict[str, Any] = {
        "architecture": architecture,
        "labels": labels,
        "preprocessing": preprocessing,
        "transform_input": transform_input,
        "head": head,
        "output": output,
        "device": device,
    }
    path, said = Path(source), {name: value for name, value in given.items() if value is not None}
    kind = path.suffix.lower()
    foreign = [name for name in said if name not in _ARGUMENTS.get(kind, said)]
    if foreign:
        raise ModelError(f"{path} says this itself: {', '.join(foreign)} cannot be given with a file {kind}")
    if kind == _GRAPH:
        return GraphModel(path)
    from handler.loading import load_archive, load_checkpoint

    return load_archive(path, **said) if kind == _ARCHIVE else load_checkpoint(path, **said)
