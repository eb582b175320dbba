"""The entry point for programs: a model from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handler.client.model import GraphModel, Model
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
    state: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
    transform_input: bool | None = None,
    head: str | None = None,
    output: str | None = None,
    device: "torch.device | str | None" = None,
) -> Model:
    """Loads a model from a file; PyTorch is imported only for checkpoints and archives.

    The source is an ONNX graph or a TorchServe archive of this project, or a checkpoint: safetensors or a state dict.
    The other arguments describe a checkpoint, as those of ``handler.model.sources.find_checkpoint`` do, on a torch
    device; None leaves them to the file, and the network to the CPU. An archive takes the device and, which allows its
    code to run, a custom ``architecture``. A ModelError says why the file cannot be used, or which argument does not
    belong to its kind.
    """
    given = dict(locals())
    said = {name: value for name, value in given.items() if name != "source" and value is not None}
    path = Path(source)
    kind = path.suffix.lower()
    if foreign := ", ".join(name for name in said if name not in _ARGUMENTS.get(kind, said)):
        raise ModelError(f"{path} says this itself: {foreign} cannot be given with a file {kind}")
    if kind == _GRAPH:
        return GraphModel(path)
    from handler.loading import load_archive, load_checkpoint

    return load_archive(path, **said) if kind == _ARCHIVE else load_checkpoint(path, **said)
