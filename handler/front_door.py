"""The entry points for programs: a model from a file, or around a network in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.client.graph import GraphModel
from handler.client.model import Model
from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from handler.wrapping import WrappedModel

_GRAPH, _ARCHIVE = ".onnx", ".mar"


def load(source: Path | str, **said: Any) -> Model:
    """Loads a model from a file; PyTorch is imported only for checkpoints and archives.

    Args:
        source: an ONNX graph or a TorchServe archive of this project, or a checkpoint: safetensors or a state dict.
        said: for a checkpoint, ``device`` and the parts of the description that the file lacks: ``architecture``,
            ``labels``, ``preprocess`` and ``transform_input``, see ``handler.model.sources.load_classifier``. For an
            archive, ``device``, and ``architecture`` if the network is custom code. None for a graph.

    Raises:
        ModelError: the file cannot be used; the message says why and what is valid.
    """
    path = Path(source)
    if path.suffix != _GRAPH:
        from handler.loading import load_archive, load_checkpoint

        return load_archive(path, **said) if path.suffix == _ARCHIVE else load_checkpoint(path, **said)
    if said:
        raise ModelError(f"a graph says itself what it is: {', '.join(said)} cannot be given with {path}")
    return GraphModel(path)


def wrap(
    module: "nn.Module",
    *,
    layer: "str | nn.Module | Sequence[str | nn.Module] | None" = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
) -> "WrappedModel":
    """Makes a model of a network in memory, which is not changed.

    Args:
        module: a classifier in eval mode, which maps pictures (N, 3, H, W) to scores (N, K).
        layer: the layer of the maps, if a call names none: a module path or a module of the network, or several, whose
            maps are averaged. None: the last layer on every path from the picture to the scores.
        labels: a label per class; None names the classes by their indices.
        preprocessing: makes the network's input of a picture: a ``Preprocessing`` or its text, ``"resize=256 crop=224
            mean=0.485,0.456,0.406 std=0.229,0.224,0.225"``. With None, the model takes tensors alone.

    Raises:
        ModelError: the network is in training mode, does not answer with one logit per class, or has no layer with a
            map; or labels, layer or preprocessing do not fit.
    """
    from handler.wrapping import WrappedModel

    return WrappedModel(module, layer=layer, labels=labels, preprocessing=preprocessing)
