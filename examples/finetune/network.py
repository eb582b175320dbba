"""Builds the network that is trained: for the data's classes, with the pretrained weights that fit.

The head has a different name in every network (``fc``, ``classifier.6``, ``heads.head``), can be a convolution, and can
come with auxiliary heads. So it is not looked up by name: the head is the parameters that have another shape if the
network is built for another number of classes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from examples.finetune.errors import FineTuningError
from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, names_in, training_only
from handler.model.classifier import build_network
from handler.model.registry import INPUT_TRANSFORMERS
from handler.model.sources import complete, find_checkpoint

RANDOM = "none"  # takes the place of a name of weights
_COUNTER = "num_batches_tracked"  # a buffer of batch norms that old files lack and that nothing here reads
_AUXILIARY_SHARE: dict[type, float] = {GoogLeNetOutputs: 0.3, InceptionOutputs: 0.4}  # loss factors of the papers


@dataclass(frozen=True)
class Network:
    """A network before its first step."""

    module: nn.Module
    head: frozenset[str]  # parameters whose shape follows the number of classes
    fresh: list[str]  # tensors that start from random values, including the head's


def find_start(
    architecture: str | None, weights: str, checkpoint: Path | None, labels: list[str], size: int | None
) -> Checkpoint:
    """The checkpoint that training starts from: the weights, and the description of the served model.

    Args:
        architecture: its name, see ``handler.model.makers``; may be left out if the checkpoint says it.
        weights: the name of torchvision's weights, DEFAULT or ``RANDOM``; unused with a checkpoint.
        checkpoint: a state dict or a safetensors file.
        labels: the data's classes.
        size: side of the crop in pixels; None for the size that the weights were made for.

    Raises:
        ModelError: a name is unknown, the download fails, or the file is no checkpoint.
    """
    if checkpoint is None and weights == RANDOM:
        again = False if architecture in INPUT_TRANSFORMERS else None  # as without torchvision's weights
        found = complete(Checkpoint(), architecture, labels, transform_input=again)
    else:
        chosen = None if checkpoint else weights
        found = find_checkpoint(architecture, weights=chosen, checkpoint=checkpoint, labels=labels)
    how = found.preprocessing
    if size is None or how is None:
        return found
    return replace(
        found, preprocessing=replace(how, crop_size=size, resize_size=round(size * how.resized[0] / how.size[0]))
    )


def build(start: Checkpoint) -> Network:
    """Builds the network for the start's labels and loads all pretrained weights that fit, but none into the head.

    Random weights come from torch's global generator.

    Raises:
        FineTuningError: the weights are those of another network, or the pictures are too small for this network.
    """
    _try_out(start)
    head = _head(start)
    # the head is a new layer, made before the optimiser: `fc.out_features = 2` would keep the old layer's 1000 scores
    module = build_network(start)
    fresh = _load_fitting(module, start, head) if start.state else sorted(module.state_dict())
    return Network(module, head, fresh)


class _ShapesOnly(TorchFunctionMode):
    """Makes weights without content, so that a network of any size is built at once and takes no memory."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = dict(named or {})
        if function is torch.empty:
            named["device"] = "meta"
        return function(*arguments, **named)


def _shapes(start: Checkpoint) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _ShapesOnly():
        return build_network(start).to("meta")


def _head(start: Checkpoint) -> frozenset[str]:
    labels = list(start.labels or [])
    here, elsewhere = (_shapes(replace(start, labels=some)).state_dict() for some in (labels, [*labels, "one more"]))
    return frozenset(name for name, value in here.items() if elsewhere[name].shape != value.shape)


def _try_out(start: Checkpoint) -> None:
    """Runs the forward pass of a training step, with shapes only."""
    shape = start.preprocessing.shape if start.preprocessing else (3, 224, 224)
    pixels = "x".join(map(str, shape[1:]))
    try:
        with torch.no_grad():
            output = _shapes(start).train()(torch.empty(2, *shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError, IndexError, ModelError) as error:
        raise FineTuningError(
            f"{start.architecture} cannot be trained on pictures of {pixels} pixels ({_first_line(error)}); "
            "valid is what its weights were made for (leave out --size), or larger"
        ) from error
    scores = output[0] if isinstance(output, tuple) else output
    if tuple(scores.shape) != (2, len(start.labels or [])):
        raise FineTuningError(f"{start.architecture} returns {tuple(scores.shape)}, not a score for each class")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _load_fitting(module: nn.Module, start: Checkpoint, head: frozenset[str]) -> list[str]:
    own = {name: value.shape for name, value in module.state_dict().items()}
    names = names_in(module.state_dict(), start.state)
    state = {names[name]: value for name, value in start.state.items()}
    if isinstance(module, VisionTransformer):
        state = _positions_fitted(module, state)
    fitting = {name: state[name] for name in own if name in state and own[name] == state[name].shape}
    fitting = {name: value for name, value in fitting.items() if name not in head}
    foreign = [name for name, new in names.items() if new not in own and not new.startswith(training_only(module))]
    if foreign:
        raise FineTuningError(
            f"the checkpoint is not one of {start.architecture}, which has no {', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}; name its own architecture with --model"
        )
    if 2 * len(fitting) < len(own):
        raise FineTuningError(
            f"the checkpoint is not one of {start.architecture}: only {len(fitting)} of {len(own)} weights fit; "
            "name its own architecture with --model"
        )
    module.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting and not name.endswith(_COUNTER)]


def _positions_fitted(module: VisionTransformer, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Interpolates a vision transformer's positions of another picture size, as torchvision does."""
    if "encoder.pos_embedding" not in state:
        return state
    return dict(interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(state)))


def freeze_all_but(module: nn.Module, trained: frozenset[str]) -> None:
    """Leaves only the named parameters to be trained; the other layers become a fixed feature extractor."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)


def train_mode(module: nn.Module) -> None:
    """Sets training mode; frozen batch norms stay in eval mode, because their statistics would change the features."""
    module.train()
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not _learns(layer):
            layer.eval()


def learns_batch_norm(module: nn.Module) -> bool:
    """Whether a batch norm takes its statistics from the training batches."""
    return any(isinstance(layer, _BatchNorm) and _learns(layer) for layer in module.modules())


def _learns(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def scores_and_losses(output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy, with that of the auxiliary heads that GoogLeNet and Inception have in training mode.

    Args:
        output: the network's output: scores (N, K), or a tuple of the main and the auxiliary heads' scores.
        targets: class indices, int64 (N,).

    Returns:
        Scores (N, K) of the main head, the main head's loss, and the loss that the optimiser lowers.
    """
    if not isinstance(output, tuple):
        loss = nn.functional.cross_entropy(output, targets)
        return output, loss, loss
    scores, *auxiliary = output
    loss = nn.functional.cross_entropy(scores, targets)
    share = _AUXILIARY_SHARE[type(output)]
    return scores, loss, loss + share * sum(nn.functional.cross_entropy(head, targets) for head in auxiliary)
