"""An eval-mode classifier with all it takes to use it: labels, preprocessing, layers.

Built from a checkpoint; the checkpoint comes from a file, from torchvision's registry or from the code of an
architecture of one's own.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from handler.autograd.channel_layout import CHANNELS_FIRST, ChannelLayout
from handler.errors import ModelError, in_one_line
from handler.model.checkpoint import Checkpoint, names_in, read_checkpoint
from handler.model.custom_architecture import build_own, find_factory, is_own, module_name
from handler.model.custom_declarations import declared_checkpoint, declared_labels, declared_preprocessing
from handler.model.fingerprint import hash_state, training_only
from handler.model.layers.find import find_layers
from handler.model.scores import check_scores
from handler.picture.preprocess import Preprocessing
from handler.picture.preprocess_text import said_over

_INPUT_TRANSFORMERS = ("googlenet", "inception_v3")  # normalise once more themselves, if made for torchvision's weights
_ASSUMED = "assumed, say PREPROCESS= if yours were trained otherwise"
_TAKEN = "assumed, say TRANSFORM_INPUT=0 if yours were trained without it"


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to be explained."""

    module: nn.Module  # eval mode, all parameters frozen
    architecture: str
    labels: list[str]
    preprocessing: Preprocessing
    layers: dict[str, tuple[int, int, int]]  # layers with maps: module path to (C, h, w)
    default_layer: str  # one of them
    views: dict[str, ChannelLayout] = field(default_factory=dict)  # of those that do not return (N, C, h, w), once
    layer_rule: str = ""  # why ``default_layer`` is the default
    refused_layers: dict[str, str] = field(default_factory=dict)  # module paths without a map, and why
    alone: str = ""  # why pictures must be run one by one; empty if they need not
    weights_sha256: str = ""  # of the weights as they were loaded, see ``fingerprint.hash_state``

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device


@dataclass(frozen=True)
class _Said:
    """What a user says of a classifier, over what weights or checkpoint say of themselves."""

    labels: list[str] | None = None
    preprocess: str = ""
    transform_input: bool | None = None


