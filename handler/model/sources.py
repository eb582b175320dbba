"""Finds a checkpoint, and completes its architecture, labels and preprocessing, with the origin of each.

A checkpoint comes from a file, from torchvision's weights or from the code of a custom architecture.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision

from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, read_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.model.custom_architecture import find_factory, is_custom, module_name
from handler.model.custom_declarations import declared_checkpoint, declared_labels, declared_preprocessing
from handler.model.registry import INPUT_TRANSFORMERS, builder_of, options_of_weights, preprocessing_of
from handler.picture.preprocess import Preprocessing
from handler.picture.preprocess_text import said_over

_ASSUMED = "assumed, say preprocessing= if yours were trained otherwise"
_TAKEN = "assumed, say transform_input=0 if yours were trained without it"


@dataclass(frozen=True)
class _Said:
    """The user's description of a classifier, which goes before that of the weights or the checkpoint."""

    labels: list[str] | None = None
    preprocessing: Preprocessing | str = ""
    transform_input: bool | None = None


def load_classifier(
    architecture: str | None = None,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    labels: list[str] | None = None,
    preprocessing: Preprocessing | str = "",
    transform_input: bool | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Loads a classifier from torchvision's weights, from a checkpoint, or from code.

    Args:
        architecture: a name of torchvision's registry, or ``package.module:factory``; a registry's name may be left out
            if the checkpoint has it.
        weights: "DEFAULT" or another name of torchvision's weights for the architecture; torchvision downloads them.
        checkpoint: a safetensors file or a state dict, instead of ``weights``. A factory whose module has a function
            ``weights`` needs neither.
        labels: a label per class; may be left out if weights or checkpoint have labels.
        preprocessing: a ``Preprocessing``, or as text the parts in which it differs from that of weights or checkpoint,
            "resize=256 crop=224"; see ``handler.picture.preprocess_text``.
        transform_input: whether a GoogLeNet or Inception normalises its input again, as torchvision's weights need;
            None: as the checkpoint says, True for a plain state dict.
        device: torch device of the network.

    Raises:
        ModelError: an argument is missing, unknown or contradicts another; the message says what is valid.
    """
    source = find_checkpoint(
        architecture,
        weights=weights,
        checkpoint=checkpoint,
        labels=labels,
        preprocessing=preprocessing,
        transform_input=transform_input,
    )
    return build_classifier(source, device)


def find_checkpoint(
    architecture: str | None = None,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    labels: list[str] | None = None,
    preprocessing: Preprocessing | str = "",
    transform_input: bool | None = None,
) -> Checkpoint:
    """Finds the checkpoint of ``load_classifier``, with the same arguments and errors, and completes it."""
    said = _Said(labels, preprocessing.strip() if isinstance(preprocessing, str) else preprocessing, transform_input)
    if architecture is not None and is_custom(architecture) and checkpoint is None:
        if weights is not None:
            raise ModelError(
                f"weights {weights!r} are torchvision's; {architecture} takes a file of its own, checkpoint="
            )
        return _complete(declared_checkpoint(architecture), architecture, said)
    if architecture is not None and not is_custom(architecture):
        builder_of(architecture)
    if (weights is None) == (checkpoint is None):
        raise ModelError("give either torchvision's weights, weights=DEFAULT, or a file, checkpoint=")
    if checkpoint is not None:
        return _complete(read_checkpoint(Path(checkpoint)), architecture, said)
    if architecture is None:
        raise ModelError("weights belong to an architecture: give its name, such as architecture=resnet18")
    found = _download(architecture, str(weights))
    chosen = torchvision.models.get_model_weights(architecture)[str(weights)]
    return _complete(found, architecture, said, f"as torchvision's {chosen.name} weights have it")


def complete(checkpoint: Checkpoint, architecture: str | None = None, labels: list[str] | None = None) -> Checkpoint:
    """Completes a checkpoint by the arguments, and by torchvision's registry or the custom architecture's module.

    Raises:
        ModelError: a part is missing, unknown or contradicts another; the message says what is valid.
    """
    return _complete(checkpoint, architecture, _Said(labels))


def _download(architecture: str, weights: str) -> Checkpoint:
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
            "download the file elsewhere, and give it as checkpoint= together with labels="
        ) from error
    return Checkpoint(
        architecture=architecture,
        labels=list(chosen.meta["categories"]),
        preprocessing=preprocessing_of(chosen),
        state=dict(state),
        options=options_of_weights(architecture),
    )


def _complete(
    checkpoint: Checkpoint, architecture: str | None, said: _Said, origin: str = "as the checkpoint says"
) -> Checkpoint:
    """Completes the checkpoint's description, overrides it by the user's, and notes the origin of each part."""
    name = architecture or checkpoint.architecture
    if name is None:
        raise ModelError("the checkpoint does not say its architecture: give its name, such as architecture=resnet18")
    if architecture and checkpoint.architecture and architecture != checkpoint.architecture:
        raise ModelError(f"the checkpoint is of {checkpoint.architecture}, not of {architecture}")
    if said.transform_input is not None and name not in INPUT_TRANSFORMERS:
        raise ModelError(f"{name} has no input transform: transform_input= is for {' and '.join(INPUT_TRANSFORMERS)}")
    if is_custom(name):
        return _complete_custom(checkpoint, name, said, trusted=architecture is not None)
    builder_of(name)
    names = said.labels or checkpoint.labels
    if not names:
        raise ModelError("the checkpoint does not say its labels: give one per score, labels=")
    how, of_how = checkpoint.preprocessing, origin
    if how is None:  # a plain state dict is assumed to be fine-tuned from torchvision's weights
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        how, of_how = preprocessing_of(weights), f"as torchvision's {weights.name} weights have it: {_ASSUMED}"
    if said.preprocessing:
        how, of_how = said_over(said.preprocessing, how, of_how)
    origins = {"labels": "as said" if said.labels else origin, "preprocessing": of_how}
    options = checkpoint.options if checkpoint.architecture else options_of_weights(name)
    if name in INPUT_TRANSFORMERS:
        origins["transform_input"] = (
            origin if checkpoint.architecture else f"as torchvision's weights have it: {_TAKEN}"
        )
    if said.transform_input is not None:
        options = {**options, "transform_input": said.transform_input}
        origins["transform_input"] = "as said"
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, options=options, origins=origins)


def _complete_custom(checkpoint: Checkpoint, name: str, said: _Said, *, trusted: bool) -> Checkpoint:
    if not trusted:  # a file of weights must not run code just by naming it
        raise ModelError(f"the checkpoint is of {name}, which is code: say that it may run, architecture={name}")
    find_factory(name)
    how = checkpoint.preprocessing or declared_preprocessing(name)
    names = said.labels or checkpoint.labels or declared_labels(name)
    if not names:
        raise ModelError(
            f"{name} does not say its labels: give one per score, labels=, or define LABELS in {module_name(name)}"
        )
    declared = f"as {module_name(name)} declares it"
    of_how = "as the checkpoint says" if checkpoint.preprocessing else declared
    of_names = "as said" if said.labels else "as the checkpoint says" if checkpoint.labels else declared
    if said.preprocessing:
        how, of_how = said_over(said.preprocessing, how, of_how)
    if how is None:
        raise ModelError(
            f"neither the checkpoint nor the module of {name} says what is done to a picture: define "
            'PREPROCESSING = {"resize_size": 256, "crop_size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]} in the module'
            ", or say preprocessing='resize=256 crop=224 mean=0,0,0 std=1,1,1'"
        )
    origins = {"labels": of_names, "preprocessing": of_how}
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, origins=origins)
