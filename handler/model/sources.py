"""Finds a checkpoint, and completes its architecture, labels and preprocessing, with the origin of each.

A checkpoint comes from a file, from torchvision's weights or from the code of a custom architecture.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

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

_PARTS = ("labels", "preprocessing", "transform_input")  # whose origins are noted
_ASSUMED = "assumed, say preprocessing= if yours were trained otherwise"
_TAKEN = "as torchvision's weights have it: assumed, say transform_input=0 if yours were trained without it"


def load_classifier(architecture: str | None = None, *, device: str | torch.device = "cpu", **said: Any) -> Classifier:
    """Builds the classifier of ``find_checkpoint``, which has the same arguments and errors, on a torch device."""
    return build_classifier(find_checkpoint(architecture, **said), device)


def find_checkpoint(
    architecture: str | None = None,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
    labels: list[str] | None = None,
    preprocessing: Preprocessing | str = "",
    transform_input: bool | None = None,
) -> Checkpoint:
    """Finds a checkpoint among torchvision's weights, in a file or by code, and completes it.

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

    Raises:
        ModelError: an argument is missing, unknown or contradicts another; the message says what is valid.
    """
    if architecture is not None and is_custom(architecture) and checkpoint is None:
        if weights is not None:
            raise ModelError(
                f"weights {weights!r} are torchvision's; {architecture} takes a file of its own, checkpoint="
            )
        found = declared_checkpoint(architecture)
    else:
        if architecture is not None and not is_custom(architecture):
            builder_of(architecture)
        if (weights is None) == (checkpoint is None):
            raise ModelError("give either torchvision's weights, weights=DEFAULT, or a file, checkpoint=")
        if checkpoint is None and architecture is None:
            raise ModelError("weights belong to an architecture: give its name, such as architecture=resnet18")
        found = _download(str(architecture), str(weights)) if checkpoint is None else read_checkpoint(Path(checkpoint))
    return complete(found, architecture, labels, preprocessing, transform_input)


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
        origins=dict.fromkeys(_PARTS, f"as torchvision's {chosen.name} weights have it"),
    )


def complete(
    checkpoint: Checkpoint,
    architecture: str | None = None,
    labels: list[str] | None = None,
    preprocessing: Preprocessing | str = "",
    transform_input: bool | None = None,
) -> Checkpoint:
    """Completes a checkpoint's description, overrides it by the arguments, and notes the origin of each part.

    What neither says comes from torchvision's registry, or from the module of a custom architecture. Arguments and
    errors are those of ``find_checkpoint``.
    """
    name = architecture or checkpoint.architecture
    if name is None:
        raise ModelError("the checkpoint does not say its architecture: give its name, such as architecture=resnet18")
    if architecture and checkpoint.architecture and architecture != checkpoint.architecture:
        raise ModelError(f"the checkpoint is of {checkpoint.architecture}, not of {architecture}")
    if transform_input is not None and name not in INPUT_TRANSFORMERS:
        raise ModelError(f"{name} has no input transform: transform_input= is for {' and '.join(INPUT_TRANSFORMERS)}")
    if is_custom(name) and architecture is None:  # a file of weights must not run code just by naming it
        raise ModelError(f"the checkpoint is of {name}, which is code: say that it may run, architecture={name}")
    (find_factory if is_custom(name) else builder_of)(name)  # refuses a name that does not exist
    origins = {part: checkpoint.origins.get(part, "as the checkpoint says") for part in _PARTS}
    how, options, names = checkpoint.preprocessing, checkpoint.options, labels or checkpoint.labels
    if how is None:
        how, origins["preprocessing"] = _usual_preprocessing(name)
    if labels:
        origins["labels"] = "as said"
    elif not names and is_custom(name):
        names, origins["labels"] = declared_labels(name), f"as {module_name(name)} declares it"
    if not names and is_custom(name):
        raise ModelError(
            f"{name} does not say its labels: give one per score, labels=, or define LABELS in {module_name(name)}"
        )
    if not names:
        raise ModelError("the checkpoint does not say its labels: give one per score, labels=")
    if said := preprocessing.strip() if isinstance(preprocessing, str) else preprocessing:
        how, origins["preprocessing"] = said_over(said, how, origins["preprocessing"])
    if how is None:
        raise ModelError(
            f"neither the checkpoint nor the module of {name} says what is done to a picture: define "
            'PREPROCESSING = {"resize_size": 256, "crop_size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]} in the module'
            ", or say preprocessing='resize=256 crop=224 mean=0,0,0 std=1,1,1'"
        )
    if not checkpoint.architecture:
        options, origins["transform_input"] = options_of_weights(name), _TAKEN
    if transform_input is not None:
        options, origins["transform_input"] = {**options, "transform_input": transform_input}, "as said"
    if name not in INPUT_TRANSFORMERS:
        del origins["transform_input"]
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, options=options, origins=origins)


def _usual_preprocessing(architecture: str) -> tuple[Preprocessing | None, str]:
    """The preprocessing of a custom architecture's module, or else of torchvision's weights, and its origin."""
    if is_custom(architecture):
        return declared_preprocessing(architecture), f"as {module_name(architecture)} declares it"
    weights = torchvision.models.get_model_weights(architecture)["DEFAULT"]
    return preprocessing_of(weights), f"as torchvision's {weights.name} weights have it: {_ASSUMED}"
