"""The networks of timm: ``timm/NAME``, with the weights, the labels and the preprocessing that timm has for the name.

A name is one of ``timm.list_models()`` and ``timm.list_pretrained()``, or ``local-dir:FOLDER`` or ``hf-hub:ID``, which
timm reads itself. Preprocessing is that of timm's own evaluation, with the size for tests where there is one.
"""

import difflib
import math
from dataclasses import replace
from typing import Any

from torch import nn

from handler.errors import ModelError, foreign_code
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Preprocessing


def check(architecture: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name in timm's registry, what is known of its weights, and the network's options; all without the weights.

    The ModelError of a name that timm lacks names those that are spelt alike.
    """
    import timm
    from timm.models import _hub

    name = architecture.partition("/")[2]
    source, _, place = name.partition(":")
    if source in ("local-dir", "hf-hub"):
        read = _hub.load_model_config_from_path if source == "local-dir" else _hub.load_model_config_from_hf
        with foreign_code(f"{architecture} cannot be read by timm"):
            known, name, options = read(place)
        return name, known, dict(options)
    names = [*timm.list_models(), *timm.list_pretrained()]
    if name not in names:
        near = difflib.get_close_matches(name, names, 5, 0.5)
        raise ModelError(f"timm has no classifier {name!r}, near are {', '.join(near) or 'none'}; valid is timm/NAME")
    return name, timm.get_pretrained_cfg(name).to_dict(), {}


def declare(architecture: str) -> Checkpoint:
    """What timm knows of the name: labels of ImageNet by the number of scores, and the preprocessing."""
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

    name, known, options = check(architecture)
    described, subset = known.get("label_descriptions") or {}, infer_imagenet_subset(known)
    labels = [str(described.get(label, label)) for label in known.get("label_names") or ()]
    if subset and not labels:
        labels = list(ImageNetInfo(subset).label_descriptions())
    config = resolve_data_config(pretrained_cfg=known, use_test_size=True)
    (_, height, width), crop_pct, how = config["input_size"], config["crop_pct"], None
    if crop_pct <= 1:  # else timm puts a black border around the picture
        whole = math.floor(height / crop_pct), math.floor(width / crop_pct)
        said = {part: config[part] for part in ("interpolation", "crop_mode")}
        said |= {part: tuple(config[part]) for part in ("mean", "std")}
        how = Preprocessing(resize_size=whole, crop_size=(height, width), **said)
    origins = dict.fromkeys(("labels", "preprocessing"), f"as timm's {name} weights have it")
    return Checkpoint(
        architecture=f"timm/{name}", labels=labels or None, preprocessing=how, options=options, origins=origins
    )


def find(architecture: str, weights: str | None) -> Checkpoint:
    """The checkpoint with the weights of the name, from timm's loader and cache; the ModelError says what to do."""
    import timm

    if weights not in (None, "DEFAULT"):
        raise ModelError(f"weights {weights!r} are torchvision's; {architecture} has its own, valid is weights=DEFAULT")
    found = declare(architecture)
    place, elsewhere = check(architecture)[1].get("hf_hub_id"), "give a file, checkpoint="
    if place:
        files, cache = f"the files of https://huggingface.co/{place}", "set HF_HOME to a cache that has them"
        elsewhere = f"download {files} elsewhere, and say model=timm/local-dir:FOLDER, or {cache}"
    with foreign_code(f"the weights of {architecture} could not be loaded", elsewhere):
        state = timm.create_model(architecture.partition("/")[2], pretrained=True).state_dict()
    return replace(found, state=state)


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network of a complete checkpoint; raises ModelError if it cannot be built for its pictures."""
    import timm

    assert checkpoint.preprocessing is not None
    name, how = str(checkpoint.architecture).partition("/")[2], checkpoint.preprocessing
    options = checkpoint.options | {"num_classes": len(checkpoint.labels or []), "in_chans": how.channels}
    known = timm.get_pretrained_cfg(name)
    if "img_size" in options or (known and known.fixed_input_size and known.input_size[1:] != how.size):
        options["img_size"] = how.size
    with foreign_code(f"{name} cannot be built for pictures {how.shape}"):  # options and size are the checkpoint's
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
    return module
