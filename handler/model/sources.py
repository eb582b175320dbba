"""Finds a checkpoint, and completes its architecture, labels and preprocessing, with the origin of each.

A checkpoint comes from a file or from the weights of its maker, see ``handler.model.makers``.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, read_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.model.makers import maker_of
from handler.model.registry import INPUT_TRANSFORMERS, PARTS
from handler.picture.preprocess import Preprocessing
from handler.picture.preprocess_text import said_over


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
    head: str = "",
    output: str = "",
) -> Checkpoint:
    """Finds a checkpoint in a file or among its maker's weights, and completes it by the arguments, which go first.

    ``architecture``, a name of ``handler.model.makers``, may be left out if the checkpoint has it, but not if it is
    code. ``checkpoint`` is a safetensors file or a state dict, ``state`` the key of the one that is meant among several
    ("model_ema"). Without it, ``weights`` are "DEFAULT" or another name of torchvision's, or None for a maker's own.
    ``labels`` has one per class. ``preprocessing`` as text names the parts that differ from what is known, see
    ``handler.picture.preprocess_text``. ``transform_input`` says whether a GoogLeNet or Inception normalises its input
    again, as torchvision's weights need; None: as the checkpoint says, True for a plain state dict. ``head`` and
    ``output`` are those of ``handler.model.reading.find_reading``; empty: as the checkpoint says, or the network shows.
    The ModelError of an argument that is missing, unknown or contradicts another says what is valid.
    """
    if architecture is not None and checkpoint is None:
        found = maker_of(architecture).find(architecture, weights)
    elif (weights is None) == (checkpoint is None):
        raise ModelError("give either torchvision's weights, weights=DEFAULT, or a file, checkpoint=")
    elif checkpoint is None:
        raise ModelError("weights belong to an architecture: give its name, such as architecture=resnet18")
    else:
        found = read_checkpoint(Path(checkpoint), state)
    found = replace(found, head=head or found.head, output=output or found.output)
    name = found.architecture if checkpoint is None else architecture
    return complete(found, name, labels, preprocessing, transform_input)


def complete(
    checkpoint: Checkpoint,
    architecture: str | None = None,
    labels: list[str] | None = None,
    preprocessing: Preprocessing | str = "",
    transform_input: bool | None = None,
) -> Checkpoint:
    """Completes a checkpoint's description, overrides it by the arguments, and notes the origin of each part.

    What neither says comes from the maker. Arguments and errors are those of ``find_checkpoint``.
    """
    name = architecture or checkpoint.architecture
    if name is None:
        raise ModelError("the checkpoint does not say its architecture: give its name, such as architecture=resnet18")
    if architecture and checkpoint.architecture and architecture != checkpoint.architecture:
        raise ModelError(f"the checkpoint is of {checkpoint.architecture}, not of {architecture}")
    if transform_input is not None and name not in INPUT_TRANSFORMERS:
        raise ModelError(f"{name} has no input transform: transform_input= is for {' and '.join(INPUT_TRANSFORMERS)}")
    maker = maker_of(name)
    if maker.runs_code and architecture is None:  # a file of weights must not run code just by naming it
        raise ModelError(f"the checkpoint is of {name}, which is code: say that it may run, architecture={name}")
    maker.check(name)
    origins = {part: checkpoint.origins.get(part, "as the checkpoint says") for part in PARTS}
    how, options, names = checkpoint.preprocessing, checkpoint.options, labels or checkpoint.labels
    # what a maker found says its origins, and has what there is
    if not checkpoint.origins and not (how and names and checkpoint.architecture):
        known = maker.declare(name)
        said = {"preprocessing": how, "labels": names, "transform_input": checkpoint.architecture}
        origins |= {part: known.origins.get(part, "") for part, value in said.items() if not value}
        if not (how or maker.runs_code):
            origins["preprocessing"] += ": assumed, say preprocessing= if yours were trained otherwise"
        how, names = how or known.preprocessing, names or known.labels
        if not checkpoint.architecture:
            name, options = str(known.architecture), known.options
    if labels:
        origins["labels"] = "as said"
    module = name.partition(":")[0] if maker.runs_code else ""
    if not names:
        who, define = (name, f", or define LABELS in {module}") if module else ("the checkpoint", "")
        raise ModelError(f"{who} does not say its labels: give one per score, labels={define}")
    if isinstance(preprocessing, Preprocessing) or preprocessing.strip():
        how, origins["preprocessing"] = said_over(preprocessing, how, origins["preprocessing"])
    if how is None:
        example = '{"resize_size": 256, "crop_size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}'
        define = f", or define PREPROCESSING = {example} in {module}" if module else ""
        valid = f"say preprocessing='resize=256 crop=224 mean=0,0,0 std=1,1,1'{define}"
        raise ModelError(f"nothing says what is done to a picture for {name}: {valid}")
    if transform_input is not None:
        options, origins["transform_input"] = {**options, "transform_input": transform_input}, "as said"
    if name not in INPUT_TRANSFORMERS:
        del origins["transform_input"]
    return replace(checkpoint, architecture=name, labels=names, preprocessing=how, options=options, origins=origins)


def read_labels(path: Path) -> list[str]:
    """Reads a label per class, in the order of the scores, from a text file, one per line, or from JSON.

    JSON may be a list of labels, or an object from index to label as in TorchServe's ``index_to_name.json``, where a
    label may also be a list whose last entry is the name (``{"0": ["n01440764", "tench"]}``). A ModelError says what is
    wrong with the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.rstrip().splitlines()]
        labels: Any = json.loads(text) if path.suffix == ".json" else lines
    except (OSError, ValueError) as error:
        what = "are not valid JSON" if isinstance(error, json.JSONDecodeError) else "cannot be read"
        raise ModelError(f"labels {path} {what}: {error}") from error
    if isinstance(labels, dict):
        if sorted(labels) != sorted(str(index) for index in range(len(labels))):
            raise ModelError(f"labels {path}: the indices must be 0 to {len(labels) - 1} without gaps")
        labels = [labels[str(index)] for index in range(len(labels))]
        labels = [entry[-1] if isinstance(entry, list) and entry else entry for entry in labels]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"labels {path}: valid is a JSON list of names, or an object from index to name")
    if not labels or not all(labels):
        raise ModelError(f"labels {path}: valid is one non-empty label per class")
    return labels