def load_classifier(
    architecture: str | None = None,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    labels: list[str] | None = None,
    preprocess: str = "",
    transform_input: bool | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Loads a classifier from torchvision's weights, from a checkpoint, or from code.

    Args:
        architecture: a name of torchvision's registry, or ``package.module:factory``; torchvision's may be left out if
            the checkpoint says it.
        weights: "DEFAULT" or another of torchvision's weights for the architecture, downloaded by torchvision.
        checkpoint: a safetensors file or a state dict, instead of ``weights``. A factory whose module has a function
            ``weights`` needs neither.
        labels: one per class; may be left out if weights or checkpoint say them.
        preprocess: what of the preprocessing is otherwise than weights or checkpoint say, "resize=256 crop=224"; see
            ``handler.picture.preprocess_text``.
        transform_input: of GoogLeNet and Inception alone: whether they normalise their input once more, as
            torchvision's weights want it; None is what the checkpoint says, and True for a plain state dict.
        device: where to put it.

    Raises:
        ModelError: anything missing, unknown or contradictory; the message says what is valid.
    """
    source = find_checkpoint(
        architecture,
        weights=weights,
        checkpoint=checkpoint,
        labels=labels,
        preprocess=preprocess,
        transform_input=transform_input,
    )
    return build_classifier(source, device)


def find_checkpoint(
    architecture: str | None = None,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    labels: list[str] | None = None,
    preprocess: str = "",
    transform_input: bool | None = None,
) -> Checkpoint:
    """As ``load_classifier``, up to the complete checkpoint: architecture, labels and preprocessing are known."""
    said = _Said(labels, preprocess, transform_input)
    if architecture is not None and is_own(architecture) and checkpoint is None:
        if weights is not None:
            raise ModelError(
                f"weights {weights!r} are torchvision's; {architecture} takes a checkpoint (CHECKPOINT=file)"
            )
        return _complete(declared_checkpoint(architecture), architecture, said)
    if (weights is None) == (checkpoint is None):
        raise ModelError("give either weights (WEIGHTS=DEFAULT) or a checkpoint (CHECKPOINT=file)")
    if checkpoint is not None:
        return _complete(read_checkpoint(Path(checkpoint)), architecture, said)
    if architecture is None:
        raise ModelError("weights belong to an architecture: give its name (MODEL=resnet18)")
    found = _download(architecture, str(weights))
    chosen = torchvision.models.get_model_weights(architecture)[str(weights)]
    return _complete(found, architecture, said, f"as torchvision's {chosen.name} weights have it")


def build_classifier(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> Classifier:
    """Builds the network of a complete checkpoint, in eval mode and frozen.

    Raises:
        ModelError: weights that do not fit the architecture or the labels, or a network without a map.
    """
    if checkpoint.architecture is None or checkpoint.labels is None or checkpoint.preprocessing is None:
        raise ModelError("the checkpoint does not say its architecture, labels and preprocessing")
    side, classes = checkpoint.preprocessing.crop_size, len(checkpoint.labels)
    module = _build(checkpoint, num_classes=classes, side=side)
    _load_state(module, checkpoint)
    module = module.float().eval().requires_grad_(False)
    weights = hash_state(module)  # before it runs: a network may count in a buffer
    module = module.to(device)
    check_scores(module, checkpoint.architecture, side, classes)
    found = find_layers(module, checkpoint.architecture, side)
    return Classifier(
        module,
        checkpoint.architecture,
        checkpoint.labels,
        checkpoint.preprocessing,
        {path: layer.shape for path, layer in found.layers.items()},
        found.default,
        {path: layer.view for path, layer in found.layers.items() if layer.view != CHANNELS_FIRST},
        found.rule,
        found.refused,
        found.alone,
        weights,
    )


def complete(checkpoint: Checkpoint, architecture: str | None = None, labels: list[str] | None = None) -> Checkpoint:
    """Adds what a checkpoint does not say itself: names as given, the rest as torchvision's registry has it."""
    return _complete(checkpoint, architecture, _Said(labels))


def build_network(checkpoint: Checkpoint) -> nn.Module:
    """The network that a complete checkpoint describes, with the weights of a new one: ``state`` is not loaded."""
    assert checkpoint.labels is not None
    assert checkpoint.preprocessing is not None
    return _build(checkpoint, num_classes=len(checkpoint.labels), side=checkpoint.preprocessing.crop_size)


def known_architectures() -> list[str]:
    """The classifiers of torchvision's registry."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _builder(architecture: str) -> Callable[..., nn.Module]:
    if architecture not in known_architectures():
        raise ModelError(
            f"architecture {architecture!r} is no torchvision classifier, valid are "
            f"{', '.join(known_architectures())}; one of your own is package.module:factory (ARCH=)"
        )
    builder: Callable[..., nn.Module] = torchvision.models.get_model_builder(architecture)
    return builder


def _build(checkpoint: Checkpoint, num_classes: int, side: int) -> nn.Module:
    architecture = str(checkpoint.architecture)
    if is_own(architecture):
        return build_own(architecture, num_classes, side)
    options = dict(checkpoint.options)
    if architecture in _INPUT_TRANSFORMERS:
        options["init_weights"] = False
    if architecture.startswith("vit_"):
        options["image_size"] = side
    try:
        return _builder(architecture)(weights=None, num_classes=num_classes, **options)
    except (TypeError, ValueError, AssertionError) as error:  # the options are the checkpoint's, the side is a client's
        detail = f" and options {checkpoint.options}" if checkpoint.options else ""
        raise ModelError(
            f"{architecture} cannot be built for pictures of {side} pixels{detail} ({type(error).__name__}: {error})"
        ) from error


def _options_of_weights(architecture: str) -> dict[str, Any]:
    """What torchvision's builder sets by itself when it is given weights, and would not set for our state dict."""
    return {"transform_input": True} if architecture in _INPUT_TRANSFORMERS else {}


def _download(architecture: str, weights: str) -> Checkpoint:
    _builder(architecture)
    choices = torchvision.models.get_model_weights(architecture)
    if weights not in choices.__members__:
        raise ModelError(
            f"weights {weights!r} do not exist for {architecture}, valid are {', '.join(choices.__members__)}"
        )
    chosen = choices[weights]
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True)
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise ModelError(
            f"the weights of {architecture} could not be downloaded from {chosen.url} ({error}); "
            "download the file elsewhere and give it with CHECKPOINT=file and LABELS=file"
        ) from error
    labels, how = list(chosen.meta["categories"]), _preprocessing_of(chosen)
    return Checkpoint(architecture, labels, how, dict(state), options=_options_of_weights(architecture))


