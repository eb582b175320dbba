"""Image classifiers of Hugging Face's transformers: ``hf/FOLDER`` or ``hf/ID``, read by the library's own loaders.

No code of a repository runs. A checkpoint keeps the configuration in its options, so that a server builds the network
without the folder. What the image processor does to a picture is measured, because it is code of each model's own.
"""

import json
from dataclasses import replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from handler.errors import ModelError, foreign_code
from handler.explanation.evidence import Floats
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Pixels, Preprocessing, preprocess

_VALID = "valid is an image classifier: what save_pretrained wrote, or an id of the hub, online or in the cache HF_HOME"
_EQUAL = 1e-6  # the most difference of normalised values
_MOST_LEVELS = 1.5  # the most difference in grey levels: the library's backends round differently
_FORMS: list[dict[str, Any]] = [{"crop_mode": "squash"}, {}, {"crop_first": True}]


def declare(architecture: str) -> Checkpoint:
    """What the configuration and the image processor say, without the weights."""
    from transformers import AutoConfig, AutoImageProcessor

    place = architecture.partition("/")[2]
    with foreign_code(f"{architecture} could not be loaded", _VALID):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        if config.model_type == "timm_wrapper":
            raise ModelError(f"{architecture} is timm's: valid is model=timm/hf-hub:ID, or timm/local-dir:FOLDER")
        name = Path(place).resolve().name if Path(place).is_dir() else place
        known = json.loads(config.to_json_string(use_diff=False))
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        try:
            processor = AutoImageProcessor.from_pretrained(place, backend="pil", trust_remote_code=False)
            how, flipped, beside = _measured(processor)
        except (OSError, ValueError):  # there is none, or it makes no pictures
            how, flipped, beside = None, False, ""
    for part in ("_name_or_path", "id2label", "label2id"):
        known.pop(part, None)
    options, origins = {"config": known, "flipped": flipped}, {"labels": f"as {name}'s configuration has them"}
    origins["preprocessing"] = f"as {name}'s image processor has it{beside}"
    return Checkpoint(architecture=f"hf/{name}", labels=labels, preprocessing=how, options=options, origins=origins)


def find(architecture: str, weights: str | None) -> Checkpoint:
    """The checkpoint of a folder or an id; the ModelError says what is missing."""
    from transformers import AutoModelForImageClassification

    if weights not in (None, "DEFAULT"):
        raise ModelError(f"weights {weights!r} are torchvision's; {architecture} has its own, valid is weights=DEFAULT")
    found = declare(architecture)
    with foreign_code(f"{architecture} could not be loaded", _VALID):
        module, report = AutoModelForImageClassification.from_pretrained(
            architecture.partition("/")[2], output_loading_info=True, trust_remote_code=False
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{architecture} has no weights for {', '.join(missing[:3])}: it is no trained classifier")
    return replace(found, state=module.state_dict())


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network of a complete checkpoint, from the configuration in its options; its logits are its scores."""
    from transformers import AutoConfig, AutoModelForImageClassification

    with foreign_code(f"{checkpoint.architecture} could not be loaded", _VALID):
        config = AutoConfig.for_model(**checkpoint.options["config"])
        config.num_labels = len(checkpoint.labels or [])
        module: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    if checkpoint.options.get("flipped"):
        module.register_forward_pre_hook(lambda _, pictures: (pictures[0].flip(1), *pictures[1:]))
    module.register_forward_hook(lambda _module, _pictures, output: output.logits)
    return module


def _measured(processor: Any) -> tuple[Preprocessing | None, bool, str]:
    """Finds the preprocessing that equals a processor, by what it answers to pictures; None if none comes near.

    Also returns whether the processor puts blue first, and what is to be said of the rest.
    """

    def run(picture: Pixels) -> Floats:
        (found,) = processor(images=Image.fromarray(picture), return_tensors="np")["pixel_values"]
        return np.asarray(found, np.float32)

    black, white = (run(np.full((64, 64, 3), level, np.uint8)) for level in (0, 255))
    _, height, width = black.shape
    low, high = (found[:, height // 2, width // 2].astype(np.float64) for found in (black, white))
    draw = np.random.default_rng(0).integers
    coarse = [draw(0, 256, (rows, columns, 3)).astype(np.uint8) for rows, columns in ((16, 32), (23, 17))]
    pictures = [picture.repeat(15, 0).repeat(15, 1) for picture in coarse]
    wanted = [run(picture) for picture in pictures]
    mean, std = np.round(-low / (high - low) + 0.0, 7).tolist(), np.round(1 / (high - low), 7).tolist()
    said: dict[str, Any] = {"interpolation": Image.Resampling(processor.resample).name.lower()}
    said |= {"mean": tuple(mean), "std": tuple(std)}
    fits: list[tuple[float, bool, Preprocessing]] = []  # difference, whether blue is first
    for form, margin in product(_FORMS, range(max(height, width) // 2)):
        how = Preprocessing(resize_size=(height + margin, width + margin), crop_size=(height, width), **said, **form)
        found = [preprocess(picture, how).tensor for picture in pictures]
        for step in (1, -1):
            off = max(_distance(theirs[::step], ours) for theirs, ours in zip(wanted, found, strict=True))
            fits.append((off, step == -1, how))
        if min(fits, key=itemgetter(0))[0] <= _EQUAL:
            break
    off, flipped, fitting = min(fits, key=itemgetter(0))
    levels = 255 * off / float((high - low).max())
    if levels > _MOST_LEVELS:
        return None, False, ""
    beside = "" if off <= _EQUAL else f", whose own pictures differ by up to {levels:.1f} grey levels"
    if not fitting.crop_first and (fitting.crop_mode == "center" or (fitting.resized[0] - height) % 2):
        beside += ", whose crops lie one pixel further up or left where a margin is odd"
    return fitting, flipped, beside


def _distance(theirs: Floats, ours: Floats) -> float:
    """The largest difference, where crops of odd margins may begin a pixel before ours, as the library rounds down."""
    _, height, width = ours.shape
    shifts = product((0, 1), repeat=2)
    parts = ((theirs[:, down:, right:], ours[:, : height - down, : width - right]) for down, right in shifts)
    return min(float(np.abs(one - other).max()) for one, other in parts)
