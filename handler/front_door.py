"""What a program begins with: a model from a file, or around a network in memory."""

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
    """Loads a model from a file; PyTorch is imported for checkpoints and archives alone.

    Args:
        source: an ONNX graph or a TorchServe archive that this project wrote, or a checkpoint: safetensors or a state
            dict.
        said: of a checkpoint that does not say it itself: ``architecture``, ``labels``, ``preprocess``,
            ``transform_input`` and ``device``, see ``handler.model.sources.load_classifier``. Of an archive:
            ``device``, and ``architecture`` if it is code of your own.

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
    """Explains a network in memory, which is left as it is.

    Args:
        module: any classifier in eval mode, which maps (N, 3, H, W) to scores (N, K).
        layer: where maps are made unless a call names another: a module path, a module of the network, or several,
            whose maps are averaged; None takes the last layer that all of the picture's cells pass.
        labels: one per class; None names the classes by their indices.
        preprocessing: what makes tensors of pictures: as text, ``"resize=256 crop=224 mean=0.485,0.456,0.406
            std=0.229,0.224,0.225"``, or a ``Preprocessing``. None takes tensors alone.

    Raises:
        ModelError: the network is in training mode, does not answer with one logit per class, or has no layer with a
            map; labels, layer or preprocessing do not fit.
    """
    from handler.wrapping import WrappedModel

    return WrappedModel(module, layer=layer, labels=labels, preprocessing=preprocessing)