def _complete(
    checkpoint: Checkpoint, architecture: str | None, said: _Said, origin: str = "as the checkpoint says"
) -> Checkpoint:
    """Adds what the checkpoint does not say, puts what the user says over it, and notes who said what."""
    name = architecture or checkpoint.architecture
    if name is None:
        raise ModelError("the checkpoint does not say its architecture: give its name (MODEL=resnet18)")
    if architecture and checkpoint.architecture and architecture != checkpoint.architecture:
        raise ModelError(f"the checkpoint is of {checkpoint.architecture}, not of {architecture}")
    if said.transform_input is not None and name not in _INPUT_TRANSFORMERS:
        raise ModelError(f"{name} has no input transform: TRANSFORM_INPUT= is for {' and '.join(_INPUT_TRANSFORMERS)}")
    if is_own(name):
        return _complete_own(checkpoint, name, said, trusted=architecture is not None)
    _builder(name)
    names = said.labels or checkpoint.labels
    if not names:
        raise ModelError("the checkpoint does not say its labels: give a file with one per line (LABELS=labels.txt)")
    how, of_how = checkpoint.preprocessing, origin
    if how is None:  # a plain state dict is taken for one that was fine-tuned from torchvision's weights
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        how, of_how = _preprocessing_of(weights), f"as torchvision's {weights.name} weights have it: {_ASSUMED}"
    if said.preprocess.strip():
        how, of_how = said_over(said.preprocess, how, of_how)
    origins = {"labels": "as said" if said.labels else origin, "preprocessing": of_how}
    options = checkpoint.options if checkpoint.architecture else _options_of_weights(name)
    if name in _INPUT_TRANSFORMERS:
        origins["transform_input"] = (
            origin if checkpoint.architecture else f"as torchvision's weights have it: {_TAKEN}"
        )
    if said.transform_input is not None:
        options = {**options, "transform_input": said.transform_input}
        origins["transform_input"] = "as said"
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, options=options, origins=origins)


def _complete_own(checkpoint: Checkpoint, name: str, said: _Said, *, trusted: bool) -> Checkpoint:
    if not trusted:  # weights are data; that a file names code must not be enough to run it
        raise ModelError(f"the checkpoint is of {name}, which is code: say that it may run (ARCH={name})")
    find_factory(name)
    how = checkpoint.preprocessing or declared_preprocessing(name)
    names = said.labels or checkpoint.labels or declared_labels(name)
    if not names:
        raise ModelError(
            f"{name} does not say its labels: give a file with one per line (LABELS=labels.txt), or LABELS"
        )
    declared = f"as {module_name(name)} declares it"
    of_how = "as the checkpoint says" if checkpoint.preprocessing else declared
    of_names = "as said" if said.labels else "as the checkpoint says" if checkpoint.labels else declared
    if said.preprocess.strip():
        how, of_how = said_over(said.preprocess, how, of_how)
    if how is None:
        raise ModelError(
            f"neither the checkpoint nor the module of {name} says what is done to a picture: define "
            'PREPROCESSING = {"resize_size": 256, "crop_size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]} in the module'
            ", or say PREPROCESS='resize=256 crop=224 mean=0,0,0 std=1,1,1'"
        )
    origins = {"labels": of_names, "preprocessing": of_how}
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, origins=origins)


def _preprocessing_of(weights: Any) -> Preprocessing:
    preset = weights.transforms()
    return Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def _load_state(module: nn.Module, checkpoint: Checkpoint) -> None:
    expected = module.state_dict()
    classes = len(checkpoint.labels or [])
    own = names_in(expected, checkpoint.state)
    for name, value in checkpoint.state.items():
        wanted = expected.get(own[name], value).shape
        if wanted == value.shape:
            continue
        if wanted[:1] == (classes,) and wanted[1:] == value.shape[1:]:
            raise ModelError(
                f"the checkpoint's head {name!r} scores {value.shape[0]} classes, but there are {classes} labels; "
                "valid is one label per score"
            )
        raise ModelError(
            f"the checkpoint's {name!r} has shape {tuple(value.shape)}, {checkpoint.architecture} wants {tuple(wanted)}"
        )
    state: Any = OrderedDict((own[name], value) for name, value in checkpoint.state.items())
    # MNASNet asks for its version, which files of tensors do not keep; batch norms may go without theirs
    state._metadata = {"": getattr(expected, "_metadata", {}).get("", {})}
    try:
        missing, _ = module.load_state_dict(state, strict=False)
    except Exception as error:  # a network's own hooks may raise anything
        raise ModelError(f"{checkpoint.architecture} does not take the weights ({in_one_line(error)})") from error
    missing = [name for name in missing if not name.startswith(training_only(module))]
    unknown = [name for name, new in own.items() if new not in expected]
    if missing or unknown:
        raise ModelError(
            f"the checkpoint is not one of {checkpoint.architecture}: {len(missing)} weights missing"
            f"{_some(missing)}, {len(unknown)} unknown{_some(unknown)}"
        )


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
