"""A classifier with its labels, preprocessing and layers, built from a checkpoint or from a network in memory."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from handler.autograd.attention import AttentionLayout
from handler.autograd.torch_engine import full_precision
from handler.errors import ModelError, foreign_code
from handler.model.checkpoint import Checkpoint, hash_state, names_in, training_only
from handler.model.layers.find import MappedNetwork, find_layers
from handler.model.makers import maker_of
from handler.model.reading import Reading, check_scores, find_reading
from handler.picture.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Classifier(MappedNetwork):
    """A classifier that is ready to be explained."""

    architecture: str
    labels: list[str]
    preprocessing: Preprocessing
    reading: Reading = Reading()  # how scores are read from what the network returns
    further_layers: tuple[str, ...] = ()  # layers whose evidence graphs hold beside that of ``default_layer``
    weights_sha256: str = ""  # of the weights as they were loaded, see ``checkpoint.hash_state``

    @property
    def default_method(self) -> str:
        """LayerCAM where attention between all tokens was found, else Grad-CAM; docs/QUALITY.md says why."""
        return "layercam" if isinstance(self.attention, AttentionLayout) else "gradcam"

    def check_layers(self, paths: Iterable[str]) -> None:
        """Raises ModelError for a path that is no layer with a map; the message says why, and which are valid."""
        for path in paths:
            if path not in self.layers:
                known = path in dict(self.module.named_modules())
                absent = "it does not run, or returns no cells" if known else "there is no such module"
                why = self.refused_layers.get(path, absent)
                raise ModelError(f"layer {path!r} has no map ({why}), valid are {', '.join(self.layers)}")


def build_classifier(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> Classifier:
    """Builds the classifier of a complete checkpoint, in eval mode and frozen, on a torch device.

    Raises ModelError if the checkpoint is not complete, see ``handler.model.sources.find_checkpoint``, if its weights
    do not fit the architecture or the labels, or if the network is refused, see ``of_module``.
    """
    if checkpoint.architecture is None or checkpoint.labels is None or checkpoint.preprocessing is None:
        raise ModelError("the checkpoint does not say its architecture, labels and preprocessing")
    module = build_network(checkpoint)
    _load_state(module, checkpoint)
    module = module.float().eval().requires_grad_(False)
    weights = hash_state(module)  # before the network runs, which may change a buffer
    with foreign_code(f"the network cannot be moved to the device {str(device)!r}"):
        module = module.to(device)
    name, labels, how = checkpoint.architecture, checkpoint.labels, checkpoint.preprocessing
    found = of_module(module, name, labels, how, checkpoint.head, checkpoint.output)
    found.reading.attach(module)
    return replace(found, weights_sha256=weights)


@full_precision()
def of_module(
    module: nn.Module,
    architecture: str,
    labels: list[str] | None,
    preprocessing: Preprocessing,
    head: str = "",
    output: str = "",
) -> Classifier:
    """Looks at a network in memory, which is in eval mode and frozen; it is run, and left as it is.

    Without labels, the classes are named by their indices. Head and output are those of ``find_reading``; whoever runs
    the network attaches the reading that was found. Raises ModelError if the network does not answer with one logit per
    class, or has no layer with a map.
    """
    shape, classes = preprocessing.shape, None if labels is None else len(labels)
    reading = find_reading(module, architecture, shape, classes, head, output)
    with reading.attach(module):
        count = check_scores(module, architecture, shape, classes, head=reading.head)
        found = find_layers(module, architecture, shape)
    labels = [str(index) for index in range(count)] if labels is None else labels
    return Classifier(
        architecture=architecture, labels=labels, preprocessing=preprocessing, reading=reading, **vars(found)
    )


def build_network(checkpoint: Checkpoint) -> nn.Module:
    """Builds the network of a complete checkpoint with new weights, or raises ModelError; ``state`` is not loaded."""
    return maker_of(str(checkpoint.architecture)).build(checkpoint)


def _load_state(module: nn.Module, checkpoint: Checkpoint) -> None:
    expected, classes = module.state_dict(), len(checkpoint.labels or [])
    own = names_in(expected, checkpoint.state)
    for name, value in checkpoint.state.items():
        shape, wanted = tuple(value.shape), tuple(expected.get(own[name], value).shape)
        if shape == wanted:
            continue
        if shape and wanted == (classes, *shape[1:]):
            scoring = f"scores {shape[0]} classes, but there are {classes} labels"
            raise ModelError(f"the checkpoint's head {name!r} {scoring}; valid is one label per score")
        raise ModelError(f"the checkpoint's {name!r} has shape {shape}, {checkpoint.architecture} wants {wanted}")
    state: Any = OrderedDict((own[name], value) for name, value in checkpoint.state.items())
    # MNASNet needs its version number, which files of tensors do not keep; batch norms work without one
    state._metadata = {"": getattr(expected, "_metadata", {}).get("", {})}
    with foreign_code(f"{checkpoint.architecture} does not take the weights"):  # its hooks can raise any exception
        missing, _ = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(training_only(module))]
    unknown = [name for name, new in own.items() if new not in expected]
    if missing or unknown:
        which = f"{len(missing)} weights missing{_some(missing)}, {len(unknown)} unknown{_some(unknown)}"
        raise ModelError(f"the checkpoint is not one of {checkpoint.architecture}: {which}")


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


def in_fast_layout(classifier: Classifier) -> Classifier:
    """Puts the weights, in place, into the memory layout in which PyTorch is fastest on a CPU; values and shapes stay.

    That is channels-last. Measured on two cores: resnet18, resnet50 and mobilenet_v2 take 4 to 26 % less time. Networks
    on a GPU keep their layout, as do ShuffleNets, whose explanations would take 5 to 16 % more, because of channel
    shuffles, and networks of other makers, whose code may call ``view``, which fails in this layout.
    """
    tried = maker_of(classifier.architecture).tried and not classifier.architecture.startswith("shufflenet")
    if classifier.device.type == "cpu" and tried:
        classifier.module.to(memory_format=torch.channels_last)
    return classifier
