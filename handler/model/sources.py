"""Finds a checkpoint, and completes its architecture, labels and preprocessing, with the origin of each.

A checkpoint comes from a file, from torchvision's weights or from the code of a custom architecture.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision

from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, read_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.model.custom_architecture import (
    declared_checkpoint,
    declared_labels,
    declared_preprocessing,
    find_factory,
    is_custom,
    module_name,
)
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
    state: str | None = None,
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
        state: key of the state dict that is meant in a checkpoint of ``torch.save`` with several, "model_ema".
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
        found = (
            _download(str(architecture), str(weights))
            if checkpoint is None
            else read_checkpoint(Path(checkpoint), state)
        )
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
    module = module_name(name) if is_custom(name) else ""
    if how is None and module:
        how, origins["preprocessing"] = declared_preprocessing(name), f"as {module} declares it"
    elif how is None:
        usual = torchvision.models.get_model_weights(name)["DEFAULT"]
        how = preprocessing_of(usual)
        origins["preprocessing"] = f"as torchvision's {usual.name} weights have it: {_ASSUMED}"
    if labels:
        origins["labels"] = "as said"
    elif not names and module:
        names, origins["labels"] = declared_labels(name), f"as {module} declares it"
    if not names:
        who, define = (name, f", or define LABELS in {module}") if module else ("the checkpoint", "")
        raise ModelError(f"{who} does not say its labels: give one per score, labels={define}")
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


def read_labels(path: Path) -> list[str]:
    """Reads a label per class, in the order of the scores, from a text file, one per line, or from JSON.

    JSON may be a list of labels, or an object from index to label as in TorchServe's ``index_to_name.json``, where a
    label may also be a list whose last entry is the name (``{"0": ["n01440764", "tench"]}``).

    Raises:
        ModelError: there is no such file, the file has another form, a label is empty, or indices have gaps.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labels {path} cannot be read: {error}") from error
    labels = _from_json(path, text) if path.suffix == ".json" else [line.strip() for line in text.rstrip().splitlines()]
    if not labels or not all(labels):
        raise ModelError(f"labels {path}: valid is one non-empty label per class")
    return labels


def _from_json(path: Path, text: str) -> list[str]:
    try:
        parsed: Any = json.loads(text)
    except ValueError as error:
        raise ModelError(f"labels {path} are not valid JSON: {error}") from error
    if isinstance(parsed, dict):
        if sorted(parsed) != sorted(str(index) for index in range(len(parsed))):
            raise ModelError(f"labels {path}: the indices must be 0 to {len(parsed) - 1} without gaps")
        parsed = [parsed[str(index)] for index in range(len(parsed))]
        parsed = [entry[-1] if isinstance(entry, list) and entry else entry for entry in parsed]
    if not isinstance(parsed, list) or not all(isinstance(label, str) for label in parsed):
        raise ModelError(f"labels {path}: valid is a JSON list of names, or an object from index to name")
    return parsed
