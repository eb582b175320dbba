"""The entry points for programs: a model from a file, or around a network in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.client.graph import GraphModel
from handler.client.model import Model
from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from handler.wrapping import WrappedModel

_GRAPH, _ARCHIVE = ".onnx", ".mar"
_ARGUMENTS = {_GRAPH: (), _ARCHIVE: ("architecture", "device")}  # of ``load``, by the file's suffix


def load(
    source: Path | str,
    *,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
    transform_input: bool | None = None,
    device: "torch.device | str | None" = None,
) -> Model:
    """Loads a model from a file; PyTorch is imported only for checkpoints and archives.

    Args:
        source: an ONNX graph or a TorchServe archive of this project, or a checkpoint: safetensors or a state dict.
        architecture: of a checkpoint that does not say it, "resnet18"; of custom code, "package.module:factory", also
            for an archive, which allows the code to run.
        labels: of a checkpoint, one per score.
        preprocessing: of a checkpoint: a ``Preprocessing`` or its text, see ``wrap``.
        transform_input: of a checkpoint of a GoogLeNet or Inception, see ``handler.model.sources.find_checkpoint``.
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


def wrap(
    module: "nn.Module",
    *,
    layer: "str | nn.Module | Sequence[str | nn.Module] | None" = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
) -> "WrappedModel":
    """Makes a model of a network in memory, which is not changed.

    Args:
        module: a classifier in eval mode, with float32 weights, which maps pictures (N, 3, H, H) to scores (N, K).
        layer: the layer of the maps, if a call names none: a module path or a module of the network, or several, whose
            maps are averaged. None: the last layer on every path from the picture to the scores.
        labels: a label per class; None names the classes by their indices.
        preprocessing: makes the network's input of a picture: a ``Preprocessing`` or its text, ``"resize=256 crop=224
            mean=0.485,0.456,0.406 std=0.229,0.224,0.225"``. With None, the model takes tensors alone.

    Raises:
        ModelError: the network is in training mode, is not in float32, does not answer with one logit per class, or has
            no layer with a map; or labels, layer or preprocessing do not fit. Without preprocessing, the network is
            run, and refused, by the first call.
    """
    from handler.wrapping import WrappedModel

    return WrappedModel(module, layer=layer, labels=labels, preprocessing=preprocessing)
